#!lua flags=no-writes,allow-oom
-- Lists ended events that match, newest first.
-- KEYS after the fixed ones: the stream. ARGV: begin and end of the range, limit of entries to read, limit of bytes to
-- read, limit of entries to return, 1 for heads only; then the filter, each '' for any: type, class, since, until, lane.
-- Reply: the last entry that was read ('' if none), the bytes that were read, 1 at the end of the range, the entries.
-- An entry that cannot be parsed is returned, and the host decides.
-- Entries are read one by one unless they are small, because Redis always reads whole entries.
local SMALL_BYTES, AT_ONCE = 1024, 16
local key, from, to = KEYS[10], ARGV[1], ARGV[2]
local left, left_bytes, max, only_heads = tonumber(ARGV[3]), tonumber(ARGV[4]), tonumber(ARGV[5]), ARGV[6] == '1'
local event_type, class, since, before, lane = ARGV[7], ARGV[8], ARGV[9], ARGV[10], ARGV[11]
must_be('stream', key)

-- The header of a record of version 1, and its size with the prefix; see codec.rs. It begins with the event's id and type.
-- Its end begins with the time, then the class. Texts escape quotation marks, so none of them matches these patterns.
local function head_of(blob)
  local version, a, b, c, d = string.byte(blob, 1, 5)
  if version ~= 1 or not d then
    return nil
  end
  local ends = 5 + a + 256 * b + 65536 * c + 16777216 * d
  return string.sub(blob, 6, ends), ends
end

local function is_match(head)
  if event_type ~= '' then
    local found = string.match(head, '^{"event":{"id":"[^"]*","type":"([^"\\]*)"')
    if found and found ~= event_type then
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

local function is_in_lane(id)
  if lane == '' then
    return true
  end
  local place_kind, of, _, receipt = place_of(id)
  return place_kind == 'f' and ended_lane(of, receipt) == lane
end

local rows, last, read_bytes, is_end, n = {}, '', 0, 0, 1
while left > 0 and read_bytes < left_bytes and #rows < max and is_end == 0 do
  n = math.min(n, left, max - #rows)
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
    if is_in_lane(fields[2]) and (not head or is_match(head)) then
      if head and only_heads then
        fields[4] = string.sub(fields[4], 1, ends)
      end
      rows[#rows + 1] = entry
    end
  end
  left = left - n
  read_bytes = read_bytes + bytes
  if #found < n then
    is_end = 1
  end
  n = bytes <= n * SMALL_BYTES and math.min(2 * n, AT_ONCE) or 1
end
return { last, read_bytes, is_end, rows }
