#!lua flags=no-writes,allow-oom
-- What a plugin keeps under a key. KEYS behind the fixed ones: the plugin's own. ARGV: key. The answer: version, value or
-- false, number of keys.
local version, _, value = kept(KEYS[10], ARGV[1], now_ms())
return { version, value or false, redis.call('HLEN', KEYS[10]) }
