#!lua flags=no-writes,allow-oom
-- Reads the pauses that have not ended. KEYS after the fixed ones: the pauses. Reply: plugins, each with its note.
local pauses, found, now = KEYS[10], {}, now_ms()
must_be('hash', pauses)
local raw = redis.call('HGETALL', pauses)
for n = 1, #raw, 2 do
  local at, note = string.match(raw[n + 1], '^(%d+) (.*)$')
  if not at or at == '0' or tonumber(at) > now then
    found[#found + 1] = raw[n]
    found[#found + 1] = note or ''
  end
end
return found
