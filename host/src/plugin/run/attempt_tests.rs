//! Tests of attempts at their limits: each misbehavior ends in its class, and none affects the next attempt.

use std::time::Duration;

use crate::event::{AttemptOutcome, EventData, FailureClass, LogLevel, LogLine};
use crate::plugin::AttemptLimits;
use crate::plugin::testing::{OK, REJECT, RETRY, sole, sole_with};

/// Returns ok with `length` bytes of text.
fn ok_text(length: u32) -> String {
    format!("(call $ok_text (i32.const {length}))")
}

#[tokio::test]
async fn a_handler_answers_ok_retry_or_reject() {
    let success = sole(&ok_text(5), AttemptLimits::default()).await.success().await;
    assert_eq!((success.result, success.published.len()), (Some(EventData::text("child")), 0));
    let nothing = sole(OK, AttemptLimits::default()).await.success().await;
    assert_eq!(nothing.result, None);

    let retry = sole(RETRY, AttemptLimits::default()).await.failure().await;
    assert_eq!((retry.class, retry.message.as_str(), retry.after_ms), (FailureClass::Retry, "child", Some(1)));
    let reject = sole(REJECT, AttemptLimits::default()).await.failure().await;
    assert_eq!((reject.class, reject.message.as_str(), reject.after_ms), (FailureClass::Reject, "child", None));
}

#[tokio::test]
async fn every_attempt_has_a_fresh_instance() {
    let sole = sole(RETRY, AttemptLimits::default()).await;
    for _ in 0..20 {
        assert_eq!(sole.failure().await.after_ms, Some(1), "the calls of the instance");
    }
}

#[tokio::test]
async fn a_trap_comes_with_its_place_in_the_guest() {
    let failure = sole("unreachable", AttemptLimits::default()).await.failure().await;
    assert_eq!(failure.class, FailureClass::Trap);
    assert!(failure.message.contains("unreachable"), "{failure:?}");
    assert!(failure.backtrace.as_ref().unwrap().contains("handle"), "{failure:?}");
}

#[tokio::test]
async fn a_loop_ends_at_its_cpu_limit() {
    let limits = AttemptLimits { cpu_ms: 50, wall_ms: 120_000, ..AttemptLimits::default() };
    let failure = sole("(loop $again (br $again)) unreachable", limits).await.failure().await;
    assert_eq!(failure.class, FailureClass::Timeout);
    assert!(failure.message.contains("50 ms of CPU time"), "{failure:?}");
}

#[tokio::test]
async fn cpu_time_from_before_the_attempt_does_not_count() {
    let limits = AttemptLimits { cpu_ms: 60_000, wall_ms: 120_000, ..AttemptLimits::default() };
    // Longer than a tick, so that the limit is checked.
    let body = format!(
        "(loop $again
            (local.set $n (i32.add (local.get $n) (i32.const 1)))
            (br_if $again (i32.lt_u (local.get $n) (i32.const 50000000))))
         {OK}"
    );
    for settings in ["", "reuse = {}"] {
        let sole = sole_with(&body, limits, settings).await;
        for _ in 0..2 {
            let completed = sole.attempt_after(120_000_000_000).await;
            assert!(matches!(completed.outcome, AttemptOutcome::Ok(_)), "{completed:?}");
        }
    }
}

#[tokio::test]
async fn an_attempt_ends_at_its_wall_time_too() {
    let limits = AttemptLimits { cpu_ms: 60_000, wall_ms: 50, ..AttemptLimits::default() };
    let failure = sole("(loop $again (br $again)) unreachable", limits).await.failure().await;
    assert_eq!(failure.class, FailureClass::Timeout);
    assert!(failure.message.contains("within the 50 ms"), "{failure:?}");
}

#[tokio::test]
async fn memory_and_stack_are_limits() {
    let grow = "(loop $again (drop (memory.grow (i32.const 16))) (br $again)) unreachable";
    let limits = AttemptLimits { memory_bytes: 4 << 20, ..AttemptLimits::default() };
    let failure = sole(grow, limits).await.failure().await;
    assert_eq!(failure.class, FailureClass::Limit);
    assert!(failure.message.contains("may have 4194304"), "{failure:?}");

    let failure = sole("(call $recurse (i32.const 0))", AttemptLimits::default()).await.failure().await;
    assert_eq!(failure.class, FailureClass::Limit);
    assert!(failure.message.contains("stack"), "{failure:?}");
}

#[tokio::test]
async fn a_table_grows_to_its_limit_and_no_further() {
    let grow = |by: u32| format!("(table.grow $table (ref.null func) (i32.const {by}))");
    let body = format!(
        "(if (i32.eq {} (i32.const -1)) (then unreachable))
         (if (i32.ne {} (i32.const -1)) (then unreachable))
         {OK}",
        grow(10_000),
        grow(10_000)
    );
    assert_eq!(sole(&body, AttemptLimits::default()).await.success().await.result, None);
}

#[tokio::test]
async fn a_result_over_its_limit_is_output() {
    let limits = AttemptLimits { result_bytes: 4, ..AttemptLimits::default() };
    let failure = sole(&ok_text(5), limits).await.failure().await;
    assert_eq!(failure.class, FailureClass::Output);
    assert!(failure.message.contains("5 bytes"), "{failure:?}");

    let limits = AttemptLimits { host_call_bytes: 2_000, ..AttemptLimits::default() };
    let failure = sole(&ok_text(3_000), limits).await.failure().await;
    assert_eq!(failure.class, FailureClass::Output, "larger than a call may carry at all: {failure:?}");
}

#[tokio::test]
async fn data_passed_to_the_host_is_limited_in_one_call_and_in_all() {
    let limits = AttemptLimits { host_call_bytes: 2_000, ..AttemptLimits::default() };
    for body in ["(call $line (i32.const 3000))", "(loop $again (call $line (i32.const 100)) (br $again))"] {
        let failure = sole(&format!("{body} {OK}"), limits).await.failure().await;
        assert_eq!(failure.class, FailureClass::Limit, "{failure:?}");
        assert!(failure.message.contains("host"), "{failure:?}");
    }
}

#[tokio::test]
async fn a_flood_of_log_lines_is_bounded() {
    let body = format!(
        "(loop $again
            (call $line (i32.const 1000))
            (local.set $n (i32.add (local.get $n) (i32.const 1)))
            (br_if $again (i32.lt_u (local.get $n) (i32.const 100))))
         {OK}"
    );
    let limits = AttemptLimits { log_lines: 3, log_line_bytes: 10, ..AttemptLimits::default() };
    let completed = sole(&body, limits).await.attempt().await;
    assert_eq!((completed.log.len(), completed.log_lines_dropped), (3, 97));
    assert!(completed.log.iter().all(|line| line.message.len() == 10 && line.level == LogLevel::Info));
}

/// Logs a line with `n` empty fields. They lie in new memory, which is zero.
fn log_empty_fields(n: u32) -> String {
    format!(
        "(drop (memory.grow (i32.const 100)))
         (call $log (global.get $info) (global.get $text) (global.get $text_length) (i32.const 131072) (i32.const {n}))"
    )
}

#[tokio::test]
async fn fields_of_log_lines_are_limited_in_number_and_count_even_if_empty() {
    let completed = sole(&format!("{} {OK}", log_empty_fields(1_000)), AttemptLimits::default()).await.attempt().await;
    assert_eq!(completed.log[0].fields.len(), LogLine::MAX_FIELDS);

    let lines = log_empty_fields(300_000).repeat(2);
    let failure = sole(&format!("{lines} {OK}"), AttemptLimits::default()).await.failure().await;
    assert_eq!(failure.class, FailureClass::Limit, "{failure:?}");
}

#[tokio::test]
async fn published_events_leave_with_the_outcome() {
    let success = sole(&format!("(call $child) (call $child) {OK}"), AttemptLimits::default()).await.success().await;
    let types: Vec<&str> = success.published.iter().map(|new| new.event.event_type.as_str()).collect();
    assert_eq!(types, ["child", "child"]);
    assert!(success.published[0].event.id < success.published[1].event.id);
}

#[tokio::test]
async fn a_refused_publish_fails_the_attempt_even_if_the_handler_ignores_it() {
    let limits = AttemptLimits { published_events: 1, ..AttemptLimits::default() };
    let failure = sole(&format!("(call $child) (call $child) {OK}"), limits).await.failure().await;
    assert_eq!(failure.class, FailureClass::Output);
    assert!(failure.message.contains("at most 1"), "{failure:?}");

    // A failure that the handler returns takes precedence.
    let failure = sole(&format!("(call $child) (call $child) {REJECT}"), limits).await.failure().await;
    assert_eq!(failure.class, FailureClass::Reject);
}

#[tokio::test]
async fn attempts_beyond_the_capacity_wait_and_do_not_fail() {
    let sole = std::sync::Arc::new(sole(OK, AttemptLimits::default()).await);
    let mut attempts = tokio::task::JoinSet::new();
    for _ in 0..200 {
        let sole = sole.clone();
        attempts.spawn(async move { sole.success().await });
    }
    assert_eq!(attempts.join_all().await.len(), 200);
}

#[tokio::test]
async fn dropped_attempts_give_their_slots_back() {
    let limits = AttemptLimits { cpu_ms: 60_000, wall_ms: 60_000, ..AttemptLimits::default() };
    let sole = sole("(if (i32.eqz (local.get $n)) (then (loop $again (br $again)))) unreachable", limits).await;
    for _ in 0..20 {
        assert!(tokio::time::timeout(Duration::from_millis(10), sole.attempt()).await.is_err());
    }
    // Ends at once, although guests are looping for a minute.
    let begun = std::time::Instant::now();
    drop(sole);
    assert!(begun.elapsed() < Duration::from_secs(40));
}
