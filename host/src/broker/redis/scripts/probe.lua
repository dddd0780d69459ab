#!lua
-- Does nothing. Redis refuses it for every reason for which it refuses to accept events: missing replicas, a disk that it
-- cannot write to, full memory, or another role.
return 1
