#!lua flags=allow-oom
-- Begins a new epoch after a loss of data, once for each epoch that was lost, or adopts the one that another began.
-- ARGV: the epoch that was lost (empty at the first start), a new one. An answer: the epoch, 1 if the loss was counted.
local lost, new = ARGV[1], ARGV[2]
must_be('string', EPOCH)
must_be('hash', COUNTS)
local counted = 0
if lost ~= '' and redis.call('HSETNX', COUNTS, 'lost:' .. lost, 1) == 1 then
  redis.call('HINCRBY', COUNTS, 'data_losses', 1)
  counted = 1
end
local now = redis.call('GET', EPOCH)
if not now or now == lost then
  redis.call('SET', EPOCH, new)
  now = new
end
return { now, counted, redis.call('HGET', COUNTS, 'accepted') or '0' }
