//! A durability setting of Redis that somebody changes while hosts work, and what the hosts must report.
//!
//! A host checks the settings every ten seconds. If the store has become less durable, the host reports the new durability.
//! If accepted events could be lost, it is not ready, names the command that repairs the setting, and accepts nothing.

use std::time::Duration;

use eventstream_tests::client::Client;
use eventstream_tests::eventually::try_eventually;
use eventstream_tests::redis::RedisServer;

/// How long a setting stays at least: longer than the pause between two checks of a host.
pub const NOTICED_WITHIN: Duration = Duration::from_secs(11);
/// How much longer a host may take that was cut off or stopped meanwhile.
const GRACE: Duration = Duration::from_secs(10);
/// How long an answer may take before the host counts as away.
const LOOK_LIMIT: Duration = Duration::from_secs(5);

/// A setting of Redis with a value that makes it less durable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LooseSetting {
    name: &'static str,
    value: &'static str,
    usual: &'static str,
    expected: ExpectedReport,
}

/// What a host must report.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum ExpectedReport {
    /// The host serves, and reports this durability.
    Durability(&'static str),
    /// The host is not ready, and names this command.
    Refusal(&'static str),
}

/// All loose settings.
const ALL: [LooseSetting; 4] = [
    LooseSetting {
        name: "appendfsync",
        value: "everysec",
        usual: "always",
        expected: ExpectedReport::Durability("everysec"),
    },
    LooseSetting { name: "appendfsync", value: "no", usual: "always", expected: ExpectedReport::Durability("none") },
    LooseSetting {
        name: "appendonly",
        value: "no",
        usual: "yes",
        expected: ExpectedReport::Refusal("CONFIG SET appendonly yes"),
    },
    LooseSetting {
        name: "maxmemory-policy",
        value: "allkeys-lru",
        usual: "noeviction",
        expected: ExpectedReport::Refusal("CONFIG SET maxmemory-policy noeviction"),
    },
];

/// What a host reported.
enum HostReport {
    /// What it must report.
    AsExpected,
    /// Nothing, or another trouble, because of which it cannot know the setting.
    Away,
    /// That the store is as it was, with the answer.
    Unaware(String),
}

impl LooseSetting {
    /// Picks one.
    pub fn pick(seed: u64) -> Self {
        ALL[usize::try_from(seed % ALL.len() as u64).unwrap_or_default()]
    }

    /// Changes the setting.
    pub fn set(self, server: &RedisServer) {
        let _: String = server.command(&["CONFIG", "SET", self.name, self.value]).unwrap();
    }

    /// Restores the setting, and writes a key so that everything written before is synced.
    pub fn restore(self, server: &RedisServer) {
        let _: String = server.command(&["CONFIG", "SET", self.name, self.usual]).unwrap();
        let () = server.command(&["SET", "tightened", "1"]).unwrap();
        let _: i64 = server.command(&["DEL", "tightened"]).unwrap();
    }

    /// Whether hosts refuse to start on such a store.
    pub fn is_refused(self) -> bool {
        matches!(self.expected, ExpectedReport::Refusal(_))
    }

    /// Waits until a host reports what it must. False if it cannot know.
    ///
    /// # Errors
    /// The host still reports that the store is as it was.
    pub fn wait_for_report(self, url: &str) -> Result<bool, String> {
        let asked = try_eventually(GRACE, || match self.ask(url) {
            HostReport::AsExpected => Ok(()),
            HostReport::Away => Err(None),
            HostReport::Unaware(says) => Err(Some(says)),
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

    fn ask(self, url: &str) -> HostReport {
        let client = Client::with_timeout(url, LOOK_LIMIT);
        let Ok(answer) = client.request("GET", "/readyz?verbose", &[], None) else { return HostReport::Away };
        let says = answer.text();
        match self.expected {
            ExpectedReport::Refusal(line) if answer.status == 503 && says.contains(line) => HostReport::AsExpected,
            ExpectedReport::Durability(word) if says.contains(&format!("\"durability\":\"{word}\"")) => {
                HostReport::AsExpected
            }
            _ if answer.status == 200 => HostReport::Unaware(says),
            _ => HostReport::Away,
        }
    }
}
