#!lua flags=allow-oom
-- Begins a new epoch, once for each lost epoch, or returns the epoch that another host began.
-- ARGV: the lost epoch (empty at the start), a new one.
-- Reply: the epoch, 1 if this call counted the loss, the total of accepted events.
local lost, new = ARGV[1], ARGV[2]
must_be('string', EPOCH)
must_be('hash', COUNTS)
local counted = 0
if lost ~= '' and redis.call('HSETNX', COUNTS, 'lost:' .. lost, 1) == 1 then
  redis.call('HINCRBY', COUNTS, 'data_losses', 1)
  counted = 1
end
local current = redis.call('GET', EPOCH)
if not current or current == lost then
  redis.call('SET', EPOCH, new)
  current = new
end
return { current, counted, redis.call('HGET', COUNTS, 'accepted') or '0' }
