#!lua flags=no-writes,allow-oom
-- Reads the API keys. KEYS after the fixed ones: the keys, their last uses. ARGV: the known version.
-- Reply: the version, all fields of both hashes, or nothing of them if the version is the known one.
local keys, uses = KEYS[10], KEYS[11]
must_be('hash', keys)
must_be('hash', uses)
local version = (redis.call('GET', EPOCH) or '') .. '/' .. (redis.call('HGET', keys, 'version') or '0')
if version == ARGV[1] then
  return { version, {}, {} }
end
return { version, redis.call('HGETALL', keys), redis.call('HGETALL', uses) }
