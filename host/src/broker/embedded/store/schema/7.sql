-- Format 7: how many idempotency keys the events of each lane have, so that one lane can be limited and no other. Keys of
-- earlier formats count for the lane '_', and the column 'lane' is 0 for them: to change their rows would take room that a
-- full disk has not.
ALTER TABLE lane ADD COLUMN idempotency_keys INTEGER NOT NULL DEFAULT 0;
ALTER TABLE idempotency ADD COLUMN lane INTEGER NOT NULL DEFAULT 0;
INSERT INTO lane (name, queued) SELECT '_', 0 WHERE EXISTS (SELECT 1 FROM idempotency) ON CONFLICT DO NOTHING;
UPDATE lane SET idempotency_keys = (SELECT count(*) FROM idempotency) WHERE name = '_';
