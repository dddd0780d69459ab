#!lua flags=allow-oom
-- Moves due events: adds to the lane first, removes from the schedule last.
-- ARGV: size of the set of lanes, limit of events, place of the lane for events of unknown lanes, delay in ms for events
-- of a misplaced lane, number of lanes, their names. Without the delay, such events would come first each time.
-- Reply: DONE, events moved, due times without event, time until the next is due in ms (-1 for none), problems.
local lanes = tonumber(ARGV[5])
if redis.call('SCARD', LANES) ~= tonumber(ARGV[1]) then
  return { 'LANES' }
end
local lane_places = {}
for i = 1, lanes do
  lane_places[ARGV[5 + i]] = i
end
must_be('hash', PARKED)
must_be('hash', IX)
must_be('hash', COUNTS)

local now = now_ms()
local max = tonumber(ARGV[2])
local ids = redis.call('ZRANGEBYSCORE', DUE, '-inf', int(now), 'LIMIT', 0, max)
local moves, wrong, opened = {}, {}, {}
for n, id in ipairs(ids) do
  local raw = redis.call('HGET', PARKED, id)
  local cut = raw and string.find(raw, '\n', 1, true)
  if cut then
    local i = lane_places[string.sub(raw, 1, cut - 1)] or tonumber(ARGV[3])
    if opened[i] == nil then
      local problem = misplaced('stream', lane_key(i))
      opened[i] = not problem
      if problem then
        wrong[#wrong + 1] = problem
      else
        open_lane(lane_key(i))
      end
    end
    moves[n] = { i, opened[i] and string.sub(raw, cut + 1), string.sub(raw, 1, cut - 1) }
  else
    moves[n] = false
  end
end
local moved, orphans = 0, 0
local moved_of = {}
for n, id in ipairs(ids) do
  local move = moves[n]
  if move and not move[2] then
    redis.call('ZADD', DUE, int(now + tonumber(ARGV[4])), id)
  elseif move then
    local _, _, _, receipt = place_of(id)
    local entry = redis.call('XADD', lane_key(move[1]), '*', 'id', id, 'b', move[2])
    set_place(id, 'q', ARGV[5 + move[1]], entry, receipt or '')
    moved = moved + 1
    moved_of[move[3]] = (moved_of[move[3]] or 0) + 1
  else
    redis.call('HINCRBY', COUNTS, 'orphans', 1)
    orphans = orphans + 1
  end
  if not move or move[2] then
    redis.call('ZREM', DUE, id)
    redis.call('HDEL', PARKED, id)
  end
end
for lane, n in pairs(moved_of) do
  redis.call('HINCRBY', COUNTS, DUE_COUNT .. lane, -n)
end
local first = redis.call('ZRANGE', DUE, 0, 0, 'WITHSCORES')
local wait = -1
if moved > 0 and not first[1] then
  for i = 1, lanes do
    redis.call('HDEL', COUNTS, DUE_COUNT .. ARGV[5 + i])
  end
end
if first[2] then
  wait = math.max(0, tonumber(first[2]) - now)
end
return { 'DONE', moved, orphans, wait, wrong }
