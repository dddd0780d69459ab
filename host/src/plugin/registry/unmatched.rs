//! Files in the plugin directory and sections of the settings that match no plugin. They have no effect, so they are
//! reported: most of them have a misspelt name.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::time::{Duration, Instant};

/// From which similarity on one name is proposed in place of another.
const MIN_SIMILARITY: f64 = 0.7;

/// What matched no plugin in the scans so far.
#[derive(Debug, Default)]
pub(super) struct UnmatchedItems {
    seen: BTreeMap<String, UnmatchedItem>,
}

#[derive(Debug)]
struct UnmatchedItem {
    since: Instant,
    is_reported: bool,
}

/// Describes what matches no plugin. `plugins` are the names in the directory, `sections` those with settings in the
/// configuration, and `removed` those whose settings may stay. Blocks.
pub(super) fn find<'a>(
    dir: &Path,
    plugins: &BTreeSet<String>,
    sections: impl Iterator<Item = &'a String>,
    removed: &BTreeSet<String>,
) -> BTreeSet<String> {
    let mut words = BTreeSet::new();
    for name in sections.filter(|name| !plugins.contains(*name) && !removed.contains(*name)) {
        words.insert(format!("[plugins.{name:?}] is for no plugin: there is no {name}.wasm{}", propose(name, plugins)));
    }
    let Ok(entries) = fs::read_dir(dir) else { return words };
    for entry in entries.filter_map(Result::ok) {
        words.extend(describe_file(&entry.file_name(), plugins, removed));
    }
    words
}

fn describe_file(file: &OsStr, plugins: &BTreeSet<String>, removed: &BTreeSet<String>) -> Option<String> {
    let shown = file.as_bytes().escape_ascii();
    let Some(text) = file.to_str() else {
        let is_component = file.as_bytes().ends_with(b".wasm");
        return is_component.then(|| format!("{shown} is not loaded: its name is not UTF-8; rename it"));
    };
    let (name, kind) = text.rsplit_once('.')?;
    if name.is_empty() || text.starts_with('.') {
        return None;
    }
    match kind {
        "toml" if !plugins.contains(name) && !removed.contains(name) => {
            Some(format!("{shown} is for no plugin: there is no {name}.wasm{}", propose(name, plugins)))
        }
        "wasm" | "toml" => None,
        other if other.eq_ignore_ascii_case("wasm") => {
            Some(format!("{shown} is not loaded: names of plugins end in .wasm; rename it to {name}.wasm"))
        }
        _ => None,
    }
}

/// A proposal of the plugin that may be meant.
fn propose(name: &str, plugins: &BTreeSet<String>) -> String {
    let similarity = |other: &String| strsim::jaro(&other.to_lowercase(), &name.to_lowercase());
    let nearest = plugins.iter().max_by(|one, other| similarity(one).total_cmp(&similarity(other)));
    nearest
        .filter(|it| similarity(it) > MIN_SIMILARITY)
        .map_or_else(String::new, |it| format!("; did you mean {it:?}?"))
}

impl UnmatchedItems {
    /// Notes what a scan found. Returns what to report now, and when to look again. An item is reported once it has been
    /// there for a while, since settings are often put there before their plugin.
    pub(super) fn observe(
        &mut self,
        found: BTreeSet<String>,
        quiet_time: Duration,
        now: Instant,
    ) -> (Vec<String>, Option<Duration>) {
        self.seen.retain(|words, _| found.contains(words));
        let (mut news, mut again_in) = (Vec::new(), None);
        for words in found {
            let seen = self.seen.entry(words.clone()).or_insert(UnmatchedItem { since: now, is_reported: false });
            let left = quiet_time.saturating_sub(now.duration_since(seen.since));
            if !left.is_zero() {
                again_in = Some(again_in.map_or(left, |other: Duration| other.min(left)));
            } else if !seen.is_reported {
                seen.is_reported = true;
                news.push(words);
            }
        }
        (news, again_in)
    }

    /// Everything that was reported and is still there.
    pub(super) fn reported(&self) -> Vec<String> {
        self.seen.iter().filter(|(_, seen)| seen.is_reported).map(|(words, _)| words.clone()).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(names: &[&str]) -> BTreeSet<String> {
        names.iter().map(|name| (*name).to_owned()).collect()
    }

    #[test]
    fn an_unmatched_item_is_reported_with_the_name_that_may_be_meant() {
        let plugins = names(&["user-signup", "order.paid"]);
        let described = |file: &[u8]| describe_file(OsStr::from_bytes(file), &plugins, &names(&["went"]));
        for (file, words) in [
            (
                &b"user_signup.toml"[..],
                "user_signup.toml is for no plugin: there is no user_signup.wasm; did you mean \"user-signup\"?",
            ),
            (b"zzz.toml", "zzz.toml is for no plugin: there is no zzz.wasm"),
            (b"PAY.WASM", "rename it to PAY.wasm"),
            (b"p\xe4y.wasm", "p\\xe4y.wasm is not loaded: its name is not UTF-8"),
        ] {
            let described = described(file).unwrap();
            assert!(described.contains(words), "{described} says {words}");
        }
        for file in
            ["user-signup.toml", "user-signup.wasm", "new.wasm", "went.toml", "README.md", ".x.toml", "a.wasm.tmp"]
        {
            assert_eq!(described(file.as_bytes()), None, "{file}");
        }
        let dir = tempfile::tempdir().unwrap();
        let given = ["order.payd".to_owned(), "order.paid".to_owned()];
        let found = find(dir.path(), &plugins, given.iter(), &names(&[]));
        let [words] = &found.into_iter().collect::<Vec<_>>()[..] else { panic!("the one of them is there") };
        assert!(
            words.starts_with("[plugins.\"order.payd\"]") && words.ends_with("did you mean \"order.paid\"?"),
            "{words}"
        );
    }

    #[test]
    fn an_unmatched_item_is_reported_once_and_only_after_a_while() {
        let mut unmatched = UnmatchedItems::default();
        let start = Instant::now();
        let mut scan = |found: &[&str], at_ms| {
            let now = start + Duration::from_millis(at_ms);
            let (news, again_in) = unmatched.observe(names(found), Duration::from_millis(500), now);
            (news.len(), again_in, unmatched.reported().len())
        };
        assert_eq!(scan(&["a"], 0), (0, Some(Duration::from_millis(500)), 0));
        assert_eq!(scan(&["a", "b"], 400), (0, Some(Duration::from_millis(100)), 0));
        assert_eq!(scan(&["a"], 500), (1, None, 1));
        assert_eq!(scan(&["a"], 9_000), (0, None, 1));
        assert_eq!(scan(&[], 9_500), (0, None, 0));
    }
}
