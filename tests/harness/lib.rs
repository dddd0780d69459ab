//! What the tests of eventstream are built from: real processes, and a wire between them that can be made to fail.
//!
//! Nothing here is a stand-in for the product. Everything that is started listens on 127.0.0.1 only, keeps its files in
//! a directory of its own, and is ended when its value is dropped.

pub mod proxy;
pub mod redis;
