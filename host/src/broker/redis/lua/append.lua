#!lua
-- Appends the events of several requests; each request all or none. Refused whole when there is no memory left.
-- ARGV: epoch, most that may wait, window of idempotency in ms, size of the set of lanes, number of lanes, their names,
-- number of requests; for each request: number of events; for each event: id, lane, start, ms, its idempotency key
-- (0 for none, else the place in KEYS behind the lanes), fingerprint, blob.
local lanes = tonumber(ARGV[5])
local at = 6 + lanes

if redis.call('GET', EPOCH) ~= ARGV[1] then
  return { 'EPOCH' }
end
if redis.call('SCARD', LANES) ~= tonumber(ARGV[4]) then
  return { 'LANES' }
end
local most = tonumber(ARGV[2])
local waiting = redis.call('ZCARD', DUE)
for i = 1, lanes do
  open_lane(lane_key(i))
  waiting = waiting + redis.call('XLEN', lane_key(i))
end
must_be('hash', PARKED)
must_be('hash', IX)
must_be('hash', COUNTS)
for k = 10 + lanes, #KEYS do
  must_be('string', KEYS[k])
end

local now = now_ms()
local answers = {}
local requests = tonumber(ARGV[at])
at = at + 1
for r = 1, requests do
  local n = tonumber(ARGV[at])
  at = at + 1
  local answer, conflicts, fresh, keys_here = { 'OK' }, { 'CONFLICT' }, {}, {}
  for e = 0, n - 1 do
    local base = at + e * 7
    local id, idem, print = ARGV[base], tonumber(ARGV[base + 4]), ARGV[base + 5]
    local first = nil
    if idem > 0 then
      first = keys_here[idem] or redis.call('GET', KEYS[9 + lanes + idem])
      if not first then
        keys_here[idem] = id .. print
      end
    end
    if first and string.sub(first, 37) ~= print then
      conflicts[#conflicts + 1] = e
    elseif first and string.sub(first, 1, 36) ~= id then
      answer[#answer + 1] = string.sub(first, 1, 36)
    else
      answer[#answer + 1] = ''
      -- The same id again is our own repetition after an answer that was lost.
      if not first and redis.call('HEXISTS', IX, id) == 0 then
        fresh[#fresh + 1] = base
      end
    end
  end
  if #conflicts > 1 then
    answers[r] = conflicts
  elseif #fresh > 0 and waiting + #fresh > most then
    answers[r] = { 'FULL', waiting }
  else
    for _, base in ipairs(fresh) do
      local i = tonumber(ARGV[base + 1])
      enqueue(ARGV[base], i, ARGV[5 + i], ARGV[base + 2], ARGV[base + 3], ARGV[base + 6], now)
    end
    -- Remembered after the events are there: the other order could remember an event that never was.
    for idem, first in pairs(keys_here) do
      redis.call('SET', KEYS[9 + lanes + idem], first, 'PX', ARGV[3])
    end
    local duplicates = 0
    for e = 2, #answer do
      if answer[e] ~= '' then
        duplicates = duplicates + 1
      end
    end
    if #fresh > 0 then
      redis.call('HINCRBY', COUNTS, 'accepted', #fresh)
    end
    if duplicates > 0 then
      redis.call('HINCRBY', COUNTS, 'duplicates', duplicates)
    end
    waiting = waiting + #fresh
    answers[r] = answer
  end
  at = at + n * 7
end
return { 'DONE', redis.call('HGET', COUNTS, 'accepted') or '0', answers }
