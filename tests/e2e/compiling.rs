//! A component is compiled in a process of its own, so that a file that crashes the compiler does not harm the server.

use eventstream_tests::eventually::eventually;
use eventstream_tests::guests::PluginsDir;
use eventstream_tests::host::{HostOptions, command};
use eventstream_tests::layout;
use eventstream_tests::on_both_brokers;
use eventstream_tests::stage::{Broker, Stage};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::json;

on_both_brokers! {
    events_wait_for_a_plugin_that_is_being_compiled,
}

/// How much the peak memory of the server may grow while a compiler uses all the memory that it may.
const GROWTH_LIMIT_BYTES: u64 = 64 << 20;

/// A component with one function: a chain of `if`, each on the result of the one before. A link takes 8 bytes, and the
/// compiler needs memory that grows with the square of their number.
pub(super) fn bomb(links: usize) -> Vec<u8> {
    let mut body = vec![0x00, 0x20, 0x00];
    for _ in 0..links {
        body.extend_from_slice(&[0x04, 0x7f, 0x41, 0x01, 0x05, 0x41, 0x02, 0x0b]);
    }
    body.push(0x0b);
    let mut code = leb(1);
    code.extend(leb(body.len()));
    code.extend(body);
    let mut module = b"\0asm\x01\0\0\0".to_vec();
    for (id, content) in [(1, vec![0x01, 0x60, 0x01, 0x7f, 0x01, 0x7f]), (3, vec![0x01, 0x00]), (10, code)] {
        section(&mut module, id, &content);
    }
    let mut component = b"\0asm\x0d\0\x01\0".to_vec();
    section(&mut component, 1, &module);
    component
}

fn section(to: &mut Vec<u8>, id: u8, content: &[u8]) {
    to.push(id);
    to.extend(leb(content.len()));
    to.extend_from_slice(content);
}

fn leb(mut number: usize) -> Vec<u8> {
    let mut bytes = Vec::new();
    loop {
        let low = u8::try_from(number & 0x7f).unwrap();
        number >>= 7;
        bytes.push(if number == 0 { low } else { low | 0x80 });
        if number == 0 {
            return bytes;
        }
    }
}

#[track_caller]
fn refusal(stage: &Stage, name: &str) -> String {
    eventually(&format!("{name} is refused"), || {
        let status = stage.client.get(&format!("/plugins/{name}")).json();
        status["error"].as_str().map(str::to_owned).ok_or(status)
    })
}

#[test]
fn a_file_that_takes_the_compiler_all_its_memory_leaves_the_server_small_and_the_old_version_at_work() {
    let stage = Stage::with(Broker::Embedded, PluginsDir::scripted(&["work"]), |options| {
        options.with("plugins.compile_memory_bytes", 512 << 20)
    });
    let before = stage.host.peak_resident_bytes();
    let bomb = bomb(100_000);
    assert!(bomb.len() < 900_000, "a small file");
    stage.plugins.write("work.wasm", &bomb);
    let words = refusal(&stage, "work");
    assert!(words.contains("536870912 bytes of memory") && words.contains("plugins.compile_memory_bytes"), "{words}");
    let grown = stage.host.peak_resident_bytes().saturating_sub(before);
    assert!(grown < GROWTH_LIMIT_BYTES, "the server has grown by {grown} bytes");

    let status = stage.client.get("/plugins/work").expect(200).json();
    assert_eq!(status["state"], "failed-kept-last-good", "{status}");
    let event = stage.client.wait_ended(&stage.client.post_event("work", &json!({})));
    assert_eq!(event.state, "processed", "the old version serves: {event:?}");
}

#[test]
fn what_the_compiler_refused_is_not_tried_again_at_the_next_start_unless_a_person_asks() {
    let (kept, plugins) = (tempfile::tempdir().unwrap(), PluginsDir::empty());
    plugins.write("bomb.wasm", &bomb(100_000));
    let limited = |options: HostOptions| {
        let data_dir = kept.path().join("plugins");
        options.with("plugins.compile_memory_bytes", 256 << 20).with("plugins.data_dir", data_dir.display())
    };
    let mut stage = Stage::with(Broker::Embedded, plugins, limited);
    let first = refusal(&stage, "bomb");
    assert!(first.contains("268435456 bytes of memory") && !first.contains("refused before"), "{first}");
    stage.host.kill9();
    stage.replace_host(limited);
    let second = refusal(&stage, "bomb");
    assert!(second.starts_with(&first) && second.contains("refused before and not tried again"), "{second}");

    let mut check = command(stage.plugins.path(), &["plugin", "check", "bomb.wasm"]);
    let checked = check.env("EVENTSTREAM_PLUGINS_COMPILE_MEMORY_BYTES", "268435456").output().unwrap();
    let words = String::from_utf8_lossy(&checked.stdout).into_owned();
    assert_eq!(checked.status.code(), Some(4), "{words}");
    assert!(words.contains("268435456 bytes of memory") && !words.contains("refused before"), "{words}");
}

/// Starts the compilation of a file and stops the compiler (SIGSTOP). Returns the name of the file and the process. If
/// a compiler ends before it can be stopped, tries another file.
#[track_caller]
pub(super) fn stopped_compiler(stage: &Stage, stem: &str, file: &[u8]) -> (String, Pid) {
    for n in 0..100 {
        let name = format!("{stem}{n}");
        // A custom section makes it a file of its own, which is not compiled yet.
        let file = [file, format!("\0\x06\x05{n:05}").as_bytes()].concat();
        stage.plugins.write(&format!("{name}.wasm"), &file);
        let caught = eventually("it is compiled", || {
            let is_stopped = |compiler: Pid| kill_process(compiler, Signal::STOP).is_ok() && stands_still(compiler);
            if let Some(compiler) = stage.host.children().into_iter().find(|compiler| is_stopped(*compiler)) {
                return Ok(Some(compiler));
            }
            match stage.client.get(&format!("/plugins/{name}")).json()["state"].as_str() {
                Some("active" | "failed") => Ok(None),
                state => Err(format!("{state:?}")),
            }
        });
        if let Some(compiler) = caught {
            return (name, compiler);
        }
    }
    panic!("every compiler had ended before it was stopped");
}

/// Whether a process is stopped. After SIGSTOP it soon stops or has ended.
pub(super) fn stands_still(process: Pid) -> bool {
    eventually("it stands still or ends", || {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", process.as_raw_nonzero())).unwrap_or_default();
        match stat.rsplit(") ").next().and_then(|rest| rest.chars().next()) {
            Some('T') => Ok(true),
            None | Some('Z' | 'X') => Ok(false),
            Some(state) => Err(state),
        }
    })
}

/// Sends an event that no plugin handles yet, and then an event that a plugin handles.
#[track_caller]
fn waits(stage: &Stage, event_type: &str) -> String {
    let waiting = stage.client.post_event(event_type, &json!({}));
    for _ in 0..3 {
        let behind = stage.client.wait_ended(&stage.client.post_event("work", &json!({})));
        assert_eq!(behind.state, "processed", "{behind:?}");
    }
    let event = stage.client.event(&waiting).unwrap();
    assert_eq!((event.state.as_str(), event.attempts.len()), ("queued", 0), "{event:?}");
    waiting
}

fn events_wait_for_a_plugin_that_is_being_compiled(broker: Broker) {
    let kept = tempfile::tempdir().unwrap();
    let stage = Stage::with(broker, PluginsDir::scripted(&["work"]), |options| {
        options.with("plugins.data_dir", kept.path().join("plugins").display()).with("retry.max_attempts", 1)
    });
    let idle = std::fs::read(layout::guest("idle")).unwrap();
    let (name, compiler) = stopped_compiler(&stage, "new", &idle);
    let waiting = waits(&stage, &name);
    kill_process(compiler, Signal::CONT).unwrap();
    let event = stage.client.wait_ended(&waiting);
    assert_eq!((event.state.as_str(), event.attempts.len()), ("processed", 1), "{event:?}");

    let (name, compiler) = stopped_compiler(&stage, "never", &bomb(1_000));
    let waiting = waits(&stage, &name);
    kill_process(compiler, Signal::KILL).unwrap();
    let event = stage.client.wait_ended(&waiting);
    assert_eq!((event.state.as_str(), event.class.as_deref()), ("failed", Some("no-handler")), "{event:?}");
}
