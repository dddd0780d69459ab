#!lua flags=allow-oom
-- Forgets the oldest processed events past their retention, and where they were, in one step.
-- ARGV: most to keep, longest to keep in ms, shortest to keep in ms, most to forget in this call.
-- The shortest time is there for the repetition of a settle or an append: it is known by the place of the event.
local most, longest, shortest, limit = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3]), tonumber(ARGV[4])
must_be('stream', DONE)
must_be('hash', IX)
local kept, now, forgotten = redis.call('XLEN', DONE), now_ms(), 0
for _, entry in ipairs(redis.call('XRANGE', DONE, '-', '+', 'COUNT', limit)) do
  local age = now - tonumber(string.match(entry[1], '^(%d+)'))
  if age < shortest or (kept <= most and age <= longest) then
    break
  end
  local id = nil
  for f = 1, #entry[2], 2 do
    if entry[2][f] == 'id' then
      id = entry[2][f + 1]
    end
  end
  local kind, _, at = nil, nil, nil
  if id then
    kind, _, at = place_of(id)
  end
  if kind == 'p' and at == entry[1] then
    redis.call('HDEL', IX, id)
  end
  redis.call('XDEL', DONE, entry[1])
  kept = kept - 1
  forgotten = forgotten + 1
end
return forgotten
