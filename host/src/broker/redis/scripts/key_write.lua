#!lua flags=allow-oom
-- Writes an API key. KEYS after the fixed ones: the keys, their last uses, the audit.
-- ARGV: id, the revision that it replaces (0 for a new key), record, the most keys, the id of a key to delete or '', its
-- revision, the note of the audit. Reply: DONE, CHANGED if a revision is another one, FULL.
local keys, uses = KEYS[10], KEYS[11]
local id, replaces, record, most, deleted, deleted_revision = unpack(ARGV)
must_be('hash', keys)
must_be('hash', uses)
check_audit()
local function revision_of(key)
  local raw = redis.call('HGET', keys, key)
  return raw and (string.match(raw, '^(%d+) ') or '') or '0'
end
if revision_of(id) ~= replaces or (deleted ~= '' and revision_of(deleted) ~= deleted_revision) then
  return 'CHANGED'
end
-- Where there is a key, there is the field of the version as well.
if replaces == '0' and deleted == '' and redis.call('HLEN', keys) > tonumber(most) then
  return 'FULL'
end
local last = tonumber(redis.call('HGET', keys, 'version') or '0')
local revision = int(math.max(last + 1, now_ms()))
note_change()
redis.call('HSET', keys, id, revision .. ' ' .. record, 'version', revision)
if deleted ~= '' then
  redis.call('HDEL', keys, deleted)
  redis.call('HDEL', uses, deleted)
end
return 'DONE'
