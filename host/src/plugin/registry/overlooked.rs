//! What lies in the plugin directory, or stands in the settings, and is for no plugin: a misspelt name is told, since what it
//! says is obeyed nowhere.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::time::{Duration, Instant};

/// How alike two names are from which on the one may be meant by the other.
const ALIKE: f64 = 0.7;

/// What was overlooked, and since when.
#[derive(Debug, Default)]
pub(in crate::plugin) struct OverlookedChanges {
    seen: BTreeMap<String, OverlookedFile>,
}

#[derive(Debug)]
struct OverlookedFile {
    since: Instant,
    is_told: bool,
}

/// What is for no plugin, in words. Blocks. `plugins` are the names of those in the directory, `given` those for which
/// there are settings elsewhere, `gone` those whose settings may stay.
pub(in crate::plugin) fn find<'a>(
    dir: &Path,
    plugins: &BTreeSet<String>,
    given: impl Iterator<Item = &'a String>,
    gone: &BTreeSet<String>,
) -> BTreeSet<String> {
    let mut words = BTreeSet::new();
    for name in given.filter(|name| !plugins.contains(*name) && !gone.contains(*name)) {
        words.insert(format!("[plugins.{name:?}] is for no plugin: there is no {name}.wasm{}", nearest(name, plugins)));
    }
    let Ok(entries) = fs::read_dir(dir) else { return words };
    for entry in entries.filter_map(Result::ok) {
        words.extend(of_file(&entry.file_name(), plugins, gone));
    }
    words
}

fn of_file(file: &OsStr, plugins: &BTreeSet<String>, gone: &BTreeSet<String>) -> Option<String> {
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
        "toml" if !plugins.contains(name) && !gone.contains(name) => {
            Some(format!("{shown} is for no plugin: there is no {name}.wasm{}", nearest(name, plugins)))
        }
        "wasm" | "toml" => None,
        other if other.eq_ignore_ascii_case("wasm") => {
            Some(format!("{shown} is not loaded: names of plugins end in .wasm; rename it to {name}.wasm"))
        }
        _ => None,
    }
}

/// The plugin that may be meant.
fn nearest(name: &str, plugins: &BTreeSet<String>) -> String {
    let alike = |other: &String| strsim::jaro(&other.to_lowercase(), &name.to_lowercase());
    let nearest = plugins.iter().max_by(|one, other| alike(one).total_cmp(&alike(other)));
    nearest.filter(|it| alike(it) > ALIKE).map_or_else(String::new, |it| format!("; did you mean {it:?}?"))
}

impl OverlookedChanges {
    /// Takes in what was found at a look. Settings are often put there before their plugin, so that what is found is told
    /// once it has been there for a while. Gives what to tell now, and when to look again.
    pub(in crate::plugin) fn observe(
        &mut self,
        found: BTreeSet<String>,
        settle: Duration,
        now: Instant,
    ) -> (Vec<String>, Option<Duration>) {
        self.seen.retain(|words, _| found.contains(words));
        let (mut told, mut again_in) = (Vec::new(), None);
        for words in found {
            let seen = self.seen.entry(words.clone()).or_insert(OverlookedFile { since: now, is_told: false });
            let left = settle.saturating_sub(now.duration_since(seen.since));
            if !left.is_zero() {
                again_in = Some(again_in.map_or(left, |other: Duration| other.min(left)));
            } else if !seen.is_told {
                seen.is_told = true;
                told.push(words);
            }
        }
        (told, again_in)
    }

    /// All that was told and holds still.
    pub(in crate::plugin) fn told(&self) -> Vec<String> {
        self.seen.iter().filter(|(_, seen)| seen.is_told).map(|(words, _)| words.clone()).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(names: &[&str]) -> BTreeSet<String> {
        names.iter().map(|name| (*name).to_owned()).collect()
    }

    #[test]
    fn what_is_for_no_plugin_is_told_with_the_name_that_may_be_meant() {
        let plugins = names(&["user-signup", "order.paid"]);
        let told = |file: &[u8]| of_file(OsStr::from_bytes(file), &plugins, &names(&["went"]));
        for (file, words) in [
            (
                &b"user_signup.toml"[..],
                "user_signup.toml is for no plugin: there is no user_signup.wasm; did you mean \"user-signup\"?",
            ),
            (b"zzz.toml", "zzz.toml is for no plugin: there is no zzz.wasm"),
            (b"PAY.WASM", "rename it to PAY.wasm"),
            (b"p\xe4y.wasm", "p\\xe4y.wasm is not loaded: its name is not UTF-8"),
        ] {
            let told = told(file).unwrap();
            assert!(told.contains(words), "{told} says {words}");
        }
        for file in
            ["user-signup.toml", "user-signup.wasm", "new.wasm", "went.toml", "README.md", ".x.toml", "a.wasm.tmp"]
        {
            assert_eq!(told(file.as_bytes()), None, "{file}");
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
    fn what_is_overlooked_is_told_once_and_not_before_it_has_been_there_for_a_while() {
        let mut overlooked = OverlookedChanges::default();
        let start = Instant::now();
        let mut look = |found: &[&str], at_ms| {
            let now = start + Duration::from_millis(at_ms);
            let (told, again_in) = overlooked.observe(names(found), Duration::from_millis(500), now);
            (told.len(), again_in, overlooked.told().len())
        };
        assert_eq!(look(&["a"], 0), (0, Some(Duration::from_millis(500)), 0));
        assert_eq!(look(&["a", "b"], 400), (0, Some(Duration::from_millis(100)), 0));
        assert_eq!(look(&["a"], 500), (1, None, 1));
        assert_eq!(look(&["a"], 9_000), (0, None, 1));
        assert_eq!(look(&[], 9_500), (0, None, 0));
    }
}
