-- Shared by all scripts: inserted after the first line of each.
-- KEYS: the nine below, then one stream for each lane of the call.
local GROUP = 'es'
local EPOCH, LANES, DUE, PARKED, DONE, FAILED, IX, COUNTS, HB = unpack(KEYS, 1, 9)

local function lane_key(i)
  return KEYS[9 + i]
end

local function int(n)
  return string.format('%d', n)
end

local function now_ms()
  local t = redis.call('TIME')
  return t[1] * 1000 + math.floor(t[2] / 1000)
end

-- The problem of a key with its remedy, or nil; and the type of the key.
local function misplaced(kind, key)
  local found = redis.call('TYPE', key).ok
  if found == 'none' or found == kind then
    return nil, found
  end
  return 'the key ' .. key .. ' holds a ' .. found .. ' where a ' .. kind .. ' should be: rename or remove it', found
end

-- Redis does not roll a failed script back, so each key is checked before the first write.
local function must_be(kind, key)
  local wrong, found = misplaced(kind, key)
  if wrong then
    error({ err = 'WRONGTYPE ' .. wrong })
  end
  return found
end

-- A group begins at 0, so that it skips no entry.
local function open_lane(key)
  if must_be('stream', key) == 'none' then
    redis.call('XGROUP', 'CREATE', key, GROUP, '0', 'MKSTREAM')
  end
end

-- The audit is the last key of a call for which a person may have asked, and its note the last argument: '' if nobody did.
local function check_audit()
  must_be('stream', KEYS[#KEYS])
end

local function note_change()
  if ARGV[#ARGV] ~= '' then
    redis.call('XADD', KEYS[#KEYS], '*', 'note', ARGV[#ARGV])
  end
end

local function starts_with(text, prefix)
  return string.sub(text, 1, #prefix) == prefix
end

-- The place of an event: kind, lane, entry, and the receipt of the settle that moved it there.
local function set_place(id, kind, lane, entry, receipt)
  redis.call('HSET', IX, id, kind .. '|' .. lane .. '|' .. entry .. '|' .. receipt)
end

local function read_place(place)
  return string.match(place, '^([^|]*)|([^|]*)|([^|]*)|(.*)$')
end

-- The lane of an event that has ended. A settle named it in its receipt.
local function ended_lane(lane, receipt)
  return lane ~= '' and lane or string.match(receipt, '^([^/]+)/') or '_'
end

local function place_of(id)
  local place = redis.call('HGET', IX, id)
  if not place then
    return nil
  end
  return read_place(place)
end

-- A state value with its version and its expiry (0 for never). Version 0 means missing or expired.
-- In the hash, a value follows its version and its expiry.
local function read_value(space, key, now)
  local raw = redis.call('HGET', space, key)
  if raw then
    local version, ends, at = string.match(raw, '^(%d+) (%d+) ()')
    ends = tonumber(ends)
    if ends == 0 or ends > now then
      return version, ends, string.sub(raw, at)
    end
  end
  return '0', 0, nil
end

-- The sum of a value and more, as text; nil if it is no exact integer.
local function sum(value, more)
  if value and (#value > 17 or not string.match(value, '^-?%d+$')) then
    return nil
  end
  local total = (tonumber(value) or 0) + tonumber(more)
  if math.abs(total) > 9007199254740991 then
    return nil
  end
  return string.format('%.0f', total)
end

-- The total of bytes of a plugin's state, and the overhead of one key.
local STATE_KEY_BYTES = 100
local STATE_BYTES = 'state-bytes:'

-- Estimates the bytes of state that was written before there was a total, from a hundred of its keys.
local function estimate_bytes(space)
  local keys, taken, SAMPLE = redis.call('HLEN', space), 0, 100
  if keys == 0 then
    return 0
  end
  for _, key in ipairs(redis.call('HRANDFIELD', space, -SAMPLE)) do
    taken = taken + STATE_KEY_BYTES + #key + redis.call('HSTRLEN', space, key)
  end
  return math.ceil(taken / SAMPLE * keys)
end

local function count_bytes(space, plugin, more)
  if more ~= 0 and redis.call('HINCRBY', COUNTS, STATE_BYTES .. plugin, more) == more and redis.call('HLEN', space) > 1 then
    redis.call('HSET', COUNTS, STATE_BYTES .. plugin, int(estimate_bytes(space)))
  end
end

-- Stores a state value. Keys: the set of plugins, the expiries, and the plugin's own.
local function write_value(plugins, expiries, space, plugin, key, value, ends)
  local version = redis.call('HINCRBY', COUNTS, 'state_versions', 1)
  local raw, before = int(version) .. ' ' .. int(ends) .. ' ' .. value, redis.call('HSTRLEN', space, key)
  local more = #raw - before
  if redis.call('HSET', space, key, raw) == 1 then
    redis.call('HINCRBY', COUNTS, 'state_keys', 1)
    redis.call('SADD', plugins, plugin)
    more = more + STATE_KEY_BYTES + #key
  end
  count_bytes(space, plugin, more)
  if ends > 0 then
    redis.call('ZADD', expiries, int(ends), plugin .. '\n' .. key)
  else
    redis.call('ZREM', expiries, plugin .. '\n' .. key)
  end
end

local function remove_value(expiries, space, plugin, key)
  local before = redis.call('HSTRLEN', space, key)
  if redis.call('HDEL', space, key) == 1 then
    redis.call('HINCRBY', COUNTS, 'state_keys', -1)
    count_bytes(space, plugin, -(before + STATE_KEY_BYTES + #key))
  end
  redis.call('ZREM', expiries, plugin .. '\n' .. key)
end

-- The total of events of a lane that are due later. It may be too low for events from before there was a total, until
-- nothing is due at all.
local DUE_COUNT = 'due:'

-- The total of bytes of a lane that wait. Hosts of older versions do not lower it, so it is removed when nothing waits.
local WAIT_BYTES = 'bytes:'

-- The processed events of a lane, their bytes, and the last entry that trim read: no event of the lane is before it.
local PROCESSED_COUNT = 'kept:'
local PROCESSED_BYTES = 'kept-bytes:'
local TRIMMED_TO = 'kept-from:'

-- A lane's log names its processed events, oldest first: a list of texts, with 20 bytes for each event. These are the id
-- and the size of the record, so that trim reads no records. The total counts the events in the log.
local LOGGED_COUNT = 'logged:'
local LOG_ITEM_BYTES = 20

-- The bytes of the failed events of a lane, and the number of failed events that are counted in such a total.
local FAILED_COUNTED = 'failed-counted'
local FAILED_BYTES = 'failed-bytes:'

-- The bytes of the discarded events of a lane, and the last entry that trim read: no event of the lane is before it.
local DISCARDED_BYTES = 'discarded-bytes:'
local DISCARDED_TO = 'discarded-from:'

-- While recount.lua reads the failed events: the last entry that it read, and the bytes of each lane so far.
local RECOUNTED_TO = 'recounted-to'
local RECOUNTED_BYTES = 'recounted:'

-- The number of idempotency keys of a lane. A hash tells how many of each lane end together, as END:LANE with END in Unix ms,
-- and the next of these times. Keys count for a little longer than Redis keeps them, so that few times are enough.
local KEY_COUNT = 'idem:'
local NEXT_END = 'next'

-- Counts new idempotency keys of a lane that end at a time.
local function count_keys(all_ends, lane, more, ends, now)
  local parts = math.max(1, (ends - now) / 24)
  local step = 2 ^ math.floor(math.log(parts) / math.log(2))
  ends = math.ceil(ends / step) * step
  redis.call('HINCRBY', COUNTS, KEY_COUNT .. lane, more)
  if redis.call('HINCRBY', all_ends, int(ends) .. ':' .. lane, more) == more then
    local first = tonumber(redis.call('HGET', all_ends, NEXT_END) or nil)
    if not first or ends < first then
      redis.call('HSET', all_ends, NEXT_END, int(ends))
    end
  end
end

-- Adds a new event to its lane, or to the schedule until it is due.
local function enqueue(id, i, lane, start, ms, blob, now)
  local due = 0
  if start == 'in' then
    due = now + tonumber(ms)
  elseif start == 'at' then
    due = tonumber(ms)
  end
  if due > now then
    redis.call('HSET', PARKED, id, lane .. '\n' .. blob)
    redis.call('ZADD', DUE, int(due), id)
    redis.call('HINCRBY', COUNTS, DUE_COUNT .. lane, 1)
    set_place(id, 'd', '', '', '')
  else
    local entry = redis.call('XADD', lane_key(i), '*', 'id', id, 'b', blob)
    set_place(id, 'q', lane, entry, '')
  end
end
