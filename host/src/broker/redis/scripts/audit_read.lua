#!lua flags=no-writes,allow-oom
-- Reads entries of the audit, newest first. KEYS after the fixed ones: the audit. ARGV: begin and end of the range, limit.
local audit = KEYS[10]
must_be('stream', audit)
return redis.call('XREVRANGE', audit, ARGV[1], ARGV[2], 'COUNT', ARGV[3])
