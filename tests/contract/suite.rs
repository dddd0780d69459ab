//! Every case of the suite, each on an empty Redis of its own.

use crate::rig::RedisRig;

eventstream::broker_contract!(RedisRig::new());
