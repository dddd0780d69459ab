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

-- Keeps a value. The keys: those of all plugins' names, of all ends, and of this plugin.
local function keep(spaces, untils, space, plugin, key, value, ends)
  local version = redis.call('HINCRBY', COUNTS, 'state_versions', 1)
  if redis.call('HSET', space, key, int(version) .. ' ' .. int(ends) .. ' ' .. value) == 1 then
    redis.call('HINCRBY', COUNTS, 'state_keys', 1)
    redis.call('SADD', spaces, plugin)
  end
  if ends > 0 then
    redis.call('ZADD', untils, int(ends), plugin .. '\n' .. key)
  else
    redis.call('ZREM', untils, plugin .. '\n' .. key)
  end
end

local function forget(untils, space, plugin, key)
  if redis.call('HDEL', space, key) == 1 then
    redis.call('HINCRBY', COUNTS, 'state_keys', -1)
  end
  redis.call('ZREM', untils, plugin .. '\n' .. key)
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
    set_place(id, 'd', '', '', '')
  else
    local entry = redis.call('XADD', lane_key(i), '*', 'id', id, 'b', blob)
    set_place(id, 'q', lane, entry, '')
  end
end
