-- Format 10: the audit. A note is JSON; at is when the store wrote it, in Unix milliseconds.
CREATE TABLE audit (number INTEGER PRIMARY KEY, at INTEGER NOT NULL, note TEXT NOT NULL) STRICT;
