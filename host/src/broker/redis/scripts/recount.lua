#!lua flags=allow-oom
-- Counts the bytes of all failed events again, if other events are counted than there are: hosts of older versions and
-- other programs do not count. Goes on where the call before stopped, and replaces the totals at the end.
-- ARGV: limit of entries to read, limit of bytes to read. Reply: 1 if there is more to read.
-- Entries are read one by one unless they are small, because Redis always reads whole entries.
local SMALL_BYTES, AT_ONCE = 1024, 16
local left, left_bytes, n = tonumber(ARGV[1]), tonumber(ARGV[2]), 1
must_be('stream', FAILED)
must_be('hash', IX)
must_be('hash', COUNTS)
local last = redis.call('HGET', COUNTS, RECOUNTED_TO) or '-'
if last == '-' and tonumber(redis.call('HGET', COUNTS, FAILED_COUNTED) or 0) == redis.call('XLEN', FAILED) then
  return 0
end

local bytes_of, is_end = {}, false
while left > 0 and left_bytes > 0 and not is_end do
  local found = redis.call('XRANGE', FAILED, last == '-' and '-' or '(' .. last, '+', 'COUNT', n)
  local bytes = 0
  for _, entry in ipairs(found) do
    last = entry[1]
    local fields = entry[2]
    for _, value in ipairs(fields) do
      bytes = bytes + #value
    end
    -- An event that is elsewhere by now cannot be replayed or discarded, so its entry counts for no lane.
    local kind, lane, at, receipt = place_of(fields[2])
    if kind == 'f' and at == last and #fields == 4 then
      lane = ended_lane(lane, receipt)
      bytes_of[lane] = (bytes_of[lane] or 0) + #fields[4]
    end
  end
  left, left_bytes, is_end = left - n, left_bytes - bytes, #found < n
  n = bytes <= n * SMALL_BYTES and math.min(2 * n, AT_ONCE) or 1
end

for lane, bytes in pairs(bytes_of) do
  redis.call('HINCRBY', COUNTS, RECOUNTED_BYTES .. lane, bytes)
end
if not is_end then
  redis.call('HSET', COUNTS, RECOUNTED_TO, last)
  return 1
end
local new = {}
for _, field in ipairs(redis.call('HKEYS', COUNTS)) do
  if starts_with(field, FAILED_BYTES) then
    redis.call('HDEL', COUNTS, field)
  elseif starts_with(field, RECOUNTED_BYTES) then
    new[#new + 1] = field
  end
end
for _, field in ipairs(new) do
  redis.call('HSET', COUNTS, FAILED_BYTES .. string.sub(field, #RECOUNTED_BYTES + 1), redis.call('HGET', COUNTS, field))
  redis.call('HDEL', COUNTS, field)
end
redis.call('HSET', COUNTS, FAILED_COUNTED, redis.call('XLEN', FAILED))
redis.call('HDEL', COUNTS, RECOUNTED_TO)
return 0
