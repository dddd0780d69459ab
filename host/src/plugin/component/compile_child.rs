//! Compiling in a process of its own: the end that asks, and the end that answers.
//!
//! The component goes to the child's standard input. The answer comes from its standard output: one byte for what it is,
//! its length as eight bytes, least first, and the code or the words of a refusal. An answer that is not whole is none.
//! The child limits itself before it reads: memory and CPU time; the wall time is the parent's to watch.

use std::io::{self, Read, Write};
use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use rustix::process::{Resource, Rlimit, setrlimit};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};
use tokio::process::Command;

use super::load_error::LoadError;
use crate::plugin::sandbox::engine;

/// The most native code that is taken from a child. CPython comes to 70 MB.
const MAX_ANSWER_BYTES: u64 = 256 * 1024 * 1024;
/// The most that is kept of what a child writes to its standard error.
const MAX_WORDS_BYTES: u64 = 4 * 1024;
/// The most threads of one compilation: each has its share of the memory.
const MAX_THREADS: usize = 4;
/// How much nicer than the server a child is: the server goes first, and on a machine that is busy throughout a new build
/// still gets the quarter of a core that it needs to be compiled at all.
const NICENESS: i32 = 5;

const CODE: u8 = b'C';
const REFUSED: u8 = b'R';
const NOT_MADE: u8 = b'M';

/// What compiling one component may take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CompileLimits {
    /// Memory, in bytes.
    pub memory_bytes: u64,
    /// CPU time of all threads, in milliseconds; counted in whole seconds.
    pub cpu_ms: u64,
    /// Wall time, in milliseconds.
    pub wall_ms: u64,
}

impl Default for CompileLimits {
    fn default() -> Self {
        Self { memory_bytes: 2 * 1024 * 1024 * 1024, cpu_ms: 60_000, wall_ms: 300_000 }
    }
}

/// How to start a process that compiles.
#[derive(Clone, Debug)]
pub struct CompileChild {
    /// The program, which is to call [`answer`].
    pub program: PathBuf,
    /// What it is to be called with, before the limits: `--memory-bytes=N --cpu-ms=N`.
    pub arguments: Vec<String>,
    /// What it may take.
    pub limits: CompileLimits,
}

impl CompileChild {
    /// Native code from a component, made within these limits. Dropping the future kills the child.
    pub(super) async fn compile(&self, bytes: &[u8], limits: CompileLimits) -> Result<Vec<u8>, LoadError> {
        let threads = std::thread::available_parallelism().map_or(1, usize::from).min(MAX_THREADS);
        let mut child = Command::new(&self.program)
            .args(&self.arguments)
            .args([format!("--memory-bytes={}", limits.memory_bytes), format!("--cpu-ms={}", limits.cpu_ms)])
            .env_clear()
            .env("RAYON_NUM_THREADS", threads.to_string())
            .current_dir("/")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .map_err(|error| LoadError::NoCompiler(error.to_string()))?;
        let (stdin, stdout, stderr) = (child.stdin.take(), child.stdout.take(), child.stderr.take());
        let talk = async {
            let feed = async {
                if let Some(mut stdin) = stdin {
                    // A child that has died says so by its status.
                    let _ = stdin.write_all(bytes).await;
                }
            };
            let ((), answer, words) = tokio::join!(feed, take(stdout, MAX_ANSWER_BYTES), take(stderr, MAX_WORDS_BYTES));
            (answer, words, child.wait().await)
        };
        let (answer, words, status) = tokio::time::timeout(Duration::from_millis(limits.wall_ms), talk)
            .await
            .map_err(|_| limits.over(format!("took more than {} ms", limits.wall_ms), "compile_wall_ms"))?;
        let status = status.map_err(|error| LoadError::NoCompiler(error.to_string()))?;
        if !status.success() {
            return Err(limits.died(status, &String::from_utf8_lossy(&words)));
        }
        parse(answer)
    }
}

impl CompileLimits {
    fn over(&self, what: String, key: &'static str) -> LoadError {
        LoadError::CompilerLimit { what, key }
    }

    fn died(&self, status: ExitStatus, words: &str) -> LoadError {
        const OVER_CPU: i32 = rustix::process::Signal::XCPU.as_raw();
        const KILLED: i32 = rustix::process::Signal::KILL.as_raw();
        match status.signal() {
            Some(OVER_CPU) => self.over(format!("took more than {} ms of CPU time", self.cpu_ms), "compile_cpu_ms"),
            Some(_) if words.contains("memory allocation") => {
                self.over(format!("took more than {} bytes of memory", self.memory_bytes), "compile_memory_bytes")
            }
            Some(KILLED) => LoadError::CompilerKilled(last_line(words).to_owned()),
            _ => LoadError::CompilerEnded(format!("with {status}: {}", last_line(words))),
        }
    }

    /// Limits this process, for good.
    fn confine(&self) -> io::Result<()> {
        let most = |limit: u64| Rlimit { current: Some(limit), maximum: Some(limit) };
        let cpu_s = self.cpu_ms.div_ceil(1_000);
        setrlimit(Resource::Core, most(0))?;
        setrlimit(Resource::Cpu, Rlimit { current: Some(cpu_s), maximum: Some(cpu_s + 1) })?;
        // What may be written to, which is what takes memory. The address space says little of it: the memory of each
        // thread is set aside generously.
        setrlimit(Resource::Data, most(self.memory_bytes))?;
        // Refused at worst, and then it competes with the server on equal terms.
        let _ = rustix::process::setpriority_process(None, NICENESS);
        Ok(())
    }
}

/// The child's end: limits this process, compiles what it reads, and writes the answer.
///
/// # Errors
/// The limits cannot be set, the input cannot be read or the answer cannot be written.
pub fn answer(limits: CompileLimits, mut input: impl Read, mut output: impl Write) -> io::Result<()> {
    limits.confine()?;
    let mut bytes = Vec::new();
    input.read_to_end(&mut bytes)?;
    let engine = engine::for_compiling().map_err(|error| io::Error::other(format!("{error:#}")))?;
    let (what, body) = match super::compile::to_code(&engine, &bytes) {
        Ok(code) => (CODE, code),
        Err(LoadError::Compile(words)) => (REFUSED, words.into_bytes()),
        Err(LoadError::Componentize(words)) => (NOT_MADE, words.into_bytes()),
        Err(other) => (REFUSED, other.to_string().into_bytes()),
    };
    output.write_all(&[what])?;
    output.write_all(&(body.len() as u64).to_le_bytes())?;
    output.write_all(&body)?;
    output.flush()
}

fn parse(mut answer: Vec<u8>) -> Result<Vec<u8>, LoadError> {
    const HEAD: usize = 9;
    let head: Option<[u8; HEAD]> = answer.get(..HEAD).and_then(|head| head.try_into().ok());
    let Some([what, length @ ..]) = head else { return Err(not_whole()) };
    if u64::from_le_bytes(length) != (answer.len() - HEAD) as u64 {
        return Err(not_whole());
    }
    let body = answer.split_off(HEAD);
    let words = |body: Vec<u8>| String::from_utf8_lossy(&body).into_owned();
    match what {
        CODE => Ok(body),
        REFUSED => Err(LoadError::Compile(words(body))),
        NOT_MADE => Err(LoadError::Componentize(words(body))),
        _ => Err(not_whole()),
    }
}

fn not_whole() -> LoadError {
    LoadError::CompilerEnded(format!("and gave no whole answer of at most {MAX_ANSWER_BYTES} bytes"))
}

async fn take(from: Option<impl AsyncRead + Unpin>, limit_bytes: u64) -> Vec<u8> {
    let mut bytes = Vec::new();
    if let Some(from) = from {
        // What was not read is missed by whoever reads the answer.
        let _ = from.take(limit_bytes).read_to_end(&mut bytes).await;
    }
    bytes
}

fn last_line(words: &str) -> &str {
    words.lines().rev().find(|line| !line.trim().is_empty()).unwrap_or("it said nothing")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn framed(what: u8, length: u64, body: &[u8]) -> Vec<u8> {
        [&[what], length.to_le_bytes().as_slice(), body].concat()
    }

    fn child(script: &str, limits: CompileLimits) -> CompileChild {
        CompileChild { program: "/bin/sh".into(), arguments: vec!["-c".into(), script.into()], limits }
    }

    #[test]
    fn only_a_whole_answer_is_one() {
        assert_eq!(parse(framed(CODE, 3, b"abc")).unwrap(), b"abc");
        assert!(matches!(parse(framed(REFUSED, 2, b"no")), Err(LoadError::Compile(words)) if words == "no"));
        assert!(matches!(parse(framed(NOT_MADE, 2, b"no")), Err(LoadError::Componentize(words)) if words == "no"));
        for broken in [vec![], vec![CODE], framed(CODE, 4, b"abc"), framed(CODE, 2, b"abc"), framed(b'?', 3, b"abc")] {
            assert!(parse(broken.clone()).unwrap_err().to_string().contains("no whole answer"), "{broken:?}");
        }
    }

    #[tokio::test]
    async fn how_a_child_ended_is_said_in_words() {
        let limits = CompileLimits { wall_ms: 60_000, ..CompileLimits::default() };
        for (script, words) in [
            (
                "cat > /dev/null; echo 'memory allocation of 9 bytes failed' >&2; kill -ABRT $$",
                "2147483648 bytes of memory",
            ),
            ("kill -XCPU $$", "60000 ms of CPU time"),
            ("echo 'a bug' >&2; exit 7", "exit status: 7: a bug"),
            ("kill -TERM $$", "the compiler ended with signal: 15"),
            ("kill -KILL $$", "the compiler was killed, as happens where memory is short"),
            ("cat > /dev/null", "no whole answer"),
        ] {
            let error = child(script, limits).compile(b"\0asm", limits).await.unwrap_err().to_string();
            assert!(error.contains(words), "{script}: {error}");
        }
        let missing = CompileChild { program: "/does/not/exist".into(), ..child("", limits) };
        assert!(matches!(missing.compile(b"", limits).await, Err(LoadError::NoCompiler(_))));
    }

    #[tokio::test]
    async fn a_child_that_does_not_end_is_killed() {
        let limits = CompileLimits { wall_ms: 50, ..CompileLimits::default() };
        let error = child("exec sleep 600", limits).compile(b"", limits).await.unwrap_err().to_string();
        assert!(error.contains("took more than 50 ms") && error.contains("compile_wall_ms"), "{error}");
    }
}
