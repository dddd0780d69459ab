-- Format 6: API keys. A record is JSON with hashes of secrets; revision is the number of its last change.
CREATE TABLE api_key (
  id TEXT PRIMARY KEY,
  revision INTEGER NOT NULL,
  record TEXT NOT NULL,
  checksum INTEGER NOT NULL,
  used_at INTEGER
) STRICT, WITHOUT ROWID;
