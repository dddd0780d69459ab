#!lua flags=no-writes,allow-oom
-- Checks the types of all keys. KEYS after the fixed ones: streams, the lanes among them.
-- Reply: epoch and total of accepted events, or false and 0 if their keys are misplaced; the problems.
local wrong = {}
local function check(kind, key)
  local problem = misplaced(kind, key)
  wrong[#wrong + 1] = problem
  return not problem
end
local is_readable = check('string', EPOCH)
is_readable = check('hash', COUNTS) and is_readable
for i, kind in ipairs({ 'set', 'zset', 'hash', 'stream', 'stream', 'hash' }) do
  check(kind, KEYS[1 + i])
end
check('hash', HB)
for i = 1, #KEYS - 9 do
  check('stream', lane_key(i))
end
if not is_readable then
  return { false, '0', wrong }
end
return { redis.call('GET', EPOCH) or '', redis.call('HGET', COUNTS, 'accepted') or '0', wrong }
