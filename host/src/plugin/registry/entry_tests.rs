//! The state machine of one plugin as a table: each state, each transition, and the state that follows.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use super::entry::{
    AddedRights, AttemptedFile, HeldBuild, MAX_RETRIES_AFTER_KILL, NotedFailure, PluginEntry, StartedLoad,
};
use crate::plugin::{LoadError, PluginSettings};

const RESCAN: Duration = Duration::from_secs(5);

/// An entry whose versions are named after the files that they come from, and the generation of the last load.
#[derive(Default)]
struct Life {
    entry: PluginEntry<&'static str>,
    generation: u64,
}

fn file(digest: &str) -> AttemptedFile {
    AttemptedFile { digest: digest.to_owned(), settings: PluginSettings::default() }
}

fn misfit() -> LoadError {
    LoadError::Misfits(vec!["imports acme:things".to_owned()])
}

fn killed() -> LoadError {
    LoadError::CompilerKilled("it took all memory".to_owned())
}

impl Life {
    fn begin(mut self, digest: &str) -> Self {
        self.generation = self.entry.begin_load(file(digest), false).unwrap().generation;
        self
    }

    fn serve(mut self, version: &'static str) -> Self {
        self.entry.end_load(self.generation);
        self.entry.serve(Arc::new(version), None);
        self.accept()
    }

    fn hold(mut self, version: &'static str) -> Self {
        self.entry.end_load(self.generation);
        let (digest, file) = (version.to_owned(), PathBuf::from("a.wasm"));
        self.entry.hold(HeldBuild {
            build: Arc::new(version),
            digest,
            file,
            rolled_back_from: None,
            added: AddedRights::default(),
        });
        self
    }

    fn fail(mut self) -> Self {
        self.entry.end_load(self.generation);
        self.entry.fail(&misfit(), RESCAN);
        self
    }

    fn restore(mut self, version: &'static str) -> Self {
        let is_refused = self.entry.refused().is_some() && self.entry.serving().is_none();
        match self.entry.restore(self.generation, Arc::new(version), None) {
            true if !is_refused => self.accept(),
            _ => self,
        }
    }

    fn approve(mut self, digest: &str) -> Self {
        match self.entry.approve(digest) {
            Some(_) => self.accept(),
            None => self,
        }
    }

    fn roll_back(mut self, version: &'static str) -> Self {
        self.entry.roll_back(Arc::new(version), Some("serving"));
        self.accept()
    }

    /// Routing refuses the newest version.
    fn refuse(mut self) -> Self {
        self.entry.set_conflict(Some("x is handled by the plugin \"b\" already".to_owned()));
        self
    }

    /// Routing accepts the newest version.
    fn accept(mut self) -> Self {
        self.entry.set_conflict(None);
        self
    }

    /// The status, the version that serves, and the file in whose place it serves.
    fn picture(&self) -> String {
        let serving = self.entry.serving().map(|version| **version);
        let status = self.entry.status(serving.is_some());
        let from = self.entry.rolled_back_from().map(|from| format!(" for {from}")).unwrap_or_default();
        format!("{status:?} {}{from}", serving.unwrap_or("-"))
    }
}

fn active() -> Life {
    Life::default().begin("1").serve("1")
}

type NamedState = (&'static str, fn() -> Life);
type NamedTransition = (&'static str, fn(Life) -> Life);

/// Each state by name.
fn states() -> Vec<NamedState> {
    vec![
        ("unknown", Life::default),
        ("first load", || Life::default().begin("1")),
        ("active", active),
        ("reload", || active().begin("2")),
        ("held", || active().begin("2").hold("2")),
        ("failed", || Life::default().begin("1").fail()),
        ("failed, last good serves", || active().begin("2").fail()),
        ("restored", || Life::default().begin("1").fail().restore("0")),
        ("rolled back", || active().begin("2").serve("2").roll_back("1")),
        ("refused by routing", || {
            let mut life = active().begin("2");
            life.entry.end_load(life.generation);
            life.entry.serve(Arc::new("2"), None);
            life.refuse()
        }),
        ("refused at the start", || Life::default().begin("1").serve("1").refuse()),
    ]
}

/// Each transition by name.
fn transitions() -> Vec<NamedTransition> {
    vec![
        ("begin", |life| life.begin("9")),
        ("serve", |life| life.serve("9")),
        ("hold", |life| life.hold("9")),
        ("fail", Life::fail),
        ("restore", |life| life.restore("0")),
        ("approve", |life| life.approve("2")),
        ("roll back", |life| life.roll_back("0")),
        ("refuse", Life::refuse),
    ]
}

/// What follows in each state (rows) from each transition (columns, in the order of [`transitions`]).
#[rustfmt::skip]
const FOLLOWS: [(&str, [&str; 8]); 11] = [
    ("unknown", [
        "Compiling -", "Active 9", "NeedsApproval -", "Failed -",
        "Active 0", "Failed -", "Active 0 for serving", "Failed -",
    ]),
    ("first load", [
        "Compiling -", "Active 9", "NeedsApproval -", "Failed -",
        "Compiling 0", "Compiling -", "Compiling 0 for 1", "Compiling -",
    ]),
    ("active", [
        "Compiling 1", "Active 9", "NeedsApproval 1", "FailedKeptLastGood 1",
        "Active 0", "Active 1", "Active 0 for 1", "Failed -",
    ]),
    ("reload", [
        "Compiling 1", "Active 9", "NeedsApproval 1", "FailedKeptLastGood 1",
        "Compiling 0", "Compiling 1", "Compiling 0 for 2", "Compiling -",
    ]),
    ("held", [
        "Compiling 1", "Active 9", "NeedsApproval 1", "FailedKeptLastGood 1",
        "Active 0", "Active 2", "Active 0 for 2", "NeedsApproval -",
    ]),
    ("failed", [
        "Compiling -", "Active 9", "NeedsApproval -", "Failed -",
        "FailedKeptLastGood 0", "Failed -", "Active 0 for 1", "Failed -",
    ]),
    ("failed, last good serves", [
        "Compiling 1", "Active 9", "NeedsApproval 1", "FailedKeptLastGood 1",
        "FailedKeptLastGood 0", "FailedKeptLastGood 1", "Active 0 for 2", "Failed -",
    ]),
    ("restored", [
        "Compiling 0", "Active 9", "NeedsApproval 0", "FailedKeptLastGood 0",
        "FailedKeptLastGood 0", "FailedKeptLastGood 0", "Active 0 for 1", "Failed -",
    ]),
    // A rollback makes the load before it obsolete, so nothing is restored.
    ("rolled back", [
        "Compiling 1 for 2", "Active 9", "NeedsApproval 1 for 2", "FailedKeptLastGood 1 for 2",
        "Active 1 for 2", "Active 1 for 2", "Active 0 for 2", "Failed - for 2",
    ]),
    ("refused by routing", [
        "Compiling 1", "Active 9", "NeedsApproval 1", "FailedKeptLastGood 1",
        "Active 0", "FailedKeptLastGood 1", "Active 0 for 2", "FailedKeptLastGood 1",
    ]),
    // The version that is restored serves beside the refused one, until routing accepts that one.
    ("refused at the start", [
        "Compiling -", "Active 9", "NeedsApproval -", "Failed -",
        "FailedKeptLastGood 0", "Failed -", "Active 0 for 1", "Failed -",
    ]),
];

#[test]
fn each_transition_leads_from_each_state_to_the_one_in_the_table() {
    let states = states();
    assert_eq!(states.len(), FOLLOWS.len());
    for ((state, build), (row, expected)) in states.into_iter().zip(FOLLOWS) {
        assert_eq!(state, row);
        for ((transition, apply), expected) in transitions().into_iter().zip(expected) {
            assert_eq!(apply(build()).picture(), expected, "{state}: {transition}");
        }
    }
}

#[test]
fn a_newer_load_cancels_the_one_before_it_and_its_result_is_discarded() {
    let mut entry = PluginEntry::<&str>::default();
    let first = entry.begin_load(file("1"), false).unwrap();
    let second = entry.begin_load(file("2"), false).unwrap();
    assert!(first.cancelled.is_cancelled() && !second.cancelled.is_cancelled());
    assert!(!entry.end_load(first.generation));
    assert!(!entry.restore(first.generation, Arc::new("0"), None) && entry.serving().is_none());
    assert!(entry.end_load(second.generation));
    assert!(!second.cancelled.is_cancelled(), "what follows from a load is not cancelled by its end");
    let third = entry.begin_load(file("3"), false).unwrap();
    drop(entry);
    assert!(third.cancelled.is_cancelled(), "a removal cancels it");
}

#[test]
fn a_rollback_makes_the_load_under_way_obsolete_without_cancelling_it() {
    let mut life = active().begin("2");
    assert_eq!(life.entry.roll_back(Arc::new("0"), None), "2");
    assert_eq!(life.picture(), "Compiling 0 for 2");
    assert!(!life.entry.end_load(life.generation));
    assert_eq!(life.accept().picture(), "Active 0 for 2");
}

#[test]
fn a_file_is_attempted_once_unless_it_was_rolled_back_from_and_put_back() {
    let mut life = active();
    assert!(life.entry.begin_load(file("1"), true).is_none(), "the same file, written again");
    let settings = PluginSettings { types: Some(Vec::new()), ..PluginSettings::default() };
    assert!(life.entry.begin_load(AttemptedFile { settings, ..file("1") }, false).is_some(), "other settings");
    life.entry.forget_attempt();
    assert!(life.entry.begin_load(file("1"), false).is_some());

    let mut life = active().begin("2").serve("2").roll_back("1");
    assert!(life.entry.begin_load(file("2"), false).is_none(), "it still lies there");
    let Some(StartedLoad { is_put_back: true, .. }) = life.entry.begin_load(file("2"), true) else {
        panic!("it was put back")
    };
    life.entry.end_rollback();
    assert_eq!(life.picture(), "Compiling 1");
}

#[test]
fn the_last_good_version_serves_until_routing_accepts_the_newest() {
    let mut life = active().begin("2");
    life.entry.end_load(life.generation);
    life.entry.serve(Arc::new("2"), None);
    assert!(life.entry.set_conflict(Some("x".to_owned())), "news");
    assert!(!life.entry.set_conflict(Some("x".to_owned())), "known already");
    assert_eq!(life.entry.problem("a", None).as_deref(), Some("x"));
    assert_eq!(life.picture(), "FailedKeptLastGood 1");
    let life = life.accept();
    assert_eq!((life.picture().as_str(), life.entry.problem("a", None)), ("Active 2", None));
    assert_eq!(life.entry.versions().last_good, None);
}

#[test]
fn only_the_held_build_can_be_approved() {
    let mut life = active().begin("2").hold("2");
    assert!(life.entry.approve("3").is_none());
    assert_eq!(life.picture(), "NeedsApproval 1");
    assert!(life.entry.problem("a", Some("1")).unwrap().contains("plugin approve a --digest 2"));
    assert!(life.entry.approve("2").is_some() && life.entry.approve("2").is_none());
    assert_eq!(life.picture(), "Active 2");
}

#[test]
fn a_failure_is_news_once_and_a_temporary_one_is_retried() {
    let mut life = active().begin("2");
    let noted = life.entry.fail(&misfit(), RESCAN);
    assert!(noted.news.is_some_and(|words| words.contains("acme:things")) && noted.retry_after.is_none());
    assert_eq!(life.entry.fail(&misfit(), RESCAN), NotedFailure { news: None, retry_after: None });
    assert_eq!(life.entry.attempted(), Some(&file("2")), "the same file is not loaded again");
    assert_eq!(life.entry.fail(&LoadError::Host, RESCAN).retry_after, Some(Duration::ZERO));
    assert_eq!(life.entry.attempted(), None);
}

#[test]
fn a_file_whose_compiler_is_killed_is_retried_after_growing_pauses_and_then_given_up() {
    let mut life = Life::default();
    for n in 0..MAX_RETRIES_AFTER_KILL {
        life = life.begin("1");
        assert_eq!(life.entry.fail(&killed(), RESCAN).retry_after, Some(RESCAN * 2_u32.pow(n)), "kill {n}");
    }
    life = life.begin("1");
    assert_eq!(life.entry.fail(&killed(), RESCAN).retry_after, None);
    assert!(life.entry.begin_load(file("1"), false).is_none(), "given up");
    life = life.begin("2");
    assert_eq!(life.entry.fail(&killed(), RESCAN).retry_after, Some(RESCAN), "another file");
}
