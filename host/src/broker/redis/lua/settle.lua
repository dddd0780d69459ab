#!lua flags=allow-oom
-- Ends attempts, each in one step: fence, counters, published events, destination, index, and the source last.
-- KEYS behind the lanes, if there is state: names of plugins with state, ends of state, and each plugin's own.
-- ARGV: consumer, number of lanes, their names, number of plugins with state, their names, number of items; for each
-- item: source lane, entry, delivery count, id, verb (ok, retry, failed or back), blob, delay in ms, next lane, class,
-- number of children; for each child: id, lane, start, ms, blob; then the plugin, number of versions, number of writes;
-- for each version: key, version; for each write: verb (set, del or add), key, value, how long in ms or 0.
-- An answer for each item: D done, now or when it was asked before; L lost; C the state has changed, nothing was done.
local me, lanes = ARGV[1], tonumber(ARGV[2])
local at = 3 + lanes
local items, spaces, parks = {}, {}, false

local function take(n)
  at = at + n
  return unpack(ARGV, at - n, at - 1)
end

-- Each key is looked at once, however many items need it.
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

local SPACES, UNTILS = KEYS[10 + lanes], KEYS[11 + lanes]
for s = 1, tonumber((take(1))) do
  spaces[s] = { name = take(1), key = KEYS[11 + lanes + s] }
  must_be('set', SPACES)
  must_be('zset', UNTILS)
  must_be('hash', spaces[s].key)
end

for n = 1, tonumber((take(1))) do
  local item = { children = {}, expected = {}, writes = {} }
  item.source, item.entry, item.count, item.id, item.verb = take(5)
  item.blob, item.delay, item.lane, item.class, item.n_children = take(5)
  item.source, item.lane = tonumber(item.source), tonumber(item.lane)
  stream(lane_key(item.source))
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
  if item.verb == 'retry' or #item.children > 0 then
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

local function is_mine(row, count)
  return row[2] == me and tonumber(row[4]) == tonumber(count)
end

local function pending(key, entry)
  local rows = redis.pcall('XPENDING', key, GROUP, entry, entry, 1)
  return not rows.err and rows[1] or nil
end

-- What this consumer holds of the lanes, asked for once a lane: entries that stand together are settled together.
local function entry_order(a, b)
  local a_ms, a_n = string.match(a, '^(%d+)-(%d+)$')
  local b_ms, b_n = string.match(b, '^(%d+)-(%d+)$')
  if a_ms ~= b_ms then
    return tonumber(a_ms) < tonumber(b_ms)
  end
  return tonumber(a_n) < tonumber(b_n)
end
local entries, known = {}, {}
for _, item in ipairs(items) do
  local of = entries[item.source] or {}
  entries[item.source] = of
  if string.match(item.entry, '^%d+-%d+$') then
    of[#of + 1] = item.entry
  end
end
for source, of in pairs(entries) do
  known[source] = {}
  if #of > 2 then
    table.sort(of, entry_order)
    local rows = redis.pcall('XPENDING', lane_key(source), GROUP, of[1], of[#of], 4 * #of, me)
    for _, row in ipairs(rows.err and {} or rows) do
      known[source][row[1]] = row
    end
  end
end

local ended = {}
local function is_held(item)
  local key = lane_key(item.source)
  if ended[key .. '/' .. item.entry] then
    return false
  end
  local row = known[item.source][item.entry] or pending(key, item.entry)
  return row ~= nil and is_mine(row, item.count)
end

local now = now_ms()

-- Whether all that the handler has seen is still so, and its increments can be made.
local function is_current(item)
  for _, e in ipairs(item.expected) do
    if kept(item.space.key, e[1], now) ~= e[2] then
      return false
    end
  end
  for _, w in ipairs(item.writes) do
    if w[1] == 'add' then
      local _, _, value = kept(item.space.key, w[2], now)
      if not sum(value, w[3]) then
        return false
      end
    end
  end
  return true
end

local function write(space, verb, key, value, ttl)
  if verb == 'del' then
    return forget(UNTILS, space.key, space.name, key)
  end
  local ends = tonumber(ttl) > 0 and now + tonumber(ttl) or 0
  if verb == 'add' then
    local _, until_ms, before = kept(space.key, key, now)
    value, ends = sum(before, value), until_ms
  end
  keep(SPACES, UNTILS, space.key, space.name, key, value, ends)
end

local counts, places, acks = {}, {}, {}
local function count(name, by)
  counts[name] = (counts[name] or 0) + by
end

local function settle(item)
  local key = lane_key(item.source)
  local receipt = ARGV[2 + item.source] .. '/' .. item.entry .. '/' .. item.count .. '/' .. me
  local held = is_held(item)
  if not held then
    local _, _, _, settled_by = place_of(item.id)
    if places[item.id] then
      settled_by = places[item.id].receipt
    end
    return settled_by == receipt and 'D' or 'L'
  end
  if not is_current(item) then
    count('state_conflicts', 1)
    return 'C'
  end
  for _, w in ipairs(item.writes) do
    write(item.space, unpack(w))
  end
  count('published', #item.children)
  for _, c in ipairs(item.children) do
    local i = tonumber(c[2])
    enqueue(c[1], i, ARGV[2 + i], c[3], c[4], c[5], now)
  end
  local kind, lane, entry = 'd', '', ''
  if item.verb == 'ok' then
    count('processed', 1)
    kind, entry = 'p', redis.call('XADD', DONE, '*', 'id', item.id, 'b', item.blob)
  elseif item.verb == 'failed' then
    count('failed', 1)
    count('failed:' .. item.class, 1)
    kind, entry = 'f', redis.call('XADD', FAILED, '*', 'id', item.id, 'b', item.blob)
  elseif item.verb == 'retry' then
    count('retried', 1)
    redis.call('HSET', PARKED, item.id, ARGV[2 + item.lane] .. '\n' .. item.blob)
    redis.call('ZADD', DUE, int(now + tonumber(item.delay)), item.id)
  else
    kind, lane = 'q', ARGV[2 + item.lane]
    entry = redis.call('XADD', lane_key(item.lane), '*', 'id', item.id, 'b', item.blob)
  end
  places[item.id] = { kind = kind, lane = lane, entry = entry, receipt = receipt }
  acks[key] = acks[key] or {}
  acks[key][#acks[key] + 1] = item.entry
  ended[key .. '/' .. item.entry] = true
  return 'D'
end

local answers, failure = {}, nil
for n, item in ipairs(items) do
  local settled, answer = pcall(settle, item)
  if not settled then
    failure = answer
    break
  end
  answers[n] = answer
end

-- What the items have in common: totals, index and the sources last, also when one of them failed.
for name, by in pairs(counts) do
  if by > 0 then
    redis.call('HINCRBY', COUNTS, name, by)
  end
end
local fields = {}
for id, place in pairs(places) do
  fields[#fields + 1] = id
  fields[#fields + 1] = place.kind .. '|' .. place.lane .. '|' .. place.entry .. '|' .. place.receipt
end
if #fields > 0 then
  redis.call('HSET', IX, unpack(fields))
end
for key, of in pairs(acks) do
  redis.call('XACK', key, GROUP, unpack(of))
  redis.call('XDEL', key, unpack(of))
end
if failure then
  error(failure)
end
return answers
