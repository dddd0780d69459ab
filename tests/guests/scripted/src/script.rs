//! The payload of an event for this plugin.

use std::hash::{BuildHasher, RandomState};
use std::sync::atomic::{AtomicU32, Ordering};

use serde::Deserialize;
use serde_json::value::RawValue;

/// See the README beside this workspace.
#[derive(Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
pub struct Script {
    #[serde(rename = "do")]
    pub ending: Ending,
    pub log_bytes: u64,
    pub stderr_bytes: u64,
    pub stdout_bytes: u64,
    pub sleep_ms: u64,
    pub spin_ms: u64,
    pub publish: u32,
    pub publish_type: String,
    pub publish_payload: Option<Box<RawValue>>,
    pub publish_delay_ms: Option<u64>,
    pub ignore_publish_error: bool,
    pub state: Vec<StateCall>,
    pub flaky: u32,
    pub return_bytes: Option<usize>,
    #[serde(alias = "afterMs")]
    pub after_ms: Option<u64>,
    pub message: String,
    pub key: String,
    pub http: Request,
}

/// A request, and how often it is sent.
#[derive(Default, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
pub struct Request {
    pub method: String,
    pub url: String,
    pub headers: Vec<(String, String)>,
    pub body: String,
    pub times: Option<u32>,
}

/// A call of the plugin's state; see the README.
#[derive(Deserialize)]
#[serde(rename_all = "kebab-case", rename_all_fields = "kebab-case", deny_unknown_fields)]
pub enum StateCall {
    Get {
        key: String,
    },
    Set {
        key: String,
        value: Option<String>,
        bytes: Option<usize>,
        ttl_ms: Option<u64>,
    },
    Delete {
        key: String,
    },
    Increment {
        key: String,
        delta: i64,
    },
    /// Reads a number and writes the next one.
    Next {
        key: String,
    },
}

#[derive(Clone, Copy, Default, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Ending {
    #[default]
    Ok,
    Http,
    Echo,
    Facts,
    Static,
    Config,
    Secret,
    State,
    Forbidden,
    Retry,
    Reject,
    Coin,
    Trap,
    Unreachable,
    Exit,
    Loop,
    Allocate,
    Recurse,
    PublishTooMany,
}

impl Default for Script {
    fn default() -> Self {
        Self {
            ending: Ending::Ok,
            log_bytes: 0,
            stderr_bytes: 0,
            stdout_bytes: 0,
            sleep_ms: 0,
            spin_ms: 0,
            publish: 0,
            publish_type: "child".into(),
            publish_payload: None,
            publish_delay_ms: None,
            ignore_publish_error: false,
            state: Vec::new(),
            flaky: 0,
            return_bytes: None,
            after_ms: None,
            message: "as the payload asked".into(),
            key: "key".into(),
            http: Request::default(),
        }
    }
}

impl Ending {
    /// The ending itself, or what the coin says.
    pub fn flipped(self) -> Self {
        match self {
            Self::Coin => {
                [Self::Ok, Self::Retry, Self::Reject, Self::Trap][(RandomState::new().hash_one(0) % 4) as usize]
            }
            other => other,
        }
    }
}

/// Counts the calls of this instance; more than 1 would mean that an instance was used twice.
pub fn count_call() -> u32 {
    static CALLS: AtomicU32 = AtomicU32::new(0);
    CALLS.fetch_add(1, Ordering::Relaxed) + 1
}
