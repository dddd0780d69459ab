#!lua
-- Takes over what another store held; what is known already is left as it is. Refused whole when there is no memory left.
-- ARGV: epoch, number of lanes, their names, number of things; for each thing: what (key, event or failed), id, place of
-- its lane or, for a key or state, in KEYS behind the lanes, Unix milliseconds when it is due or ends, class, blob or
-- value. KEYS behind the lanes: names of plugins with state, ends of state, then those that the things name. State is
-- a thing whose id is its key and whose class is its plugin.
-- An answer: the total of accepted events, and for each thing D done, K known, E expired.
if redis.call('GET', EPOCH) ~= ARGV[1] then
  return { 'EPOCH' }
end
local lanes = tonumber(ARGV[2])
for i = 1, lanes do
  open_lane(lane_key(i))
end
local function thing(n)
  return unpack(ARGV, lanes + 6 * n - 2, lanes + 6 * n + 3)
end
local SPACES, UNTILS = KEYS[10 + lanes], KEYS[11 + lanes]
for n = 1, tonumber(ARGV[3 + lanes]) do
  local what, _, place = thing(n)
  if what == 'key' then
    must_be('string', KEYS[11 + lanes + place])
  elseif what == 'state' then
    must_be('hash', KEYS[11 + lanes + place])
  end
end
must_be('set', SPACES)
must_be('zset', UNTILS)
must_be('zset', DUE)
must_be('hash', PARKED)
must_be('stream', FAILED)
must_be('hash', IX)
must_be('hash', COUNTS)

local now = now_ms()
local answers = {}
for n = 1, tonumber(ARGV[3 + lanes]) do
  local what, id, place, ms, class, blob = thing(n)
  place = tonumber(place)
  if what == 'key' then
    if tonumber(ms) <= now then
      answers[n] = 'E'
    else
      local written = redis.call('SET', KEYS[11 + lanes + place], blob, 'NX', 'PXAT', ms)
      answers[n] = written and 'D' or 'K'
    end
  elseif what == 'state' then
    local space, ends = KEYS[11 + lanes + place], tonumber(ms)
    if ends > 0 and ends <= now then
      answers[n] = 'E'
    elseif kept(space, id, now) ~= '0' then
      answers[n] = 'K'
    else
      keep(SPACES, UNTILS, space, class, id, blob, ends)
      answers[n] = 'D'
    end
  elseif redis.call('HEXISTS', IX, id) == 1 then
    answers[n] = 'K'
  else
    if what == 'failed' then
      set_place(id, 'f', '', redis.call('XADD', FAILED, '*', 'id', id, 'b', blob), '')
      redis.call('HINCRBY', COUNTS, 'failed', 1)
      redis.call('HINCRBY', COUNTS, 'failed:' .. class, 1)
    else
      enqueue(id, place, ARGV[2 + place], 'at', ms, blob, now)
      redis.call('HINCRBY', COUNTS, wait_bytes(ARGV[2 + place]), #blob)
    end
    redis.call('HINCRBY', COUNTS, 'accepted', 1)
    answers[n] = 'D'
  end
end
return { 'DONE', redis.call('HGET', COUNTS, 'accepted') or '0', answers }
