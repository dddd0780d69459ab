#!lua flags=allow-oom
-- Makes an event that is due later due now; it is promoted next. KEYS after the fixed ones: the audit.
-- ARGV: id, the note. Reply: 1, or 0 if it is not due later.
local id = ARGV[1]
must_be('hash', IX)
must_be('zset', DUE)
check_audit()
local kind = place_of(id)
if kind ~= 'd' or not redis.call('ZSCORE', DUE, id) then
  return 0
end
note_change()
redis.call('ZADD', DUE, 'LT', int(now_ms()), id)
return 1
