#!lua flags=no-writes,allow-oom
-- Totals and depth. ARGV: size of the set of lanes, number of lanes.
-- Reply: totals, queued events by lane, running, due later, processed, failed, number of consumers, all entries by lane.
must_be('set', LANES)
if redis.call('SCARD', LANES) ~= tonumber(ARGV[1]) then
  return { 'LANES' }
end
local lengths, all_lengths, running = {}, {}, 0
for i = 1, tonumber(ARGV[2]) do
  -- A lane that is no stream counts as empty.
  local all = redis.pcall('XLEN', lane_key(i))
  all = type(all) == 'number' and all or 0
  local p = redis.pcall('XPENDING', lane_key(i), GROUP)
  local pending = p.err and 0 or p[1]
  all_lengths[i] = all
  lengths[i] = math.max(0, all - pending)
  running = running + pending
end
local consumers = 0
for _, field in ipairs(redis.call('HKEYS', HB)) do
  if starts_with(field, 'c:') then
    consumers = consumers + 1
  end
end
return {
  redis.call('HGETALL', COUNTS), lengths, running, redis.call('ZCARD', DUE),
  redis.call('XLEN', DONE), redis.call('XLEN', FAILED), consumers, all_lengths,
}
