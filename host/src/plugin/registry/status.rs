//! How a plugin stands.

/// How a plugin stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PluginStatus {
    /// The file in the directory serves.
    Active,
    /// The file in the directory is being loaded. An earlier version may serve meanwhile.
    Compiling,
    /// The file in the directory cannot serve, and no other version does.
    Failed,
    /// The file in the directory cannot serve. The version that served before still does.
    FailedKeptLastGood,
    /// The file in the directory can do more than the version that serves, and waits to be approved.
    NeedsApproval,
    /// The file went from the directory. Events of its types wait for a plugin.
    Removed,
}
