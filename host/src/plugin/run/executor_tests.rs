//! Tests of the executor: tiers, turns, and attempts that end early.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::sync::oneshot;

use super::executor::{GuestExecutor, GuestJob};
use super::guest_turns::yield_once;
use super::stopwatch::AttemptStopwatch;
use super::stopwatch::{CpuMeter, thread_cpu_ns};

/// Burns CPU time in turns of half a millisecond. Returns the name of the thread of each turn.
async fn burn(for_ns: u64) -> Vec<String> {
    let mut threads = Vec::new();
    let mut burnt_ns = 0;
    while burnt_ns < for_ns {
        let began_ns = thread_cpu_ns();
        while thread_cpu_ns() - began_ns < 500_000 {
            std::hint::spin_loop();
        }
        burnt_ns += thread_cpu_ns() - began_ns;
        threads.push(std::thread::current().name().unwrap_or_default().to_owned());
        yield_once().await;
    }
    threads
}

#[tokio::test]
async fn a_busy_attempt_moves_to_the_slow_tier_while_it_runs() {
    let executor = GuestExecutor::start(1).unwrap();
    let threads = executor.run(|_| burn(10_000_000)).await.unwrap();
    assert_eq!(threads.first().unwrap(), "plugin-fast");
    assert_eq!(threads.last().unwrap(), "plugin-slow");
}

#[tokio::test]
async fn quick_attempts_end_while_others_are_busy() {
    let executor = Arc::new(GuestExecutor::start(1).unwrap());
    let mut burning = tokio::task::JoinSet::new();
    for _ in 0..20 {
        let executor = executor.clone();
        burning.spawn(async move { executor.run(|_| burn(60_000_000_000)).await });
    }
    for _ in 0..20 {
        assert!(executor.run(|_| burn(0)).await.is_some());
    }
    assert!(burning.try_join_next().is_none(), "20 quick attempts ended before one that burns a minute");
}

#[tokio::test]
async fn busy_plugins_share_the_slow_tier_however_many_attempts_they_have() {
    let executor = Arc::new(GuestExecutor::start(1).unwrap());
    let (mut burning, turns) = (tokio::task::JoinSet::new(), Arc::new(AtomicU64::new(0)));
    for _ in 0..20 {
        let (executor, turns) = (executor.clone(), turns.clone());
        burning.spawn(async move {
            let burn_for_ever = |meter: Arc<CpuMeter>| async move {
                meter.set_plugin(&"loops".into());
                loop {
                    burn(1).await;
                    turns.fetch_add(1, Ordering::Relaxed);
                }
            };
            executor.run::<(), _>(burn_for_ever).await
        });
    }
    // By then all of them have left the fast tier.
    while turns.load(Ordering::Relaxed) < 200 {
        tokio::task::yield_now().await;
    }
    let other = |meter: Arc<CpuMeter>| {
        let turns = turns.clone();
        async move {
            meter.set_plugin(&"other".into());
            burn(5_000_000).await;
            let before = turns.load(Ordering::Relaxed);
            burn(50_000_000).await;
            turns.load(Ordering::Relaxed) - before
        }
    };
    let turns_of_loops = executor.run(other).await.unwrap();
    assert!(turns_of_loops < 200, "a hundred turns of one plugin, and {turns_of_loops} of the other's");
}

#[tokio::test]
async fn the_turns_of_others_do_not_count_as_time_of_an_attempt() {
    let executor = Arc::new(GuestExecutor::start(1).unwrap());
    let mut burning = tokio::task::JoinSet::new();
    for n in 0..20 {
        let executor = executor.clone();
        burning.spawn(async move {
            let plugin: Arc<str> = format!("loops-{n}").into();
            executor
                .run(move |meter| {
                    meter.set_plugin(&plugin);
                    burn(60_000_000_000)
                })
                .await
        });
    }
    // With 20 busy plugins it takes 20 times its CPU time.
    let attempt = |meter: Arc<CpuMeter>| async move {
        let watch = AttemptStopwatch::start(500, meter);
        watch.limit(async { Ok(burn(100_000_000).await) }).await
    };
    assert!(executor.run(attempt).await.unwrap().is_ok());
    assert!(burning.try_join_next().is_none());
}

#[tokio::test]
async fn jobs_that_wait_do_not_delay_the_next_ones() {
    let executor = GuestExecutor::start(1).unwrap();
    let (open, gate) = tokio::sync::watch::channel(false);
    let (ended, mut ends) = tokio::sync::mpsc::unbounded_channel();
    let mut jobs = (0..3).map(move |n| {
        let (mut gate, ended) = (gate.clone(), ended.clone());
        GuestJob::new(move |_| async move {
            if n == 0 {
                gate.wait_for(|open| *open).await.unwrap();
            }
            ended.send(n).unwrap();
        })
    });
    executor.run_jobs(move || jobs.next());
    assert_eq!((ends.recv().await, ends.recv().await), (Some(1), Some(2)));
    open.send(true).unwrap();
    assert_eq!((ends.recv().await, ends.recv().await), (Some(0), None));
}

#[tokio::test]
async fn a_panic_ends_only_its_own_attempt() {
    let executor = GuestExecutor::start(1).unwrap();
    assert!(executor.run::<(), _>(|_| async { panic!("as the test wants") }).await.is_none());
    assert_eq!(executor.run(|_| async { 5 }).await, Some(5));
    assert_eq!(executor.run_blocking(|| 5).await, Some(5));
}

#[tokio::test]
async fn an_attempt_without_a_caller_is_dropped() {
    let executor = GuestExecutor::start(1).unwrap();
    let (alive, mut dropped) = oneshot::channel::<()>();
    let attempt = executor.run(|_| async move {
        let _alive = alive;
        std::future::pending::<()>().await;
    });
    assert!(tokio::time::timeout(Duration::from_millis(5), attempt).await.is_err());
    assert!((&mut dropped).await.is_err());
}
