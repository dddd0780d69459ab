//! API keys and what they allow. Pure: the broker stores keys, and `api` checks requests against them.
//!
//! A client sends a [`KeyToken`]. Everybody else knows only its hash, which a [`ApiKey`] keeps beside the [`KeyRights`].

mod key;
mod rate;
mod rights;
mod scope;
mod token;

pub use key::{ApiKey, ConfiguredKey, KeyChangeError, KeySecret, KeyState, MAX_KEY_SECRETS, is_key_name};
pub use rate::{InvalidRate, RequestRate};
pub use rights::{KeyExcess, KeyRights, MAX_KEY_TYPES};
pub use scope::{InvalidScope, Scope, ScopeSet};
pub use token::{InvalidToken, KEY_PREFIX, KeyId, KeyToken, TokenHash};
