#!lua flags=allow-oom
-- Makes missing lanes. ARGV: names. Reply: all lanes; then the problem and the name of each misplaced lane. A misplaced lane
-- counts as a lane, and is made when its key is free again.
must_be('set', LANES)
local wrong = {}
for i, name in ipairs(ARGV) do
  local problem = misplaced('stream', lane_key(i))
  if problem then
    wrong[#wrong + 1] = { problem, name }
  else
    local made = redis.pcall('XGROUP', 'CREATE', lane_key(i), GROUP, '0', 'MKSTREAM')
    if made.err and not starts_with(made.err, 'BUSYGROUP') then
      return made
    end
  end
  redis.call('SADD', LANES, name)
end
return { redis.call('SMEMBERS', LANES), wrong }
