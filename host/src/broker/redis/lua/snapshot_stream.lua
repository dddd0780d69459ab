#!lua flags=no-writes,allow-oom
-- A part of a stream. ARGV: the last entry of the part before, or empty; the most entries, the most bytes.
-- An answer: for each entry its id, its fields, how often it was delivered.
-- Entries are read a few at a time, since a call of Redis brings them whole: one, unless they are small.
local SMALL_BYTES, AT_ONCE = 1024, 16
local key, last, most, left = lane_key(1), ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3])
local rows, n = {}, 1
must_be('stream', key)
while most > 0 and left > 0 do
  n = math.min(n, most)
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
  most = most - n
  if #found < n then
    break
  end
  n = before - left <= n * SMALL_BYTES and math.min(2 * n, AT_ONCE) or 1
end
return rows
