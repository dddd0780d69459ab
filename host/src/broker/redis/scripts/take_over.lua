#!lua flags=allow-oom
-- Takes over pending entries that have not changed since they were read, so one of several takers wins.
-- ARGV: consumer; for each entry: lane, entry, owner, delivery count, new delivery count, least idle time in ms.
-- Reply: for each taken entry its index and its fields; the number of ghosts.
local me = ARGV[1]
local taken, ghosts, from_others = {}, 0, 0
must_be('hash', COUNTS)
for at = 2, #ARGV, 6 do
  local key, entry, owner, count = lane_key(tonumber(ARGV[at])), ARGV[at + 1], ARGV[at + 2], tonumber(ARGV[at + 3])
  local p = redis.pcall('XPENDING', key, GROUP, entry, entry, 1)
  if not p.err and #p == 1 and p[1][2] == owner and tonumber(p[1][4]) == count then
    local found = redis.call('XRANGE', key, entry, entry)
    if #found == 0 then
      -- A ghost: another program deleted the entry while it was pending.
      redis.call('XACK', key, GROUP, entry)
      ghosts = ghosts + 1
    else
      local claimed = redis.call('XCLAIM', key, GROUP, me, ARGV[at + 5], entry, 'RETRYCOUNT', ARGV[at + 4])
      if #claimed == 1 then
        taken[#taken + 1] = { (at - 2) / 6, claimed[1][2] }
        if owner ~= me then
          from_others = from_others + 1
        end
      end
    end
  end
end
if ghosts > 0 then
  redis.call('HINCRBY', COUNTS, 'ghosts', ghosts)
end
if from_others > 0 then
  redis.call('HINCRBY', COUNTS, 'recovered', from_others)
end
return { taken, ghosts }
