#!lua flags=no-writes,allow-oom
-- Whether the store is the one that was written to, and whether each key holds what it should.
-- ARGV: number of lanes. An answer: epoch, events accepted, the first key that holds something else.
local kinds = { [EPOCH] = 'string', [LANES] = 'set', [DUE] = 'zset', [PARKED] = 'hash', [DONE] = 'stream' }
kinds[FAILED], kinds[IX], kinds[COUNTS], kinds[HB] = 'stream', 'hash', 'hash', 'hash'
for i = 1, tonumber(ARGV[1]) do
  kinds[lane_key(i)] = 'stream'
end
for key, kind in pairs(kinds) do
  local found = redis.call('TYPE', key).ok
  if found ~= 'none' and found ~= kind then
    return { '', '0', 'the key ' .. key .. ' holds a ' .. found .. ' where a ' .. kind .. ' should be' }
  end
end
return { redis.call('GET', EPOCH) or '', redis.call('HGET', COUNTS, 'accepted') or '0', '' }
