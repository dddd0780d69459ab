#!lua flags=allow-oom
-- Removes expired state keys of a plugin. KEYS after the fixed ones: expiries, the plugin's state. ARGV: plugin, the keys.
local expiries, space, now = KEYS[10], KEYS[11], now_ms()
must_be('zset', expiries)
must_be('hash', space)
must_be('hash', COUNTS)
for a = 2, #ARGV do
  if read_value(space, ARGV[a], now) == '0' then
    remove_value(expiries, space, ARGV[1], ARGV[a])
  end
end
return #ARGV - 1
