#!lua flags=no-writes,allow-oom
-- What a plugin keeps under a key. KEYS behind the fixed ones: the plugin's own. ARGV: key, plugin. The answer: version,
-- value or false, number of keys, how much they take.
local version, _, value = kept(KEYS[10], ARGV[1], now_ms())
local taken = redis.call('HGET', COUNTS, state_bytes(ARGV[2])) or '0'
return { version, value or false, redis.call('HLEN', KEYS[10]), taken }
