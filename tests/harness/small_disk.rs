//! A small disk of a test's own.

use std::path::PathBuf;
use std::process::Command;

use tempfile::TempDir;

/// The variable that names the directory of the disk to the process that works on it.
const DIRECTORY: &str = "EVENTSTREAM_TEST_SMALL_DISK";

/// The directory of the disk that this process has to itself; `None` if nobody gave it one.
pub fn directory() -> Option<PathBuf> {
    std::env::var_os(DIRECTORY).map(PathBuf::from)
}

/// Runs an ignored test of this program in a process that has a disk of 48 MiB to itself, and checks that it printed
/// `reported`. Only the superuser can do that; for anybody else it prints that nothing was tested.
///
/// # Panics
/// The test failed.
#[track_caller]
pub fn run_on_small_disk(test: &str, reported: &str) {
    let dir: TempDir = tempfile::tempdir().expect("a temporary folder can be made");
    // In a mount namespace of its own, so that the disk ends with the process and no other process sees it.
    let mount = "mount -t tmpfs -o size=48m none \"$0\" && exec \"$@\"";
    let done = Command::new("unshare")
        .args(["--mount", "sh", "-c", mount])
        .arg(dir.path())
        .arg(std::env::current_exe().expect("the program has a path"))
        .args(["--exact", test, "--ignored", "--nocapture", "--quiet"])
        .env(DIRECTORY, dir.path())
        .output();
    let Some(done) = done.ok().filter(|_| rustix::process::geteuid().is_root()) else {
        eprintln!("not tested: only the superuser can mount a small disk");
        return;
    };
    let said = String::from_utf8_lossy(&done.stdout);
    assert!(done.status.success() && said.contains(reported), "{said}{}", String::from_utf8_lossy(&done.stderr));
}
