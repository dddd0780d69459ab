#!lua flags=no-writes,allow-oom
-- Events due later, in the order of their due times.
-- ARGV: the last event of the previous part and its due time, or ''; limit of events, limit of bytes.
-- Reply: for each event its id, due time, and lane with blob.
local last, due, max, left = ARGV[1], ARGV[2], tonumber(ARGV[3]), tonumber(ARGV[4])
local from = 0
if last ~= '' then
  if redis.call('ZSCORE', DUE, last) == due then
    from = redis.call('ZRANK', DUE, last) + 1
  else
    -- That event has moved. Events of the same millisecond may be returned again.
    from = redis.call('ZCOUNT', DUE, '-inf', '(' .. due)
  end
end
local ids = redis.call('ZRANGE', DUE, from, from + max - 1, 'WITHSCORES')
local rows = {}
for n = 1, #ids, 2 do
  local raw = redis.call('HGET', PARKED, ids[n])
  rows[#rows + 1] = { ids[n], ids[n + 1], raw or '' }
  left = left - #(raw or '')
  if left <= 0 then
    break
  end
end
return rows
