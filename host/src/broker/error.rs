//! Why a store refused a call.

use super::Lane;
use super::options::LANE_SHARE;

/// Why a store refused a call.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// The store cannot be reached, refuses, or did not answer in time. Try again later.
    #[error("{reason}")]
    Unavailable {
        /// What the store or the connection reported, as a fragment of a sentence.
        reason: String,
        /// False if the call may have taken effect all the same.
        outcome_known: bool,
    },
    /// The limit of events that have not ended is reached.
    #[error("{waiting} events are waiting, and no more than {limit} may (broker.max_waiting)")]
    Full {
        /// Events that have not ended.
        waiting: u64,
        /// The configured limit.
        limit: u64,
    },
    /// One lane has reached its limit of events. Other lanes still accept events.
    #[error("{}", lane_full(lane, *waiting, *limit))]
    LaneFull {
        /// The lane.
        lane: Lane,
        /// Its events that have not ended.
        waiting: u64,
        /// The limit of the lane.
        limit: u64,
    },
    /// One lane has reached its limit of bytes. Other lanes still accept events.
    #[error("{}", lane_heavy(lane, *waiting_bytes, *failed_bytes, *limit_bytes))]
    LaneHeavy {
        /// The lane.
        lane: Lane,
        /// The bytes of its events that have not ended.
        waiting_bytes: u64,
        /// The bytes of its failed events.
        failed_bytes: u64,
        /// The limit of the lane, in bytes.
        limit_bytes: u64,
    },
    /// The idempotency keys of one lane take all that they may. Events without a new key are still accepted, and so are
    /// those of other lanes.
    #[error("{}", keys_full(lane, *lane_bytes, *all_bytes, *limit_bytes))]
    KeysFull {
        /// The lane.
        lane: Lane,
        /// The bytes of its keys.
        lane_bytes: u64,
        /// The bytes of the keys of all lanes.
        all_bytes: u64,
        /// The limit for all lanes, in bytes.
        limit_bytes: u64,
    },
    /// The store has no room for more events. Events that it holds can still be handled.
    #[error("the store has no room left: {0}")]
    NoRoom(String),
    /// Too many calls of this kind run at the same time. Nothing was done; try again later.
    #[error("{0}")]
    Busy(String),
    /// The events at these places of the batch have idempotency keys that are known with other bodies.
    #[error("an idempotency key was used before with another body")]
    Conflict(Vec<usize>),
    /// This store did not make the cursor of the query.
    #[error("the cursor is not the nextCursor of a page")]
    BadCursor,
    /// The store refuses this host, or holds foreign data in place of ours. An operator has to act.
    #[error("{0}")]
    Misconfigured(String),
    /// The store's settings or data break a promise (G1, G11). It accepts nothing until they are in order.
    #[error("{0}")]
    Unsafe(String),
}

impl Error {
    /// The call did not take effect, and will not.
    pub fn refused(reason: impl Into<String>) -> Self {
        Self::Unavailable { reason: reason.into(), outcome_known: true }
    }

    /// The call may have taken effect.
    pub fn unknown(reason: impl Into<String>) -> Self {
        Self::Unavailable { reason: reason.into(), outcome_known: false }
    }

    /// Whether the same call may succeed later although no operator acts.
    pub fn is_transient(&self) -> bool {
        matches!(
            self,
            Self::Unavailable { .. }
                | Self::Full { .. }
                | Self::LaneFull { .. }
                | Self::LaneHeavy { .. }
                | Self::KeysFull { .. }
                | Self::NoRoom(_)
                | Self::Unsafe(_)
                | Self::Busy(_)
        )
    }
}

fn lane_full(lane: &Lane, waiting: u64, limit: u64) -> String {
    if *lane == Lane::unrouted() {
        return format!(
            "{waiting} events that no plugin handles are waiting, and the limit is {limit} (one in {LANE_SHARE} of \
             broker.max_waiting): add a plugin for them, or send fewer"
        );
    }
    format!("{waiting} events are waiting for the plugin {lane}, and the limit is {limit} (plugins.{lane}.max_waiting)")
}

fn lane_heavy(lane: &Lane, waiting_bytes: u64, failed_bytes: u64, limit_bytes: u64) -> String {
    let (what, whose) = match *lane == Lane::unrouted() {
        true => ("the events that no plugin handles".to_owned(), " --plugin _".to_owned()),
        false => (format!("the events of the plugin {lane}"), format!(" --plugin {lane}")),
    };
    let all_bytes = waiting_bytes.saturating_add(failed_bytes);
    let remedy = match failed_bytes {
        0 => String::new(),
        _ => format!(
            "; {failed_bytes} bytes of them are failed events: replay or discard them (eventstream failed \
             discard{whose})"
        ),
    };
    format!(
        "{what} take {all_bytes} bytes, and the limit is {limit_bytes} (broker.max_waiting_bytes, or an eighth of the \
         store's space, and less while other plugins hold much){remedy}"
    )
}

fn keys_full(lane: &Lane, lane_bytes: u64, all_bytes: u64, limit_bytes: u64) -> String {
    let whose = match *lane == Lane::unrouted() {
        true => "of events that no plugin handles".to_owned(),
        false => format!("of the plugin {lane}"),
    };
    format!(
        "the idempotency keys {whose} take {lane_bytes} bytes of {all_bytes}, and all keys may take {limit_bytes} \
         (retention.idempotency_max_bytes, or an eighth of the store's space), half of them in equal parts: wait until \
         keys end, send events without a key (Idempotency-Key, or source and id), or set a shorter retention.idempotency \
         for new keys"
    )
}
