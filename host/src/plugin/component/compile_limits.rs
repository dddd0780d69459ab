//! How much memory and time the compilation of one component may take.

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
