//! What handlers may publish, by what waits.

use super::*;
use crate::broker::Receipt;
use crate::event::{Event, EventId, EventRecord, Timestamp};

fn lane(name: &str) -> Lane {
    name.parse().unwrap()
}

fn depth(waiting: &[(&str, u64)]) -> QueueDepth {
    let waiting_by_lane: BTreeMap<String, u64> = waiting.iter().map(|(name, n)| ((*name).to_owned(), *n)).collect();
    QueueDepth { scheduled: waiting_by_lane.values().sum(), waiting_by_lane, ..QueueDepth::default() }
}

fn backlog(waiting: &[(&str, u64)]) -> Arc<BacklogLimit> {
    let backlog = BacklogLimit::new(100);
    backlog.update(&depth(waiting));
    backlog.into()
}

fn reserve(backlog: &Arc<BacklogLimit>, own: &str, into: &str) -> Result<LaneReservation, String> {
    backlog.reserve(&lane(own), [(lane(into), 10)].into_iter())
}

fn may_publish(backlog: &Arc<BacklogLimit>, own: &str, into: &str) -> bool {
    reserve(backlog, own, into).is_ok()
}

fn end_one(backlog: &BacklogLimit, name: &str, settlement: Settlement) {
    let event = Event::new("t".parse().unwrap(), "/s", Timestamp::from_unix_ms(0));
    let receipt = Receipt { event_id: EventId::new(), lane: lane(name), entry: String::new(), deliveries: 1 };
    let record = EventRecord::new(event);
    let settle = SettleRequest { receipt, record, settlement, lane: lane(name), publish: Vec::new(), state: None };
    backlog.note_settled([&settle].into_iter());
}

/// How many attempts may publish one event each before the first one is put off.
fn fill(backlog: &Arc<BacklogLimit>, own: &str, into: &str) -> usize {
    std::iter::from_fn(|| reserve(backlog, own, into).ok()).take(10_000).count()
}

#[test]
fn a_plugin_publishes_into_its_own_lane_until_twice_the_limit_of_clients_waits() {
    for (waiting, may) in [(0, true), (20, true), (199, true), (200, false), (5_000, false)] {
        assert_eq!(may_publish(&backlog(&[("a", waiting)]), "a", "a"), may, "{waiting}");
    }
}

#[test]
fn a_full_lane_does_not_limit_publishes_into_another() {
    let backlog = backlog(&[("a", 5_000), ("b", 7)]);
    assert!(may_publish(&backlog, "b", "b") && may_publish(&backlog, "c", "b") && may_publish(&backlog, "a", "b"));
    assert!(!may_publish(&backlog, "b", "a"));
}

#[test]
fn other_plugins_fill_half_of_a_lane() {
    for (waiting, may) in [(0, true), (9, true), (10, false), (20, false)] {
        assert_eq!(may_publish(&backlog(&[("b", waiting)]), "a", "b"), may, "{waiting}");
    }
    let backlog = backlog(&[("b", 10), ("_", 10)]);
    let why = |into: &str| reserve(&backlog, "a", into).unwrap_err();
    assert!(why("b").contains("plugins.b.max_waiting"), "{}", why("b"));
    assert!(why("_").contains("broker.max_waiting"), "{}", why("_"));
    backlog.limit_lanes(BTreeMap::from([(lane("b"), 40)]));
    assert!(may_publish(&backlog, "a", "b"));
}

#[test]
fn between_two_looks_one_host_fills_a_lane_up_to_its_limit_and_no_further() {
    let backlog = backlog(&[("b", 4)]);
    assert_eq!(fill(&backlog, "a", "b"), 6);
    assert_eq!(fill(&backlog, "b", "b"), 190, "its own lane, until 200 wait in all");
    backlog.begin_look();
    backlog.update(&depth(&[("b", 200)]));
    assert!(!may_publish(&backlog, "b", "b"));
}

#[test]
fn events_that_end_make_room_before_the_next_look() {
    let backlog = backlog(&[("b", 10)]);
    assert!(!may_publish(&backlog, "a", "b"));
    end_one(&backlog, "b", Settlement::Processed);
    assert_eq!(fill(&backlog, "a", "b"), 1);
    end_one(&backlog, "b", Settlement::Retry { class: crate::event::FailureClass::Retry, delay_ms: 1 });
    assert!(!may_publish(&backlog, "a", "b"), "it still waits");
}

#[test]
fn what_is_published_counts_until_a_look_contains_it() {
    let backlog = backlog(&[]);
    let in_flight: Vec<_> = (0..5).map(|_| reserve(&backlog, "a", "b").unwrap()).collect();
    let settled: Vec<_> = (0..5).map(|_| reserve(&backlog, "a", "b").unwrap()).collect();
    drop(settled);
    backlog.begin_look();
    assert!(!may_publish(&backlog, "a", "b"), "the look has no answer yet");
    backlog.update(&depth(&[]));
    assert_eq!(fill(&backlog, "a", "b"), 5, "those in flight count still");
    drop(in_flight);
    assert!(!may_publish(&backlog, "a", "b"), "those were settled after the look");
    backlog.begin_look();
    backlog.update(&depth(&[]));
    assert_eq!(fill(&backlog, "a", "b"), 10, "nothing counts for ever");
    backlog.begin_look();
    backlog.update(&depth(&[]));
    assert_eq!(backlog.known.lock().lanes, HashMap::new());
}

#[test]
fn hosts_that_share_a_store_stay_close_to_the_limit() {
    for hosts in [2, 3, 10] {
        let limits: Vec<_> = (0..hosts).map(|_| Arc::new(BacklogLimit::new(100_000))).collect();
        let (mut waiting, limit) = (0_u64, 10_000);
        for round in 0..60 {
            for host in &limits {
                // Each one publishes all it may just before it looks again, which is the worst moment.
                waiting += if round == 0 { 0 } else { fill(host, "a", "b") as u64 };
                host.begin_look();
                host.update(&QueueDepth { consumers: hosts, ..depth(&[("b", waiting)]) });
            }
        }
        assert!(waiting >= limit && waiting <= limit * 105 / 100, "{hosts} hosts: {waiting}");
    }
    let host = backlog(&[]);
    host.update(&QueueDepth { consumers: 2, ..depth(&[("b", 2)]) });
    assert_eq!(fill(&host, "a", "b"), 2);
    let why = reserve(&host, "a", "b").unwrap_err();
    assert!(why.contains("fewer than 10") && why.contains("2 hosts") && why.contains("up to 4"), "{why}");
}

#[test]
fn bytes_published_since_the_last_look_count() {
    let backlog = backlog(&[]);
    let depth = QueueDepth { max_lane_bytes: Some(85), ..QueueDepth::default() };
    backlog.update(&depth);
    assert_eq!(fill(&backlog, "a", "a"), 9, "the last may exceed the limit");
    let why = reserve(&backlog, "a", "a").unwrap_err();
    assert!(why.contains("90 bytes") && why.contains("broker.max_waiting_bytes"), "{why}");
    assert_eq!(fill(&backlog, "a", "b"), 4, "the other half is for its own clients");
    backlog.begin_look();
    backlog.update(&depth);
    assert!(may_publish(&backlog, "a", "a"), "the store says that nothing waits");
}

#[test]
fn what_one_attempt_publishes_must_fit_and_a_little_may_exceed_the_limit_of_its_own_lane() {
    let backlog = backlog(&[]);
    let limit = |max_lane_bytes| {
        let of_a = BTreeMap::from([("a".to_owned(), max_lane_bytes - 1)]);
        backlog.begin_look();
        backlog.update(&QueueDepth {
            max_lane_bytes: Some(max_lane_bytes),
            waiting_bytes_by_lane: of_a,
            ..depth(&[("a", 0)])
        });
    };
    limit(20);
    assert!(may_publish(&backlog, "a", "a") && !may_publish(&backlog, "b", "a"));
    limit(19);
    assert!(!may_publish(&backlog, "a", "a"), "10 bytes are more than half");
}

#[test]
fn the_room_for_the_attempts_of_what_waits_counts() {
    let backlog = backlog(&[]);
    let with = |events| QueueDepth { max_lane_bytes: Some(2 * ATTEMPTS_ROOM_BYTES), ..depth(&[("a", events)]) };
    for (events, may) in [(1, true), (2, false)] {
        backlog.begin_look();
        backlog.update(&with(events));
        assert_eq!(may_publish(&backlog, "a", "a"), may, "{events}");
    }
}

#[test]
fn a_plugin_does_not_fill_a_store_by_way_of_the_lanes_of_others() {
    let backlog = backlog(&[]);
    let share = 1_000;
    backlog.update(&QueueDepth { max_lane_bytes: Some(share), lane_share_bytes: Some(share), ..depth(&[]) });
    backlog.limit_lanes((0..40).map(|n| (lane(&format!("p{n}")), 1_000_000)).collect());
    let published: usize = (0..40).map(|n| fill(&backlog, "a", &format!("p{n}"))).sum();
    assert!((50..=150).contains(&published), "{published} times 10 bytes, of a share of 1,000");
    assert!(may_publish(&backlog, "a", "a"), "the others still have their parts");
}

#[test]
fn the_bytes_of_failed_events_count_for_their_lane() {
    let backlog = backlog(&[]);
    let failed_bytes_by_lane = BTreeMap::from([("a".to_owned(), 20)]);
    let depth = QueueDepth { max_lane_bytes: Some(40), failed_bytes_by_lane, ..QueueDepth::default() };
    backlog.update(&depth);
    assert!(may_publish(&backlog, "b", "b") && !may_publish(&backlog, "b", "a"));
    assert_eq!(fill(&backlog, "a", "a"), 2);
    let why = reserve(&backlog, "a", "a").unwrap_err();
    assert!(why.contains("20 bytes") && why.contains("failed events 20"), "{why}");
    assert!(why.contains("failed discard --plugin a") && why.contains("replay"), "{why}");
}

/// The lane `a` with so many waiting and failed bytes, of the 10,000 that it may hold.
fn held(waiting_bytes: u64, failed_bytes: u64) -> QueueDepth {
    let of_a = |bytes: u64| BTreeMap::from([("a".to_owned(), bytes)]);
    QueueDepth {
        waiting_bytes_by_lane: of_a(waiting_bytes),
        failed_bytes_by_lane: of_a(failed_bytes),
        max_lane_bytes: Some(10_000),
        ..depth(&[("a", 1)])
    }
}

#[test]
fn attempts_are_kept_whole_while_their_lane_is_less_than_half_full() {
    use AttemptDetail::{Brief, Compact, Whole};
    let backlog = backlog(&[]);
    let detail = |name: &str, bytes| backlog.keep_attempt(&lane(name), bytes).0;
    assert_eq!(detail("a", 1 << 40), Whole, "nothing is known of a limit");
    for (waiting, failed, bytes, expected) in [
        (0, 0, 5_000, Whole),
        (0, 0, 5_001, Brief),
        (2_000, 2_000, 1_000, Whole),
        (3_000, 3_000, 0, Brief),
        (9_999, 0, 300, Brief),
        (0, 10_000, 300, Compact),
        (20_000, 0, 0, Compact),
    ] {
        backlog.begin_look();
        backlog.update(&held(waiting, failed));
        assert_eq!(detail("a", bytes), expected, "{bytes} bytes to {waiting} and {failed}");
        assert_eq!(detail("b", bytes.min(5_000)), Whole, "another lane has its own room");
    }
}

#[test]
fn attempts_kept_since_the_last_look_count() {
    use AttemptDetail::{Brief, Whole};
    let backlog = backlog(&[]);
    backlog.update(&held(0, 0));
    let keep = |bytes| backlog.keep_attempt(&lane("a"), bytes);
    let (first, in_flight) = keep(3_000);
    assert_eq!((first, keep(3_000).0, keep(1_000).0), (Whole, Brief, Whole));
    backlog.begin_look();
    assert_eq!(keep(3_000).0, Brief, "the look has no answer yet");
    backlog.update(&held(0, 0));
    backlog.begin_look();
    backlog.update(&held(0, 0));
    assert_eq!(keep(3_000).0, Brief, "the first is still in flight");
    drop(in_flight);
    for _ in 0..2 {
        backlog.begin_look();
        backlog.update(&held(0, 0));
    }
    assert_eq!(keep(3_000).0, Whole, "nothing counts for ever");
    backlog.update(&QueueDepth { consumers: 2, ..held(0, 0) });
    for _ in 0..2 {
        backlog.begin_look();
        backlog.update(&QueueDepth { consumers: 2, ..held(0, 0) });
    }
    assert_eq!(keep(1_300).0, Brief, "the other host may fill its part");
}
