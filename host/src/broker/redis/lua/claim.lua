#!lua flags=allow-oom
-- Reads new entries of several lanes for one consumer: a fair share of each first, then what is left in order.
-- ARGV: consumer, most in all, number of lanes, the most of each lane.
-- A lane that cannot be read is reported and does not keep the others from being read.
local me, left, lanes = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3])
local entries, last, problems, mended, got = {}, {}, {}, 0, {}

local function read(i, n)
  n = math.min(n, left)
  if n <= 0 then
    return
  end
  local key = lane_key(i)
  local reply = redis.pcall('XREADGROUP', 'GROUP', GROUP, me, 'COUNT', n, 'STREAMS', key, '>')
  if reply and reply.err and starts_with(reply.err, 'NOGROUP') then
    mended = mended + 1
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
  -- Where the group stands is where a reader that waits for more has to begin.
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
return { entries, last, problems, mended }
