#!lua flags=no-writes,allow-oom
-- Lists ended events that match, newest first.
-- KEYS after the fixed ones: the stream. ARGV: begin and end of the range, limit of entries to read, limit of bytes to
-- read, limit of entries to return, 1 for heads only; then the filter, each '' for any: type, class, since, until, lane;
-- then class, since and until again as they are in a binary head: as the ending, and in Unix ms.
-- Reply: the last entry that was read ('' if none), the bytes that were read, 1 at the end of the range, the entries.
-- An entry that cannot be parsed is returned, and the host decides.
-- Entries are read one by one unless they are small, because Redis always reads whole entries.
local SMALL_BYTES, AT_ONCE = 1024, 16
local key, from, to = KEYS[10], ARGV[1], ARGV[2]
local left, left_bytes, max, only_heads = tonumber(ARGV[3]), tonumber(ARGV[4]), tonumber(ARGV[5]), ARGV[6] == '1'
local event_type, class, since, before, lane = ARGV[7], ARGV[8], ARGV[9], ARGV[10], ARGV[11]
local wanted_ending, since_ms, before_ms = tonumber(ARGV[12]), tonumber(ARGV[13]), tonumber(ARGV[14])
must_be('stream', key)

-- A number in a binary head, as fields.rs writes it, and where it ends; nil if it does not end.
local function number_at(blob, at)
  local number, factor = 0, 1
  for place = at, at + 4 do
    local byte = string.byte(blob, place)
    if not byte then
      return nil
    end
    number = number + byte % 128 * factor
    if byte < 128 then
      return number, place + 1
    end
    factor = factor * 128
  end
  return nil
end

-- Where the head begins and ends in a record of this version; nil if it cannot be parsed. See codec.rs.
local function bounds_of(blob, version)
  if version == 1 then
    local a, b, c, d = string.byte(blob, 2, 5)
    return 6, d and 5 + a + 256 * b + 65536 * c + 16777216 * d
  elseif version == 3 then
    local size, begins = number_at(blob, 2)
    return begins, size and begins + size - 1
  end
  return nil
end

-- A JSON head begins with the event's id and type. Its end begins with the time, then the class. Texts escape quotation
-- marks, so none of them matches these patterns.
local function is_json_match(head)
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

-- A binary head of an event that has ended begins with the ending, six bytes of time and the type.
local function is_binary_match(blob, begins)
  local ending, a, b, c, d, e, f = string.byte(blob, begins, begins + 6)
  if not f or ending == 0 then
    return true
  end
  local ms = ((((a * 256 + b) * 256 + c) * 256 + d) * 256 + e) * 256 + f
  if (since_ms and ms < since_ms) or (before_ms and ms >= before_ms) or (wanted_ending and ending ~= wanted_ending) then
    return false
  end
  local size, at = number_at(blob, begins + 7)
  return event_type == '' or not size or string.sub(blob, at, at + size - 1) == event_type
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
    local blob, version, begins, ends
    if #fields == 4 and fields[3] == 'b' then
      blob = fields[4]
      version = string.byte(blob, 1)
      begins, ends = bounds_of(blob, version)
    end
    local is_match = not ends or (version == 1 and is_json_match(string.sub(blob, begins, ends)))
      or (version == 3 and is_binary_match(blob, begins))
    if is_in_lane(fields[2]) and is_match then
      if ends and only_heads then
        fields[4] = string.sub(blob, 1, ends)
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
