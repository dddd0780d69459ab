//! Denies a running process any further memory, as the memory limit of an orchestrator does.
//!
//! If the harness may create memory groups (cgroup v1, as root), it moves the process into one with a small limit. The
//! process keeps what it has, and the kernel kills it (SIGKILL) when it needs more. Elsewhere the harness limits its
//! writable memory to the present size (RLIMIT_DATA), and the process may abort when an allocation fails.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

use rustix::process::{Pid, Resource, Rlimit, prlimit};

/// The folder of the memory groups.
const ROOT: &str = "/sys/fs/cgroup/memory";

/// A process that gets no more memory, until [`Self::end`].
pub struct MemoryShortage {
    pid: Pid,
    group: Option<Group>,
}

/// A memory group with one process in it.
struct Group {
    folder: PathBuf,
    parent: PathBuf,
}

impl MemoryShortage {
    /// Leaves a process about this many bytes beyond what it has. Fails only if the process has ended.
    pub fn starve(pid: Pid, left_bytes: u64) -> Self {
        let group = Group::make(pid, left_bytes);
        if group.is_none() {
            limit_data(pid, Some(data_bytes(pid) + left_bytes));
        }
        Self { pid, group }
    }

    /// Ends the shortage. True if the kernel killed the process because of it.
    pub fn end(self) -> bool {
        match self.group {
            Some(group) => group.end(),
            None => {
                limit_data(self.pid, None);
                false
            }
        }
    }

    /// Whether the kernel kills the process. Without memory groups this is not certain.
    pub fn is_killed_for_certain() -> bool {
        own_group().is_some_and(|parent| {
            let probe = parent.join(format!("eventstream-probe-{}", std::process::id()));
            fs::create_dir(&probe).and_then(|()| fs::remove_dir(&probe)).is_ok()
        })
    }
}

impl Group {
    fn make(pid: Pid, limit_bytes: u64) -> Option<Self> {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let parent = own_group()?;
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let folder = parent.join(format!("eventstream-tests-{}-{number}", std::process::id()));
        fs::create_dir(&folder).ok()?;
        let group = Self { folder, parent };
        let set = |file: &str, value: String| fs::write(group.folder.join(file), value);
        let is_set = set("memory.limit_in_bytes", limit_bytes.to_string())
            .and_then(|()| set("cgroup.procs", pid.as_raw_nonzero().to_string()));
        if is_set.is_err() {
            group.end();
            return None;
        }
        Some(group)
    }

    fn end(self) -> bool {
        let control = fs::read_to_string(self.folder.join("memory.oom_control")).unwrap_or_default();
        let _ = fs::write(self.folder.join("memory.limit_in_bytes"), "-1");
        // Both fail only if the process has ended; an empty group that stays does no harm.
        for pid in fs::read_to_string(self.folder.join("cgroup.procs")).unwrap_or_default().lines() {
            let _ = fs::write(self.parent.join("cgroup.procs"), pid);
        }
        let _ = fs::remove_dir(&self.folder);
        control.lines().filter_map(|line| line.strip_prefix("oom_kill ")).any(|count| count.trim() != "0")
    }
}

/// The group that this process is in.
fn own_group() -> Option<PathBuf> {
    let groups = fs::read_to_string("/proc/self/cgroup").ok()?;
    let own = groups.lines().find_map(|line| line.split_once(":memory:"))?.1.trim_start_matches('/');
    let folder = Path::new(ROOT).join(own);
    folder.join("memory.limit_in_bytes").exists().then_some(folder)
}

fn data_bytes(pid: Pid) -> u64 {
    let status = fs::read_to_string(format!("/proc/{}/status", pid.as_raw_nonzero())).unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmData:")).unwrap_or_default();
    line.split_whitespace().next().and_then(|kib| kib.parse::<u64>().ok()).unwrap_or(0) * 1_024
}

fn limit_data(pid: Pid, bytes: Option<u64>) {
    let _ = prlimit(Some(pid), Resource::Data, Rlimit { current: bytes, maximum: None });
}

#[cfg(test)]
mod tests {
    use std::process::{Command, Stdio};

    use super::*;
    use crate::eventually::eventually;

    #[test]
    fn a_process_that_finds_no_memory_ends_or_gets_an_error() {
        // Allocates memory after it reads a line.
        let script = "read go; exec awk 'BEGIN { s = \"x\"; while (length(s) < 1e9) s = s s }'";
        let mut command = Command::new("sh");
        let mut child = command.args(["-c", script]).stdin(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
        let pid = Pid::from_raw(i32::try_from(child.id()).unwrap()).unwrap();
        let shortage = MemoryShortage::starve(pid, 8 * 1_024 * 1_024);
        drop(child.stdin.take());
        let status = eventually("it ends", || child.try_wait().unwrap().ok_or("it runs"));
        assert!(!status.success(), "{status}");
        assert_eq!(shortage.end(), MemoryShortage::is_killed_for_certain());
    }

    #[test]
    fn a_process_that_needs_none_keeps_running() {
        let mut child = Command::new("sleep").arg("600").spawn().unwrap();
        let pid = Pid::from_raw(i32::try_from(child.id()).unwrap()).unwrap();
        assert!(!MemoryShortage::starve(pid, 1 << 30).end());
        assert!(child.try_wait().unwrap().is_none());
        child.kill().unwrap();
        child.wait().unwrap();
    }
}
