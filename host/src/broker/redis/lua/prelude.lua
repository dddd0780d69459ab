-- What all scripts share. It is put after the first line of each of them.
--
-- Keys: the nine below, then one work stream for each lane that the call names.
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

-- What is wrong with a key and what to do about it, or nothing; and what it holds.
local function misplaced(kind, key)
  local found = redis.call('TYPE', key).ok
  if found == 'none' or found == kind then
    return nil, found
  end
  return 'the key ' .. key .. ' holds a ' .. found .. ' where a ' .. kind .. ' should be: rename or remove it', found
end

-- A script that fails half-way is not rolled back, so every key is looked at before the first write.
local function must_be(kind, key)
  local wrong, found = misplaced(kind, key)
  if wrong then
    error({ err = 'WRONGTYPE ' .. wrong })
  end
  return found
end

-- A group begins at 0, so that nothing that stands in the stream is passed over.
local function open_lane(key)
  if must_be('stream', key) == 'none' then
    redis.call('XGROUP', 'CREATE', key, GROUP, '0', 'MKSTREAM')
  end
end

local function starts_with(text, prefix)
  return string.sub(text, 1, #prefix) == prefix
end

-- Where an event is: kind, lane, entry, and the receipt of the delivery that put it there.
local function set_place(id, kind, lane, entry, receipt)
  redis.call('HSET', IX, id, kind .. '|' .. lane .. '|' .. entry .. '|' .. receipt)
end

local function read_place(place)
  return string.match(place, '^([^|]*)|([^|]*)|([^|]*)|(.*)$')
end

local function place_of(id)
  local place = redis.call('HGET', IX, id)
  if not place then
    return nil
  end
  return read_place(place)
end

-- What is kept under a key of a plugin: its version, when it ends (0 for never) and its value. Version 0 is nothing, also
-- when its time is over. A value stands behind its version and its end.
local function kept(space, key, now)
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

-- The sum of what is kept and more, as text; nothing if it is no number that can be counted exactly.
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

-- The field of the totals in which stands how much the state of a plugin takes, and what a key takes beside its name and
-- what stands under it.
local STATE_KEY_BYTES = 100
local function state_bytes(plugin)
  return 'state-bytes:' .. plugin
end

-- How much the state of a plugin takes of which that was not counted: as many times as much as a hundred of its keys.
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
  if more ~= 0 and redis.call('HINCRBY', COUNTS, state_bytes(plugin), more) == more and redis.call('HLEN', space) > 1 then
    redis.call('HSET', COUNTS, state_bytes(plugin), int(estimate_bytes(space)))
  end
end

-- Keeps a value. The keys: those of all plugins' names, of all ends, and of this plugin.
local function keep(spaces, untils, space, plugin, key, value, ends)
  local version = redis.call('HINCRBY', COUNTS, 'state_versions', 1)
  local raw, before = int(version) .. ' ' .. int(ends) .. ' ' .. value, redis.call('HSTRLEN', space, key)
  local more = #raw - before
  if redis.call('HSET', space, key, raw) == 1 then
    redis.call('HINCRBY', COUNTS, 'state_keys', 1)
    redis.call('SADD', spaces, plugin)
    more = more + STATE_KEY_BYTES + #key
  end
  count_bytes(space, plugin, more)
  if ends > 0 then
    redis.call('ZADD', untils, int(ends), plugin .. '\n' .. key)
  else
    redis.call('ZREM', untils, plugin .. '\n' .. key)
  end
end

local function forget(untils, space, plugin, key)
  local before = redis.call('HSTRLEN', space, key)
  if redis.call('HDEL', space, key) == 1 then
    redis.call('HINCRBY', COUNTS, 'state_keys', -1)
    count_bytes(space, plugin, -(before + STATE_KEY_BYTES + #key))
  end
  redis.call('ZREM', untils, plugin .. '\n' .. key)
end

-- The field of the totals in which stands how much of a lane is due later. It began with 0 when there was none, so that it
-- may be too low until nothing is due at all.
local function due_count(lane)
  return 'due:' .. lane
end

-- The field in which stands how many bytes of a lane wait, wherever they do. Who settles says how large an entry was, and a
-- host of an older version does not; so it is forgotten when nothing of the lane waits.
local function wait_bytes(lane)
  return 'bytes:' .. lane
end

-- The fields in which stands how many processed events of a lane are kept, and the last entry that was looked at when some
-- of them were forgotten: none of the lane stands before it.
local function kept_count(lane)
  return 'kept:' .. lane
end
local function kept_bytes(lane)
  return 'kept-bytes:' .. lane
end
local function kept_from(lane)
  return 'kept-from:' .. lane
end

-- Puts a new event into its lane, or aside until it is due.
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
    redis.call('HINCRBY', COUNTS, due_count(lane), 1)
    set_place(id, 'd', '', '', '')
  else
    local entry = redis.call('XADD', lane_key(i), '*', 'id', id, 'b', blob)
    set_place(id, 'q', lane, entry, '')
  end
end
