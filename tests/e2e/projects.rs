//! A plugin project as a new user sees it: created, built, tested, and dropped into the directory of a running server.

use std::fs;
use std::path::Path;
use std::process::Output;

use eventstream_tests::eventually::eventually;
use eventstream_tests::guests::PluginsDir;
use eventstream_tests::host::command;
use eventstream_tests::stage::{Broker, Stage};
use serde_json::json;

fn run(folder: &Path, arguments: &[&str]) -> Output {
    command(folder, arguments).output().unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[test]
fn a_rust_project_builds_passes_its_tests_and_serves() {
    let folder = tempfile::tempdir().unwrap();
    let project = folder.path().join("hello");
    let made = run(folder.path(), &["plugin", "new", "hello"]);
    assert_eq!(made.status.code(), Some(0), "{}", text(&made.stderr));
    assert!(text(&made.stdout).contains("cd hello"), "{}", text(&made.stdout));
    let again = run(folder.path(), &["plugin", "new", "hello"]);
    assert_eq!(again.status.code(), Some(2));
    assert!(text(&again.stderr).contains("choose another folder with --dir"), "{}", text(&again.stderr));

    let tested = run(folder.path(), &["plugin", "test", "hello"]);
    assert_eq!(tested.status.code(), Some(0), "{}{}", text(&tested.stdout), text(&tested.stderr));
    assert!(text(&tested.stdout).ends_with("3 passed, 0 failed\n"), "{}", text(&tested.stdout));

    // A test that fails is reported with its place.
    let wrong =
        r#"{"event": {"type": "hello", "payload": {"name": "Bo"}}, "expect": {"result": {"text": "Hello, Ada!"}}}"#;
    fs::write(project.join("tests/wrong.json"), wrong).unwrap();
    let tested = run(&project, &["plugin", "test", "--no-build"]);
    assert_eq!(tested.status.code(), Some(1));
    let words = "FAILED  wrong\n        /result/text: expected \"Hello, Ada!\", got \"Hello, Bo!\"";
    assert!(text(&tested.stdout).contains(words), "{}", text(&tested.stdout));
    fs::write(project.join("tests/wrong.json"), "{}").unwrap();
    let tested = run(&project, &["plugin", "test", "--no-build"]);
    assert_eq!(tested.status.code(), Some(2));
    assert!(text(&tested.stderr).contains("wrong.json is no test"), "{}", text(&tested.stderr));

    let built = run(&project, &["plugin", "build"]);
    assert_eq!(built.status.code(), Some(0), "{}", text(&built.stderr));
    assert!(text(&built.stdout).contains("starts with 196,608 bytes"), "{}", text(&built.stdout));

    // The settings of the project are those that a server would have.
    fs::remove_file(project.join("tests/wrong.json")).unwrap();
    fs::write(project.join("hello.toml"), "types = ['greeting']\nlimits = { result_bytes = 5 }").unwrap();
    let built = run(&project, &["plugin", "build"]);
    assert!(text(&built.stdout).contains("types    greeting"), "{}", text(&built.stdout));
    let tested = run(&project, &["plugin", "test", "--no-build"]);
    assert_eq!(tested.status.code(), Some(1), "{}", text(&tested.stdout));
    assert!(text(&tested.stdout).contains("FAILED"), "{}", text(&tested.stdout));
    fs::write(project.join("hello.toml"), "tipes = []").unwrap();
    for command in [&["plugin", "build"][..], &["plugin", "test", "--no-build"]] {
        let refused = run(&project, command);
        assert_eq!(refused.status.code(), Some(2));
        assert!(text(&refused.stderr).contains("did you mean \"types\""), "{}", text(&refused.stderr));
    }

    let stage = Stage::with(Broker::Embedded, PluginsDir::empty(), |options| options);
    stage.plugins.put("hello", &project.join("dist/hello.wasm"));
    eventually("the plugin is loaded", || {
        let plugins = stage.client.get("/plugins").json();
        if plugins["plugins"][0]["state"] == "active" { Ok(()) } else { Err(plugins.to_string()) }
    });
    let event = stage.client.wait_ended(&stage.client.post_event("hello", &json!({"name": "Ada"})));
    assert_eq!(event.result.unwrap().get(), r#"{"text":"Hello, Ada!"}"#);
}

#[test]
fn a_rust_project_may_be_named_after_a_type_with_dots() {
    let folder = tempfile::tempdir().unwrap();
    let made = run(folder.path(), &["plugin", "new", "order.paid"]);
    assert_eq!(made.status.code(), Some(0), "{}", text(&made.stderr));
    // A secret is read by what the project imports already.
    let source = folder.path().join("order.paid/src/lib.rs");
    let handler = fs::read_to_string(&source).unwrap();
    let reads = handler.replace("config::get(\"greeting\")", "self::eventstream::plugin::secrets::get(\"greeting\")");
    fs::write(&source, reads.replace("use self::eventstream::plugin::config;\n", "")).unwrap();
    let settings = "secrets = { greeting = 'Good morning' }";
    fs::write(folder.path().join("order.paid/order.paid.toml"), settings).unwrap();
    let test = r#"{"event": {"type": "order.paid", "payload": {"name": "Bo"}}, "expect": {"result": {"text": "Good morning, Bo!"}}}"#;
    fs::remove_dir_all(folder.path().join("order.paid/tests")).unwrap();
    fs::create_dir(folder.path().join("order.paid/tests")).unwrap();
    fs::write(folder.path().join("order.paid/tests/secret.json"), test).unwrap();
    let tested = run(folder.path(), &["plugin", "test", "order.paid"]);
    assert_eq!(tested.status.code(), Some(0), "{}{}", text(&tested.stdout), text(&tested.stderr));
    assert!(folder.path().join("order.paid/dist/order.paid.wasm").is_file());
}

#[test]
fn a_source_that_does_not_compile_is_the_compilers_to_explain() {
    let folder = tempfile::tempdir().unwrap();
    run(folder.path(), &["plugin", "new", "broken"]);
    fs::write(folder.path().join("broken/src/lib.rs"), "fn handle(").unwrap();
    let built = run(folder.path(), &["plugin", "build", "broken"]);
    assert_eq!(built.status.code(), Some(1));
    let told = text(&built.stderr);
    assert!(told.contains("error: ") && told.contains("cargo failed"), "{told}");
}

#[test]
fn what_is_missing_is_named_with_the_command_that_installs_it() {
    let folder = tempfile::tempdir().unwrap();
    for (language, words) in [("js", "run `npm install`"), ("python", "pip install -r requirements.txt`")] {
        let made = run(folder.path(), &["plugin", "new", "--lang", language, language]);
        assert_eq!(made.status.code(), Some(0), "{}", text(&made.stderr));
        let mut build = command(folder.path(), &["plugin", "build", language]);
        let built = build.env("PATH", "/nowhere").output().unwrap();
        assert_eq!(built.status.code(), Some(1), "{}", text(&built.stdout));
        assert!(text(&built.stderr).contains(words), "{}", text(&built.stderr));
    }
    for (arguments, words) in [
        (["plugin", "new", "1st"], "cannot be the name of a Rust package"),
        (["plugin", "new", "a/b"], "a plugin's name is letters"),
        (["plugin", "build", "."], "make one with eventstream plugin new"),
        (["plugin", "test", "nowhere"], "make one with eventstream plugin new"),
    ] {
        let output = run(folder.path(), &arguments);
        assert_eq!(output.status.code(), Some(2), "{arguments:?}");
        assert!(text(&output.stderr).contains(words), "{}", text(&output.stderr));
    }
}
