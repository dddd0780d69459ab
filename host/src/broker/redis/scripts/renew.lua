#!lua flags=allow-oom
-- Renews leases and beats for the consumer. ARGV: consumer; for each receipt: lane, entry, delivery count.
-- Reply: the indexes of receipts that are not held. The check before XCLAIM keeps a renewal from stealing a delivery.
-- JUSTID leaves the delivery count unchanged.
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
