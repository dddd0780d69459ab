#!lua flags=allow-oom
-- Trims processed and discarded events and their index: those that are too old, and beyond the limits the oldest of the
-- largest lane, so that no plugin pushes out the history of another.
-- Where all processed events of a lane are in its log, no records are read. Others are read: those of hosts of earlier
-- versions, and discarded ones. Events of a log that are gone were trimmed by such a host.
-- KEYS after the lanes: the stream of discarded events, the log of each lane. ARGV: limit of processed events, longest age
-- of processed events in ms, that of discarded ones, shortest age in ms, limit of events to trim, limit of bytes to read at
-- a time, limit of bytes of all events, number of lanes, their names. Reply: 1 if there may be more.
-- Younger events than the shortest age stay: their place lets the store recognize a repeated settle, append or discard.
local max, longest, longest_discarded, shortest = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3]), tonumber(ARGV[4])
local limit, max_read, max_bytes, lanes = tonumber(ARGV[5]), tonumber(ARGV[6]), tonumber(ARGV[7]), tonumber(ARGV[8])
local MAX_AT_ONCE, CHUNK = 100, 1000
-- The most bytes of records that a call takes from a log, because freeing them takes time.
local FREED_BYTES = 8 * max_read
-- A lane that is not larger than the others loses one part in so many at a time.
local PART = 10
local PROCESSED = { key = DONE, kind = 'p', bytes = PROCESSED_BYTES, last = TRIMMED_TO }
local DISCARDED = { key = lane_key(lanes + 1), kind = 'x', bytes = DISCARDED_BYTES, last = DISCARDED_TO }
must_be('stream', DONE)
must_be('stream', DISCARDED.key)
must_be('hash', IX)
must_be('hash', COUNTS)
local total, now = redis.call('XLEN', DONE), now_ms()

local function log_key(i)
  return lane_key(lanes + 1 + i)
end

-- The sum of these totals for each lane.
local function amounts_of(...)
  local amounts = {}
  for _, field in ipairs({ ... }) do
    for from = 1, lanes, CHUNK do
      local names = {}
      for i = from, math.min(from + CHUNK - 1, lanes) do
        names[#names + 1] = field .. ARGV[8 + i]
      end
      for n, amount in ipairs(redis.call('HMGET', COUNTS, unpack(names))) do
        amounts[from + n - 1] = (amounts[from + n - 1] or 0) + math.max(0, tonumber(amount or 0))
      end
    end
  end
  return amounts
end

-- All together, the largest amount, the second, and the place of the largest.
local function survey(amounts)
  local all, largest, second, leader = 0, 0, 0, nil
  for i, amount in ipairs(amounts) do
    all = all + amount
    if amount > largest then
      largest, second, leader = amount, largest, i
    elseif amount > second then
      second = amount
    end
  end
  return all, largest, second, leader
end

-- Events from before there were totals are the oldest and count for no lane.
local kept, logged = amounts_of(PROCESSED_COUNT), amounts_of(LOGGED_COUNT)
local counted, largest, second, victim = survey(kept)
local uncounted = total - counted
if uncounted < 0 then
  -- Another program trimmed without counting, so the events count for no lane until they are trimmed.
  for i = 1, lanes do
    local lane = ARGV[8 + i]
    redis.call('HDEL', COUNTS, PROCESSED_COUNT .. lane, PROCESSED_BYTES .. lane, LOGGED_COUNT .. lane)
    redis.call('DEL', log_key(i))
    kept[i], logged[i] = 0, 0
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

-- True if the log of a lane has all its events. It may have more, which are gone. Events that count for no lane are in no
-- log, and may be of any lane.
local function is_logged(i)
  return i and uncounted == 0 and logged[i] > 0 and kept[i] <= logged[i]
end

local HEX = {}
for byte = 0, 255 do
  HEX[byte] = string.format('%02x', byte)
end
local function read_log_item(text, n)
  local a, b, c, d, e, f, g, h, i, j, k, l, m, o, p, q, s, t, u, v =
    string.byte(text, LOG_ITEM_BYTES * (n - 1) + 1, LOG_ITEM_BYTES * n)
  local id = HEX[a] .. HEX[b] .. HEX[c] .. HEX[d] .. '-' .. HEX[e] .. HEX[f] .. '-' .. HEX[g] .. HEX[h] .. '-'
    .. HEX[i] .. HEX[j] .. '-' .. HEX[k] .. HEX[l] .. HEX[m] .. HEX[o] .. HEX[p] .. HEX[q]
  return id, ((s * 256 + t) * 256 + u) * 256 + v
end

-- Takes the oldest events of a lane from its log while `judge` returns true, and at most so many. Returns the number of
-- those that it took or that were gone, and true at the end of the log.
local function take_logged(i, most, judge)
  local key, lane, taken, left_bytes, at_once = log_key(i), ARGV[8 + i], 0, FREED_BYTES, 10
  most = n_removed + math.min(most, limit - n_removed)
  local function finish(is_end)
    if is_end then
      redis.call('HDEL', COUNTS, LOGGED_COUNT .. lane)
      logged[i] = 0
    elseif taken > 0 then
      redis.call('HINCRBY', COUNTS, LOGGED_COUNT .. lane, -taken)
      logged[i] = logged[i] - taken
    end
    return taken, is_end
  end
  while n_removed < most and taken < 2 * limit and left_bytes > 0 do
    local text = redis.pcall('LINDEX', key, 0)
    local length = type(text) == 'string' and #text / LOG_ITEM_BYTES or 0
    if length ~= math.floor(length) or length == 0 then
      return finish(true)
    end
    local ids, sizes, n, is_stopped = {}, {}, 0, false
    for item = 1, math.min(length, at_once, most - n_removed) do
      ids[item], sizes[item] = read_log_item(text, item)
    end
    for item, place in ipairs(redis.call('HMGET', IX, unpack(ids))) do
      local kind, _, at = read_place(place or '')
      if kind == 'p' then
        local age = now - tonumber(string.match(at, '^(%d+)'))
        if age < shortest or left_bytes <= 0 or not judge(age, sizes[item]) then
          is_stopped = true
          break
        end
        drop(at, ids[item], lane, true, false, sizes[item])
        kept[i] = kept[i] - 1
        left_bytes = left_bytes - sizes[item]
      end
      n = item
    end
    if n == length then
      redis.call('LPOP', key)
    elseif n > 0 then
      redis.call('LSET', key, 0, string.sub(text, LOG_ITEM_BYTES * n + 1))
    end
    taken, at_once = taken + n, math.min(MAX_AT_ONCE, 4 * at_once)
    if is_stopped then
      is_cut = is_cut or left_bytes <= 0
      return finish(false)
    end
  end
  is_cut = true
  return finish(false)
end

-- Takes old events of the lane that has the oldest, as long as the logs have them. Returns true if others are left.
local function take_old()
  local places, left_bytes = {}, max_read
  for i = 1, lanes do
    places[ARGV[8 + i]] = i
  end
  while n_removed < limit and left_bytes > 0 do
    local front = redis.call('XRANGE', DONE, '-', '+', 'COUNT', 1)[1]
    if not front then
      return false
    end
    local id
    for f = 1, #front[2], 2 do
      left_bytes = left_bytes - #front[2][f + 1]
      id = front[2][f] == 'id' and front[2][f + 1] or id
    end
    local age = now - tonumber(string.match(front[1], '^(%d+)'))
    if age < shortest or age <= longest then
      return false
    end
    local _, of, _, receipt = place_of(id or '')
    local i = receipt and places[ended_lane(of, receipt)]
    local before = n_removed
    if is_logged(i) then
      take_logged(i, limit, function(of_this)
        return of_this > longest
      end)
      write_removals(PROCESSED)
    end
    if n_removed == before then
      return true
    end
  end
  is_cut = true
  return false
end

local excess = math.max(0, total - max)
if not victim or take_old() then
  walk(PROCESSED, nil, function(age)
    return (age > longest or (not victim and n_removed < excess)) or nil
  end)
  write_removals(PROCESSED)
end
excess = math.max(0, excess - n_removed)
walk(DISCARDED, nil, function(age)
  return age > longest_discarded or nil
end)
write_removals(DISCARDED)
local in_bytes, history = false, PROCESSED
if excess == 0 then
  local all_bytes
  all_bytes, largest, second, victim = survey(amounts_of(PROCESSED_BYTES, DISCARDED_BYTES))
  in_bytes, excess = true, math.max(0, all_bytes - max_bytes)
end
local has_moved = false
if victim and excess > 0 then
  local name = ARGV[8 + victim]
  if in_bytes then
    -- The lane loses first of what it has most of.
    local discarded = tonumber(redis.call('HGET', COUNTS, DISCARDED_BYTES .. name) or 0)
    if discarded > largest / 2 then
      history, largest = DISCARDED, discarded
    else
      largest = largest - math.max(0, discarded)
    end
  end
  local wanted = math.min(excess, math.max(largest - second, math.ceil(largest / PART)))
  local function take(size)
    wanted = wanted - (in_bytes and size or 1)
    excess = excess - (in_bytes and size or 1)
    return true
  end
  if history == PROCESSED and is_logged(victim) then
    -- At the end of the log, the next call looks for events that are in no log.
    local taken, is_end = take_logged(victim, in_bytes and limit or wanted, function(_, size)
      return wanted > 0 and take(size)
    end)
    has_moved = taken > 0 or is_end
  else
    local from = redis.call('HGET', COUNTS, history.last .. name) or nil
    local last, is_end = walk(history, from or '0-0', function(_, lane, size)
      if wanted <= 0 then
        return nil
      end
      return lane == name and take(size) or lane == nil
    end)
    has_moved = last ~= from and last ~= '0-0'
    if is_end and wanted > 0 then
      -- The lane has fewer events than counted: start from the beginning, then drop its totals.
      if from then
        redis.call('HDEL', COUNTS, history.last .. name)
      elseif history == PROCESSED then
        redis.call('HDEL', COUNTS, PROCESSED_COUNT .. name, PROCESSED_BYTES .. name)
      else
        redis.call('HDEL', COUNTS, DISCARDED_BYTES .. name)
      end
    elseif last ~= '0-0' then
      redis.call('HSET', COUNTS, history.last .. name, last)
    end
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
