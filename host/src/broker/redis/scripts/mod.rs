//! The Lua scripts. Each one is one transition, because Redis runs a script as one atomic step.
//!
//! Redis does not roll a failed script back. So each script checks the types of its keys first, then writes the
//! destination, and removes from the source last. A script gets all its keys through `KEYS`, uses the server's clock, and
//! treats records as opaque. It is called by its digest, and with its text when the server does not know the digest.

pub mod keys;

use std::fmt::Display;
use std::io::Write;

use bytes::Bytes;
use redis::Cmd;

use self::keys::StoreKeys;
use crate::broker::Lane;

const PRELUDE: &str = include_str!("prelude.lua");

macro_rules! scripts {
    ($($name:ident),+ $(,)?) => {
        /// Every script, ready to be sent.
        pub struct ScriptSet {
            $(pub $name: Script,)+
        }

        impl ScriptSet {
            pub fn new() -> Self {
                Self::new_edited(|_, code| code)
            }

            /// The scripts after `edit`, which gets the name and the code of each.
            pub fn new_edited(edit: impl Fn(&str, String) -> String) -> Self {
                Self {
                    $($name: Script::from_code(edit(
                        stringify!($name),
                        with_prelude(include_str!(concat!(stringify!($name), ".lua"))),
                    )),)+
                }
            }

            /// The digest by which `EVALSHA` names this script.
            pub fn digest_of(&self, name: &str) -> Option<&str> {
                match name {
                    $(stringify!($name) => Some(self.$name.script.get_hash()),)+
                    _ => None,
                }
            }
        }
    };
}

scripts!(
    adopt,
    append,
    audit_read,
    audit_trim,
    audit_write,
    beat,
    cancel,
    claim,
    find,
    idem_expire,
    inspect,
    key_write,
    keys_read,
    keys_used,
    lanes,
    list,
    pause_write,
    pauses_read,
    pending,
    probe,
    promote,
    reap,
    recount,
    renew,
    restore,
    run_now,
    settle,
    snapshot_due,
    snapshot_keys,
    snapshot_stream,
    state,
    state_expire,
    state_expired,
    state_remove,
    stats,
    take_failed,
    take_over,
    trim,
    uncount,
);

/// The usual length of a key, to allocate a command once.
const BYTES_A_KEY: usize = 48;

/// One script.
pub struct Script {
    script: redis::Script,
    code: String,
}

impl Script {
    /// From complete code; see [`with_prelude`].
    pub fn from_code(code: String) -> Self {
        Self { script: redis::Script::new(&code), code }
    }
}

/// Puts the prelude after the first line of a script, which has to stay first for Redis.
pub fn with_prelude(text: &str) -> String {
    let (first, rest) = text.split_once('\n').unwrap_or((text, ""));
    format!("{first}\n{PRELUDE}{rest}")
}

/// A call of a script: the fixed keys, then lanes and further keys, and the arguments.
pub struct ScriptCall<'a> {
    script: &'a Script,
    keys: Vec<Bytes>,
    arguments: ScriptArguments,
}

/// The arguments of a call in one buffer.
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

    fn push_display(&mut self, argument: impl Display) {
        // Writing to a vector does not fail.
        let _ = write!(self.bytes, "{argument}");
        self.ends.push(self.bytes.len());
    }

    fn iter(&self) -> impl Iterator<Item = &[u8]> {
        let starts = std::iter::once(&0).chain(&self.ends);
        starts.zip(&self.ends).map(|(start, end)| &self.bytes[*start..*end])
    }
}

impl<'a> ScriptCall<'a> {
    /// The largest number that Lua counts exactly.
    pub const MAX_NUMBER: u64 = 1 << 53;
    /// The most bytes of one call, unless a single item is larger. All tasks share the connection, so a call
    /// has to be sent and run long before the time limit for a reply.
    pub const MAX_BYTES: usize = 2 * 1_024 * 1_024;

    /// A call with the fixed keys.
    pub fn new(script: &'a Script, keys: &StoreKeys) -> Self {
        Self { script, keys: keys.fixed().to_vec(), arguments: ScriptArguments::default() }
    }

    /// Adds the streams of these lanes as keys.
    pub fn lane_keys<'l>(mut self, keys: &StoreKeys, lanes: impl IntoIterator<Item = &'l Lane>) -> Self {
        self.keys.extend(lanes.into_iter().map(|lane| keys.lane(lane)));
        self
    }

    /// Adds the streams of these lanes as keys, and their number and names as arguments.
    pub fn named_lanes(self, keys: &StoreKeys, lanes: &[Lane]) -> Self {
        let mut call = self.lane_keys(keys, lanes).number(lanes.len());
        lanes.iter().for_each(|lane| call.push_text(lane.as_str()));
        call
    }

    /// Adds a key.
    pub fn push_key(&mut self, key: Bytes) {
        self.keys.push(key);
    }

    /// Adds the audit as the last key, and as the last argument the note of a change; empty if no person asked for it.
    pub fn push_audit(&mut self, keys: &StoreKeys, note: Option<&str>) {
        self.push_key(keys.audit());
        self.push_text(note.unwrap_or_default());
    }

    /// Adds a number; see [`Self::push_number`].
    pub fn number(mut self, number: impl TryInto<u64>) -> Self {
        self.push_number(number);
        self
    }

    /// Adds text.
    pub fn text(mut self, text: &str) -> Self {
        self.push_text(text);
        self
    }

    /// Adds a number. One that is out of range becomes [`Self::MAX_NUMBER`].
    pub fn push_number(&mut self, number: impl TryInto<u64>) {
        let number = number.try_into().unwrap_or(Self::MAX_NUMBER).min(Self::MAX_NUMBER);
        self.arguments.push_display(number);
    }

    /// Adds text.
    pub fn push_text(&mut self, text: &str) {
        self.arguments.push(text.as_bytes());
    }

    /// Adds a value as [`Display`] shows it.
    pub fn push_display(&mut self, value: impl Display) {
        self.arguments.push_display(value);
    }

    /// Adds bytes.
    pub fn push_bytes(&mut self, bytes: impl AsRef<[u8]>) {
        self.arguments.push(bytes.as_ref());
    }

    /// The first Redis command in a line of the script, counted from 1.
    pub(in crate::broker::redis) fn command_in_line(&self, line: usize) -> Option<&str> {
        let (_, call) = self.script.code.lines().nth(line.checked_sub(1)?)?.split_once("call('")?;
        Some(call.split_once('\'')?.0)
    }

    /// The command that names the script by its digest.
    pub fn by_digest(&self) -> Cmd {
        self.command("EVALSHA", self.script.script.get_hash())
    }

    /// The command that carries the code of the script.
    pub fn by_text(&self) -> Cmd {
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

/// Splits items into parts, one for each call. The costs of a part stay within each limit, unless it is a single item.
pub fn split_calls<T, const N: usize>(items: &[T], limits: [usize; N], costs: impl Fn(&T) -> [usize; N]) -> Vec<&[T]> {
    let (mut parts, mut start, mut sums) = (Vec::new(), 0, [0; N]);
    for (place, item) in items.iter().enumerate() {
        let costs = costs(item);
        if place > start && (0..N).any(|n| sums[n] + costs[n] > limits[n]) {
            parts.push(&items[start..place]);
            (start, sums) = (place, [0; N]);
        }
        (0..N).for_each(|n| sums[n] += costs[n]);
    }
    if start < items.len() {
        parts.push(&items[start..]);
    }
    parts
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scripts_and_commands_name_the_same_group() {
        assert!(PRELUDE.contains(&format!("local GROUP = '{}'\n", keys::GROUP)));
    }

    #[test]
    fn the_prelude_follows_the_first_line() {
        let code = with_prelude("#!lua flags=allow-oom\nreturn 1\n");
        assert!(code.starts_with("#!lua flags=allow-oom\n-- Shared by all scripts"));
        assert!(code.ends_with("return 1\n"));
    }

    #[test]
    fn a_line_of_a_script_names_its_command() {
        let scripts = ScriptSet::new();
        let call = ScriptCall::new(&scripts.probe, &StoreKeys::new("es"));
        let line = 1 + call.script.code.lines().position(|line| line.contains("redis.call('TIME')")).unwrap();
        assert_eq!(call.command_in_line(line), Some("TIME"));
        assert_eq!((call.command_in_line(0), call.command_in_line(1), call.command_in_line(9_999)), (None, None, None));
    }

    #[test]
    fn only_scripts_that_accept_events_are_refused_when_memory_is_full() {
        for (name, text) in [
            ("append", include_str!("append.lua")),
            ("restore", include_str!("restore.lua")),
            ("probe", include_str!("probe.lua")),
            ("claim", include_str!("claim.lua")),
            ("settle", include_str!("settle.lua")),
            ("renew", include_str!("renew.lua")),
            ("promote", include_str!("promote.lua")),
            ("take_failed", include_str!("take_failed.lua")),
            ("take_over", include_str!("take_over.lua")),
            ("trim", include_str!("trim.lua")),
            // A key must be revoked at any time.
            ("key_write", include_str!("key_write.lua")),
            ("run_now", include_str!("run_now.lua")),
            ("cancel", include_str!("cancel.lua")),
            ("pause_write", include_str!("pause_write.lua")),
            ("audit_write", include_str!("audit_write.lua")),
            ("audit_trim", include_str!("audit_trim.lua")),
        ] {
            let first = text.lines().next().unwrap();
            assert!(first.starts_with("#!lua"), "{name}");
            assert_eq!(first.contains("allow-oom"), !["append", "restore", "probe"].contains(&name), "{name}");
        }
    }
}
