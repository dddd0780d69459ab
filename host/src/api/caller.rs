//! Who sent a request, and what they may do.

use std::sync::Arc;
use std::time::Instant;

use axum::http::HeaderMap;
use axum::http::header::HeaderValue;

use super::key_ring::{KeyRing, KnownKey};
use super::problem::Problem;
use super::rate_gauge::{RateGauge, RateLeft, RateUsedUp};
use crate::api_key::{KeyRights, ScopeSet};
use crate::event::{EventFault, EventType};

/// Who sent a request.
#[derive(Clone, Debug)]
pub(super) enum Caller {
    /// Somebody without a key, who may do this.
    Anonymous(ScopeSet),
    /// A person or a program on this machine, while nobody needs a key.
    Local,
    /// Whoever holds this key.
    Key(Arc<KnownKey>),
}

impl Caller {
    /// What they may do.
    pub(super) fn scopes(&self) -> ScopeSet {
        match self {
            Self::Anonymous(scopes) => *scopes,
            Self::Local => ScopeSet::ALL,
            Self::Key(key) => key.rights.scopes,
        }
    }

    /// What they may do, with all limits.
    pub(super) fn rights(&self) -> KeyRights {
        match self {
            Self::Key(key) => key.rights.clone(),
            _ => KeyRights { scopes: self.scopes(), ..KeyRights::all() },
        }
    }

    /// Who made what this caller makes, for the record.
    pub(super) fn maker(&self) -> String {
        match self {
            Self::Key(key) => key.maker(),
            _ => "local".to_owned(),
        }
    }

    /// Who they are to people, such as `key:ops`, for the record of what they change.
    pub(super) fn actor(&self) -> String {
        match self {
            Self::Key(key) => format!("key:{}", key.name),
            Self::Local => "local".to_owned(),
            Self::Anonymous(_) => "anonymous".to_owned(),
        }
    }

    /// The id of their key. A key of the configuration has none, and a name of its own.
    pub(super) fn key_id(&self) -> Option<String> {
        let Self::Key(key) = self else { return None };
        key.id.as_ref().map(ToString::to_string)
    }

    /// Checks that the caller may publish events of these types.
    ///
    /// # Errors
    /// The place of each event that they may not publish.
    pub(super) fn check_types<'e>(
        &self,
        types: impl Iterator<Item = &'e EventType>,
        is_batch: bool,
    ) -> Result<(), Problem> {
        let Self::Key(key) = self else { return Ok(()) };
        if key.rights.types.is_empty() {
            return Ok(());
        }
        let fault = |(index, event_type): (usize, &EventType)| {
            let pointer = if is_batch { format!("/{index}/type") } else { "/type".into() };
            EventFault::new(pointer, format!("the key may not publish {:?}", event_type.as_str()))
        };
        let refused = types.enumerate().filter(|(_, event_type)| !key.rights.allows_type(event_type));
        let faults: Vec<_> = refused.map(fault).collect();
        if faults.is_empty() {
            return Ok(());
        }
        let types: Vec<_> = key.rights.types.iter().map(ToString::to_string).collect();
        let detail = format!(
            "{} may only publish events of the types {}; nothing was accepted",
            key.describe(),
            types.join(", ")
        );
        Err(Problem::not_permitted(detail, None).with_errors(faults))
    }

    /// Takes one request of the key's rate. `None` if it has none.
    pub(super) fn take_turn(&self, keys: &KeyRing) -> Option<RateTurn> {
        let Self::Key(key) = self else { return None };
        let (gauge, hosts) = (key.gauge.clone()?, keys.hosts());
        let left = gauge.take(hosts, Instant::now());
        Some(RateTurn { key: key.clone(), gauge, hosts, left })
    }
}

/// A request that counts for a rate, whether or not the rate lets it pass.
#[derive(Clone, Debug)]
pub(super) struct RateTurn {
    key: Arc<KnownKey>,
    gauge: Arc<RateGauge>,
    hosts: u64,
    left: Result<RateLeft, RateUsedUp>,
}

impl RateTurn {
    /// Refuses the request if the rate was used up. The caller may read the body first.
    ///
    /// # Errors
    /// [`super::problem::ProblemKind::RateLimited`].
    pub(super) fn check(&self) -> Result<(), Problem> {
        self.left.map(drop).map_err(|RateUsedUp(wait_s)| {
            let detail = format!("{} may send {}, and that is used up", self.key.describe(), self.gauge.rate());
            Problem::rate_limited(detail, wait_s)
        })
    }

    /// Pays for the events of the request. The turn itself paid for the first one.
    pub(super) fn charge_events(&self, events: usize) {
        let more = u64::try_from(events.saturating_sub(1)).unwrap_or(u64::MAX);
        self.gauge.charge(more, self.hosts, Instant::now());
    }

    /// Tells the client its rate and what is left of it.
    pub(super) fn add_headers(&self, headers: &mut HeaderMap) {
        let rate = self.gauge.rate();
        let policy = format!("\"key\";q={};w={}", rate.requests(), rate.period_ms() / 1_000);
        let (requests, reset_s) = match self.left {
            Ok(RateLeft { requests, reset_s }) => (requests, reset_s),
            Err(RateUsedUp(wait_s)) => (0, wait_s),
        };
        let left = format!("\"key\";r={requests};t={reset_s}");
        for (name, value) in [("ratelimit-policy", policy), ("ratelimit", left)] {
            if let Ok(value) = HeaderValue::try_from(value) {
                headers.insert(name, value);
            }
        }
    }
}
