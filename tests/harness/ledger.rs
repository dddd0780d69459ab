//! The ledger of accepted events, and the audit that compares it with the final state of a deployment.
//!
//! The audit is pure. It takes what was accepted and what was observed, and names every promise that was broken. It knows
//! only the guarantees of the contract, not how the product works. Its own tests show that it finds each kind of damage.

use std::collections::{BTreeMap, BTreeSet};

use eventstream::event::Timestamp;

use crate::client::Event;
use crate::final_state::{FinalState, attempts_left_out};

/// How far the clock of a host may be behind the clock of the store, in milliseconds. Both round.
const CLOCK_GRAIN_MS: f64 = 2.0;
/// How often an event is taken over before it fails with the class `crash`.
const TAKEOVERS_BEFORE_CRASH: u64 = 5;
/// The most violations that an audit lists. The first ones say enough.
const MAX_VIOLATIONS: usize = 20;

/// What must become of an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EventKind {
    /// Processed at the first attempt.
    Ok,
    /// Processed after a few attempts.
    Flaky,
    /// Processed or failed, at random.
    Coin,
    /// Failed after the last attempt.
    Hopeless,
    /// Failed at once.
    Rejected,
    /// Processed, after a time longer than a lease.
    Slow,
    /// Processed, with this many children.
    Parent(usize),
    /// Failed, since no plugin handles it.
    Unhandled,
}

/// The accepted events.
#[derive(Debug, Default)]
pub struct Ledger {
    accepted: BTreeMap<String, EventKind>,
    broken: Vec<String>,
}

impl Ledger {
    /// Adds an accepted event.
    pub fn add_accepted(&mut self, id: String, kind: EventKind) {
        if self.accepted.insert(id.clone(), kind).is_some() {
            self.broken.push(format!("{id} was given to two events"));
        }
    }

    /// Adds a violation.
    pub fn add_violation(&mut self, what: String) {
        self.broken.push(what);
    }

    /// How many events were accepted.
    pub fn len(&self) -> usize {
        self.accepted.len()
    }

    /// Whether nothing was accepted.
    pub fn is_empty(&self) -> bool {
        self.accepted.is_empty()
    }

    /// How many effects are there twice or without a cause. These are second ends of an event, children that are named twice,
    /// and ends of events that were never sent or published.
    pub fn effects_doubled(&self, observed: &FinalState) -> usize {
        let (mut ended, mut children, mut doubled) = (BTreeSet::new(), BTreeSet::new(), 0);
        for event in observed.processed.iter().chain(&observed.failed) {
            doubled += usize::from(!ended.insert(event.id.as_str()));
            doubled += event.children.iter().filter(|child| !children.insert(child.as_str())).count();
        }
        let is_caused = |id: &&str| self.accepted.contains_key(*id) || children.contains(id);
        doubled + ended.iter().filter(|id| !is_caused(id)).count()
    }

    /// The broken promises in words, at most [`MAX_VIOLATIONS`] and a count of the rest. Empty if all were kept.
    pub fn audit(&self, observed: &FinalState) -> Vec<String> {
        let mut audit = LedgerAudit { ledger: self, observed, broken: self.broken.clone() };
        let ends = audit.every_end_is_the_only_one();
        audit.every_accepted_event_ended_as_it_should(&ends);
        audit.every_end_has_a_cause(&ends);
        audit.attempts_make_sense();
        audit.totals_are_those_of_the_ends();
        let more = audit.broken.len().saturating_sub(MAX_VIOLATIONS);
        audit.broken.truncate(MAX_VIOLATIONS);
        if more > 0 {
            audit.broken.push(format!("and {more} more"));
        }
        audit.broken
    }
}

struct LedgerAudit<'a> {
    ledger: &'a Ledger,
    observed: &'a FinalState,
    broken: Vec<String>,
}

impl<'a> LedgerAudit<'a> {
    fn check(&mut self, holds: bool, broken: impl FnOnce() -> String) {
        if !holds {
            self.broken.push(broken());
        }
    }

    fn ends(&self) -> impl Iterator<Item = &'a Event> + use<'a> {
        self.observed.processed.iter().chain(&self.observed.failed)
    }

    fn every_end_is_the_only_one(&mut self) -> BTreeMap<&'a str, &'a Event> {
        let mut ends = BTreeMap::new();
        for event in self.ends() {
            if let Some(other) = ends.insert(event.id.as_str(), event) {
                self.broken.push(format!("{} ended twice, {} and {}", event.id, other.state, event.state));
            }
        }
        for (events, state) in [(&self.observed.processed, "processed"), (&self.observed.failed, "failed")] {
            for event in events.iter().filter(|event| event.state != state) {
                self.broken.push(format!("{} is {} among the {state} ones", event.id, event.state));
            }
        }
        ends
    }

    fn every_accepted_event_ended_as_it_should(&mut self, ends: &BTreeMap<&str, &Event>) {
        for (id, kind) in &self.ledger.accepted {
            let Some(event) = ends.get(id.as_str()) else {
                self.broken.push(format!("{id} ({kind:?}) was accepted and has no end"));
                continue;
            };
            let class = event.class.as_deref();
            let fits = match (kind, class) {
                // An event that five dying hosts held fails with this class, whether or not it was the cause.
                (_, Some("crash")) => true,
                (EventKind::Ok | EventKind::Flaky | EventKind::Slow | EventKind::Parent(_), class) => class.is_none(),
                (EventKind::Coin, class) => matches!(class, None | Some("retry" | "reject" | "trap")),
                (EventKind::Hopeless, class) => class == Some("retry"),
                (EventKind::Rejected, class) => class == Some("reject"),
                (EventKind::Unhandled, class) => class == Some("no-handler"),
            };
            self.check(fits, || format!("{id} ({kind:?}) ended as {} ({class:?})", event.state));
            if *kind == EventKind::Hopeless && class == Some("retry") {
                let attempts = event.attempts.len();
                let allowed = self.observed.max_attempts;
                let fits = attempts == allowed
                    || attempts < allowed && attempts as u64 + attempts_left_out(event) >= allowed as u64;
                self.check(fits, || format!("{id} had {attempts} attempts of {allowed}"));
            }
            let expected = if let (EventKind::Parent(children), None) = (kind, class) { *children } else { 0 };
            let named = event.children.len();
            self.check(named == expected, || format!("{id} ({kind:?}) names {named} children of {expected}"));
        }
    }

    /// Every ended event was accepted, or is a child that its processed parent names.
    fn every_end_has_a_cause(&mut self, ends: &BTreeMap<&str, &Event>) {
        let mut children = BTreeSet::new();
        for parent in self.ends() {
            for child in &parent.children {
                let is_new = children.insert(child.as_str());
                self.check(is_new, || format!("the child {child} is named twice"));
                let cause = ends.get(child.as_str()).and_then(|event| event.cause.as_deref());
                let fits = cause == Some(parent.id.as_str());
                self.check(fits, || format!("the child {child} of {} has no end or names {cause:?}", parent.id));
            }
        }
        for event in self.ends() {
            let known = self.ledger.accepted.contains_key(&event.id) || children.contains(event.id.as_str());
            self.check(known, || {
                format!("{} ended, but nobody sent it and no parent names it (its cause: {:?})", event.id, event.cause)
            });
        }
    }

    fn attempts_make_sense(&mut self) {
        for event in self.ends() {
            let id = &event.id;
            let rises = event.attempts.is_sorted_by(|a, b| a.attempt < b.attempt);
            self.check(rises, || format!("the attempts of {id} do not count up"));
            let many = event.attempts.len();
            self.check(many <= self.observed.max_attempts, || format!("{id} had {many} attempts"));
            let last = event.attempts.last().map(|attempt| attempt.class.as_deref());
            self.check(last == Some(event.class.as_deref()), || {
                format!("{id} ended as {:?}, its last attempt as {last:?}", event.class)
            });
            for pair in event.attempts.windows(2) {
                let pause_ms = pair[0].retry_in_ms;
                self.check(pause_ms.is_some(), || format!("{id} was tried again after an end"));
                let earliest = ms(&pair[0].started_at) + pair[0].duration_ms + pause_ms.unwrap_or(0) as f64;
                let early_ms = earliest - ms(&pair[1].started_at);
                self.check(early_ms <= CLOCK_GRAIN_MS + self.observed.clock_error_ms, || {
                    format!("{id} was tried again {early_ms} ms too early")
                });
            }
        }
    }

    fn totals_are_those_of_the_ends(&mut self) {
        let count = |n: usize| n as u64;
        let published = self.ends().map(|event| count(event.children.len())).sum();
        let expected = [
            ("accepted", count(self.ledger.len())),
            ("published", published),
            ("processed", count(self.observed.processed.len())),
            ("failed", count(self.observed.failed.len())),
            ("replayed", 0),
            ("dataLosses", 0),
        ];
        for (name, expected) in expected {
            let found = &self.observed.metrics[name];
            self.check(*found == expected, || format!("the total {name:?} is {found}, not {expected}"));
        }
        let retries = |event: &Event| event.attempts.iter().filter(|attempt| attempt.retry_in_ms.is_some()).count();
        let kept: u64 = self.ends().map(|event| count(retries(event))).sum();
        let left_out: u64 = self.ends().map(attempts_left_out).sum();
        let retried = self.observed.metrics["retried"].as_u64().unwrap_or(0);
        self.check((kept..=kept + left_out).contains(&retried), || {
            format!("the total \"retried\" is {retried}, not {kept}, with up to {left_out} that were left out")
        });
        let mut by_class = BTreeMap::<&str, u64>::new();
        for class in self.observed.failed.iter().filter_map(|event| event.class.as_deref()) {
            *by_class.entry(class).or_default() += 1;
        }
        let found: BTreeMap<String, u64> =
            serde_json::from_value(self.observed.metrics["failedByClass"].clone()).unwrap_or_default();
        let found: BTreeMap<&str, u64> =
            found.iter().filter(|(_, total)| **total > 0).map(|(class, total)| (class.as_str(), *total)).collect();
        self.check(found == by_class, || format!("failed by class are {found:?}, not {by_class:?}"));
        let crashes = by_class.get("crash").copied().unwrap_or(0);
        let recovered = self.observed.metrics["recovered"].as_u64().unwrap_or(0);
        self.check(recovered >= crashes * TAKEOVERS_BEFORE_CRASH, || {
            format!("{crashes} events failed as crash after {recovered} takeovers in all")
        });
    }
}

fn ms(time: &str) -> f64 {
    time.parse::<Timestamp>().map_or(f64::NAN, |time| time.unix_ms() as f64)
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::client::Attempt;

    /// A deployment that kept every promise: a parent with two children, a retry, a rejection.
    fn sound() -> (Ledger, FinalState) {
        let mut ledger = Ledger::default();
        ledger.add_accepted("parent".into(), EventKind::Parent(2));
        ledger.add_accepted("flaky".into(), EventKind::Flaky);
        ledger.add_accepted("rejected".into(), EventKind::Rejected);
        let at = |attempt: u32, second: u32, rest: Value| {
            let mut value = json!({"attempt": attempt, "startedAt": format!("2026-11-23T15:00:{second:02}Z"),
                "durationMs": 1.5, "consumer": "h"});
            value.as_object_mut().unwrap().extend(rest.as_object().unwrap().clone());
            value
        };
        let processed = [
            json!({"id": "parent", "children": ["a", "b"], "attempts": [at(1, 0, json!({}))]}),
            json!({"id": "a", "cause": "parent", "attempts": [at(1, 1, json!({}))]}),
            json!({"id": "b", "cause": "parent", "attempts": [at(3, 1, json!({}))]}),
            json!({"id": "flaky", "attempts": [at(1, 0, json!({"class": "retry", "retryInMs": 900})), at(2, 1, json!({}))]}),
        ];
        let failed = [json!({"id": "rejected", "class": "reject", "attempts": [at(1, 0, json!({"class": "reject"}))]})];
        let metrics = json!({"accepted": 3, "published": 2, "processed": 4, "failed": 1, "retried": 1, "replayed": 0,
            "dataLosses": 0, "recovered": 1, "failedByClass": {"reject": 1, "trap": 0}});
        let read = |values: &[Value], state: &str| {
            let complete = |value: &Value| {
                let mut value = value.clone();
                value.as_object_mut().unwrap().extend([
                    ("type".to_owned(), json!("t")),
                    ("source".to_owned(), json!("/")),
                    ("state".to_owned(), json!(state)),
                ]);
                serde_json::from_value(value).unwrap()
            };
            values.iter().map(complete).collect()
        };
        let observed = FinalState {
            processed: read(&processed, "processed"),
            failed: read(&failed, "failed"),
            metrics,
            max_attempts: 4,
            clock_error_ms: 0.0,
        };
        (ledger, observed)
    }

    /// Does damage and checks that the audit reports it.
    #[track_caller]
    fn found(damage: impl FnOnce(&mut Ledger, &mut FinalState), reported: &str) {
        let (mut ledger, mut observed) = sound();
        damage(&mut ledger, &mut observed);
        let broken = ledger.audit(&observed);
        assert!(broken.iter().any(|line| line.contains(reported)), "{reported:?} is not reported: {broken:?}");
    }

    #[test]
    fn the_audit_finds_nothing_in_a_sound_deployment() {
        let (ledger, observed) = sound();
        assert_eq!(ledger.audit(&observed), Vec::<String>::new());
        assert_eq!((ledger.effects_doubled(&observed), observed.runs_in_vain()), (0, 2));
    }

    #[test]
    fn retries_whose_attempts_a_full_store_left_out_are_no_damage() {
        let (ledger, mut observed) = sound();
        let check = |observed: &mut FinalState, [fewest, most]: [u64; 2]| {
            for retried in fewest - 1..=most + 1 {
                observed.metrics["retried"] = json!(retried);
                let is_sound = (fewest..=most).contains(&retried);
                assert_eq!(ledger.audit(observed).is_empty(), is_sound, "{retried} of {fewest} to {most}");
            }
        };
        observed.processed[3].attempts[1].attempt = 4;
        check(&mut observed, [1, 3]);
        let attempts = &mut observed.processed[3].attempts;
        let later = Attempt { attempt: 5, started_at: "2026-11-23T15:00:03Z".into(), ..attempts[1].clone() };
        (attempts[1].class, attempts[1].retry_in_ms) = (Some("retry".into()), Some(900));
        attempts.push(later);
        check(&mut observed, [2, 4]);
    }

    #[test]
    fn each_effect_too_many_counts() {
        let doubled = |damage: fn(&mut Ledger, &mut FinalState)| {
            let (mut ledger, mut observed) = sound();
            damage(&mut ledger, &mut observed);
            ledger.effects_doubled(&observed)
        };
        assert_eq!(doubled(|_, o| o.failed.push(o.processed[3].clone())), 1);
        assert_eq!(doubled(|_, o| o.processed[0].children.push("a".into())), 1);
        assert_eq!(doubled(|l, _| _ = l.accepted.remove("flaky")), 1);
    }

    #[test]
    fn the_audit_reports_every_kind_of_damage() {
        found(|_, o| drop(o.processed.remove(3)), "flaky (Flaky) was accepted and has no end");
        found(|_, o| o.processed.push(o.processed[3].clone()), "ended twice");
        found(|_, o| o.failed.push(o.processed[3].clone()), "flaky ended twice");
        found(|_, o| drop(o.processed.remove(1)), "the child a of parent has no end");
        found(|_, o| o.processed[1].cause = None, "the child a of parent has no end or names None");
        found(|_, o| o.processed[0].children.truncate(1), "names 1 children of 2");
        found(|_, o| o.processed[0].children.truncate(1), "b ended, but nobody sent it");
        found(|_, o| o.processed[0].children[1] = "a".into(), "named twice");
        found(|l, _| _ = l.accepted.remove("flaky"), "flaky ended, but nobody sent it");
        found(|_, o| o.processed[3].class = Some("trap".into()), "flaky (Flaky) ended as processed");
        found(|l, _| l.add_accepted("flaky".into(), EventKind::Ok), "given to two events");
        found(|l, _| _ = l.accepted.insert("flaky".into(), EventKind::Hopeless), "flaky (Hopeless) ended as");
        found(|_, o| o.processed[3].attempts[0].retry_in_ms = Some(1_100), "too early");
        found(|_, o| o.processed[3].attempts[0].retry_in_ms = None, "tried again after an end");
        found(|_, o| o.processed[3].attempts[1].attempt = 1, "do not count up");
        found(|_, o| drop(o.processed[3].attempts.pop()), "its last attempt as");
        for total in ["accepted", "published", "processed", "failed", "retried", "replayed", "dataLosses"] {
            found(|_, o| o.metrics[total] = json!(99), &format!("the total {total:?} is 99"));
        }
        found(|_, o| o.metrics["failedByClass"] = json!({"trap": 1}), "failed by class");
        found(|_, o| o.failed[0].class = Some("crash".into()), "1 events failed as crash after 1 takeovers");
    }
}
