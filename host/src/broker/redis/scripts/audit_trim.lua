#!lua flags=allow-oom
-- Deletes the oldest entries of the audit that exceed a limit. KEYS after the fixed ones: the audit. ARGV: the most entries,
-- their longest age in ms, the most entries to delete. Reply: 1 if there may be more.
local audit, most, longest, limit = KEYS[10], tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3])
must_be('stream', audit)
local excess, now = redis.call('XLEN', audit) - most, now_ms()
local function is_past(n, entry)
  return n <= excess or now - tonumber(string.match(entry[1], '^(%d+)')) > longest
end
local first = redis.call('XRANGE', audit, '-', '+', 'COUNT', 1)[1]
if not first or not is_past(1, first) then
  return 0
end
local past = {}
for n, entry in ipairs(redis.call('XRANGE', audit, '-', '+', 'COUNT', limit)) do
  if not is_past(n, entry) then
    break
  end
  past[n] = entry[1]
end
redis.call('XDEL', audit, unpack(past))
return #past == limit and 1 or 0
