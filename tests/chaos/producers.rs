//! Senders that follow the documentation: each request has an idempotency key, and is repeated, on any host, until it is
//! answered.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use eventstream_tests::client::{Answer, Client};
use eventstream_tests::ledger::{EventKind, Ledger};
use fastrand::Rng;
use serde_json::{Value, json};

use crate::deployment::{Deployment, LEASE, MULTIPLIER};
use crate::stalled_clients::post_with_pause;

/// How long a sender waits for an answer before it repeats the request, on another host if there is one.
const ANSWER_LIMIT: Duration = Duration::from_secs(2);
/// The longest stop of a sender.
const STANDS_STILL_FOR: Duration = Duration::from_secs(20);
/// How long a sender repeats one request: far longer than any fault lasts.
const GIVE_UP: Duration = Duration::from_secs(90);
/// How many generations a multiplying event has. Far more events come of it than may wait for one plugin.
const GENERATIONS: u32 = 10;
const CHILDREN: usize = 2;

/// The load of the senders.
#[derive(Clone, Copy, Debug)]
pub struct SenderLoad {
    /// How many senders there are.
    pub senders: u64,
    /// The pause between two requests of a sender.
    pub pause: Duration,
    /// How often each kind is sent, relative to the others.
    pub mix: &'static [(u32, EventKind)],
}

/// Sends until `stop` is set, and adds what was accepted to the ledger.
pub fn send(
    number: u64,
    seed: u64,
    load: &SenderLoad,
    deployment: &Deployment,
    ledger: &Mutex<Ledger>,
    stop: &AtomicBool,
) {
    let mut sender = EventSender { rng: Rng::with_seed(seed ^ number), clients: HashMap::new(), deployment, ledger };
    let mut count = 0;
    while !stop.load(Ordering::SeqCst) {
        count += 1;
        if deployment.wants_multiplication() {
            sender.multiply(&format!("multiplied-{number}-{count}"));
        }
        sender.request(&format!("sender-{number}-{count}"), load.mix);
        std::thread::sleep(load.pause);
    }
}

/// Whether an event was refused because too many events of all plugins wait, which the few plugins here cannot cause.
fn is_for_others(answer: &Answer) -> bool {
    answer.json()["detail"].as_str().is_some_and(|detail| detail.contains("may (broker.max_waiting)"))
}

struct EventSender<'a> {
    rng: Rng,
    clients: HashMap<String, Client>,
    deployment: &'a Deployment,
    ledger: &'a Mutex<Ledger>,
}

impl EventSender<'_> {
    fn request(&mut self, key: &str, mix: &[(u32, EventKind)]) {
        let is_batch = self.rng.u8(..10) == 0;
        let kinds: Vec<EventKind> =
            (0..if is_batch { self.rng.usize(1..8) } else { 1 }).map(|_| self.kind(mix)).collect();
        let events: Vec<Value> = kinds.iter().map(|kind| self.event(*kind)).collect();
        let body = if is_batch { json!(events).to_string() } else { events[0].to_string() };
        let paused = self.with_pause(key, &body);
        let Some(ids) = self.until_answered(key, &body, kinds.len()) else { return };
        if let Some(answer) = paused
            && ids.iter().any(|id| !answer.contains(id))
        {
            self.broken(format!("the key {key} gave {ids:?} behind {answer}"));
        }
        // Some requests are repeated after their answer: the same ids must come back.
        if self.rng.u8(..20) == 0
            && let Some(again) = self.until_answered(key, &body, kinds.len())
            && again != ids
        {
            self.broken(format!("the key {key} gave {ids:?}, then {again:?}"));
        }
        let mut ledger = self.ledger.lock().unwrap_or_else(PoisonError::into_inner);
        for (id, kind) in ids.into_iter().zip(kinds) {
            ledger.add_accepted(id, kind);
        }
    }

    /// Sends an event that multiplies for [`GENERATIONS`] generations.
    fn multiply(&mut self, key: &str) {
        let mut payload = json!({});
        for _ in 0..GENERATIONS {
            payload = json!({"publish": CHILDREN, "publish-type": MULTIPLIER, "publish-payload": payload});
        }
        let body = json!({"type": MULTIPLIER, "payload": payload}).to_string();
        for id in self.until_answered(key, &body, 1).into_iter().flatten() {
            let mut ledger = self.ledger.lock().unwrap_or_else(PoisonError::into_inner);
            ledger.add_accepted(id, EventKind::Parent(CHILDREN));
        }
    }

    fn until_answered(&mut self, key: &str, body: &str, events: usize) -> Option<Vec<String>> {
        let begun = Instant::now();
        while begun.elapsed() < GIVE_UP {
            let place = self.rng.usize(..self.deployment.places.len());
            if let Some(url) = self.deployment.url(place) {
                let make = || Client::with_timeout(&url, ANSWER_LIMIT);
                let client = self.clients.entry(url.clone()).or_insert_with(make);
                match client.try_post_keyed(body, key) {
                    Ok(answer) if answer.status == 202 => return Some(self.ids(&answer, events)),
                    Ok(answer) if answer.status == 429 && is_for_others(&answer) => {
                        self.broken(format!("{body} was refused for what waits of others: {}", answer.text()));
                    }
                    Ok(answer) if matches!(answer.status, 429 | 503) => {}
                    Ok(answer) => {
                        self.broken(format!("{body} was answered with {}: {}", answer.status, answer.text()));
                        return None;
                    }
                    // The request may have been accepted. The key keeps the repetition from adding another event.
                    Err(_) => drop(self.clients.remove(&url)),
                }
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        self.broken(format!("nobody answered {body} within {} s", GIVE_UP.as_secs()));
        None
    }

    /// Sends half of a request, and the rest when clients go on. Returns the answer if the request was accepted. The request
    /// is repeated in any case.
    fn with_pause(&mut self, key: &str, body: &str) -> Option<String> {
        let stand_still = &self.deployment.clients_stand_still;
        if !stand_still.load(Ordering::SeqCst) {
            return None;
        }
        let url = self.deployment.url(self.rng.usize(..self.deployment.places.len()))?;
        let answer = post_with_pause(&url, body, key, stand_still, STANDS_STILL_FOR)?;
        answer.starts_with("HTTP/1.1 202").then_some(answer)
    }

    fn ids(&self, answer: &Answer, events: usize) -> Vec<String> {
        let answer = answer.json();
        let ids: Vec<String> = match &answer["eventIds"] {
            Value::Array(ids) => ids.iter().filter_map(Value::as_str).map(str::to_owned).collect(),
            _ => answer["eventId"].as_str().map(str::to_owned).into_iter().collect(),
        };
        if ids.len() != events {
            self.broken(format!("{events} events were answered with {answer}"));
        }
        ids
    }

    fn kind(&mut self, mix: &[(u32, EventKind)]) -> EventKind {
        let mut left = self.rng.u32(..mix.iter().map(|(weight, _)| weight).sum::<u32>());
        for (weight, kind) in mix {
            if left < *weight {
                return *kind;
            }
            left -= weight;
        }
        EventKind::Ok
    }

    fn event(&mut self, kind: EventKind) -> Value {
        let slow_ms = u64::try_from(LEASE.as_millis()).unwrap_or(u64::MAX) + self.rng.u64(200..900);
        let (event_type, payload) = match kind {
            EventKind::Ok => ("ok", json!({"sleep-ms": self.rng.u64(..40)})),
            EventKind::Flaky => ("flaky", json!({"flaky": self.rng.u32(2..=3)})),
            EventKind::Coin => ("coin", json!({"do": "coin", "sleep-ms": self.rng.u64(..100)})),
            EventKind::Hopeless => ("hopeless", json!({"do": "retry"})),
            EventKind::Rejected => ("rejected", json!({"do": "reject"})),
            EventKind::Slow => ("slow", json!({"sleep-ms": slow_ms})),
            EventKind::Parent(children) => {
                let child = json!({"sleep-ms": self.rng.u64(..20)});
                ("parent", json!({"publish": children, "publish-type": "child", "publish-payload": child}))
            }
            EventKind::Unhandled => ("unhandled", json!({})),
        };
        let filler = "x".repeat(self.rng.usize(..200));
        let mut event = json!({"type": event_type, "subject": format!("s{filler}"), "payload": payload});
        if self.rng.u8(..10) == 0 {
            event["delayMs"] = json!(self.rng.u64(1..1_500));
        }
        event
    }

    fn broken(&self, what: String) {
        self.ledger.lock().unwrap_or_else(PoisonError::into_inner).add_violation(what);
    }
}
