#!lua flags=allow-oom
-- Replays a failed event into a lane, or discards it, if it has not moved since it was found.
-- KEYS after the fixed ones: the stream of the lane, or that of discarded events; the audit. ARGV: id, its entry in the
-- failed stream, lane ('' to discard it), a name for the call, which a repetition repeats, blob, the note. Reply: D done, now
-- or before by the same call; G gone.
local target, id, entry, lane, blob = KEYS[10], ARGV[1], ARGV[2], ARGV[3], ARGV[5]
local receipt = (lane == '' and 'discard/' or 'replay/') .. entry .. '/' .. ARGV[4]
must_be('stream', FAILED)
must_be('hash', IX)
must_be('hash', COUNTS)
check_audit()
if lane == '' then
  must_be('stream', target)
else
  open_lane(target)
end
local kind, failed_lane, at, by = place_of(id)
if by == receipt then
  return 'D'
end
local found = kind == 'f' and at == entry and redis.call('XRANGE', FAILED, entry, entry)[1]
if not found then
  return 'G'
end
failed_lane = ended_lane(failed_lane, by)
note_change()
local new = redis.call('XADD', target, '*', 'id', id, 'b', blob)
if lane == '' then
  set_place(id, 'x', failed_lane, new, receipt)
  redis.call('HINCRBY', COUNTS, 'discarded', 1)
  redis.call('HINCRBY', COUNTS, DISCARDED_BYTES .. failed_lane, #blob)
else
  set_place(id, 'q', lane, new, receipt)
  redis.call('HINCRBY', COUNTS, 'replayed', 1)
  redis.call('HINCRBY', COUNTS, WAIT_BYTES .. lane, #blob)
end
redis.call('XDEL', FAILED, entry)

-- An event that was never counted must not make a total negative.
local function lower(total, by_n)
  if redis.call('HINCRBY', COUNTS, total, -by_n) <= 0 then
    redis.call('HDEL', COUNTS, total)
  end
end
lower(FAILED_COUNTED, 1)
lower(FAILED_BYTES .. failed_lane, #(found[2][4] or ''))
local function is_up_to(a, b)
  local a_ms, a_n = string.match(a, '^(%d+)-(%d+)$')
  local b_ms, b_n = string.match(b, '^(%d+)-(%d+)$')
  return tonumber(a_ms) < tonumber(b_ms) or (a_ms == b_ms and tonumber(a_n) <= tonumber(b_n))
end
local recounted_to = redis.call('HGET', COUNTS, RECOUNTED_TO)
if recounted_to and is_up_to(entry, recounted_to) then
  lower(RECOUNTED_BYTES .. failed_lane, #(found[2][4] or ''))
end
return 'D'
