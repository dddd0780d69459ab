//! What only tests need: brokers that break a guarantee, and the properties that fuzzing checks.

#[expect(clippy::expect_used, reason = "a property that does not hold fails by panicking")]
pub mod fuzz;
mod mutants;

pub use self::mutants::{BrokerMutant, UnknownMutant};
