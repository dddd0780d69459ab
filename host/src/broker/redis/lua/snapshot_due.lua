#!lua flags=no-writes,allow-oom
-- What is due later, in the order in which it is due. ARGV: the last event of the part before and when it is due, or
-- empty; the most events, the most bytes. An answer: for each event its id, when it is due, its lane and blob.
local last, due, most, left = ARGV[1], ARGV[2], tonumber(ARGV[3]), tonumber(ARGV[4])
local from = 0
if last ~= '' then
  if redis.call('ZSCORE', DUE, last) == due then
    from = redis.call('ZRANK', DUE, last) + 1
  else
    -- It moved on meanwhile: those that are due in the same millisecond may come once more.
    from = redis.call('ZCOUNT', DUE, '-inf', '(' .. due)
  end
end
local ids = redis.call('ZRANGE', DUE, from, from + most - 1, 'WITHSCORES')
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
