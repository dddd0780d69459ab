#!lua flags=allow-oom
-- Lowers the delivery count of an entry, if this delivery is still held. ARGV: consumer, entry, delivery count.
local p = redis.pcall('XPENDING', lane_key(1), GROUP, ARGV[2], ARGV[2], 1)
if not p.err and #p == 1 and p[1][2] == ARGV[1] and p[1][4] == tonumber(ARGV[3]) then
  redis.call('XCLAIM', lane_key(1), GROUP, ARGV[1], 0, ARGV[2], 'RETRYCOUNT', p[1][4] - 1, 'JUSTID')
  return 1
end
return 0
