#!lua flags=allow-oom
-- Notes when API keys were last used. KEYS after the fixed ones: the keys, their last uses. ARGV: pairs of id and Unix ms.
local keys, uses = KEYS[10], KEYS[11]
must_be('hash', keys)
must_be('hash', uses)
for i = 1, #ARGV, 2 do
  local id, at = ARGV[i], ARGV[i + 1]
  local before = tonumber(redis.call('HGET', uses, id) or '0')
  if tonumber(at) > before and redis.call('HEXISTS', keys, id) == 1 then
    redis.call('HSET', uses, id, at)
  end
end
return 'DONE'
