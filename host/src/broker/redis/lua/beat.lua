#!lua flags=allow-oom
-- Shows that this consumer is alive and what it serves; and, if asked or if what somebody serves has changed, what is known
-- of all consumers.
-- ARGV: consumer, its identity, what it serves, the count of changes that is known, number of lanes, 1 to ask.
-- An answer: all that is known, the names in the groups, the count of changes.
-- Earlier versions read the fields c: and i: only. They leave s: behind when they forget a consumer.
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
