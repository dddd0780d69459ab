//! Who asks for a change, as the audit names them.

use std::net::IpAddr;

use super::caller::Caller;
use crate::broker::{AuditAction, AuditNote};

/// Who sent a request that may change something, and from where.
#[derive(Clone, Debug)]
pub(super) struct ChangeAuthor {
    caller: Caller,
    client: IpAddr,
}

impl ChangeAuthor {
    pub(super) fn new(caller: Caller, client: IpAddr) -> Self {
        Self { caller, client }
    }

    /// A note for the audit. The target is an event, a plugin or a key, by its name or id.
    pub(super) fn note(&self, action: AuditAction, target: impl ToString) -> AuditNote {
        AuditNote {
            key: self.caller.key_id(),
            from: Some(self.client.to_canonical()),
            ..AuditNote::new(action, self.caller.actor(), target.to_string())
        }
    }
}
