#!lua flags=allow-oom
-- Renews leases that are held, shows that the consumer is alive, and names the places of those that are not held.
-- ARGV: consumer; for each receipt: lane, entry, delivery count.
-- JUSTID leaves the delivery count alone; the check before it keeps a renewal from stealing.
local me = ARGV[1]
must_be('hash', HB)
local lost = {}
for at = 2, #ARGV, 3 do
  local key, entry = lane_key(tonumber(ARGV[at])), ARGV[at + 1]
  local p = redis.pcall('XPENDING', key, GROUP, entry, entry, 1)
  if not p.err and #p == 1 and p[1][2] == me and tonumber(p[1][4]) == tonumber(ARGV[at + 2]) then
    redis.call('XCLAIM', key, GROUP, me, 0, entry, 'JUSTID')
  else
    lost[#lost + 1] = (at - 2) / 3
  end
end
redis.call('HINCRBY', HB, 'c:' .. me, 1)
return lost
