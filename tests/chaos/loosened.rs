//! A setting of Redis that somebody changes while hosts work with it, and what they have to say of it.
//!
//! A host looks at the settings every ten seconds. Of one that keeps what is accepted for less long than was promised it
//! says the new durability; of one with which accepted events are lost it says that it is not ready, and by which line
//! that is mended, and it accepts nothing.

use std::time::Duration;

use eventstream_tests::client::Client;
use eventstream_tests::eventually::try_eventually;
use eventstream_tests::redis::RedisServer;

/// How long a setting stays at least: longer than from one look of a host to the next.
pub const NOTICED_WITHIN: Duration = Duration::from_secs(11);
/// How much longer a host may take that was cut off or stood still in the meantime.
const GRACE: Duration = Duration::from_secs(10);
/// How long an answer may take before a host counts as away.
const LOOK_LIMIT: Duration = Duration::from_secs(5);

/// A setting that is changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Loosened {
    name: &'static str,
    value: &'static str,
    usual: &'static str,
    expected: Expected,
}

/// What a host is to say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Expected {
    /// It serves, and names this durability.
    Durability(&'static str),
    /// It is not ready, and names this line.
    Refusal(&'static str),
}

/// Those that there are.
const ALL: [Loosened; 4] = [
    Loosened { name: "appendfsync", value: "everysec", usual: "always", expected: Expected::Durability("everysec") },
    Loosened { name: "appendfsync", value: "no", usual: "always", expected: Expected::Durability("none") },
    Loosened {
        name: "appendonly",
        value: "no",
        usual: "yes",
        expected: Expected::Refusal("CONFIG SET appendonly yes"),
    },
    Loosened {
        name: "maxmemory-policy",
        value: "allkeys-lru",
        usual: "noeviction",
        expected: Expected::Refusal("CONFIG SET maxmemory-policy noeviction"),
    },
];

/// What came of asking a host.
enum Said {
    /// What it was to say.
    Told,
    /// Nothing, or something else that explains why it cannot know.
    Away,
    /// That all is as it was.
    Unaware(String),
}

impl Loosened {
    /// One of them.
    pub fn pick(seed: u64) -> Self {
        ALL[usize::try_from(seed % ALL.len() as u64).unwrap_or_default()]
    }

    /// Changes the setting.
    pub fn set(self, server: &RedisServer) {
        let _: String = server.command(&["CONFIG", "SET", self.name, self.value]).unwrap();
    }

    /// Sets it as it was, and writes something, so that what was written before is synced.
    pub fn tighten(self, server: &RedisServer) {
        let _: String = server.command(&["CONFIG", "SET", self.name, self.usual]).unwrap();
        let () = server.command(&["SET", "tightened", "1"]).unwrap();
        let _: i64 = server.command(&["DEL", "tightened"]).unwrap();
    }

    /// Whether hosts do not even start on such a store.
    pub fn is_refused(self) -> bool {
        matches!(self.expected, Expected::Refusal(_))
    }

    /// Asks a host until it says what it is to say; whether it did.
    ///
    /// # Errors
    /// It says that all is as it was, and goes on saying so.
    pub fn is_told(self, url: &str) -> Result<bool, String> {
        let asked = try_eventually(GRACE, || match self.ask(url) {
            Said::Told => Ok(()),
            Said::Away => Err(None),
            Said::Unaware(says) => Err(Some(says)),
        });
        match asked {
            Ok(()) => Ok(true),
            Err(None) => Ok(false),
            Err(Some(says)) => {
                let (name, value) = (self.name, self.value);
                let seconds = (NOTICED_WITHIN + GRACE).as_secs();
                Err(format!("the host at {url} has not noticed {name} {value} within {seconds} s and says {says}"))
            }
        }
    }

    fn ask(self, url: &str) -> Said {
        let client = Client::with_timeout(url, LOOK_LIMIT);
        let Ok(answer) = client.request("GET", "/readyz?verbose", &[], None) else { return Said::Away };
        let says = answer.text();
        match self.expected {
            Expected::Refusal(line) if answer.status == 503 && says.contains(line) => Said::Told,
            Expected::Durability(word) if says.contains(&format!("\"durability\":\"{word}\"")) => Said::Told,
            _ if answer.status == 200 => Said::Unaware(says),
            _ => Said::Away,
        }
    }
}
