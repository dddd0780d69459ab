//! Tests of the host objects that a guest holds: their number, and how much it puts into them.

use crate::event::{AttemptFailure, FailureClass};
use crate::plugin::AttemptLimits;
use crate::plugin::testing::{ANSWERS, OK, SolePlugin, sole_of};

/// A handler that can make objects of `wasi:http`. `$word` is the address of 32 KiB of the letter `a`, and `$path` that of a
/// path of the same length.
fn requesting(body: &str) -> Vec<u8> {
    let text = format!(
        r#"(module
            (import "wasi:http/types@0.2.0" "[constructor]fields" (func $fields (result i32)))
            (import "wasi:http/types@0.2.0" "[method]fields.append"
                (func $append (param i32 i32 i32 i32 i32 i32)))
            (import "wasi:http/types@0.2.0" "[constructor]outgoing-request" (func $new (param i32) (result i32)))
            (import "wasi:http/types@0.2.0" "[method]outgoing-request.set-method"
                (func $set_method (param i32 i32 i32 i32) (result i32)))
            (import "wasi:http/types@0.2.0" "[method]outgoing-request.set-scheme"
                (func $set_scheme (param i32 i32 i32 i32 i32) (result i32)))
            (import "wasi:http/types@0.2.0" "[method]outgoing-request.set-authority"
                (func $set_authority (param i32 i32 i32 i32) (result i32)))
            (import "wasi:http/types@0.2.0" "[method]outgoing-request.set-path-with-query"
                (func $set_path (param i32 i32 i32 i32) (result i32)))
            (memory (export "memory") 4)
            (global $word i32 (i32.const 65536))
            (global $path i32 (i32.const 131072))
            (global $size i32 (i32.const 32768))
            (global $letter_a i32 (i32.const 97))
            (global $slash i32 (i32.const 47))
            {ANSWERS}
            (func $request (result i32) (call $new (call $fields)))
            (func (export "eventstream:plugin/handler@0.1.0#handle") (param $event i32) (result i32)
                (local $n i32) (local $r i32)
                (memory.fill (global.get $word) (global.get $letter_a) (global.get $size))
                (memory.fill (global.get $path) (global.get $letter_a) (global.get $size))
                (i32.store8 (global.get $path) (global.get $slash))
                {body}
                {OK}))"#
    );
    let mut module = wat::parse_str(&text).unwrap();
    let mut resolve = wit_parser::Resolve::default();
    let root = concat!(env!("CARGO_MANIFEST_DIR"), "/..");
    for path in ["plugins/webhook-python/wit/deps/io", "plugins/webhook-python/wit/deps/http", "wit/plugin.wit"] {
        resolve.push_path(format!("{root}/{path}")).unwrap();
    }
    let world = "package tests:requesting;
        world requesting { include eventstream:plugin/plugin@0.1.0; import wasi:http/types@0.2.0; }";
    let package = resolve.push_str("world.wit", world).unwrap();
    let world = resolve.select_world(&[package], Some("requesting")).unwrap();
    wit_component::embed_component_metadata(&mut module, &resolve, world, wit_component::StringEncoding::UTF8).unwrap();
    module
}

async fn sole(body: &str, limits: AttemptLimits, settings: &str) -> SolePlugin {
    sole_of(&requesting(body), limits, settings).await
}

fn times(n: u32, body: &str) -> String {
    format!(
        "(local.set $n (i32.const 0))
         (loop $again
            {body}
            (local.set $n (i32.add (local.get $n) (i32.const 1)))
            (br_if $again (i32.lt_u (local.get $n) (i32.const {n}))))"
    )
}

#[tokio::test]
async fn the_parts_of_a_request_are_limited_in_length() {
    let taken = |call: &str| format!("(if {call} (then unreachable))");
    let refused = |call: &str| format!("(if (i32.eqz {call}) (then unreachable))");
    // The constants say that there is a value, and that a method or scheme is not a registered one.
    let method = |n: u32| format!("(call $set_method (local.get $r) (i32.const 9) (global.get $word) (i32.const {n}))");
    let scheme = |n: u32| {
        format!("(call $set_scheme (local.get $r) (i32.const 1) (i32.const 2) (global.get $word) (i32.const {n}))")
    };
    let authority =
        |n: u32| format!("(call $set_authority (local.get $r) (i32.const 1) (global.get $word) (i32.const {n}))");
    let path = |n: u32| format!("(call $set_path (local.get $r) (i32.const 1) (global.get $path) (i32.const {n}))");
    let body = [
        "(local.set $r (call $request))".to_owned(),
        taken(&method(64)),
        refused(&method(65)),
        taken(&scheme(64)),
        refused(&scheme(65)),
        taken(&authority(8_192)),
        refused(&authority(8_193)),
        taken(&path(8_192)),
        refused(&path(8_193)),
    ];
    sole(&body.join("\n"), AttemptLimits::default(), "").await.success().await;
}

#[tokio::test]
async fn the_parts_of_a_request_count_as_data_passed_to_the_host() {
    let limits = AttemptLimits { host_call_bytes: 256 * 1_024, ..AttemptLimits::default() };
    for call in [
        "(drop (call $set_authority (call $request) (i32.const 1) (global.get $word) (i32.const 8192)))",
        "(drop (call $set_path (call $request) (i32.const 1) (global.get $path) (i32.const 8192)))",
        "(call $append (call $fields) (global.get $word) (i32.const 4) (global.get $word) (i32.const 8192) (i32.const 0))",
    ] {
        let few = sole(&times(25, call), limits, "").await;
        few.success().await;
        let failure = sole(&times(40, call), limits, "").await.failure().await;
        assert_eq!(failure.class, FailureClass::Limit, "{failure:?}");
        assert!(failure.message.contains("to the host"), "{failure:?}");
    }
}

#[tokio::test]
async fn the_objects_of_an_attempt_are_limited_in_number() {
    sole(&times(250, "(drop (call $fields))"), AttemptLimits::default(), "").await.success().await;
    let AttemptFailure { class, message, .. } =
        sole(&times(300, "(drop (call $fields))"), AttemptLimits::default(), "").await.failure().await;
    assert_eq!(class, FailureClass::Limit, "{message}");
    assert!(message.contains("handles"), "{message}");
}

#[tokio::test]
async fn an_instance_that_holds_many_objects_is_not_reused() {
    let leaking = sole(&times(30, "(drop (call $fields))"), AttemptLimits::default(), "reuse = {}").await;
    for _ in 0..20 {
        leaking.success().await;
    }
    let frugal = sole(&times(4, "(drop (call $fields))"), AttemptLimits::default(), "reuse = {}").await;
    frugal.success().await;
    assert_eq!(frugal.idle_count(), 1);
}
