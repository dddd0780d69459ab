#!lua flags=allow-oom
-- Forgets what a plugin kept and whose time is over. KEYS behind the fixed ones: ends of state, the plugin's own. ARGV:
-- plugin, then the keys.
local untils, space, now = KEYS[10], KEYS[11], now_ms()
must_be('zset', untils)
must_be('hash', space)
must_be('hash', COUNTS)
for a = 2, #ARGV do
  if kept(space, ARGV[a], now) == '0' then
    forget(untils, space, ARGV[1], ARGV[a])
  end
end
return #ARGV - 1
