#!lua
-- Takes over what another store held; what is known already is left as it is. Refused whole when there is no memory left.
-- ARGV: epoch, number of lanes, their names, number of things; for each thing: what (key, event or failed), id, place of
-- its lane or, for a key, in KEYS behind the lanes, Unix milliseconds when it is due or ends, class, blob or value.
-- An answer: the total of accepted events, and for each thing D done, K known, E expired.
if redis.call('GET', EPOCH) ~= ARGV[1] then
  return { 'EPOCH' }
end
local lanes = tonumber(ARGV[2])
for i = 1, lanes do
  open_lane(lane_key(i))
end
for k = 10 + lanes, #KEYS do
  must_be('string', KEYS[k])
end
must_be('zset', DUE)
must_be('hash', PARKED)
must_be('stream', FAILED)
must_be('hash', IX)
must_be('hash', COUNTS)

local now = now_ms()
local answers = {}
for n = 1, tonumber(ARGV[3 + lanes]) do
  local what, id, place, ms, class, blob = unpack(ARGV, lanes + 6 * n - 2, lanes + 6 * n + 3)
  place = tonumber(place)
  if what == 'key' then
    if tonumber(ms) <= now then
      answers[n] = 'E'
    else
      local written = redis.call('SET', KEYS[9 + lanes + place], blob, 'NX', 'PXAT', ms)
      answers[n] = written and 'D' or 'K'
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
    end
    redis.call('HINCRBY', COUNTS, 'accepted', 1)
    answers[n] = 'D'
  end
end
return { 'DONE', redis.call('HGET', COUNTS, 'accepted') or '0', answers }
