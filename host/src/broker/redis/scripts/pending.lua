#!lua flags=no-writes,allow-oom
-- Pending entries that may be taken over: those past their lease, those of dead consumers, and this consumer's own.
-- ARGV: size of the set of lanes, consumer, lease in ms, least idle time of own entries in ms, number of lanes,
-- dead consumers.
-- Reply: for each entry the place of its lane, entry, owner, idle time in ms, delivery count.
local me, lease, own, lanes = ARGV[2], ARGV[3], ARGV[4], tonumber(ARGV[5])
if redis.call('SCARD', LANES) ~= tonumber(ARGV[1]) then
  return { 'LANES' }
end
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
  for d = 6, #ARGV do
    add(i, redis.pcall('XPENDING', key, GROUP, '-', '+', 100, ARGV[d]))
  end
end
return rows
