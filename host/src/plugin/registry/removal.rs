//! Removing plugins: because their file went, or on request.

use std::fs;
use std::io;
use std::path::PathBuf;

use super::change_refusal::ChangeRefusal;
use super::plugin_registry::PluginRegistry;
use crate::clock;
use crate::plugin::data_dir::version_history::VersionHistory;
use crate::plugin_report::PluginReport;

/// What was removed, and what was not.
#[derive(Clone, Debug)]
pub struct RemovalReport {
    /// The report from now on.
    pub status: PluginReport,
    /// The file that was removed; `None` if it was gone already.
    pub file: Option<PathBuf>,
    /// The settings beside it, which stay.
    pub settings: Option<PathBuf>,
}

impl PluginRegistry {
    /// Removes the file of a plugin, if it is still there, so that it handles no types from now on. Other plugins may have
    /// them. The settings beside the file, the state and the earlier versions stay. Attempts under way end on their
    /// version. If the future is dropped, the plugin may be removed or not.
    ///
    /// # Errors
    /// See [`ChangeRefusal`].
    pub async fn remove(&self, name: &str) -> Result<RemovalReport, ChangeRefusal> {
        let unknown = || ChangeRefusal::Unknown(name.to_owned());
        // A known name came from the directory, so it cannot lead to a file elsewhere.
        if !self.entries().contains_key(name) && !self.owners.load().owns_any(name) {
            return Err(unknown());
        }
        let [file, settings] = ["wasm", "toml"].map(|kind| self.options().dir.join(format!("{name}.{kind}")));
        let path = file.clone();
        let remove = move || {
            let was_there = match fs::remove_file(&path) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => false,
                removed => removed.map(|()| true)?,
            };
            Ok((was_there, Some(settings).filter(|settings| settings.symlink_metadata().is_ok())))
        };
        let done = self.loader.runtime.executor.run_blocking(remove).await;
        let (was_there, settings) = match done.unwrap_or_else(|| Err(io::Error::other("the host failed to remove it")))
        {
            Ok(done) => done,
            Err(error) => return Err(ChangeRefusal::File { file, error }),
        };
        self.unload(&[name.to_owned()], true).await;
        self.judge_again(true).await;
        let status = self.status(name).ok_or_else(unknown)?;
        Ok(RemovalReport { status, file: was_there.then_some(file), settings })
    }

    /// Unloads plugins whose files went. They keep their types unless a person removed them.
    pub(super) async fn unload(&self, names: &[String], releases_types: bool) {
        {
            let mut entries = self.entries();
            for name in names {
                if entries.remove(name).is_some() || releases_types {
                    self.removed.add(name, clock::now());
                    tracing::info!(plugin.id = %name, "plugin removed");
                }
                self.change_owners(&entries, |owners| {
                    owners.end_first_load(name);
                    if releases_types {
                        owners.release(name);
                    }
                });
            }
            self.update_routing(entries);
        }
        self.save_owners().await;
        for name in names {
            self.update_history(name, VersionHistory::record_removal).await;
        }
    }
}
