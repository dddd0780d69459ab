#!lua flags=allow-oom
-- Pauses a plugin, or ends its pause. KEYS after the fixed ones: the pauses, the audit.
-- ARGV: plugin, the time of its end in ms (0 for none), note ('' to end the pause), the most pauses, the note of the audit.
-- Reply: DONE, NONE if there was no pause to end, FULL.
local pauses, now = KEYS[10], now_ms()
local plugin, ends, note, most = unpack(ARGV)
must_be('hash', pauses)
check_audit()
local raw = redis.call('HGETALL', pauses)
for n = 1, #raw, 2 do
  local at = tonumber(string.match(raw[n + 1], '^(%d+) ') or '0')
  if at > 0 and at <= now then
    redis.call('HDEL', pauses, raw[n])
  end
end
if note == '' then
  if redis.call('HDEL', pauses, plugin) == 0 then
    return 'NONE'
  end
  note_change()
  return 'DONE'
end
if redis.call('HEXISTS', pauses, plugin) == 0 and redis.call('HLEN', pauses) >= tonumber(most) then
  return 'FULL'
end
note_change()
redis.call('HSET', pauses, plugin, ends .. ' ' .. note)
return 'DONE'
