//! Tests of the reader of sources.

use super::source::{DocText, read};

#[test]
fn paths_are_found_wherever_they_are_written() {
    let text = r##"
        //! redis::in_a_comment
        use crate::{event::{self, Event as Fact}, broker};
        use super::keys::Key;
        use axum;
        const TEXT: &str = "redis::in_a_string"; const RAW: &str = r#"redis::"raw""#; const C: char = '"';
        fn act<'a>(event: &'a Fact) { event::act(); tokio::spawn(async { redis::cmd("GET") }); broker::open(); <u8 as A>::b::c(); }
        fn log() { tracing::warn!("x", toml::to_string(<u8 as A>::b::c())); }
        #[cfg(test)]
        mod tests { use super::*; fn check() { toml::from_str("x"); } }
        #[cfg(test)]
        mod fakes;
        fn last() { self::tests::check() }
        pub(super) use self::fakes::{Fake, Other as Another};
        macro_rules! make { ($name:ident) => { pub(in crate::broker) struct $name; } }
    "##;
    let source = read(text, &["broker".into(), "redis".into()]).unwrap();
    let found: Vec<(String, bool)> = source.paths.iter().map(|n| (n.segments.join("::"), n.in_test)).collect();
    let expected = [
        ("crate::event", false),
        ("crate::event::Event", false),
        ("crate::broker", false),
        ("crate::broker::keys::Key", false),
        ("axum::self", false),
        ("crate::event::Event", false),
        ("crate::event::act", false),
        ("tokio::spawn", false),
        ("redis::cmd", false),
        ("crate::broker::open", false),
        ("tracing::warn", false),
        ("toml::to_string", false),
        ("crate::broker::redis", true),
        ("toml::from_str", true),
        ("crate::broker::redis::tests::check", false),
    ];
    let expected: Vec<(String, bool)> = expected.map(|(path, in_test)| (path.to_owned(), in_test)).into();
    assert_eq!(found, expected);
    assert_eq!(source.test_modules, [["crate", "broker", "redis", "fakes"].map(String::from).to_vec()]);
    let handed_on: Vec<(&str, String)> =
        source.reexports.iter().map(|handed| (handed.name.as_str(), handed.path.segments.join("::"))).collect();
    let fakes = "crate::broker::redis::fakes";
    assert_eq!(handed_on, [("Fake", format!("{fakes}::Fake")), ("Another", format!("{fakes}::Other"))]);
}

#[test]
fn types_switches_and_documentation_are_found() {
    let text = r#"//! A file.
//! With two lines.

/// A type.
struct First { #[cfg(feature = "test-util")] field: u8 }
#[cfg(any(test, feature = "test-util"))]
mod contract;
#[cfg(feature = "test-util")]
pub use contract::Suite;
#[cfg(test)]
enum OfTests {}
fn act() {
    type Second = u8;
    if cfg!(feature = "test-util") {}
}
"#;
    let source = read(text, &["broker".into()]).unwrap();
    let types: Vec<(&str, usize, bool)> =
        source.types.iter().map(|defined| (defined.name.as_str(), defined.line, defined.in_test)).collect();
    assert_eq!(types, [("First", 5, false), ("OfTests", 11, true), ("Second", 13, false)]);
    let switches: Vec<(&str, usize)> =
        source.test_switches.iter().map(|switch| (switch.what.as_str(), switch.line)).collect();
    assert_eq!(switches, [("code", 5), ("mod contract", 6), ("use", 8), ("code", 14)]);
    let docs = [(1, vec!["A file.", "With two lines."]), (4, vec!["A type."])];
    let docs = docs.map(|(line, lines)| DocText { line, lines: lines.into_iter().map(String::from).collect() });
    assert_eq!(source.docs, docs);
}
