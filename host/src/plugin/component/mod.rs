//! From a file to a plugin that is ready to run: read it, compile it in a child process, check it, and ask for its types.

pub(super) mod compile;
pub(super) mod compile_child;
pub(super) mod file;
pub(super) mod fit;
pub(super) mod load_error;
pub(super) mod load_tracks;
pub(super) mod loader;

mod introduction;
mod load_ranks;
mod native_code;
mod signature;
