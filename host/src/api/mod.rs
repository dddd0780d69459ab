//! The HTTP interface: events in, their stories out (contract section 4).
//!
//! Handlers translate and nothing else: what comes in is judged by `event`, kept by the broker, and every refusal is a
//! problem document. Nothing here knows which broker it is, or what a plugin is made of.

mod options;

pub use options::ServerOptions;
