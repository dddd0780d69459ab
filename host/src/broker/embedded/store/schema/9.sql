-- Format 9: the head of an event, which holds its attributes, counts towards the bytes of its lane.
UPDATE lane SET waiting_bytes = waiting_bytes + heads.bytes FROM (
  SELECT e.lane AS number, sum(octet_length(b.head)) AS bytes FROM (
    SELECT number, lane FROM event INDEXED BY queued WHERE state = 0
    UNION ALL
    SELECT number, lane FROM event INDEXED BY running WHERE state = 1
    UNION ALL
    SELECT number, lane FROM event INDEXED BY due WHERE state = 2
  ) AS e JOIN body AS b ON b.number = e.number GROUP BY e.lane
) AS heads WHERE heads.number = lane.number;
UPDATE lane SET kept_bytes = kept_bytes + heads.bytes FROM (
  SELECT e.lane AS number, sum(octet_length(b.head)) AS bytes FROM (
    SELECT number, lane FROM event INDEXED BY processed WHERE state = 3
  ) AS e JOIN body AS b ON b.number = e.number GROUP BY e.lane
) AS heads WHERE heads.number = lane.number;
UPDATE lane SET failed_bytes = failed_bytes + heads.bytes FROM (
  SELECT e.lane AS number, sum(octet_length(b.head)) AS bytes FROM (
    SELECT number, lane FROM event INDEXED BY failed WHERE state = 4
  ) AS e JOIN body AS b ON b.number = e.number GROUP BY e.lane
) AS heads WHERE heads.number = lane.number;
UPDATE lane SET discarded_bytes = discarded_bytes + heads.bytes FROM (
  SELECT e.lane AS number, sum(octet_length(b.head)) AS bytes FROM (
    SELECT number, lane FROM event INDEXED BY discarded WHERE state = 5
  ) AS e JOIN body AS b ON b.number = e.number GROUP BY e.lane
) AS heads WHERE heads.number = lane.number;
