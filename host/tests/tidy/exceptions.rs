//! What the rules do not apply to, each with the reason. An exception that is not needed any more is a fault as well.

/// Names that types in several files of the host may have.
pub const SHARED_TYPE_NAMES: &[(&str, &str)] = &[
    ("Error", "each module has one, and callers name the module"),
    ("Args", "the arguments of a command, next to the command"),
];

/// Files that import each other, and why that is so. Each list is in order.
pub const CIRCLES: &[(&[&str], &str)] = &[];

/// Switches of the feature `test-util`: the file, what is switched, and why.
pub const TEST_SWITCHES: &[(&str, &str, &str)] = &[
    ("host/src/app/store.rs", "code", "the only place where a host can be started with a mutant of the broker"),
    ("host/src/broker/mod.rs", "mod contract", "the suite for all brokers, which other packages run too"),
    ("host/src/broker/redis/mod.rs", "mod testing", "mutants and fuzz targets, which other packages use"),
    ("host/src/transfer/mod.rs", "mod fuzz", "fuzz targets, which other packages use"),
];

/// Files that are longer than others may be, and why.
pub const LONG_FILES: &[(&str, &str)] = &[];

/// Files with documentation that has long sentences: how many at most, and why.
pub const LONG_SENTENCES: &[(&str, usize, &str)] = &[];
