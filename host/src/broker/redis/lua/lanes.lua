#!lua flags=allow-oom
-- Makes the lanes that are missing. ARGV: names. An answer: all lanes.
must_be('set', LANES)
for i = 1, #ARGV do
  must_be('stream', lane_key(i))
end
for i, name in ipairs(ARGV) do
  local made = redis.pcall('XGROUP', 'CREATE', lane_key(i), GROUP, '0', 'MKSTREAM')
  if made.err and not starts_with(made.err, 'BUSYGROUP') then
    return made
  end
  redis.call('SADD', LANES, name)
end
return redis.call('SMEMBERS', LANES)
