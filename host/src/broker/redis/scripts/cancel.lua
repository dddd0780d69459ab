#!lua flags=allow-oom
-- Moves an event that waits to the discarded ones, if it has not moved since it was found and no consumer holds it.
-- KEYS after the fixed ones: the stream of its lane (any if it is due later), that of discarded events, the audit. ARGV: id,
-- its place, a name for the call, which a repetition repeats, blob, the note. Reply: D done, now or before by the same call; G gone.
local queue, target, id, blob = KEYS[10], KEYS[11], ARGV[1], ARGV[4]
local receipt = 'cancel/' .. ARGV[3]
must_be('stream', queue)
must_be('stream', target)
must_be('hash', IX)
must_be('hash', COUNTS)
must_be('hash', PARKED)
must_be('zset', DUE)
check_audit()
local place = redis.call('HGET', IX, id)
if not place then
  return 'G'
end
local kind, lane, entry, by = read_place(place)
if by == receipt then
  return 'D'
end
if place ~= ARGV[2] then
  return 'G'
end
local size
if kind == 'd' then
  local parked = redis.call('HGET', PARKED, id)
  local cut = parked and string.find(parked, '\n', 1, true)
  if not cut then
    return 'G'
  end
  lane, size = string.sub(parked, 1, cut - 1), #parked - cut
elseif kind == 'q' then
  local held = redis.pcall('XPENDING', queue, GROUP, entry, entry, 1)
  local found = redis.call('XRANGE', queue, entry, entry)[1]
  if not found or (not held.err and held[1]) then
    return 'G'
  end
  size = found[2][3] == 'b' and #found[2][4] or 0
else
  return 'G'
end
note_change()
local new = redis.call('XADD', target, '*', 'id', id, 'b', blob)
set_place(id, 'x', lane, new, receipt)
redis.call('HINCRBY', COUNTS, 'discarded', 1)
redis.call('HINCRBY', COUNTS, DISCARDED_BYTES .. lane, #blob)
redis.call('HINCRBY', COUNTS, WAIT_BYTES .. lane, -size)
if kind == 'd' then
  redis.call('HINCRBY', COUNTS, DUE_COUNT .. lane, -1)
  redis.call('ZREM', DUE, id)
  redis.call('HDEL', PARKED, id)
else
  redis.call('XDEL', queue, entry)
end
return 'D'
