#!lua flags=allow-oom
-- Beats for this consumer and stores what it serves. Returns all consumers if asked, or if any coverage has changed.
-- ARGV: consumer, identity, coverage, the known count of changes, number of lanes, 1 to read all consumers.
-- Reply: the fields of all consumers, the names in the groups, the count of changes.
-- Fields: c: heartbeat, i: identity, s: coverage. Earlier versions leave s: behind when they remove a consumer.
local me, lanes = ARGV[1], tonumber(ARGV[5])
must_be('hash', HB)
redis.call('HINCRBY', HB, 'c:' .. me, 1)
redis.call('HSET', HB, 'i:' .. me, ARGV[2])
if redis.call('HGET', HB, 's:' .. me) ~= ARGV[3] then
  redis.call('HSET', HB, 's:' .. me, ARGV[3])
  redis.call('HINCRBY', HB, 'served', 1)
end
local changes = redis.call('HGET', HB, 'served') or ''
if ARGV[6] ~= '1' and changes == ARGV[4] then
  return { {}, {}, changes }
end
for _, field in ipairs(redis.call('HKEYS', HB)) do
  if starts_with(field, 's:') and redis.call('HEXISTS', HB, 'c:' .. string.sub(field, 3)) == 0 then
    redis.call('HDEL', HB, field)
  end
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
return { redis.call('HGETALL', HB), names, changes }
