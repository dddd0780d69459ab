#!lua flags=no-writes,allow-oom
-- Reads a state key. KEYS after the fixed ones: the plugin's state. ARGV: key, plugin.
-- Reply: version (0 if missing), value or false, number of the plugin's keys, their bytes.
local version, _, value = read_value(KEYS[10], ARGV[1], now_ms())
local bytes = redis.call('HGET', COUNTS, STATE_BYTES .. ARGV[2]) or '0'
return { version, value or false, redis.call('HLEN', KEYS[10]), bytes }
