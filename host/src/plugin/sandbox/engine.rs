//! The engine: which code it accepts, and how instances are laid out in memory.
//!
//! WebAssembly features are an allow-list, so new features of the engine stay off until they are added here.
//!
//! An instance must never read what an earlier one wrote. The engine can ask the kernel which pages were written and reset
//! only those (`PAGEMAP_SCAN`). That is faster but not reliable. The engine looks for present pages, and a page that the
//! kernel moves or has swapped out is not present. Nor does the kernel promise to report a page as written unless a process
//! registered for that. So the scan is off. The engine overwrites the first part of a memory and returns the rest to the
//! kernel, which is correct wherever a page is.

use std::num::NonZeroUsize;

use wasmtime::{Config, Enabled, Engine, InstanceAllocationStrategy, OptLevel, PoolingAllocationConfig, WasmFeatures};

use super::capacity::{InstanceCapacity, MAX_MEMORIES, MAX_TABLES};

/// The features that the usual toolchains need, and no others.
const FEATURES: WasmFeatures = WasmFeatures::MUTABLE_GLOBAL
    .union(WasmFeatures::FLOATS)
    .union(WasmFeatures::SATURATING_FLOAT_TO_INT)
    .union(WasmFeatures::SIGN_EXTENSION)
    .union(WasmFeatures::MULTI_VALUE)
    .union(WasmFeatures::BULK_MEMORY)
    .union(WasmFeatures::BULK_MEMORY_OPT)
    .union(WasmFeatures::REFERENCE_TYPES)
    .union(WasmFeatures::CALL_INDIRECT_OVERLONG)
    .union(WasmFeatures::EXTENDED_CONST)
    .union(WasmFeatures::MULTI_MEMORY)
    .union(WasmFeatures::SIMD)
    .union(WasmFeatures::COMPONENT_MODEL);

/// The most core instances of one component.
const MAX_CORE_INSTANCES: u32 = 100;
const MAX_TABLE_ELEMENTS: usize = 20_000;
const MAX_INSTANCE_BYTES: usize = 4 * 1024 * 1024;

/// The most frames of a backtrace.
pub(in crate::plugin) const MAX_FRAMES: usize = 32;

/// The part of the native stack for host functions.
const HOST_STACK_BYTES: usize = 1_536 * 1024;

/// How much of a memory is overwritten for the next instance; the rest is returned to the kernel. Overwriting takes 1 µs
/// for each 100 KiB, written or not. Returning takes 2 µs for each written page, because the next instance faults it in
/// again. The project templates place stack, data and the start of the heap within this size.
const KEPT_MEMORY_BYTES: usize = 192 * 1024;
/// How much of a table is overwritten for the next instance, up to its size.
const KEPT_TABLE_BYTES: usize = 128 * 1024;

/// An engine with this capacity and a native stack of `stack_bytes` for each instance.
///
/// # Errors
/// The address space is too small, or the system lacks something that the engine needs.
pub(in crate::plugin) fn build(capacity: InstanceCapacity, stack_bytes: usize) -> wasmtime::Result<Engine> {
    let mut config = code_config();
    config
        .max_wasm_stack(stack_bytes)
        .async_stack_size(stack_bytes.saturating_add(HOST_STACK_BYTES))
        .wasm_backtrace_max_frames(NonZeroUsize::new(MAX_FRAMES))
        .allocation_strategy(InstanceAllocationStrategy::Pooling(pool_config(capacity)));
    Engine::new(&config)
}

/// How instances are laid out in memory, and how their memory is reset.
fn pool_config(capacity: InstanceCapacity) -> PoolingAllocationConfig {
    let count = |number: usize| u32::try_from(number).unwrap_or(u32::MAX);
    let (instances, memories) = (count(capacity.instances()), count(capacity.memories()));
    let mut pool = PoolingAllocationConfig::new();
    pool.total_component_instances(instances)
        .total_core_instances(instances.saturating_mul(MAX_CORE_INSTANCES))
        .total_memories(memories)
        .total_tables(instances.saturating_mul(MAX_TABLES))
        .total_stacks(instances)
        .max_memories_per_component(MAX_MEMORIES)
        .max_tables_per_component(MAX_TABLES)
        .max_core_instances_per_component(MAX_CORE_INSTANCES)
        .max_memories_per_module(MAX_MEMORIES)
        .max_tables_per_module(4)
        .max_component_instance_size(MAX_INSTANCE_BYTES)
        .max_core_instance_size(MAX_INSTANCE_BYTES)
        .table_elements(MAX_TABLE_ELEMENTS)
        .linear_memory_keep_resident(KEPT_MEMORY_BYTES)
        .table_keep_resident(KEPT_TABLE_BYTES)
        .pagemap_scan(Enabled::No);
    pool
}

/// An engine that only compiles, for an engine of [`build`].
///
/// # Errors
/// The system lacks something that the engine needs.
pub(in crate::plugin) fn for_compiling() -> wasmtime::Result<Engine> {
    Engine::new(&code_config())
}

/// The options that compiled code depends on.
fn code_config() -> Config {
    let mut config = Config::new();
    config
        .wasm_features(WasmFeatures::all(), false)
        .wasm_features(FEATURES, true)
        .concurrency_support(false)
        .cranelift_opt_level(OptLevel::Speed)
        .epoch_interruption(true)
        .memory_init_cow(true);
    config
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernel_is_not_asked_which_pages_were_written() {
        assert!(format!("{:?}", pool_config(InstanceCapacity::of(1))).contains("pagemap_scan: No"));
    }
}
