#!lua flags=allow-oom
-- Makes the lanes that are missing. ARGV: names. An answer: all lanes; those of the names whose keys hold something else,
-- each behind what is wrong. They are lanes all the same, and made when their keys are free again.
must_be('set', LANES)
local wrong = {}
for i, name in ipairs(ARGV) do
  local why = misplaced('stream', lane_key(i))
  if why then
    wrong[#wrong + 1] = { why, name }
  else
    local made = redis.pcall('XGROUP', 'CREATE', lane_key(i), GROUP, '0', 'MKSTREAM')
    if made.err and not starts_with(made.err, 'BUSYGROUP') then
      return made
    end
  end
  redis.call('SADD', LANES, name)
end
return { redis.call('SMEMBERS', LANES), wrong }
