//! The connection to Redis: making it, sending commands, and what a failure means.

mod fault;
mod gate;
mod link;
pub(super) mod reply;
mod target;
mod troubles;
mod vetting;

pub(super) use self::fault::{CallFailure, FailureCause};
pub(super) use self::link::{RESPONSE_TIMEOUT, RedisLink};
pub(super) use self::target::{LinkTarget, unreachable};
pub(super) use self::troubles::{LOSS, TroubleBoard, TroubleKind, describe_failure, join_messages};
pub(super) use self::vetting::{REPLICAS_SEEN, StoreMark};
