//! The scripts: one for each transition, so that each is one atomic step.
//!
//! A script fails half-way without being rolled back, so each of them looks at the types of its keys first, writes the
//! destination next and takes from the source last. Keys are named through `KEYS` only, time is the server's, and what
//! is stored is opaque to them. They are sent by digest, and whole when the server does not know the digest.

use std::fmt::Display;
use std::io::Write;

use bytes::Bytes;
use redis::Cmd;

use super::keys::ShardKeys;
#[cfg(feature = "test-util")]
use super::mutant::BrokerMutant;
use crate::broker::Lane;

const PRELUDE: &str = include_str!("lua/prelude.lua");

macro_rules! scripts {
    ($($name:ident),+ $(,)?) => {
        /// Every script, ready to be sent.
        pub(super) struct ScriptSet {
            $(pub(super) $name: Script,)+
        }

        impl ScriptSet {
            pub(super) fn new() -> Self {
                Self { $($name: Script::new(include_str!(concat!("lua/", stringify!($name), ".lua"))),)+ }
            }

            /// The digest of the script of this name, by which it is seen on the wire.
            #[cfg(feature = "test-util")]
            pub(super) fn digest_of(&self, name: &str) -> Option<&str> {
                match name {
                    $(stringify!($name) => Some(self.$name.script.get_hash()),)+
                    _ => None,
                }
            }

            /// The same scripts with a guarantee broken.
            #[cfg(feature = "test-util")]
            pub(super) fn broken_by(mutant: BrokerMutant) -> Self {
                Self {
                    $($name: Script::new(&mutant.patch(
                        stringify!($name),
                        &whole(include_str!(concat!("lua/", stringify!($name), ".lua"))),
                    )),)+
                }
            }
        }
    };
}

scripts!(
    adopt,
    append,
    beat,
    claim,
    find,
    forget,
    inspect,
    lanes,
    list,
    pending,
    probe,
    promote,
    reap,
    renew,
    replay,
    restore,
    settle,
    snapshot_due,
    snapshot_keys,
    snapshot_stream,
    state,
    state_over,
    state_remove,
    stats,
    take,
    trim,
    uncount,
);

/// About how long a key is.
const BYTES_A_KEY: usize = 48;

/// One script.
pub(super) struct Script {
    script: redis::Script,
    code: String,
}

impl Script {
    /// From the text of a file, the prelude not included.
    pub(super) fn new(text: &str) -> Self {
        let code = if text.contains(PRELUDE) { text.to_owned() } else { whole(text) };
        Self { script: redis::Script::new(&code), code }
    }
}

/// A script with the prelude behind its first line, which Redis wants to be the very first.
fn whole(text: &str) -> String {
    let (first, rest) = text.split_once('\n').unwrap_or((text, ""));
    format!("{first}\n{PRELUDE}{rest}")
}

/// A call of a script: the fixed keys, then the lanes, then what else it wants.
pub(super) struct ScriptCall<'a> {
    script: &'a Script,
    keys: Vec<Bytes>,
    arguments: ScriptArguments,
}

/// The arguments of a call, one behind the other.
#[derive(Default)]
struct ScriptArguments {
    bytes: Vec<u8>,
    ends: Vec<usize>,
}

impl ScriptArguments {
    fn push(&mut self, argument: &[u8]) {
        self.bytes.extend_from_slice(argument);
        self.ends.push(self.bytes.len());
    }

    fn push_shown(&mut self, argument: impl Display) {
        // Writing to memory does not fail.
        let _ = write!(self.bytes, "{argument}");
        self.ends.push(self.bytes.len());
    }

    fn iter(&self) -> impl Iterator<Item = &[u8]> {
        let starts = std::iter::once(&0).chain(&self.ends);
        starts.zip(&self.ends).map(|(start, end)| &self.bytes[*start..*end])
    }
}

impl<'a> ScriptCall<'a> {
    /// The largest number that a script can count.
    pub(super) const MOST: u64 = 1 << 53;

    /// A call with the fixed keys.
    pub(super) fn new(script: &'a Script, keys: &ShardKeys) -> Self {
        Self { script, keys: keys.fixed().to_vec(), arguments: ScriptArguments::default() }
    }

    /// The streams of these lanes, as the next keys.
    pub(super) fn lane_keys<'l>(mut self, keys: &ShardKeys, lanes: impl IntoIterator<Item = &'l Lane>) -> Self {
        self.keys.extend(lanes.into_iter().map(|lane| keys.lane(lane)));
        self
    }

    /// The streams of these lanes as the next keys; how many, and their names, as the next arguments.
    pub(super) fn named_lanes(self, keys: &ShardKeys, lanes: &[Lane]) -> Self {
        let mut call = self.lane_keys(keys, lanes).number(lanes.len());
        lanes.iter().for_each(|lane| call.push_text(lane.as_str()));
        call
    }

    /// One more key.
    pub(super) fn push_key(&mut self, key: Bytes) {
        self.keys.push(key);
    }

    /// One more argument: a number.
    pub(super) fn number(mut self, number: impl TryInto<u64>) -> Self {
        self.push_number(number);
        self
    }

    /// One more argument: text.
    pub(super) fn text(mut self, text: &str) -> Self {
        self.push_text(text);
        self
    }

    /// One more argument: a number. One that is out of range becomes the largest that a script can count.
    pub(super) fn push_number(&mut self, number: impl TryInto<u64>) {
        let number = number.try_into().unwrap_or(Self::MOST).min(Self::MOST);
        self.arguments.push_shown(number);
    }

    /// One more argument: text.
    pub(super) fn push_text(&mut self, text: &str) {
        self.arguments.push(text.as_bytes());
    }

    /// One more argument: what is shown of a value.
    pub(super) fn push_shown(&mut self, value: impl Display) {
        self.arguments.push_shown(value);
    }

    /// One more argument: bytes.
    pub(super) fn push_bytes(&mut self, bytes: impl AsRef<[u8]>) {
        self.arguments.push(bytes.as_ref());
    }

    /// The call by the digest of the script.
    pub(super) fn by_digest(&self) -> Cmd {
        self.command("EVALSHA", self.script.script.get_hash())
    }

    /// The call with the script.
    pub(super) fn by_text(&self) -> Cmd {
        self.command("EVAL", &self.script.code)
    }

    fn command(&self, name: &str, script: &str) -> Cmd {
        let words = 3 + self.keys.len() + self.arguments.ends.len();
        let mut command = Cmd::with_capacity(words, self.arguments.bytes.len() + BYTES_A_KEY * (3 + self.keys.len()));
        command.arg(name).arg(script).arg(self.keys.len());
        for word in self.keys.iter().map(AsRef::as_ref).chain(self.arguments.iter()) {
            command.arg(word);
        }
        command
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scripts_and_commands_mean_the_same_group() {
        assert!(PRELUDE.contains(&format!("local GROUP = '{}'\n", crate::broker::redis::keys::GROUP)));
    }

    #[test]
    fn the_first_line_stays_first_and_the_prelude_follows() {
        let script = Script::new("#!lua flags=allow-oom\nreturn 1\n");
        assert!(script.code.starts_with("#!lua flags=allow-oom\n-- What all scripts share"));
        assert!(script.code.ends_with("return 1\n"));
        assert_eq!(Script::new(&script.code).code, script.code);
    }

    #[test]
    fn only_what_takes_events_in_is_refused_when_memory_is_full() {
        for (name, text) in [
            ("append", include_str!("lua/append.lua")),
            ("restore", include_str!("lua/restore.lua")),
            ("probe", include_str!("lua/probe.lua")),
            ("claim", include_str!("lua/claim.lua")),
            ("settle", include_str!("lua/settle.lua")),
            ("renew", include_str!("lua/renew.lua")),
            ("promote", include_str!("lua/promote.lua")),
            ("take", include_str!("lua/take.lua")),
        ] {
            let first = text.lines().next().unwrap();
            assert!(first.starts_with("#!lua"), "{name}");
            assert_eq!(first.contains("allow-oom"), !["append", "restore", "probe"].contains(&name), "{name}");
        }
    }
}
