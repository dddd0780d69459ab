#!lua flags=no-writes,allow-oom
-- What is remembered under idempotency keys, the keys behind the fixed ones. An answer: for each of them its value and
-- when it ends in Unix milliseconds, or false if it is gone or holds something else.
local rows = {}
for k = 10, #KEYS do
  local value = redis.pcall('GET', KEYS[k])
  rows[k - 9] = type(value) == 'string' and { value, redis.call('PEXPIRETIME', KEYS[k]) } or false
end
return rows
