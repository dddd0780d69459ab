-- Format 8: pauses of plugins. A note is JSON; until is when the plugin resumes by itself, in Unix milliseconds.
CREATE TABLE pause (
  plugin TEXT PRIMARY KEY,
  until INTEGER,
  note TEXT NOT NULL
) STRICT, WITHOUT ROWID;
