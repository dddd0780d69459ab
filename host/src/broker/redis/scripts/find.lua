#!lua flags=no-writes,allow-oom
-- Finds one event. KEYS after the lanes: the stream of discarded events. ARGV: size of the set of lanes, id, number of
-- lanes, their names.
-- Reply: kind (q queued, r running, d due later, p processed, f failed, x discarded, '' unknown), blob, due time in ms,
-- entry, place in the index.
if redis.call('SCARD', LANES) ~= tonumber(ARGV[1]) then
  return { 'LANES' }
end
local id = ARGV[2]
local place = redis.call('HGET', IX, id) or ''
local kind, lane, entry = read_place(place)

local function blob_in(key)
  local found = redis.call('XRANGE', key, entry, entry)
  if #found == 1 then
    for f = 1, #found[1][2], 2 do
      if found[1][2][f] == 'b' then
        return found[1][2][f + 1]
      end
    end
  end
  return false
end

if kind == 'p' then
  return { kind, blob_in(DONE), 0, entry, place }
elseif kind == 'f' then
  return { kind, blob_in(FAILED), 0, entry, place }
elseif kind == 'x' then
  return { kind, blob_in(lane_key(tonumber(ARGV[3]) + 1)), 0, entry, place }
elseif kind == 'd' then
  local raw = redis.call('HGET', PARKED, id)
  local due = redis.call('ZSCORE', DUE, id)
  return { kind, raw and string.match(raw, '^[^\n]*\n(.*)$') or false, due and int(tonumber(due)) or 0, '', place }
elseif kind == 'q' then
  for i = 1, tonumber(ARGV[3]) do
    if ARGV[3 + i] == lane then
      local p = redis.pcall('XPENDING', lane_key(i), GROUP, entry, entry, 1)
      local running = not p.err and #p == 1
      return { running and 'r' or 'q', blob_in(lane_key(i)), 0, entry, place }
    end
  end
end
return { '', false, 0, '', place }
