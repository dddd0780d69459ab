-- Format 5: the attempts of events that have not ended count towards the bytes of their lane, as those of failed ones do.
UPDATE lane SET waiting_bytes = waiting_bytes + begun.bytes FROM (
  SELECT lane AS number, sum(octet_length(story)) AS bytes FROM (
    SELECT lane, story FROM event INDEXED BY queued WHERE state = 0
    UNION ALL
    SELECT lane, story FROM event INDEXED BY running WHERE state = 1
    UNION ALL
    SELECT lane, story FROM event INDEXED BY due WHERE state = 2
  ) WHERE story IS NOT NULL GROUP BY lane
) AS begun WHERE begun.number = lane.number;
