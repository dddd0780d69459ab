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
local items, spaces = {}, {}

local function take(n)
  at = at + n
  return unpack(ARGV, at - n, at - 1)
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
  must_be('stream', lane_key(item.source))
  for c = 1, tonumber(item.n_children) do
    item.children[c] = { take(5) }
    open_lane(lane_key(tonumber(item.children[c][2])))
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
    must_be('stream', DONE)
  elseif item.verb == 'failed' then
    must_be('stream', FAILED)
  elseif item.verb == 'back' then
    open_lane(lane_key(item.lane))
  end
  if item.verb == 'retry' or #item.children > 0 then
    must_be('zset', DUE)
    must_be('hash', PARKED)
  end
  items[n] = item
end
must_be('hash', IX)
must_be('hash', COUNTS)

local function is_held(item)
  local p = redis.pcall('XPENDING', lane_key(item.source), GROUP, item.entry, item.entry, 1)
  return not p.err and #p == 1 and p[1][2] == me and tonumber(p[1][4]) == tonumber(item.count)
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

local answers = {}
for n, item in ipairs(items) do
  local key = lane_key(item.source)
  local receipt = ARGV[2 + item.source] .. '/' .. item.entry .. '/' .. item.count .. '/' .. me
  local held = is_held(item)
  if not held then
    local _, _, _, settled_by = place_of(item.id)
    answers[n] = settled_by == receipt and 'D' or 'L'
  elseif not is_current(item) then
    redis.call('HINCRBY', COUNTS, 'state_conflicts', 1)
    answers[n] = 'C'
  else
    for _, w in ipairs(item.writes) do
      write(item.space, unpack(w))
    end
    if #item.children > 0 then
      redis.call('HINCRBY', COUNTS, 'published', #item.children)
    end
    for _, c in ipairs(item.children) do
      local i = tonumber(c[2])
      enqueue(c[1], i, ARGV[2 + i], c[3], c[4], c[5], now)
    end
    if item.verb == 'ok' then
      redis.call('HINCRBY', COUNTS, 'processed', 1)
      set_place(item.id, 'p', '', redis.call('XADD', DONE, '*', 'id', item.id, 'b', item.blob), receipt)
    elseif item.verb == 'failed' then
      redis.call('HINCRBY', COUNTS, 'failed', 1)
      redis.call('HINCRBY', COUNTS, 'failed:' .. item.class, 1)
      set_place(item.id, 'f', '', redis.call('XADD', FAILED, '*', 'id', item.id, 'b', item.blob), receipt)
    elseif item.verb == 'retry' then
      redis.call('HINCRBY', COUNTS, 'retried', 1)
      redis.call('HSET', PARKED, item.id, ARGV[2 + item.lane] .. '\n' .. item.blob)
      redis.call('ZADD', DUE, int(now + tonumber(item.delay)), item.id)
      set_place(item.id, 'd', '', '', receipt)
    else
      local entry = redis.call('XADD', lane_key(item.lane), '*', 'id', item.id, 'b', item.blob)
      set_place(item.id, 'q', ARGV[2 + item.lane], entry, receipt)
    end
    redis.call('XACK', key, GROUP, item.entry)
    redis.call('XDEL', key, item.entry)
    answers[n] = 'D'
  end
end
return answers
