#!lua flags=allow-oom
-- Moves a failed event back to a lane if it has not moved since it was found.
-- ARGV: id, its entry in the failed stream, lane, blob. Reply: D done, now or by an earlier call; G gone.
local id, entry, lane = ARGV[1], ARGV[2], ARGV[3]
local receipt = 'replay/' .. entry
must_be('stream', FAILED)
must_be('hash', IX)
must_be('hash', COUNTS)
open_lane(lane_key(1))
local kind, _, at, by = place_of(id)
if by == receipt then
  return 'D'
end
if kind ~= 'f' or at ~= entry or #redis.call('XRANGE', FAILED, entry, entry) == 0 then
  return 'G'
end
redis.call('HINCRBY', COUNTS, 'replayed', 1)
redis.call('HINCRBY', COUNTS, wait_bytes(lane), #ARGV[4])
set_place(id, 'q', lane, redis.call('XADD', lane_key(1), '*', 'id', id, 'b', ARGV[4]), receipt)
redis.call('XDEL', FAILED, entry)
return 'D'
