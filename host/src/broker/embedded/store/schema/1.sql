-- Format 1.

-- What the store is: its epoch, and how often it was opened.
CREATE TABLE store (name TEXT PRIMARY KEY, value ANY NOT NULL) STRICT, WITHOUT ROWID;

-- Totals and depths, kept with every step so that nobody ever has to count. 'next_number' is the next number for an
-- event or a place; no number is ever given twice.
CREATE TABLE total (name TEXT PRIMARY KEY, value INTEGER NOT NULL) STRICT, WITHOUT ROWID;

CREATE TABLE lane (number INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE, queued INTEGER NOT NULL) STRICT;

-- Where an event stands, and what happened to it.
--   state 0 queued:    place is its position in the lane, oldest first
--   state 1 running:   place is the position that it was claimed from
--   state 2 due later: place is the time in Unix milliseconds from which on it goes to the lane
--   state 3 processed, 4 failed: place is the order of ending, ended_at the time in Unix milliseconds
-- settled_place and settled_deliveries name the delivery whose settle took effect last, to know its repetition.
CREATE TABLE event (
  number INTEGER PRIMARY KEY,
  id BLOB NOT NULL,
  state INTEGER NOT NULL,
  lane INTEGER NOT NULL,
  place INTEGER NOT NULL,
  deliveries INTEGER NOT NULL,
  settled_place INTEGER,
  settled_deliveries INTEGER,
  ended_at INTEGER,
  class TEXT,
  type TEXT NOT NULL,
  checksum INTEGER,
  story TEXT,
  result ANY
) STRICT;
CREATE UNIQUE INDEX event_by_id ON event (id);
CREATE INDEX queued ON event (lane, place) WHERE state = 0;
CREATE INDEX running ON event (place) WHERE state = 1;
CREATE INDEX due ON event (place) WHERE state = 2;
CREATE INDEX processed ON event (place) WHERE state = 3;
CREATE INDEX failed ON event (place) WHERE state = 4;

-- What was accepted. Never changes, so that a large payload is written once.
CREATE TABLE body (number INTEGER PRIMARY KEY, head TEXT NOT NULL, data ANY, checksum INTEGER NOT NULL) STRICT;

CREATE TABLE idempotency (
  key BLOB PRIMARY KEY,
  fingerprint BLOB NOT NULL,
  id BLOB NOT NULL,
  until INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
CREATE INDEX idempotency_by_until ON idempotency (until);
