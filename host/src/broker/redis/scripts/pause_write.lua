#!lua flags=allow-oom
-- Pauses a plugin, or ends its pause. KEYS after the fixed ones: the pauses.
-- ARGV: plugin, the time of its end in ms (0 for none), note ('' to end the pause), the most pauses. Reply: DONE, NONE if
-- there was no pause to end, FULL.
local pauses, now = KEYS[10], now_ms()
local plugin, ends, note, most = unpack(ARGV)
must_be('hash', pauses)
local raw = redis.call('HGETALL', pauses)
for n = 1, #raw, 2 do
  local at = tonumber(string.match(raw[n + 1], '^(%d+) ') or '0')
  if at > 0 and at <= now then
    redis.call('HDEL', pauses, raw[n])
  end
end
if note == '' then
  return redis.call('HDEL', pauses, plugin) == 1 and 'DONE' or 'NONE'
end
if redis.call('HEXISTS', pauses, plugin) == 0 and redis.call('HLEN', pauses) >= tonumber(most) then
  return 'FULL'
end
redis.call('HSET', pauses, plugin, ends .. ' ' .. note)
return 'DONE'
