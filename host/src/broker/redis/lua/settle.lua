#!lua flags=allow-oom
-- Ends attempts, each in one step: fence, counters, published events, destination, index, and the source last.
-- ARGV: consumer, number of lanes, their names, number of items; for each item: source lane, entry, delivery count, id,
-- verb (ok, retry, failed or back), blob, delay in ms, next lane, class, number of children; for each child: id, lane,
-- start, ms, blob. An answer for each item: D done, now or when it was asked before; L lost.
local me, lanes = ARGV[1], tonumber(ARGV[2])
local at = 3 + lanes
local items = {}

local function take(n)
  at = at + n
  return unpack(ARGV, at - n, at - 1)
end

for n = 1, tonumber((take(1))) do
  local item = { children = {} }
  item.source, item.entry, item.count, item.id, item.verb = take(5)
  item.blob, item.delay, item.lane, item.class, item.n_children = take(5)
  item.source, item.lane = tonumber(item.source), tonumber(item.lane)
  must_be('stream', lane_key(item.source))
  for c = 1, tonumber(item.n_children) do
    item.children[c] = { take(5) }
    open_lane(lane_key(tonumber(item.children[c][2])))
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
local answers = {}
for n, item in ipairs(items) do
  local key = lane_key(item.source)
  local receipt = ARGV[2 + item.source] .. '/' .. item.entry .. '/' .. item.count .. '/' .. me
  local held = is_held(item)
  if not held then
    local _, _, _, settled_by = place_of(item.id)
    answers[n] = settled_by == receipt and 'D' or 'L'
  else
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
