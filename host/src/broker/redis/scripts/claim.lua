#!lua flags=allow-oom
-- Claims entries of several lanes for one consumer: a fair share of each first, then more in the order of the lanes.
-- ARGV: consumer, limit in all, number of lanes, the limit of each lane.
-- Reply: entries, the last delivered entry of each lane, problems, number of groups that were missing.
-- A lane that cannot be read is reported and does not stop the others.
local me, left, lanes = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3])
local entries, last, problems, repaired, got = {}, {}, {}, 0, {}

local function read(i, n)
  n = math.min(n, left)
  if n <= 0 then
    return
  end
  local key = lane_key(i)
  local reply = redis.pcall('XREADGROUP', 'GROUP', GROUP, me, 'COUNT', n, 'STREAMS', key, '>')
  if reply and reply.err and starts_with(reply.err, 'NOGROUP') then
    repaired = repaired + 1
    redis.call('XGROUP', 'CREATE', key, GROUP, '0', 'MKSTREAM')
    reply = redis.pcall('XREADGROUP', 'GROUP', GROUP, me, 'COUNT', n, 'STREAMS', key, '>')
  end
  if reply and reply.err then
    problems[#problems + 1] = misplaced('stream', key) or reply.err
  elseif reply then
    for _, entry in ipairs(reply[1][2]) do
      entries[#entries + 1] = { i, entry[1], entry[2] }
      got[i] = got[i] + 1
      left = left - 1
    end
  end
end

local share = math.max(1, math.floor(left / math.max(1, lanes)))
for i = 1, lanes do
  got[i] = 0
  read(i, math.min(share, tonumber(ARGV[3 + i])))
end
for i = 1, lanes do
  local free = tonumber(ARGV[3 + i])
  if got[i] >= share then
    read(i, free - got[i])
  end
  -- A blocking read for more entries begins after this one.
  last[i] = ''
  local groups = redis.pcall('XINFO', 'GROUPS', lane_key(i))
  for _, group in ipairs(groups.err and {} or groups) do
    local fields = {}
    for f = 1, #group, 2 do
      fields[group[f]] = group[f + 1]
    end
    if fields['name'] == GROUP then
      last[i] = fields['last-delivered-id']
    end
  end
end
return { entries, last, problems, repaired }
