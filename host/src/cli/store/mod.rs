//! `eventstream export | import | backup`: the commands that work on the store of a broker without a server.

pub(super) mod backup;
mod partial_file;
pub(super) mod transfer;
