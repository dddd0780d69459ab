//! How keys are shown. No answer has a hash, and only the answer to a new or rotated key has its text.

use serde::Serialize;

use super::caller::Caller;
use crate::api_key::{ApiKey, ConfiguredKey, KeyRights, KeyState, RequestRate, ScopeSet};
use crate::event::{Timestamp, TypePattern};

/// A key in a list.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct KeyView<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    id: Option<&'a str>,
    name: &'a str,
    /// `store` or `configuration`.
    source: &'static str,
    state: KeyState,
    #[serde(flatten)]
    rights: RightsView<'a>,
    #[serde(skip_serializing_if = "Option::is_none")]
    created_at: Option<Timestamp>,
    #[serde(skip_serializing_if = "Option::is_none")]
    created_by: Option<&'a str>,
    revoked_at: Option<Timestamp>,
    last_used_at: Option<Timestamp>,
    /// Until when an earlier secret of the key is valid.
    #[serde(skip_serializing_if = "Option::is_none")]
    overlap_until: Option<Timestamp>,
}

/// What a key allows.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct RightsView<'a> {
    scopes: ScopeSet,
    types: &'a [TypePattern],
    rate: Option<RequestRate>,
    expires_at: Option<Timestamp>,
}

/// A new key with its text, which is shown only once.
#[derive(Serialize)]
pub(super) struct NewKeyView<'a> {
    pub(super) key: &'a str,
    #[serde(flatten)]
    pub(super) view: KeyView<'a>,
}

/// Who asks, and what they may do.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct CallerView<'a> {
    /// `key`, `local` or `anonymous`.
    caller: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    id: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    name: Option<&'a str>,
    #[serde(flatten)]
    rights: RightsView<'a>,
}

impl<'a> From<&'a KeyRights> for RightsView<'a> {
    fn from(rights: &'a KeyRights) -> Self {
        Self { scopes: rights.scopes, types: &rights.types, rate: rights.rate, expires_at: rights.expires_at }
    }
}

impl<'a> KeyView<'a> {
    /// A key of the store.
    pub(super) fn of_stored(key: &'a ApiKey, last_used_at: Option<Timestamp>, now: Timestamp) -> Self {
        let untils = key.secrets.iter().filter_map(|secret| secret.until);
        Self {
            id: Some(key.id.as_str()),
            name: &key.name,
            source: "store",
            state: key.state(now),
            rights: RightsView::from(&key.rights),
            created_at: Some(key.created_at),
            created_by: Some(&key.created_by),
            revoked_at: key.revoked_at,
            last_used_at,
            overlap_until: untils.filter(|until| *until > now).max(),
        }
    }

    /// A key of the configuration.
    pub(super) fn of_configured(key: &'a ConfiguredKey, now: Timestamp) -> Self {
        let is_over = key.rights.expires_at.is_some_and(|at| at <= now);
        Self {
            id: None,
            name: &key.name,
            source: "configuration",
            state: if is_over { KeyState::Expired } else { KeyState::Active },
            rights: RightsView::from(&key.rights),
            created_at: None,
            created_by: None,
            revoked_at: None,
            last_used_at: None,
            overlap_until: None,
        }
    }
}

impl<'a> CallerView<'a> {
    /// The caller with what `rights` says of them.
    pub(super) fn new(caller: &'a Caller, rights: &'a KeyRights) -> Self {
        let (kind, key) = match caller {
            Caller::Anonymous(_) => ("anonymous", None),
            Caller::Local => ("local", None),
            Caller::Key(key) => ("key", Some(key)),
        };
        Self {
            caller: kind,
            id: key.and_then(|key| key.id.as_ref()).map(|id| id.as_str()),
            name: key.map(|key| key.name.as_str()),
            rights: RightsView::from(rights),
        }
    }
}
