#!lua
-- Imports items of another store; known ones stay as they are. Redis refuses it when memory is full.
-- ARGV: epoch, number of lanes, their names, number of items; for each item: kind (key, event, failed or state), id, place
-- of its lane or of its key in KEYS, Unix ms when it is due or expires, class, blob. For state, id is the state key and
-- class the plugin. For a failed event, the lane stands in place of the time. KEYS after the lanes: plugins with state,
-- expiries, the hash of when idempotency keys end, then the keys of items.
-- Reply: DONE, the total of accepted events, for each item D done, K known or E expired; or EPOCH.
if redis.call('GET', EPOCH) ~= ARGV[1] then
  return { 'EPOCH' }
end
local lanes = tonumber(ARGV[2])
for i = 1, lanes do
  open_lane(lane_key(i))
end
local function item(n)
  return unpack(ARGV, lanes + 6 * n - 2, lanes + 6 * n + 3)
end
local PLUGINS, EXPIRIES, KEY_ENDS = KEYS[10 + lanes], KEYS[11 + lanes], KEYS[12 + lanes]
for n = 1, tonumber(ARGV[3 + lanes]) do
  local kind, _, place = item(n)
  if kind == 'key' then
    must_be('string', KEYS[12 + lanes + place])
  elseif kind == 'state' then
    must_be('hash', KEYS[12 + lanes + place])
  end
end
must_be('set', PLUGINS)
must_be('zset', EXPIRIES)
must_be('hash', KEY_ENDS)
must_be('zset', DUE)
must_be('hash', PARKED)
must_be('stream', FAILED)
must_be('hash', IX)
must_be('hash', COUNTS)

local now = now_ms()
local answers = {}
for n = 1, tonumber(ARGV[3 + lanes]) do
  local kind, id, place, ms, class, blob = item(n)
  place = tonumber(place)
  if kind == 'key' then
    if tonumber(ms) <= now then
      answers[n] = 'E'
    else
      local written = redis.call('SET', KEYS[12 + lanes + place], blob, 'NX', 'PXAT', ms)
      if written then
        -- The lane of its event is not exported.
        count_keys(KEY_ENDS, '_', 1, tonumber(ms), now)
      end
      answers[n] = written and 'D' or 'K'
    end
  elseif kind == 'state' then
    local space, ends = KEYS[12 + lanes + place], tonumber(ms)
    if ends > 0 and ends <= now then
      answers[n] = 'E'
    elseif read_value(space, id, now) ~= '0' then
      answers[n] = 'K'
    else
      write_value(PLUGINS, EXPIRIES, space, class, id, blob, ends)
      answers[n] = 'D'
    end
  elseif redis.call('HEXISTS', IX, id) == 1 then
    answers[n] = 'K'
  else
    if kind == 'failed' then
      set_place(id, 'f', ms, redis.call('XADD', FAILED, '*', 'id', id, 'b', blob), '')
      redis.call('HINCRBY', COUNTS, 'failed', 1)
      redis.call('HINCRBY', COUNTS, 'failed:' .. class, 1)
      redis.call('HINCRBY', COUNTS, FAILED_COUNTED, 1)
      redis.call('HINCRBY', COUNTS, FAILED_BYTES .. ms, #blob)
    else
      enqueue(id, place, ARGV[2 + place], 'at', ms, blob, now)
      redis.call('HINCRBY', COUNTS, WAIT_BYTES .. ARGV[2 + place], #blob)
    end
    redis.call('HINCRBY', COUNTS, 'accepted', 1)
    answers[n] = 'D'
  end
end
return { 'DONE', redis.call('HGET', COUNTS, 'accepted') or '0', answers }
