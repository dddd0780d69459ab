//! The errors for exceeding the limits of an attempt.
//!
//! A [`LimitBreach`] is the error of the wasm call, so the outcome of the attempt names the limit. Memory is summed over all
//! memories of a component, so that a component with several memories cannot use several times the limit.

use wasmtime::ResourceLimiter;

use crate::event::{AttemptLimits, FailureClass};

/// The most elements of all tables together. Interpreters need several thousand.
const MAX_TABLE_ELEMENTS: usize = 100_000;

/// The limit that ended an attempt. A retry helps only if the handler uses less the next time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(in crate::plugin) enum LimitBreach {
    #[error("no answer within the {limit_ms} ms of wall time that an attempt may take")]
    WallTime { limit_ms: u64 },
    #[error("used more than the {limit_ms} ms of CPU time that an attempt may use")]
    CpuTime { limit_ms: u64 },
    #[error("wanted {wanted_bytes} bytes of memory; an attempt may have {limit_bytes}")]
    Memory { wanted_bytes: u64, limit_bytes: u64 },
    #[error("wanted {wanted} table elements; an attempt may have {limit}")]
    Table { wanted: usize, limit: usize },
    #[error("passed more than {limit_bytes} bytes to the host, the most that an attempt may")]
    HostCall { limit_bytes: u64 },
}

impl LimitBreach {
    /// The failure class of an attempt that this limit ended.
    pub(in crate::plugin) fn class(&self) -> FailureClass {
        match self {
            Self::WallTime { .. } | Self::CpuTime { .. } => FailureClass::Timeout,
            Self::Memory { .. } | Self::Table { .. } | Self::HostCall { .. } => FailureClass::Limit,
        }
    }
}

/// Counts the memories and tables of one instance.
#[derive(Debug)]
pub(in crate::plugin) struct MemoryLimiter {
    memory_bytes: u64,
    memory_limit_bytes: u64,
    table_elements: usize,
}

impl MemoryLimiter {
    pub(in crate::plugin) fn new(limits: &AttemptLimits) -> Self {
        Self { memory_bytes: 0, memory_limit_bytes: limits.memory_bytes, table_elements: 0 }
    }

    /// Whether less than half of the memory limit is used.
    pub(in crate::plugin) fn has_ample_room(&self) -> bool {
        self.memory_bytes < self.memory_limit_bytes / 2
    }
}

impl ResourceLimiter for MemoryLimiter {
    fn memory_growing(&mut self, current: usize, desired: usize, maximum: Option<usize>) -> wasmtime::Result<bool> {
        if maximum.is_some_and(|maximum| desired > maximum) {
            return Ok(false);
        }
        let wanted_bytes = self.memory_bytes.saturating_add(desired.saturating_sub(current) as u64);
        if wanted_bytes > self.memory_limit_bytes {
            // An error instead of a refusal: a guest aborts when an allocation is refused, which looks like a panic.
            return Err(LimitBreach::Memory { wanted_bytes, limit_bytes: self.memory_limit_bytes }.into());
        }
        self.memory_bytes = wanted_bytes;
        Ok(true)
    }

    fn table_growing(&mut self, current: usize, desired: usize, maximum: Option<usize>) -> wasmtime::Result<bool> {
        if maximum.is_some_and(|maximum| desired > maximum) {
            return Ok(false);
        }
        let wanted = self.table_elements.saturating_add(desired.saturating_sub(current));
        if wanted > MAX_TABLE_ELEMENTS {
            return Err(LimitBreach::Table { wanted, limit: MAX_TABLE_ELEMENTS }.into());
        }
        self.table_elements = wanted;
        Ok(true)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_limited_over_all_memories_together() {
        let mut limiter = MemoryLimiter::new(&AttemptLimits { memory_bytes: 100, ..AttemptLimits::default() });
        assert!(limiter.memory_growing(0, 60, None).unwrap());
        assert!(limiter.memory_growing(0, 40, None).unwrap());
        let error = limiter.memory_growing(40, 41, None).unwrap_err();
        assert_eq!(error.downcast_ref(), Some(&LimitBreach::Memory { wanted_bytes: 101, limit_bytes: 100 }));
    }

    #[test]
    fn growth_beyond_a_memorys_own_maximum_is_refused_and_does_not_end_the_attempt() {
        let mut limiter = MemoryLimiter::new(&AttemptLimits::default());
        assert!(!limiter.memory_growing(0, 60, Some(59)).unwrap());
        assert!(!limiter.table_growing(0, 60, Some(59)).unwrap());
    }

    #[test]
    fn tables_are_limited_over_all_tables_together() {
        let mut limiter = MemoryLimiter::new(&AttemptLimits::default());
        assert!(limiter.table_growing(0, MAX_TABLE_ELEMENTS, None).unwrap());
        assert!(limiter.table_growing(0, 1, None).is_err());
    }
}
