#!lua flags=no-writes,allow-oom
-- Expired state keys, each after its plugin and a line break. KEYS after the fixed ones: expiries. ARGV: limit of keys.
return redis.call('ZRANGEBYSCORE', KEYS[10], '-inf', int(now_ms()), 'LIMIT', 0, ARGV[1])
