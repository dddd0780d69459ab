#!lua flags=allow-oom
-- Removes a consumer that holds no entry in any lane. Redis would lose the entries of a removed consumer.
-- ARGV: size of the set of lanes, number of lanes, consumer.
local lanes, consumer = tonumber(ARGV[2]), ARGV[3]
if redis.call('SCARD', LANES) ~= tonumber(ARGV[1]) then
  return 'LANES'
end
must_be('hash', HB)
for i = 1, lanes do
  local p = redis.pcall('XPENDING', lane_key(i), GROUP, '-', '+', 1, consumer)
  if not p.err and #p > 0 then
    return 'HOLDS'
  end
end
for i = 1, lanes do
  redis.pcall('XGROUP', 'DELCONSUMER', lane_key(i), GROUP, consumer)
end
redis.call('HDEL', HB, 'c:' .. consumer, 'i:' .. consumer, 's:' .. consumer)
return 'DONE'
