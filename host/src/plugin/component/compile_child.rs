//! Compiling in a child process: the side of the server and the side of the child.
//!
//! The child reads the component from its standard input and writes the answer to its standard output. The answer is one
//! byte for its kind, eight bytes for the length in little-endian order, and the code or the reason of a refusal. An
//! incomplete answer is discarded. The child limits its own memory and CPU time before it reads; the server limits the
//! wall time.

use std::io::{self, Read, Write};
use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use rustix::process::{Resource, Rlimit, setrlimit};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};
use tokio::process::Command;

use super::load_error::LoadError;
use super::native_code;
use crate::plugin::sandbox::engine;

/// The largest answer of a child. The code of CPython has 70 MB.
const MAX_ANSWER_BYTES: u64 = 256 * 1024 * 1024;
/// The most that is read of a child's standard error.
const MAX_STDERR_BYTES: u64 = 4 * 1024;
/// The most threads of one compilation. Each needs a part of the memory.
const MAX_THREADS: usize = 4;
/// How much nicer a child is than the server. The server goes first; on a busy machine the child still gets about a quarter
/// of a core, which is enough to end.
const NICENESS: i32 = 5;

const CODE: u8 = b'C';
const REFUSED: u8 = b'R';
const NOT_COMPONENTIZED: u8 = b'M';

/// How much the compilation of one component may take.
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

/// How to start the process that compiles.
#[derive(Clone, Debug)]
pub struct CompileChild {
    /// The program, which must call [`compile_and_answer`].
    pub program: PathBuf,
    /// The first arguments. The limits follow: `--memory-bytes=N --cpu-ms=N`.
    pub arguments: Vec<String>,
    /// The limits of one compilation.
    pub limits: CompileLimits,
}

impl CompileChild {
    /// Compiles a component to native code within these limits. Dropping the future kills the child.
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
        let exchange = async {
            let feed = async {
                if let Some(mut stdin) = stdin {
                    // The exit status tells why a child does not read.
                    let _ = stdin.write_all(bytes).await;
                }
            };
            let ((), answer, words) =
                tokio::join!(feed, read_all(stdout, MAX_ANSWER_BYTES), read_all(stderr, MAX_STDERR_BYTES));
            (answer, words, child.wait().await)
        };
        let (answer, words, status) = tokio::time::timeout(Duration::from_millis(limits.wall_ms), exchange)
            .await
            .map_err(|_| limits.exceeded(format!("took more than {} ms", limits.wall_ms), "compile_wall_ms"))?;
        let status = status.map_err(|error| LoadError::NoCompiler(error.to_string()))?;
        if !status.success() {
            return Err(limits.explain_exit(status, &String::from_utf8_lossy(&words)));
        }
        parse(answer)
    }
}

impl CompileLimits {
    fn exceeded(&self, what: String, key: &'static str) -> LoadError {
        LoadError::CompilerLimit { what, key }
    }

    fn explain_exit(&self, status: ExitStatus, words: &str) -> LoadError {
        const OVER_CPU: i32 = rustix::process::Signal::XCPU.as_raw();
        const KILLED: i32 = rustix::process::Signal::KILL.as_raw();
        match status.signal() {
            Some(OVER_CPU) => self.exceeded(format!("took more than {} ms of CPU time", self.cpu_ms), "compile_cpu_ms"),
            Some(_) if words.contains("memory allocation") => {
                self.exceeded(format!("took more than {} bytes of memory", self.memory_bytes), "compile_memory_bytes")
            }
            Some(KILLED) => LoadError::CompilerKilled(last_line(words).to_owned()),
            _ => LoadError::CompilerEnded(format!("with {status}: {}", last_line(words))),
        }
    }

    /// Limits this process. The limits cannot be lifted again.
    fn confine(&self) -> io::Result<()> {
        let most = |limit: u64| Rlimit { current: Some(limit), maximum: Some(limit) };
        let cpu_s = self.cpu_ms.div_ceil(1_000);
        setrlimit(Resource::Core, most(0))?;
        setrlimit(Resource::Cpu, Rlimit { current: Some(cpu_s), maximum: Some(cpu_s + 1) })?;
        // Limits writable memory. The address space would be a poor measure, since each thread reserves much of it.
        setrlimit(Resource::Data, most(self.memory_bytes))?;
        // Without it the child competes with the server on equal terms.
        let _ = rustix::process::setpriority_process(None, NICENESS);
        Ok(())
    }
}

/// The side of the child: limits this process, compiles the component that it reads, and writes the answer.
///
/// # Errors
/// The limits cannot be set, the input cannot be read or the answer cannot be written.
pub fn compile_and_answer(limits: CompileLimits, mut input: impl Read, mut output: impl Write) -> io::Result<()> {
    limits.confine()?;
    let mut bytes = Vec::new();
    input.read_to_end(&mut bytes)?;
    let engine = engine::for_compiling().map_err(|error| io::Error::other(format!("{error:#}")))?;
    let (kind, body) = match native_code::precompile(&engine, &bytes) {
        Ok(code) => (CODE, code),
        Err(LoadError::Compile(words)) => (REFUSED, words.into_bytes()),
        Err(LoadError::Componentize(words)) => (NOT_COMPONENTIZED, words.into_bytes()),
        Err(other) => (REFUSED, other.to_string().into_bytes()),
    };
    output.write_all(&[kind])?;
    output.write_all(&(body.len() as u64).to_le_bytes())?;
    output.write_all(&body)?;
    output.flush()
}

fn parse(mut answer: Vec<u8>) -> Result<Vec<u8>, LoadError> {
    const HEAD: usize = 9;
    let head: Option<[u8; HEAD]> = answer.get(..HEAD).and_then(|head| head.try_into().ok());
    let Some([kind, length @ ..]) = head else { return Err(incomplete()) };
    if u64::from_le_bytes(length) != (answer.len() - HEAD) as u64 {
        return Err(incomplete());
    }
    let body = answer.split_off(HEAD);
    let words = |body: Vec<u8>| String::from_utf8_lossy(&body).into_owned();
    match kind {
        CODE => Ok(body),
        REFUSED => Err(LoadError::Compile(words(body))),
        NOT_COMPONENTIZED => Err(LoadError::Componentize(words(body))),
        _ => Err(incomplete()),
    }
}

fn incomplete() -> LoadError {
    LoadError::CompilerEnded(format!("and gave no whole answer of at most {MAX_ANSWER_BYTES} bytes"))
}

async fn read_all(from: Option<impl AsyncRead + Unpin>, limit_bytes: u64) -> Vec<u8> {
    let mut bytes = Vec::new();
    if let Some(from) = from {
        // An answer that was not read to its end is recognized as incomplete.
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

    fn framed(kind: u8, length: u64, body: &[u8]) -> Vec<u8> {
        [&[kind], length.to_le_bytes().as_slice(), body].concat()
    }

    fn child(script: &str, limits: CompileLimits) -> CompileChild {
        CompileChild { program: "/bin/sh".into(), arguments: vec!["-c".into(), script.into()], limits }
    }

    #[test]
    fn only_a_whole_answer_is_one() {
        assert_eq!(parse(framed(CODE, 3, b"abc")).unwrap(), b"abc");
        assert!(matches!(parse(framed(REFUSED, 2, b"no")), Err(LoadError::Compile(words)) if words == "no"));
        assert!(
            matches!(parse(framed(NOT_COMPONENTIZED, 2, b"no")), Err(LoadError::Componentize(words)) if words == "no")
        );
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
