//! Fuzz targets: each takes any bytes and panics if the product treats them wrongly.
//!
//! libFuzzer (`tests/fuzz`) calls these functions with inputs that it invents. The test here calls them with the inputs in
//! `tests/fuzz/corpus` and with mutations of these, the same in every run. There is no target for CloudEvents, because the
//! product does not read them yet.

mod component;
mod draft;
#[cfg(test)]
mod mutation;
mod settings;

pub use component::{component, in_a_child};
pub use draft::draft;
pub use eventstream::broker::redis::testing::fuzz::check_entry as entry;
pub use eventstream::transfer::fuzz::line;
pub use settings::settings;

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::{Path, PathBuf};

    use fastrand::Rng;

    use super::*;
    use crate::layout;

    /// Decides which mutations there are.
    const SEED: u64 = 20_261_127;

    /// The inputs that are kept for a target.
    #[track_caller]
    fn corpus(target: &str) -> Vec<Vec<u8>> {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus").join(target);
        let mut files: Vec<PathBuf> = fs::read_dir(&folder).unwrap().map(|file| file.unwrap().path()).collect();
        files.sort();
        assert!(files.len() >= 10, "the inputs in {} were not found", folder.display());
        files.into_iter().map(|file| fs::read(file).unwrap()).collect()
    }

    /// Tries every input of a corpus, and so many mutations of them.
    #[track_caller]
    fn holds(target: fn(&[u8]), corpus: &[Vec<u8>], mutations: usize) {
        corpus.iter().for_each(|input| tried(target, input));
        let mut rng = Rng::with_seed(SEED);
        for _ in 0..mutations {
            tried(target, &mutation::mutated(corpus, &mut rng));
        }
    }

    /// Shows the input if something does not hold.
    #[track_caller]
    fn tried(target: fn(&[u8]), input: &[u8]) {
        struct Shown<'a>(&'a [u8]);

        impl Drop for Shown<'_> {
            fn drop(&mut self) {
                if std::thread::panicking() {
                    eprintln!("the input was: {}", self.0.escape_ascii());
                }
            }
        }

        let _shown = Shown(input);
        target(input);
    }

    #[test]
    fn whatever_is_posted_is_accepted_byte_for_byte_or_refused_with_the_place() {
        holds(draft, &corpus("draft"), 10_000);
    }

    #[test]
    fn whatever_stands_in_a_stream_is_read_or_put_aside_whole() {
        holds(entry, &corpus("entry"), 6_000);
    }

    #[test]
    fn whatever_stands_in_an_export_is_taken_as_it_is_or_refused() {
        holds(line, &corpus("line"), 10_000);
    }

    #[test]
    fn whatever_stands_in_a_configuration_is_understood_or_refused_with_the_place() {
        holds(settings, &corpus("settings"), 3_000);
    }

    #[test]
    fn whatever_lies_in_the_plugin_directory_runs_or_is_refused_in_words() {
        holds(component, &corpus("component"), 150);
        // Whole examples, damaged here and there.
        let examples = ["keyvalue", "scripted"].map(|name| fs::read(layout::guest(name)).unwrap());
        holds(component, &examples, 30);
        corpus("component").iter().for_each(|input| tried(in_a_child, input));
    }
}
