#!lua flags=no-writes,allow-oom
-- A part of a list of ended events, newest first: only those that are wanted, however many are looked at.
-- KEYS behind the fixed ones: the stream. ARGV: where to begin, where to end, the most entries to look at, the most bytes
-- to look at, the most entries to answer, 1 for their heads only, and what is wanted, each empty for any: type, class,
-- since and until as the texts of records.
-- An answer: the last entry that was looked at ('' if there is none), the bytes that were looked at, 1 if there is nothing
-- behind it, the entries. An entry that is not understood is answered, for the host to judge.
-- Entries are read a few at a time, since a call of Redis brings them whole: one, unless they are small.
local SMALL_BYTES, AT_ONCE = 1024, 16
local key, from, to = KEYS[10], ARGV[1], ARGV[2]
local left, left_bytes, most, only_heads = tonumber(ARGV[3]), tonumber(ARGV[4]), tonumber(ARGV[5]), ARGV[6] == '1'
local kind, class, since, before = ARGV[7], ARGV[8], ARGV[9], ARGV[10]
must_be('stream', key)

-- The header of a record of version 1, and where it ends; see codec.rs. It begins with the event's id and type and ends
-- with the event's end. Within its texts a quotation mark stands behind a backslash, so that they match none of this.
local function head_of(blob)
  local version, a, b, c, d = string.byte(blob, 1, 5)
  if version ~= 1 or not d then
    return nil
  end
  local ends = 5 + a + 256 * b + 65536 * c + 16777216 * d
  return string.sub(blob, 6, ends), ends
end

local function is_wanted(head)
  if kind ~= '' then
    local found = string.match(head, '^{"event":{"id":"[^"]*","type":"([^"\\]*)"')
    if found and found ~= kind then
      return false
    end
  end
  if class ~= '' or since ~= '' or before ~= '' then
    local _, at = string.find(head, ',"end":{"at":"', 1, true)
    local time = at and string.match(head, '^([%d:TZ.-]+)"', at + 1)
    if time and #time == 24 then
      if (since ~= '' and time < since) or (before ~= '' and time >= before) then
        return false
      end
      local found = string.match(head, '^","class":"([^"\\]*)"', at + 1 + #time)
      if class ~= '' and found and found ~= class then
        return false
      end
    end
  end
  return true
end

local rows, last, looked_bytes, is_end, n = {}, '', 0, 0, 1
while left > 0 and looked_bytes < left_bytes and #rows < most and is_end == 0 do
  n = math.min(n, left, most - #rows)
  local found = redis.call('XREVRANGE', key, from, to, 'COUNT', n)
  local bytes = 0
  for _, entry in ipairs(found) do
    last = entry[1]
    from = '(' .. last
    local fields = entry[2]
    for _, value in ipairs(fields) do
      bytes = bytes + #value
    end
    local head, ends
    if #fields == 4 and fields[3] == 'b' then
      head, ends = head_of(fields[4])
    end
    if not head or is_wanted(head) then
      if head and only_heads then
        fields[4] = string.sub(fields[4], 1, ends)
      end
      rows[#rows + 1] = entry
    end
  end
  left = left - n
  looked_bytes = looked_bytes + bytes
  if #found < n then
    is_end = 1
  end
  n = bytes <= n * SMALL_BYTES and math.min(2 * n, AT_ONCE) or 1
end
return { last, looked_bytes, is_end, rows }
