#!lua flags=allow-oom
-- Takes idempotency keys off the totals of their lanes once Redis has forgotten them. KEYS after the fixed ones: the hash of
-- when they end. Reply: the number of totals that changed.
local ENDS = KEYS[10]
if must_be('hash', ENDS) == 'none' then
  return 0
end
local now = now_ms()
if (tonumber(redis.call('HGET', ENDS, NEXT_END) or 0) or 0) > now then
  return 0
end
must_be('hash', COUNTS)
local ended, first = 0, nil
local found = redis.call('HGETALL', ENDS)
for n = 1, #found, 2 do
  local ends, lane = string.match(found[n], '^(%d+):(.*)$')
  ends = tonumber(ends)
  if ends and ends <= now then
    if redis.call('HINCRBY', COUNTS, KEY_COUNT .. lane, -tonumber(found[n + 1])) <= 0 then
      redis.call('HDEL', COUNTS, KEY_COUNT .. lane)
    end
    redis.call('HDEL', ENDS, found[n])
    ended = ended + 1
  elseif ends then
    first = math.min(first or ends, ends)
  end
end
if first then
  redis.call('HSET', ENDS, NEXT_END, int(first))
else
  redis.call('DEL', ENDS)
end
return ended
