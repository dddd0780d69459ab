#!lua
-- Does nothing. Redis refuses it for whatever it would refuse a script that takes events in: want of replicas, a disk that
-- it cannot write to, a full memory, another role. So the question costs nothing and leaves nothing behind.
return 1
