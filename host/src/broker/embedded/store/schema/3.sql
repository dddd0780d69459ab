-- Format 3: how much of each lane has not ended, in whatever state, and how many processed events of it are kept, so that
-- one lane can be limited and no other; and what both take.
ALTER TABLE lane ADD COLUMN waiting INTEGER NOT NULL DEFAULT 0;
ALTER TABLE lane ADD COLUMN waiting_bytes INTEGER NOT NULL DEFAULT 0;
ALTER TABLE lane ADD COLUMN kept INTEGER NOT NULL DEFAULT 0;
ALTER TABLE lane ADD COLUMN kept_bytes INTEGER NOT NULL DEFAULT 0;
UPDATE lane SET waiting = begun.events, waiting_bytes = begun.bytes FROM (
  SELECT e.lane AS number, count(*) AS events, sum(200 + coalesce(octet_length(b.data), 0)) AS bytes FROM (
    SELECT number, lane FROM event INDEXED BY queued WHERE state = 0
    UNION ALL
    SELECT number, lane FROM event INDEXED BY running WHERE state = 1
    UNION ALL
    SELECT number, lane FROM event INDEXED BY due WHERE state = 2
  ) AS e JOIN body AS b ON b.number = e.number GROUP BY e.lane
) AS begun WHERE begun.number = lane.number;
UPDATE lane SET kept = ended.events, kept_bytes = ended.bytes FROM (
  SELECT e.lane AS number, count(*) AS events,
    sum(200 + coalesce(octet_length(b.data), 0) + coalesce(octet_length(e.story), 0) + coalesce(octet_length(e.result), 0))
    AS bytes
  FROM event AS e INDEXED BY processed JOIN body AS b ON b.number = e.number WHERE e.state = 3 GROUP BY e.lane
) AS ended WHERE ended.number = lane.number;

-- How much the state of each plugin takes.
ALTER TABLE state_space ADD COLUMN bytes INTEGER NOT NULL DEFAULT 0;
UPDATE state_space SET bytes = (
  SELECT coalesce(sum(100 + octet_length(key) + octet_length(value)), 0) FROM state WHERE space = state_space.number
);
