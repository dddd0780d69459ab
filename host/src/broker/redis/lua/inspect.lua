#!lua flags=no-writes,allow-oom
-- Whether the store is the one that was written to, and whether each key holds what it should.
-- ARGV: number of lanes. An answer: epoch and events accepted, or false and 0 if they cannot be told; what is wrong.
local wrong = {}
local function look(kind, key)
  local why = misplaced(kind, key)
  wrong[#wrong + 1] = why
  return not why
end
local can_tell = look('string', EPOCH)
can_tell = look('hash', COUNTS) and can_tell
for i, kind in ipairs({ 'set', 'zset', 'hash', 'stream', 'stream', 'hash' }) do
  look(kind, KEYS[1 + i])
end
look('hash', HB)
for i = 1, tonumber(ARGV[1]) do
  look('stream', lane_key(i))
end
if not can_tell then
  return { false, '0', wrong }
end
return { redis.call('GET', EPOCH) or '', redis.call('HGET', COUNTS, 'accepted') or '0', wrong }
