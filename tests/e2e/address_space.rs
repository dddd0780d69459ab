//! With little address space, as on 39-bit kernels or with `ulimit -v`, a host runs fewer attempts at a time.

use std::io::{BufRead, BufReader, Read};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use eventstream_tests::host::command;

/// Starts a server with a limit of its address space, and with both outputs in one pipe.
fn serve_within(gib: u64, concurrency: usize, folder: &Path) -> Child {
    let concurrency = concurrency.to_string();
    let serve = command(folder, &["serve", "--listen", "127.0.0.1:0", "--concurrency", &concurrency]);
    let script = format!("ulimit -v {}; exec \"$0\" \"$@\" 2>&1", gib << 20);
    let mut shell = Command::new("sh");
    shell.args(["-c", &script]).arg(serve.get_program()).args(serve.get_args()).current_dir(folder);
    shell.stdout(Stdio::piped()).spawn().unwrap()
}

#[test]
fn a_host_with_little_address_space_serves() {
    for (gib, concurrency) in [(256, 1), (128, 4)] {
        let folder = tempfile::tempdir().unwrap();
        let mut host = serve_within(gib, concurrency, folder.path());
        let mut said = String::new();
        for line in BufReader::new(host.stdout.take().unwrap()).lines().map_while(Result::ok) {
            said += &format!("{line}\n");
            if line.contains("listening on") {
                break;
            }
        }
        assert!(said.contains("listening on"), "{gib} GiB: {said}");
        host.kill().unwrap();
        host.wait().unwrap();
    }
}

#[test]
fn where_the_concurrency_has_no_room_it_is_told_how_far_to_lower_it() {
    let folder = tempfile::tempdir().unwrap();
    let mut host = serve_within(256, 500, folder.path());
    let mut said = String::new();
    host.stdout.take().unwrap().read_to_string(&mut said).unwrap();
    assert_eq!(host.wait().unwrap().code(), Some(2), "{said}");
    assert!(said.contains("consumer.concurrency = 500") && said.contains("lower it to"), "{said}");
}

#[test]
fn a_host_serves_with_the_largest_concurrency() {
    let folder = tempfile::tempdir().unwrap();
    // As much as most machines have.
    let mut host = serve_within(100 << 10, 10_000, folder.path());
    let lines = BufReader::new(host.stdout.take().unwrap()).lines();
    let said: Vec<String> = lines.map_while(Result::ok).take_while(|line| !line.contains("listening on")).collect();
    let exited = host.try_wait().unwrap();
    host.kill().unwrap();
    host.wait().unwrap();
    assert!(exited.is_none(), "{said:?}");
}
