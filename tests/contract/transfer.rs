//! Moves between Redis and an embedded store, with a Redis that lost data, has no memory, or has foreign entries.

use std::io::{BufRead, Read};
use std::sync::Arc;

use eventstream::broker::contract::*;
use eventstream::broker::embedded::EmbeddedBroker;
use eventstream::broker::redis::snapshot;
use eventstream::broker::{AppendRequest, Error as BrokerError, SnapshotReader};
use eventstream::event::{DataKind, DeliveryStart, EventData, FailureClass, Settlement};
use eventstream::shutdown::TaskGroup;
use eventstream::transfer::{Error, ExportNotice, TransferCounts, export, import};

use crate::rig::RedisRig;

async fn exported(mut snapshot: Box<dyn SnapshotReader>) -> (Vec<u8>, TransferCounts) {
    let (mut text, mut moved) = (Vec::new(), TransferCounts::default());
    export(&mut *snapshot, &mut text, &mut moved, &mut |_: ExportNotice<'_>| ()).await.unwrap();
    (text, moved)
}

async fn imported(broker: &dyn Broker, mut text: impl BufRead) -> (Result<(), Error>, TransferCounts) {
    let mut moved = TransferCounts::default();
    let done = import(broker, broker, &mut text, &mut moved, &mut |_| ()).await;
    (done, moved)
}

/// The lines of an export in order, without the first one, which has the time of the export.
fn lines(text: &[u8]) -> Vec<&str> {
    let mut lines: Vec<&str> = std::str::from_utf8(text).unwrap().lines().skip(1).collect();
    lines.sort_unstable();
    lines
}

/// Fills a store at random: payloads of all kinds, in every state, with keys.
async fn fill(broker: &dyn Broker, random: &mut fastrand::Rng, n: usize) {
    for place in 0..n {
        let mut event = event(["order.paid", "user.signup"][random.usize(..2)]);
        let bytes: Vec<u8> = (0..random.usize(..40)).map(|_| random.u8(..)).collect();
        event.data = match random.u8(..4) {
            0 => None,
            1 => Some(EventData::binary(bytes)),
            2 => Some(EventData { bytes: String::from_utf8_lossy(&bytes).into_owned().into(), kind: DataKind::Text }),
            _ => Some(EventData::text(format!("{{ \"n\": {}.10 }}", random.u64(..)))),
        };
        let lane = ["a", "b"][random.usize(..2)];
        let key = [place.to_le_bytes(), [0; 8], [0; 8], [0; 8]].concat().try_into().unwrap();
        let append = AppendRequest {
            start: if random.bool() { DeliveryStart::Now } else { DeliveryStart::InMs(3_600_000 + random.u64(..5)) },
            idempotency: random.bool().then_some(eventstream::event::Idempotency { key, fingerprint: [7; 32] }),
            ..append_to(lane, event)
        };
        broker.append(vec![append]).await.unwrap();
        if random.bool()
            && let Some(delivery) = claim(broker, lane, 1).await.pop()
        {
            let settlement = match random.u8(..4) {
                0 => Settlement::Processed,
                1 => failed(FailureClass::Trap),
                2 => retry(3_600_000 + random.u64(..5)),
                // It stays with a consumer that crashes.
                _ => continue,
            };
            settle_one(broker, &delivery, settlement).await;
        }
    }
}

#[tokio::test]
async fn there_and_back_again_everything_is_as_it_was() {
    for seed in [1, 2] {
        let rig = RedisRig::new();
        let dir = tempfile::tempdir().unwrap();
        let tasks = TaskGroup::new();
        let open = |name: &str| EmbeddedBroker::open(&dir.path().join(name), options(), &tasks).unwrap();
        let first = open("first");
        fill(&*first, &mut fastrand::Rng::with_seed(seed), 300).await;
        let (text, moved) = exported(first.snapshot().await.unwrap()).await;
        assert!(moved.events > 100 && moved.failed > 10 && moved.keys > 100, "{moved:?}");
        let redis = rig.direct(options()).await;
        let (done, there) = imported(&*redis, &text[..]).await;
        done.unwrap();
        assert_eq!(there, moved, "seed {seed}");
        let (in_redis, again) = exported(snapshot(&rig.server.url(), options()).await.unwrap()).await;
        assert_eq!(again, moved, "seed {seed}");
        assert_eq!(lines(&in_redis), lines(&text), "seed {seed}");
        let back = open("back");
        let (done, _) = imported(&*back, &in_redis[..]).await;
        done.unwrap();
        let (at_last, _) = exported(back.snapshot().await.unwrap()).await;
        assert_eq!(lines(&at_last), lines(&text), "seed {seed}");
    }
}

#[tokio::test]
async fn an_export_writes_nothing_and_may_leave_an_unsafe_redis() {
    let rig = RedisRig::new();
    let broker = rig.direct(options()).await;
    fill(&*broker, &mut fastrand::Rng::with_seed(3), 50).await;
    broker.close().await.unwrap();
    drop(broker);
    let () = rig.admin(&["CONFIG", "SET", "maxmemory-policy", "allkeys-lru"]);
    assert!(rig.try_open(&rig.server.url(), options()).await.is_err());
    let before: String = rig.admin(&["DEBUG", "DIGEST"]);
    let (_, moved) = exported(snapshot(&rig.server.url(), options()).await.unwrap()).await;
    assert!(moved.events > 0 && moved.keys > 0);
    assert_eq!(rig.admin::<String>(&["DEBUG", "DIGEST"]), before);
}

#[tokio::test]
async fn entries_that_are_none_are_left_out_and_named() {
    let rig = RedisRig::new();
    let broker = rig.direct(options()).await;
    broker.append(appends("a", 3)).await.unwrap();
    let () = rig.admin(&["HSET", &RedisRig::key("parked"), "x", "a\nnonsense"]);
    let () = rig.admin(&["ZADD", &RedisRig::key("due"), "99999999999999", "x"]);
    let _: String = rig.admin(&["XADD", &RedisRig::key("q:a"), "*", "hello", "world"]);
    let _: String = rig.admin(&["XADD", &RedisRig::key("failed"), "*", "id", "1", "b", "2"]);
    let () = rig.admin(&["SET", &RedisRig::key("idem:nonsense"), "x"]);
    let () = rig.admin(&["SET", &format!("{}{}", RedisRig::key("idem:"), "0".repeat(64)), "x"]);
    let mut snapshot = broker.snapshot().await.unwrap();
    let mut left_out = Vec::new();
    let (mut text, mut moved) = (Vec::new(), TransferCounts::default());
    let mut tell = |told: ExportNotice<'_>| {
        if let ExportNotice::LeftOut(why) = told {
            left_out.push(why.to_owned());
        }
    };
    export(&mut *snapshot, &mut text, &mut moved, &mut tell).await.unwrap();
    assert_eq!(moved, TransferCounts { events: 3, unreadable: 3, ..TransferCounts::default() });
    for (why, place) in left_out.iter().zip(["lane a", "x, which is due later", "failed events"]) {
        assert!(why.contains(place), "{why}");
    }
}

/// A text that calls a function when it has been read up to a point.
struct Disturbed<F> {
    text: std::io::Cursor<Vec<u8>>,
    at: u64,
    disturb: Option<F>,
}

impl<F: FnOnce()> Read for Disturbed<F> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        if self.text.position() >= self.at
            && let Some(disturb) = self.disturb.take()
        {
            disturb();
        }
        self.text.read(buffer)
    }
}

async fn export_of(n: usize) -> Vec<u8> {
    let dir = tempfile::tempdir().unwrap();
    let source = EmbeddedBroker::open(dir.path(), options(), &TaskGroup::new()).unwrap();
    for _ in 0..n / 500 {
        source.append(appends("a", 500)).await.unwrap();
    }
    exported(source.snapshot().await.unwrap()).await.0
}

fn disturbed<F: FnOnce()>(text: &[u8], disturb: F) -> impl BufRead {
    let (at, text) = (text.len() as u64 * 2 / 3, std::io::Cursor::new(text.to_vec()));
    std::io::BufReader::new(Disturbed { text, at, disturb: Some(disturb) })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_store_that_is_emptied_half_way_through_is_not_taken_for_complete() {
    let text = export_of(3_000).await;
    let rig = Arc::new(RedisRig::new());
    let broker = rig.direct(options()).await;
    for is_noted_before_the_next_batch in [false, true] {
        let flushed = || {
            let () = rig.admin(&["FLUSHALL"]);
            if is_noted_before_the_next_batch {
                let losses = || rig.admin::<Option<u64>>(&["HGET", &RedisRig::key("counts"), "data_losses"]);
                while losses().is_none() || !broker.health().ready() {
                    std::thread::sleep(std::time::Duration::from_millis(5));
                }
            }
        };
        let (done, _) = imported(&*broker, disturbed(&text, flushed)).await;
        assert!(matches!(done, Err(Error::Lost)), "{done:?}");
        eventually("it goes on", || async { broker.health().ready().then_some(()) }).await;
        let (done, moved) = imported(&*broker, &text[..]).await;
        done.unwrap();
        assert_eq!(moved.events + moved.known, 3_000);
        assert_eq!(broker.stats().await.unwrap().depth.waiting(), 3_000);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_import_that_found_no_room_is_finished_when_there_is_room() {
    let text = export_of(2_000).await;
    let rig = RedisRig::new();
    let broker = rig.direct(options()).await;
    let (done, moved) =
        imported(&*broker, disturbed(&text, || rig.admin(&["CONFIG", "SET", "maxmemory", "1mb"]))).await;
    assert!(matches!(done, Err(Error::Store(BrokerError::NoRoom(_)))), "{done:?}");
    assert!(moved.events > 0 && moved.events < 2_000, "{moved:?}");
    let () = rig.admin(&["CONFIG", "SET", "maxmemory", "0"]);
    let (done, rest) = imported(&*broker, &text[..]).await;
    done.unwrap();
    assert_eq!((rest.events + moved.events, rest.known), (2_000, moved.events));
    assert_eq!(broker.stats().await.unwrap().depth.waiting(), 2_000);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn answers_that_are_lost_on_the_way_double_nothing() {
    let text = export_of(1_000).await;
    let rig = RedisRig::new();
    let broker = rig.through_proxy(options()).await;
    rig.proxy.drop_reply_to(broker.script_digest("restore").unwrap(), 2);
    let (done, moved) = imported(&*broker, &text[..]).await;
    done.unwrap();
    assert_eq!((rig.proxy.answers_lost(), moved.events + moved.known), (1, 1_000));
    assert_eq!(broker.stats().await.unwrap().depth.waiting(), 1_000);
    assert_eq!(broker.stats().await.unwrap().counters.accepted, 1_000);
}
