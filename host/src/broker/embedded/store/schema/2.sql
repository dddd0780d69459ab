-- Format 2: what plugins keep between events. A version is a number that no other write ever had; 'until' is the time in
-- Unix milliseconds at which the key is forgotten.
CREATE TABLE state_space (number INTEGER PRIMARY KEY, plugin TEXT NOT NULL UNIQUE, keys INTEGER NOT NULL) STRICT;

CREATE TABLE state (
  number INTEGER PRIMARY KEY,
  space INTEGER NOT NULL,
  key TEXT NOT NULL,
  version INTEGER NOT NULL,
  until INTEGER,
  value BLOB NOT NULL,
  checksum INTEGER NOT NULL
) STRICT;
CREATE UNIQUE INDEX state_by_key ON state (space, key);
CREATE INDEX state_by_until ON state (until) WHERE until IS NOT NULL;
