#!lua flags=no-writes,allow-oom
-- What may have to be taken over: entries past their lease, those of the dead, and this consumer's own.
-- ARGV: consumer, lease in ms, age from which own entries count in ms, number of lanes, the dead.
local me, lease, own, lanes = ARGV[1], ARGV[2], ARGV[3], tonumber(ARGV[4])
local rows = {}

local function add(i, found)
  if found.err then
    return
  end
  for _, row in ipairs(found) do
    rows[#rows + 1] = { i, row[1], row[2], row[3], row[4] }
  end
end

for i = 1, lanes do
  local key = lane_key(i)
  add(i, redis.pcall('XPENDING', key, GROUP, 'IDLE', lease, '-', '+', 100))
  add(i, redis.pcall('XPENDING', key, GROUP, 'IDLE', own, '-', '+', 1000, me))
  for d = 5, #ARGV do
    add(i, redis.pcall('XPENDING', key, GROUP, '-', '+', 100, ARGV[d]))
  end
end
return rows
