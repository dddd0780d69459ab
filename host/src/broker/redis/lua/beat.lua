#!lua flags=allow-oom
-- Shows that this consumer is alive and, if asked, what is known of all of them.
-- ARGV: consumer, its identity, number of lanes, 1 to ask. An answer: the heartbeats, the names in the groups.
local me, lanes = ARGV[1], tonumber(ARGV[3])
must_be('hash', HB)
redis.call('HINCRBY', HB, 'c:' .. me, 1)
redis.call('HSET', HB, 'i:' .. me, ARGV[2])
if ARGV[4] ~= '1' then
  return { {}, {} }
end
local names = {}
for i = 1, lanes do
  local consumers = redis.pcall('XINFO', 'CONSUMERS', lane_key(i), GROUP)
  if not consumers.err then
    for _, consumer in ipairs(consumers) do
      for f = 1, #consumer, 2 do
        if consumer[f] == 'name' then
          names[#names + 1] = consumer[f + 1]
        end
      end
    end
  end
end
return { redis.call('HGETALL', HB), names }
