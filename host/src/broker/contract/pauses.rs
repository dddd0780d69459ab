//! Pauses: what a host wrote, every later one reads until it ends, and the store holds a limited number.

use super::*;
use crate::broker::{MAX_STORED_PAUSES, PauseNote, PauseOutcome, PluginPause};

fn pause(name: &str, until: Option<Timestamp>) -> PluginPause {
    let note = PauseNote { since: now(), by: "key:ops".into(), reason: Some("the \"bank\" is away".into()), until };
    PluginPause { plugin: lane(name), note }
}

async fn read(broker: &dyn Broker) -> Vec<PluginPause> {
    broker.read_pauses().await.expect("the pauses are read")
}

/// A pause outlives the host that wrote it, a later one replaces it, and it ends once.
pub async fn pauses_survive_a_crash(rig: &dyn BrokerRig) {
    let broker = rig.open(options()).await;
    assert_eq!(read(&*broker).await, []);
    let (one, two) = (pause("b", None), pause("a", Some(now().plus_ms(3_600_000))));
    for pause in [&one, &two] {
        assert_eq!(broker.write_pause(pause.clone(), None).await, Ok(PauseOutcome::Done));
    }
    assert_eq!(read(&*broker).await, [two.clone(), one.clone()]);
    rig.kill(broker).await;
    let broker = rig.open(options()).await;
    assert_eq!(read(&*broker).await, [two.clone(), one.clone()]);
    let later = PluginPause { note: PauseNote { by: "local".into(), reason: None, ..one.note }, ..one };
    assert_eq!(broker.write_pause(later.clone(), None).await, Ok(PauseOutcome::Done));
    assert_eq!(read(&*broker).await, [two.clone(), later]);
    assert_eq!(broker.end_pause(&lane("b"), None).await, Ok(true));
    assert_eq!(broker.end_pause(&lane("b"), None).await, Ok(false));
    rig.kill(broker).await;
    let broker = rig.open(options()).await;
    assert_eq!(read(&*broker).await, [two]);
}

/// A pause with an end is over at that time by the store's clock, and is then nobody's to end.
pub async fn a_pause_ends_by_itself(rig: &dyn BrokerRig) {
    let broker = rig.open(options()).await;
    let (short, long) = (pause("a", Some(now().plus_ms(300))), pause("b", None));
    broker.write_pause(short, None).await.expect("it is paused");
    broker.write_pause(long.clone(), None).await.expect("it is paused");
    eventually("the pause is over", || async { (read(&*broker).await == [long.clone()]).then_some(()) }).await;
    assert_eq!(broker.end_pause(&lane("a"), None).await, Ok(false));
    assert_eq!(broker.write_pause(pause("a", Some(Timestamp::from_unix_ms(1))), None).await, Ok(PauseOutcome::Done));
    assert_eq!(read(&*broker).await, [long]);
}

/// G12: a store that holds as many pauses as it may takes no other one. A pause that is over gives way.
pub async fn the_number_of_pauses_is_bounded(rig: &dyn BrokerRig) {
    let broker = rig.open(options()).await;
    let over = pause("over", Some(Timestamp::from_unix_ms(1)));
    let many = (1..MAX_STORED_PAUSES).map(|n| pause(&format!("p{n}"), None)).chain([over]);
    let written = futures_util::future::join_all(many.map(|pause| broker.write_pause(pause, None))).await;
    assert!(written.iter().all(|outcome| *outcome == Ok(PauseOutcome::Done)), "{written:?}");
    assert_eq!(broker.write_pause(pause("q", None), None).await, Ok(PauseOutcome::Done));
    assert_eq!(broker.write_pause(pause("r", None), None).await, Ok(PauseOutcome::Full));
    assert_eq!(broker.write_pause(pause("p1", None), None).await, Ok(PauseOutcome::Done));
    assert_eq!(read(&*broker).await.len(), MAX_STORED_PAUSES);
    assert_eq!(broker.end_pause(&lane("p1"), None).await, Ok(true));
    assert_eq!(broker.write_pause(pause("r", None), None).await, Ok(PauseOutcome::Done));
}
