#!lua flags=allow-oom
-- Trims processed and discarded events and their index: those that are too old, and beyond the limits the oldest of the
-- largest lane, so that no plugin pushes out the history of another.
-- KEYS after the lanes: the stream of discarded events. ARGV: limit of processed events, longest age of processed events
-- in ms, that of discarded ones, shortest age in ms, limit of events to trim, limit of bytes to read at a time, limit of
-- bytes of all events, number of lanes, their names. Reply: 1 if there may be more.
-- Younger events than the shortest age stay: their place lets the store recognize a repeated settle, append or discard.
local max, longest, longest_discarded, shortest = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3]), tonumber(ARGV[4])
local limit, max_read, max_bytes, lanes = tonumber(ARGV[5]), tonumber(ARGV[6]), tonumber(ARGV[7]), tonumber(ARGV[8])
local MAX_AT_ONCE, CHUNK = 100, 1000
-- A lane that is not larger than the others loses one part in so many at a time.
local PART = 10
local PROCESSED = { key = DONE, kind = 'p', bytes = PROCESSED_BYTES, last = TRIMMED_TO }
local DISCARDED = { key = lane_key(lanes + 1), kind = 'x', bytes = DISCARDED_BYTES, last = DISCARDED_TO }
must_be('stream', DONE)
must_be('stream', DISCARDED.key)
must_be('hash', IX)
must_be('hash', COUNTS)
local total, now = redis.call('XLEN', DONE), now_ms()

-- The totals of all lanes, and the largest lane. Events from before there were totals are the oldest and count for no lane.
local function survey(...)
  local all, largest, second, leader = 0, 0, 0, nil
  for from = 1, lanes, CHUNK do
    local to, amounts = math.min(from + CHUNK - 1, lanes), {}
    for _, field in ipairs({ ... }) do
      local names = {}
      for i = from, to do
        names[#names + 1] = field .. ARGV[8 + i]
      end
      for n, amount in ipairs(redis.call('HMGET', COUNTS, unpack(names))) do
        amounts[n] = (amounts[n] or 0) + math.max(0, tonumber(amount or 0))
      end
    end
    for n, amount in ipairs(amounts) do
      all = all + amount
      if amount > largest then
        largest, second, leader = amount, largest, ARGV[7 + from + n]
      elseif amount > second then
        second = amount
      end
    end
  end
  return all, largest, second, leader
end
local counted, largest, second, victim = survey(PROCESSED_COUNT)
local uncounted = total - counted
if uncounted < 0 then
  -- Another program trimmed without counting, so the events count for no lane until they are trimmed.
  for i = 1, lanes do
    redis.call('HDEL', COUNTS, PROCESSED_COUNT .. ARGV[8 + i], PROCESSED_BYTES .. ARGV[8 + i])
  end
  uncounted, victim = total, nil
end
if uncounted >= largest then
  victim = nil
end

local is_cut = false
local removed, n_removed, indexed, less, less_bytes = {}, 0, {}, {}, {}
local function drop(entry, id, lane, is_indexed, is_uncounted, size)
  removed[#removed + 1] = entry
  n_removed = n_removed + 1
  if is_indexed then
    indexed[#indexed + 1] = id
  end
  if is_uncounted then
    uncounted = uncounted - 1
  elseif lane then
    less[lane] = (less[lane] or 0) + 1
    less_bytes[lane] = (less_bytes[lane] or 0) + size
  end
end

local function write_removals(history)
  if #indexed > 0 then
    redis.call('HDEL', IX, unpack(indexed))
  end
  for lane, n in pairs(less) do
    if history == PROCESSED then
      redis.call('HINCRBY', COUNTS, PROCESSED_COUNT .. lane, -n)
    end
    redis.call('HINCRBY', COUNTS, history.bytes .. lane, -less_bytes[lane])
  end
  if #removed > 0 then
    redis.call('XDEL', history.key, unpack(removed))
  end
  removed, indexed, less, less_bytes = {}, {}, {}, {}
end

-- Reads entries after `last` and drops those for which `judge` returns true; nil stops. Returns the last entry that was
-- read, and true at the end of the stream.
local function walk(history, last, judge)
  -- The first entry is read alone: usually it stays, and it may be large.
  local at_once, left_bytes, is_front = 1, max_read, history == PROCESSED and not last
  while left_bytes > 0 and n_removed < limit do
    local before_bytes = left_bytes
    local found = redis.call('XRANGE', history.key, last and '(' .. last or '-', '+', 'COUNT', at_once)
    local ids, sizes = {}, {}
    for n, entry in ipairs(found) do
      ids[n], sizes[n] = '', 0
      for f = 1, #entry[2], 2 do
        left_bytes = left_bytes - #entry[2][f + 1]
        if entry[2][f] == 'id' then
          ids[n] = entry[2][f + 1]
        elseif entry[2][f] == 'b' then
          sizes[n] = #entry[2][f + 1]
        end
      end
    end
    local places = #found > 0 and redis.call('HMGET', IX, unpack(ids)) or {}
    for n, entry in ipairs(found) do
      local kind, of, at, receipt = read_place(places[n] or '')
      local is_indexed = kind == history.kind and at == entry[1]
      local lane = is_indexed and ended_lane(of, receipt) or nil
      local age = now - tonumber(string.match(entry[1], '^(%d+)'))
      local is_past = judge(age, lane, sizes[n])
      if age < shortest or is_past == nil then
        return last, false
      end
      if is_past then
        drop(entry[1], ids[n], lane, is_indexed, is_front and uncounted > 0, sizes[n])
      end
      last = entry[1]
    end
    if #found < at_once then
      return last, true
    end
    -- Small entries are read in larger groups, up to a quarter of the bytes that are left.
    local fits = math.floor(left_bytes / 4 * #found / math.max(1, before_bytes - left_bytes))
    at_once = math.max(1, math.min(MAX_AT_ONCE, fits))
  end
  is_cut = true
  return last, false
end

local excess = math.max(0, total - max)
walk(PROCESSED, nil, function(age)
  return (age > longest or (not victim and n_removed < excess)) or nil
end)
write_removals(PROCESSED)
excess = math.max(0, excess - n_removed)
walk(DISCARDED, nil, function(age)
  return age > longest_discarded or nil
end)
write_removals(DISCARDED)
local in_bytes, history = false, PROCESSED
if excess == 0 then
  local all_bytes
  all_bytes, largest, second, victim = survey(PROCESSED_BYTES, DISCARDED_BYTES)
  in_bytes, excess = true, math.max(0, all_bytes - max_bytes)
end
local has_moved = false
if victim and excess > 0 then
  if in_bytes then
    -- The lane loses first of what it has most of.
    local discarded = tonumber(redis.call('HGET', COUNTS, DISCARDED_BYTES .. victim) or 0)
    if discarded > largest / 2 then
      history, largest = DISCARDED, discarded
    else
      largest = largest - math.max(0, discarded)
    end
  end
  local wanted = math.min(excess, math.max(largest - second, math.ceil(largest / PART)))
  local from = redis.call('HGET', COUNTS, history.last .. victim) or nil
  local last, is_end = walk(history, from or '0-0', function(_, lane, size)
    if wanted <= 0 then
      return nil
    end
    if lane == victim then
      wanted = wanted - (in_bytes and size or 1)
      excess = excess - (in_bytes and size or 1)
      return true
    end
    return lane == nil
  end)
  has_moved = last ~= from and last ~= '0-0'
  if is_end and wanted > 0 then
    -- The lane has fewer events than counted: start from the beginning, then drop its totals.
    if from then
      redis.call('HDEL', COUNTS, history.last .. victim)
    elseif history == PROCESSED then
      redis.call('HDEL', COUNTS, PROCESSED_COUNT .. victim, PROCESSED_BYTES .. victim)
    else
      redis.call('HDEL', COUNTS, DISCARDED_BYTES .. victim)
    end
  elseif last ~= '0-0' then
    redis.call('HSET', COUNTS, history.last .. victim, last)
  end
  write_removals(history)
end
if (n_removed > 0 or has_moved) and (excess > 0 or is_cut) then
  return 1
end
-- Remove the totals of waiting bytes of lanes in which nothing waits.
for i = 1, lanes do
  if redis.pcall('XLEN', lane_key(i)) == 0 and tonumber(redis.call('HGET', COUNTS, DUE_COUNT .. ARGV[8 + i]) or 0) <= 0 then
    redis.call('HDEL', COUNTS, WAIT_BYTES .. ARGV[8 + i])
  end
end
return 0
