//! From a file to a plugin that is ready to run: read, compiled in a process of its own, checked, and asked what it handles.

pub(super) mod compile;
pub(super) mod compile_child;
pub(super) mod compile_tracks;
pub(super) mod fit;
pub(super) mod introduction;
pub(super) mod load_error;
pub(super) mod load_ranks;
pub(super) mod loader;
pub(super) mod signature;
