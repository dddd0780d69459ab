#!lua flags=no-writes,allow-oom
-- A part of a stream. ARGV: the last entry of the previous part, or ''; limit of entries, limit of bytes.
-- Reply: for each entry its name, its fields, its delivery count.
-- Entries are read one by one unless they are small, because Redis always reads whole entries.
local SMALL_BYTES, AT_ONCE = 1024, 16
local key, last, max, left = lane_key(1), ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3])
local rows, n = {}, 1
must_be('stream', key)
while max > 0 and left > 0 do
  n = math.min(n, max)
  local before = left
  local found = redis.call('XRANGE', key, last == '' and '-' or '(' .. last, '+', 'COUNT', n)
  for _, entry in ipairs(found) do
    last = entry[1]
    local p = redis.pcall('XPENDING', key, GROUP, last, last, 1)
    rows[#rows + 1] = { last, entry[2], not p.err and #p == 1 and p[1][4] or 0 }
    for _, value in ipairs(entry[2]) do
      left = left - #value
    end
  end
  max = max - n
  if #found < n then
    break
  end
  n = before - left <= n * SMALL_BYTES and math.min(2 * n, AT_ONCE) or 1
end
return rows
