#!lua
-- Appends the events of several requests; each request whole or not at all. Redis refuses it when memory is full.
-- ARGV: epoch, limit of waiting events, limit of one lane, limit of the waiting and failed bytes of one lane, other limits
-- of lanes as PLACE:LIMIT with blanks between, window of idempotency in ms, size of the set of lanes, number of lanes,
-- their names, number of requests, the number of events of each ('' if each has one), the most idempotency keys of all
-- lanes; then for each event: id, placing, blob. Placing: the place of the lane; for a later start or an idempotency key also start, ms, place of the key in KEYS
-- (0 for none), fingerprint. If there are such keys, KEYS has after the lanes the hash of when they end, then the keys.
-- Reply: DONE, the total of accepted events, 0 if all are new or else an answer for each request; or EPOCH; or LANES.
-- Commands are combined for all events, because each call from Lua costs more than its work.
local KEYS, ARGV, call, try = KEYS, ARGV, redis.call, redis.pcall
local CHUNK = 1000
local lanes = tonumber(ARGV[8])

if call('GET', EPOCH) ~= ARGV[1] then
  return { 'EPOCH' }
end
if call('SCARD', LANES) ~= tonumber(ARGV[7]) then
  return { 'LANES' }
end
local max, each, max_bytes = tonumber(ARGV[2]), tonumber(ARGV[3]), tonumber(ARGV[4])
local own = {}
if ARGV[5] ~= '' then
  for place, limit in string.gmatch(ARGV[5], '(%d+):(%d+)') do
    own[tonumber(place)] = tonumber(limit)
  end
end

-- What a command answered that reads a key. A key that holds another type is an error with its remedy. That is cheaper
-- than to ask for the type first.
local function read(kind, key, answer)
  if type(answer) == 'table' and answer.err then
    must_be(kind, key)
    error(answer)
  end
  return answer
end
local waiting = read('zset', DUE, try('ZCARD', DUE))
-- Events due later, by lane. Read only if there are any.
local later = {}
if waiting > 0 then
  for from = 1, lanes, CHUNK do
    local names = {}
    for i = from, math.min(from + CHUNK - 1, lanes) do
      names[#names + 1] = DUE_COUNT .. ARGV[8 + i]
    end
    for n, count in ipairs(read('hash', COUNTS, try('HMGET', COUNTS, unpack(names)))) do
      later[from + n - 1] = math.max(0, tonumber(count or 0))
    end
  end
end
-- The waiting events of each lane and in all. For the limit, no lane counts for more than its own limit. A lane that is no
-- stream stops only requests that need it.
local wrong, waits, counted = {}, {}, waiting
for i = 1, lanes do
  local length = try('XLEN', lane_key(i))
  if type(length) == 'number' then
    waiting = waiting + length
    waits[i] = length + (later[i] or 0)
    counted = counted - (later[i] or 0) + math.min(waits[i], own[i] or each)
  else
    wrong[i] = misplaced('stream', lane_key(i)) or length.err
    waits[i] = 0
  end
end

-- A lane with few events may take more, whatever waits in all.
local SMALL_PART = 10
local function is_small(i, more)
  return waits[i] + more <= math.floor(math.min(own[i] or each, each) / SMALL_PART)
end
local KEY_ENDS = KEYS[10 + lanes]
if KEY_ENDS then
  must_be('hash', KEY_ENDS)
  for k = 11 + lanes, #KEYS do
    must_be('string', KEYS[k])
  end
end

local requests, sizes = tonumber(ARGV[9 + lanes]), ARGV[10 + lanes] ~= '' and string.gmatch(ARGV[10 + lanes], '%d+')
local max_keys = tonumber(ARGV[11 + lanes])
local base = 12 + lanes
local known = {}
for from = base, #ARGV, 3 * CHUNK do
  local ids = {}
  for at = from, math.min(from + 3 * CHUNK - 1, #ARGV), 3 do
    ids[#ids + 1] = ARGV[at]
  end
  for i, place in ipairs(read('hash', IX, try('HMGET', IX, unpack(ids)))) do
    known[from + 3 * (i - 1)] = place
  end
end

-- The waiting and failed bytes of a lane, read when a request needs the lane. The first read comes before the first write,
-- so it also checks the key.
local held, held_before, waiting_before, failed_before, total = {}, {}, {}, {}, nil
local function weigh(i)
  local lane = ARGV[8 + i]
  local found = read('hash', COUNTS, try('HMGET', COUNTS, WAIT_BYTES .. lane, FAILED_BYTES .. lane, 'accepted'))
  waiting_before[i], failed_before[i], total = tonumber(found[1] or 0), tonumber(found[2] or 0), tonumber(found[3] or 0)
  held_before[i] = math.max(0, waiting_before[i]) + math.max(0, failed_before[i])
  held[i] = held_before[i]
  return held[i]
end
-- A lane that holds nothing accepts one request of any size.
local function is_heavy(i, more)
  local bytes = held[i] or weigh(i)
  return bytes + more > max_bytes and bytes > 0
end

-- The idempotency keys of each lane, read when a request brings a new one. Half of all that may be kept is divided evenly
-- between the lanes, and `beyond` is what lanes have of the other half. The file key_share.rs has the same rule.
local own_keys = math.floor(max_keys / 2 / lanes)
local keys_of, added_keys, beyond = nil, {}, 0
local function excess(keys)
  return math.max(0, keys - own_keys)
end
local function read_keys()
  keys_of = {}
  for from = 1, lanes, CHUNK do
    local names = {}
    for i = from, math.min(from + CHUNK - 1, lanes) do
      names[#names + 1] = KEY_COUNT .. ARGV[8 + i]
    end
    for n, count in ipairs(call('HMGET', COUNTS, unpack(names))) do
      local keys = math.max(0, tonumber(count or 0))
      keys_of[from + n - 1], beyond = keys, beyond + excess(keys)
    end
  end
end
-- What lanes would have of the common half with so many keys more, and the first lane that would have some of it.
local function with_keys(more)
  local after, first = beyond, nil
  for i, n in pairs(more) do
    after = after - excess(keys_of[i]) + excess(keys_of[i] + n)
    if excess(keys_of[i] + n) > 0 and (not first or i < first) then
      first = i
    end
  end
  return after, first
end
local function all_keys()
  local all = 0
  for i = 1, lanes do
    all = all + keys_of[i]
  end
  return all
end

local now
local opened, places, n_places = {}, {}, 0
local function put(at, i, start, ms)
  if not opened[i] then
    open_lane(lane_key(i))
    opened[i] = true
  end
  held[i] = held[i] + #ARGV[at + 2]
  if start ~= 'now' then
    now = now or now_ms()
    return enqueue(ARGV[at], i, ARGV[8 + i], start, ms, ARGV[at + 2], now)
  end
  local entry = call('XADD', KEYS[9 + i], '*', 'id', ARGV[at], 'b', ARGV[at + 2])
  places[n_places + 1] = ARGV[at]
  places[n_places + 2] = 'q|' .. ARGV[8 + i] .. '|' .. entry .. '|'
  n_places = n_places + 2
end

local NEW = { 'OK', '' }
local accepted, duplicates, all_new = 0, 0, true
local answers = {}
for r = 1, requests do
  local n = sizes and tonumber(sizes()) or 1
  local lane = n == 1 and tonumber(ARGV[base + 1])
  local fits = lane and not known[base] and not wrong[lane] and waits[lane] < (own[lane] or each)
  if fits and (counted < max or is_small(lane, 1)) and not is_heavy(lane, #ARGV[base + 2]) then
    put(base, lane, 'now')
    accepted = accepted + 1
    waiting, counted, waits[lane] = waiting + 1, counted + 1, waits[lane] + 1
    answers[r] = NEW
  else
    local answer, conflicts, fresh, new_keys, is_wrong = { 'OK' }, { 'CONFLICT' }, {}, {}, nil
    local more, more_bytes, more_keys = {}, {}, {}
    for e = 0, n - 1 do
      local at = base + e * 3
      local id, i, first = ARGV[at], tonumber(ARGV[at + 1]), nil
      local start, ms, idem, fingerprint = 'now', '0', 0, ''
      if not i then
        i, start, ms, idem, fingerprint = string.match(ARGV[at + 1], '^(%d+) (%a+) (%d+) (%d+) (.*)$')
        i, idem = tonumber(i), tonumber(idem)
      end
      if idem > 0 then
        first = new_keys[idem] or call('GET', KEYS[10 + lanes + idem])
        if not first then
          new_keys[idem] = id .. fingerprint
          more_keys[i] = (more_keys[i] or 0) + 1
        end
      end
      if first and string.sub(first, 37) ~= fingerprint then
        conflicts[#conflicts + 1] = e
      elseif first and string.sub(first, 1, 36) ~= id then
        answer[#answer + 1] = string.sub(first, 1, 36)
      else
        answer[#answer + 1] = ''
        -- A known id is a repetition of this call after a lost reply.
        if not first and not known[at] then
          fresh[#fresh + 1] = { at, i, start, ms }
          is_wrong = is_wrong or wrong[i] or (start ~= 'now' and misplaced('hash', PARKED)) or nil
          more[i] = (more[i] or 0) + 1
          more_bytes[i] = (more_bytes[i] or 0) + #ARGV[at + 2]
        end
      end
    end
    local full, heavy, are_small, keyed = nil, nil, true, nil
    for i, n_more in pairs(more) do
      if waits[i] + n_more > (own[i] or each) and (not full or i < full) then
        full = i
      end
      are_small = are_small and is_small(i, n_more)
      if is_heavy(i, more_bytes[i]) and (not heavy or i < heavy) then
        heavy = i
      end
    end
    if next(more_keys) and not is_wrong then
      if not keys_of then
        read_keys()
      end
      local after, first = with_keys(more_keys)
      keyed = after > max_keys - own_keys * lanes and first or nil
    end
    if #conflicts > 1 then
      answers[r] = conflicts
      all_new = false
    elseif is_wrong then
      answers[r] = { 'MISPLACED', is_wrong }
      all_new = false
    elseif full then
      answers[r] = { 'LANEFULL', ARGV[8 + full], waits[full], own[full] or each }
      all_new = false
    elseif #fresh > 0 and counted + #fresh > max and not are_small then
      answers[r] = { 'FULL', waiting }
      all_new = false
    elseif heavy then
      answers[r] = { 'LANEHEAVY', ARGV[8 + heavy], held[heavy] - math.max(0, failed_before[heavy]), math.max(0, failed_before[heavy]) }
      all_new = false
    elseif keyed then
      answers[r] = { 'KEYSFULL', ARGV[8 + keyed], keys_of[keyed], all_keys() }
      all_new = false
    else
      for _, event in ipairs(fresh) do
        put(unpack(event))
        waits[event[2]] = waits[event[2]] + 1
      end
      -- Keys come after the events: the other order could name an event that does not exist.
      for idem, first in pairs(new_keys) do
        call('SET', KEYS[10 + lanes + idem], first, 'PX', ARGV[6])
      end
      if next(more_keys) then
        beyond = with_keys(more_keys)
        for i, n in pairs(more_keys) do
          keys_of[i], added_keys[i] = keys_of[i] + n, (added_keys[i] or 0) + n
        end
      end
      for e = 2, #answer do
        if answer[e] ~= '' then
          duplicates = duplicates + 1
          all_new = false
        end
      end
      accepted = accepted + #fresh
      waiting, counted = waiting + #fresh, counted + #fresh
      answers[r] = answer
    end
  end
  base = base + n * 3
end

for from = 1, n_places, 2 * CHUNK do
  call('HSET', IX, unpack(places, from, math.min(from + 2 * CHUNK - 1, n_places)))
end
for i, n in pairs(added_keys) do
  now = now or now_ms()
  count_keys(KEY_ENDS, ARGV[8 + i], n, now + tonumber(ARGV[6]), now)
end
if duplicates > 0 then
  call('HINCRBY', COUNTS, 'duplicates', duplicates)
end
if accepted > 0 then
  total = int(total + accepted)
  local totals = { 'accepted', total }
  for i, bytes in pairs(held) do
    if bytes > held_before[i] then
      totals[#totals + 1] = WAIT_BYTES .. ARGV[8 + i]
      totals[#totals + 1] = int(waiting_before[i] + bytes - held_before[i])
    end
  end
  call('HSET', COUNTS, unpack(totals))
else
  total = call('HGET', COUNTS, 'accepted') or '0'
end
return { 'DONE', total, all_new and 0 or answers }
