#!lua flags=allow-oom
-- Trims processed events and their index: those that are too old, and beyond the limits the oldest of the largest lane, so
-- that no plugin pushes out the history of another.
-- ARGV: limit of events, longest age in ms, shortest age in ms, limit of events to trim, limit of bytes to read, limit of
-- bytes, number of lanes, their names. Reply: 1 if there may be more.
-- Younger events than the shortest age stay: their place lets the store recognize a repeated settle or append.
local max, longest, shortest = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3])
local limit, left_bytes, lanes = tonumber(ARGV[4]), tonumber(ARGV[5]), tonumber(ARGV[7])
local max_bytes = tonumber(ARGV[6])
local AT_ONCE, MAX_AT_ONCE, CHUNK = 10, 100, 1000
-- A lane that is not larger than the others loses one part in so many at a time.
local PART = 10
must_be('stream', DONE)
must_be('hash', IX)
must_be('hash', COUNTS)
local total, now = redis.call('XLEN', DONE), now_ms()

-- The totals of all lanes, and the largest lane. Events from before there were totals are the oldest and count for no lane.
local function survey(field)
  local all, largest, second, leader = 0, 0, 0, nil
  for from = 1, lanes, CHUNK do
    local names = {}
    for i = from, math.min(from + CHUNK - 1, lanes) do
      names[#names + 1] = field(ARGV[7 + i])
    end
    for n, amount in ipairs(redis.call('HMGET', COUNTS, unpack(names))) do
      amount = math.max(0, tonumber(amount or 0))
      all = all + amount
      if amount > largest then
        largest, second, leader = amount, largest, ARGV[7 + from + n - 1]
      elseif amount > second then
        second = amount
      end
    end
  end
  return all, largest, second, leader
end
local counted, largest, second, victim = survey(processed_count)
local uncounted = total - counted
if uncounted < 0 then
  -- Another program trimmed without counting, so the events count for no lane until they are trimmed.
  for i = 1, lanes do
    redis.call('HDEL', COUNTS, processed_count(ARGV[7 + i]), processed_bytes(ARGV[7 + i]))
  end
  uncounted, victim = total, nil
end
if uncounted >= largest then
  victim = nil
end

local removed, n_removed, indexed, less, less_bytes = {}, 0, {}, {}, {}
local function drop(entry, id, lane, is_indexed, is_front, size)
  removed[#removed + 1] = entry
  n_removed = n_removed + 1
  if is_indexed then
    indexed[#indexed + 1] = id
  end
  if is_front and uncounted > 0 then
    uncounted = uncounted - 1
  elseif lane then
    less[lane] = (less[lane] or 0) + 1
    less_bytes[lane] = (less_bytes[lane] or 0) + size
  end
end

local function write_removals()
  if #indexed > 0 then
    redis.call('HDEL', IX, unpack(indexed))
  end
  for lane, n in pairs(less) do
    redis.call('HINCRBY', COUNTS, processed_count(lane), -n)
    redis.call('HINCRBY', COUNTS, processed_bytes(lane), -less_bytes[lane])
  end
  if #removed > 0 then
    redis.call('XDEL', DONE, unpack(removed))
  end
  removed, indexed, less, less_bytes = {}, {}, {}, {}
end

-- Reads entries after `last` and drops those for which `judge` returns true; nil stops. Returns the last entry that was
-- read, and true at the end of the stream.
local function walk(last, is_front, judge)
  local at_once = AT_ONCE
  while left_bytes > 0 and n_removed < limit do
    local before_bytes = left_bytes
    local found = redis.call('XRANGE', DONE, last and '(' .. last or '-', '+', 'COUNT', at_once)
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
      local kind, _, at, receipt = read_place(places[n] or '')
      local is_indexed = kind == 'p' and at == entry[1]
      local lane = is_indexed and string.match(receipt, '^([^/]+)/') or nil
      local age = now - tonumber(string.match(entry[1], '^(%d+)'))
      local is_past = judge(age, lane, sizes[n])
      if age < shortest or is_past == nil then
        return last, false
      end
      if is_past then
        drop(entry[1], ids[n], lane, is_indexed, is_front, sizes[n])
      end
      last = entry[1]
    end
    if #found < at_once then
      return last, true
    end
    -- Small entries are read in larger groups, up to a quarter of the bytes that are left.
    local fits = math.floor(left_bytes / 4 * #found / math.max(1, before_bytes - left_bytes))
    at_once = math.max(AT_ONCE, math.min(MAX_AT_ONCE, fits))
  end
  return last, false
end

local excess = math.max(0, total - max)
walk(nil, true, function(age)
  return (age > longest or (not victim and n_removed < excess)) or nil
end)
write_removals()
excess = math.max(0, excess - n_removed)
local in_bytes, all_bytes = false, 0
if excess == 0 then
  all_bytes, largest, second, victim = survey(processed_bytes)
  in_bytes, excess = true, math.max(0, all_bytes - max_bytes)
end
local has_moved = false
if victim and excess > 0 then
  local wanted = math.min(excess, math.max(largest - second, math.ceil(largest / PART)))
  local from = redis.call('HGET', COUNTS, trimmed_to(victim)) or nil
  local last, is_end = walk(from, false, function(_, lane, size)
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
  has_moved = last ~= from
  if is_end and wanted > 0 then
    -- The lane has fewer events than counted: start from the beginning, then drop its totals.
    if from then
      redis.call('HDEL', COUNTS, trimmed_to(victim))
    else
      redis.call('HDEL', COUNTS, processed_count(victim), processed_bytes(victim))
    end
  elseif last then
    redis.call('HSET', COUNTS, trimmed_to(victim), last)
  end
  write_removals()
end
local is_cut = n_removed >= limit or left_bytes <= 0
if (n_removed > 0 or has_moved) and (excess > 0 or is_cut) then
  return 1
end
-- Remove the totals of waiting bytes of lanes in which nothing waits.
for i = 1, lanes do
  if redis.pcall('XLEN', lane_key(i)) == 0 and tonumber(redis.call('HGET', COUNTS, due_count(ARGV[7 + i])) or 0) <= 0 then
    redis.call('HDEL', COUNTS, wait_bytes(ARGV[7 + i]))
  end
end
return 0
