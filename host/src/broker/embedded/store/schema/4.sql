-- Format 4: what the failed events of each lane take, which counts towards its limit. And events that an operator
-- discarded: state 5, with a place as the other ended ones have, and the time of the discard as ended_at. The column
-- 'kept' of a lane counts its processed events only.
ALTER TABLE lane ADD COLUMN failed INTEGER NOT NULL DEFAULT 0;
ALTER TABLE lane ADD COLUMN failed_bytes INTEGER NOT NULL DEFAULT 0;
ALTER TABLE lane ADD COLUMN discarded INTEGER NOT NULL DEFAULT 0;
ALTER TABLE lane ADD COLUMN discarded_bytes INTEGER NOT NULL DEFAULT 0;
CREATE INDEX discarded ON event (place) WHERE state = 5;
UPDATE lane SET failed = ended.events, failed_bytes = ended.bytes FROM (
  SELECT e.lane AS number, count(*) AS events,
    sum(200 + coalesce(octet_length(b.data), 0) + coalesce(octet_length(e.story), 0) + coalesce(octet_length(e.result), 0))
    AS bytes
  FROM event AS e INDEXED BY failed JOIN body AS b ON b.number = e.number WHERE e.state = 4 GROUP BY e.lane
) AS ended WHERE ended.number = lane.number;
