#!lua flags=allow-oom
-- Forgets the oldest processed events past their retention, and where they were, in one step.
-- ARGV: most to keep, longest to keep in ms, shortest to keep in ms, most to forget in this call, bytes to look at.
-- The shortest time is there for the repetition of a settle or an append: it is known by the place of the event.
-- The answer: 1 if there may be more.
local most, longest, shortest = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3])
local limit, left_bytes = tonumber(ARGV[4]), tonumber(ARGV[5])
local AT_ONCE = 10
must_be('stream', DONE)
must_be('hash', IX)
local kept, now = redis.call('XLEN', DONE), now_ms()
local entries, ids, from, is_done = {}, {}, '-', false
while not is_done and #entries < limit and left_bytes > 0 do
  local found = redis.call('XRANGE', DONE, from, '+', 'COUNT', AT_ONCE)
  is_done = #found < AT_ONCE
  for _, entry in ipairs(found) do
    local age = now - tonumber(string.match(entry[1], '^(%d+)'))
    if age < shortest or (kept <= most and age <= longest) then
      is_done = true
      break
    end
    kept = kept - 1
    entries[#entries + 1], ids[#ids + 1] = entry[1], ''
    for f = 1, #entry[2], 2 do
      left_bytes = left_bytes - #entry[2][f + 1]
      if entry[2][f] == 'id' then
        ids[#ids] = entry[2][f + 1]
      end
    end
    from = '(' .. entry[1]
  end
end
if #entries == 0 then
  return 0
end
local gone = {}
for n, place in ipairs(redis.call('HMGET', IX, unpack(ids))) do
  local kind, _, at = read_place(place or '')
  if kind == 'p' and at == entries[n] then
    gone[#gone + 1] = ids[n]
  end
end
if #gone > 0 then
  redis.call('HDEL', IX, unpack(gone))
end
redis.call('XDEL', DONE, unpack(entries))
return is_done and 0 or 1
