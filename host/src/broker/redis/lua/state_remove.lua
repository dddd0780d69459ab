#!lua flags=allow-oom
-- Forgets some of what a plugin keeps. KEYS behind the fixed ones: names of plugins with state, ends of state, the plugin's
-- own. ARGV: plugin, the most keys. The answer: how many were forgotten, 0 when none is left.
local spaces, untils, space, plugin = KEYS[10], KEYS[11], KEYS[12], ARGV[1]
must_be('set', spaces)
must_be('zset', untils)
must_be('hash', space)
must_be('hash', COUNTS)
local keys = redis.call('HRANDFIELD', space, tonumber(ARGV[2]))
for _, key in ipairs(keys) do
  forget(untils, space, plugin, key)
end
if #keys == 0 then
  redis.call('SREM', spaces, plugin)
  redis.call('HDEL', COUNTS, state_bytes(plugin))
end
return #keys
