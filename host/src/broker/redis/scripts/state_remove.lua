#!lua flags=allow-oom
-- Removes some state keys of a plugin. KEYS after the fixed ones: plugins with state, expiries, the plugin's state, the
-- audit. ARGV: plugin, limit of keys, the note. Reply: the number of removed keys, 0 when none is left.
local plugins, expiries, space, plugin = KEYS[10], KEYS[11], KEYS[12], ARGV[1]
must_be('set', plugins)
must_be('zset', expiries)
must_be('hash', space)
must_be('hash', COUNTS)
check_audit()
local keys = redis.call('HRANDFIELD', space, tonumber(ARGV[2]))
for _, key in ipairs(keys) do
  remove_value(expiries, space, plugin, key)
end
if #keys > 0 then
  note_change()
else
  redis.call('SREM', plugins, plugin)
  redis.call('HDEL', COUNTS, STATE_BYTES .. plugin)
end
return #keys
