#!lua flags=allow-oom
-- Settles deliveries: checks the fence, then writes published events, destination, counters and index, and removes the
-- entries last.
-- KEYS after the lanes: the log of each lane that has settled entries, which are the first lanes; then, if there is state,
-- plugins with state, expiries, and each plugin's state.
-- ARGV: consumer, number of lanes, their names; number of lanes with settled entries; for each lane its first and last
-- settled entry, how many pending entries to read between them ('', '' and 0: look each up), the bytes of its settled
-- entries, the log of its plain items; number of plugins with state, their names; for each lane the number of plain items (processed, nothing published, no state) and for each: entry, delivery
-- count, id, token, blob; then the number of other items and for each: source lane, entry, delivery count, id, token, verb
-- (ok, retry, later, failed or back), blob, delay in ms, next lane, class (for ok: its item of the log), number of children; for each child: id, lane,
-- start, ms, blob; then plugin, number of versions, number of writes; for each version: key, version; for each write: verb
-- (set, del or add), key, value, time to live in ms or 0.
-- Reply: one letter for each item, plain ones first: D done, now or by an earlier call; L lost; C state conflict.
-- Redis serves no other client meanwhile, so the work for each item is short, and for a plain one shortest.
local KEYS, ARGV, call = KEYS, ARGV, redis.call
local me, lanes = ARGV[1], tonumber(ARGV[2])
local sources, ranges = tonumber(ARGV[3 + lanes]), 3 + lanes
local at = 4 + 6 * lanes
local items, spaces, parks = {}, {}, false

local function take(n)
  at = at + n
  return unpack(ARGV, at - n, at - 1)
end

-- Each key is checked once, however many items need it.
local seen = {}
local function stream(key)
  if not seen[key] then
    must_be('stream', key)
    seen[key] = 'stream'
  end
end
local function open(key)
  if seen[key] ~= 'open' then
    open_lane(key)
    seen[key] = 'open'
  end
end

local LOGS = 9 + lanes
local STATE_KEYS = LOGS + sources
local PLUGINS, EXPIRIES = KEYS[STATE_KEYS + 1], KEYS[STATE_KEYS + 2]
for s = 1, tonumber((take(1))) do
  spaces[s] = { name = take(1), key = KEYS[STATE_KEYS + 2 + s] }
  must_be('set', PLUGINS)
  must_be('zset', EXPIRIES)
  must_be('hash', spaces[s].key)
end

-- Where the plain items of each lane begin, how many they are, and how many items of any kind the lane has.
local plain, n_plain, n_items = {}, {}, {}
for source = 1, lanes do
  plain[source], n_plain[source] = at + 1, tonumber(ARGV[at])
  at = at + 1 + 5 * n_plain[source]
  n_items[source] = n_plain[source]
  if n_plain[source] > 0 then
    stream(lane_key(source))
    stream(DONE)
  end
end

for n = 1, tonumber((take(1))) do
  local item = { children = {}, expected = {}, writes = {} }
  local source, entry, deliveries = take(3)
  item.source, item.entry, item.deliveries = tonumber(source), entry, tonumber(deliveries)
  item.id, item.token, item.verb, item.blob = take(4)
  item.delay, item.lane, item.class, item.n_children = take(4)
  item.lane = tonumber(item.lane)
  stream(lane_key(item.source))
  n_items[item.source] = n_items[item.source] + 1
  for c = 1, tonumber(item.n_children) do
    item.children[c] = { take(5) }
    open(lane_key(tonumber(item.children[c][2])))
  end
  local space, n_expected, n_writes = take(3)
  item.space = spaces[tonumber(space)]
  for e = 1, tonumber(n_expected) do
    item.expected[e] = { take(2) }
  end
  for w = 1, tonumber(n_writes) do
    item.writes[w] = { take(4) }
  end
  if item.verb == 'ok' then
    stream(DONE)
  elseif item.verb == 'failed' then
    stream(FAILED)
  elseif item.verb == 'back' then
    open(lane_key(item.lane))
  end
  if item.verb == 'retry' or item.verb == 'later' or #item.children > 0 then
    parks = true
  end
  items[n] = item
end
must_be('hash', IX)
must_be('hash', COUNTS)
if parks then
  must_be('zset', DUE)
  must_be('hash', PARKED)
end

local function pending(key, entry)
  local rows = redis.pcall('XPENDING', key, GROUP, entry, entry, 1)
  return not rows.err and rows[1] or nil
end

-- The delivery counts of entries that this consumer holds, read once for each lane, because entries that are close together
-- are settled together. False for an entry that was settled in this call.
local known = {}
for source = 1, lanes do
  local rows, of = {}, ranges + 5 * (source - 1)
  if ARGV[of + 1] ~= '' then
    rows = redis.pcall('XPENDING', lane_key(source), GROUP, ARGV[of + 1], ARGV[of + 2], ARGV[of + 3], me)
  end
  local held = {}
  for _, row in ipairs(rows.err and {} or rows) do
    held[row[1]] = row[4]
  end
  known[source] = held
end

local function is_held(source, entry, expected)
  local deliveries = known[source][entry]
  if deliveries == nil then
    local row = pending(lane_key(source), entry)
    deliveries = row and row[2] == me and row[4]
  end
  return deliveries == expected
end

local now = now_ms()

-- True if all versions that the handler has seen are current, and its increments are possible.
local function is_current(item)
  for _, e in ipairs(item.expected) do
    if read_value(item.space.key, e[1], now) ~= e[2] then
      return false
    end
  end
  for _, w in ipairs(item.writes) do
    if w[1] == 'add' then
      local _, _, value = read_value(item.space.key, w[2], now)
      if not sum(value, w[3]) then
        return false
      end
    end
  end
  return true
end

local function write(space, verb, key, value, ttl)
  if verb == 'del' then
    return remove_value(EXPIRIES, space.key, space.name, key)
  end
  local ends = tonumber(ttl) > 0 and now + tonumber(ttl) or 0
  if verb == 'add' then
    local _, until_ms, before = read_value(space.key, key, now)
    value, ends = sum(before, value), until_ms
  end
  write_value(PLUGINS, EXPIRIES, space.key, space.name, key, value, ends)
end

local counts, acks = {}, {}
local function count(name, by)
  counts[name] = (counts[name] or 0) + by
end

-- The new places of the events, written together at the end.
local places, n_places = {}, 0

local processed_of, processed_bytes_of = {}, {}
for source = 1, lanes do
  processed_of[source] = PROCESSED_COUNT .. ARGV[2 + source]
  processed_bytes_of[source] = PROCESSED_BYTES .. ARGV[2 + source]
end

-- The token stands for the entry, the delivery count and the consumer.
local function receipt_of(source, token)
  return ARGV[2 + source] .. '/' .. token
end

-- The answer for a delivery that is not held: D if this same settle moved the event before, otherwise L.
local function repeated(id, receipt)
  local _, _, _, settled_by = place_of(id)
  for n = 1, n_places, 2 do
    if places[n] == id then
      _, _, _, settled_by = read_place(places[n + 1])
    end
  end
  return settled_by == receipt and 'D' or 'L'
end

-- What each lane's log gets, and the number of events in it.
local logs, n_logged = {}, {}
local function log(source, text)
  local of = logs[source]
  if not of then
    of = {}
    logs[source] = of
  end
  of[#of + 1] = text
  n_logged[source] = (n_logged[source] or 0) + #text / LOG_ITEM_BYTES
end

local function end_delivery(source, entry, id, place)
  places[n_places + 1], places[n_places + 2] = id, place
  n_places = n_places + 2
  local of = acks[source]
  if not of then
    of = {}
    acks[source] = of
  end
  of[#of + 1] = entry
  known[source][entry] = false
  return 'D'
end

local function settle_plain(source, entry, deliveries, id, token, blob)
  local receipt = receipt_of(source, token)
  if not is_held(source, entry, tonumber(deliveries)) then
    return repeated(id, receipt)
  end
  local done = call('XADD', DONE, '*', 'id', id, 'b', blob)
  count('processed', 1)
  count(processed_of[source], 1)
  count(processed_bytes_of[source], #blob)
  return end_delivery(source, entry, id, 'p||' .. done .. '|' .. receipt)
end

local function settle(item)
  local source, id = item.source, item.id
  local receipt = receipt_of(source, item.token)
  if not is_held(source, item.entry, item.deliveries) then
    return repeated(id, receipt)
  end
  if item.space and not is_current(item) then
    count('state_conflicts', 1)
    return 'C'
  end
  for _, w in ipairs(item.writes) do
    write(item.space, unpack(w))
  end
  for _, c in ipairs(item.children) do
    local i = tonumber(c[2])
    enqueue(c[1], i, ARGV[2 + i], c[3], c[4], c[5], now)
    count('published', 1)
    count(WAIT_BYTES .. ARGV[2 + i], #c[5])
  end
  local place
  if item.verb == 'ok' then
    place = 'p||' .. call('XADD', DONE, '*', 'id', id, 'b', item.blob) .. '|'
    count('processed', 1)
    count(processed_of[source], 1)
    count(processed_bytes_of[source], #item.blob)
    log(source, item.class)
  elseif item.verb == 'failed' then
    place = 'f||' .. call('XADD', FAILED, '*', 'id', id, 'b', item.blob) .. '|'
    count('failed', 1)
    count('failed:' .. item.class, 1)
    count(FAILED_COUNTED, 1)
    count(FAILED_BYTES .. ARGV[2 + source], #item.blob)
  elseif item.verb == 'retry' or item.verb == 'later' then
    call('HSET', PARKED, id, ARGV[2 + item.lane] .. '\n' .. item.blob)
    call('ZADD', DUE, int(now + tonumber(item.delay)), id)
    place = 'd|||'
    count(DUE_COUNT .. ARGV[2 + item.lane], 1)
    count(WAIT_BYTES .. ARGV[2 + item.lane], #item.blob)
    count(item.verb == 'retry' and 'retried' or 'deferred', 1)
  else
    local entry = call('XADD', lane_key(item.lane), '*', 'id', id, 'b', item.blob)
    count(WAIT_BYTES .. ARGV[2 + item.lane], #item.blob)
    place = 'q|' .. ARGV[2 + item.lane] .. '|' .. entry .. '|'
  end
  return end_delivery(source, item.entry, id, place .. receipt)
end

local answers, failure = {}, nil
local function try(how, ...)
  local settled, answer = pcall(how, ...)
  if settled then
    answers[#answers + 1] = answer
  else
    failure = answer
  end
  return settled
end

for source = 1, lanes do
  local new = {}
  for n = 0, n_plain[source] - 1 do
    local a, before = plain[source] + 5 * n, n_places
    if failure or not try(settle_plain, source, unpack(ARGV, a, a + 4)) then
      break
    end
    if n_places > before then
      new[#new + 1] = n
    end
  end
  local of_all = ARGV[ranges + 5 * source]
  if #new == n_plain[source] and #new > 0 then
    log(source, of_all)
  else
    for _, n in ipairs(new) do
      log(source, string.sub(of_all, 1 + LOG_ITEM_BYTES * n, LOG_ITEM_BYTES * (n + 1)))
    end
  end
end
for _, item in ipairs(items) do
  if failure or not try(settle, item) then
    break
  end
end

-- Where some entries of a lane were not held, those that were are measured.
for source, of in pairs(acks) do
  local bytes = tonumber(ARGV[ranges + 5 * source - 1])
  if #of < n_items[source] then
    bytes = 0
    for _, entry in ipairs(of) do
      local found = call('XRANGE', lane_key(source), entry, entry)[1]
      bytes = bytes + (found and found[2][3] == 'b' and #found[2][4] or 0)
    end
  end
  count(WAIT_BYTES .. ARGV[2 + source], -bytes)
end

-- Shared by all items: totals, index, and the sources last; also after an item failed.
for source, texts in pairs(logs) do
  -- Trim finds events that are in no log, but slower. So a key that holds something else stops nothing here.
  if type(redis.pcall('RPUSH', KEYS[LOGS + source], table.concat(texts))) == 'number' then
    count(LOGGED_COUNT .. ARGV[2 + source], n_logged[source])
  end
end
for name, by in pairs(counts) do
  call('HINCRBY', COUNTS, name, by)
end
if n_places > 0 then
  call('HSET', IX, unpack(places))
end
for source, of in pairs(acks) do
  call('XACK', lane_key(source), GROUP, unpack(of))
  call('XDEL', lane_key(source), unpack(of))
end
if failure then
  error(failure)
end
return table.concat(answers)
