#!lua flags=no-writes,allow-oom
-- Keys of plugins whose time is over, each behind its plugin and a line break. KEYS behind the fixed ones: ends of state.
-- ARGV: the most of them.
return redis.call('ZRANGEBYSCORE', KEYS[10], '-inf', int(now_ms()), 'LIMIT', 0, ARGV[1])
