#!lua flags=no-writes,allow-oom
-- Reads idempotency keys. KEYS after the fixed ones: the keys. Reply: for each its value and its expiry in Unix ms, or false
-- if it is gone or misplaced.
local rows = {}
for k = 10, #KEYS do
  local value = redis.pcall('GET', KEYS[k])
  rows[k - 9] = type(value) == 'string' and { value, redis.call('PEXPIRETIME', KEYS[k]) } or false
end
return rows
