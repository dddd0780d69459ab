//! Approvals: a build that can do more than the version that serves is held until a person approves it.
//!
//! A build is held if it would take types from another plugin, unless `plugins.hold_taken_types` is off. It is also held if
//! it imports interfaces that the version that serves does not, if `plugins.hold_new_capabilities` is on. The version of an
//! interface makes no difference, nor do grants. Interfaces that give every plugin the same are not counted.
//!
//! The data directory keeps the owners of types and the versions that have served, so a restart holds the same builds as
//! before. At the first start, everything in the directory counts as approved.

use std::path::PathBuf;

use bytes::Bytes;

use super::change_refusal::ChangeRefusal;
use super::entry::{AddedRights, PluginEntry, short_digest};
use super::plugin_registry::PluginRegistry;
use crate::plugin::Plugin;
use crate::plugin::component::file;
use crate::plugin::settings::PluginSettings;
use crate::plugin_report::PluginReport;

impl PluginRegistry {
    /// What a build can do that the version that serves cannot. If nothing serves, the version that served last is brought
    /// back first. If something is added, that version gets the build's settings.
    pub(super) async fn added_rights(
        &self,
        name: &str,
        build: &Plugin,
        settings: &PluginSettings,
        generation: u64,
    ) -> AddedRights {
        let takes = self.unapproved_types(name, build);
        let is_known = self.history().is_none_or(|history| history.has_served(name, build.digest()));
        let compares = self.options().hold_new_capabilities && !is_known;
        if takes.is_empty() && !compares {
            return AddedRights::default();
        }
        let is_first = self.history().is_none_or(|history| history.version_before(name, None).is_none());
        self.fall_back(name, settings.clone(), generation, None).await;
        let imports = match &self.chosen_version(name) {
            _ if !compares => Vec::new(),
            Some(serving) => build.capabilities().difference(&serving.capabilities()).cloned().collect(),
            None if is_first => Vec::new(),
            // The version that served is lost. Without a comparison, everything counts as added.
            None => build.capabilities().into_iter().collect(),
        };
        let added = AddedRights { imports, takes };
        if !added.is_empty() {
            self.renew(name, settings, generation).await;
        }
        added
    }

    /// Lets the held build of a plugin serve, if it has this digest and is still in the directory, and returns the report
    /// that follows. If the future is dropped, a restart may hold the build again.
    ///
    /// # Errors
    /// See [`ChangeRefusal`].
    pub async fn approve(&self, name: &str, digest: Option<&str>) -> Result<PluginReport, ChangeRefusal> {
        let (build, path, is_the_file) = requested_build(name, self.entries().get(name), digest)?;
        if !is_the_file {
            return self.finish_approval(name, &build, None).await;
        }
        let (read, limit_bytes) = (path.clone(), self.loader.max_file_bytes);
        let read = self.loader.runtime.executor.run_blocking(move || file::read(&read, limit_bytes)).await;
        let why = match read {
            None => "the host failed to read it".to_owned(),
            Some(Err(error)) => error.to_string(),
            Some(Ok(contents)) if contents.digest != build => format!("it is {}", contents.digest),
            Some(Ok(contents)) => return self.finish_approval(name, &build, Some(contents.bytes)).await,
        };
        Err(ChangeRefusal::Swapped { file: path, digest: build, why })
    }

    /// Lets the held build serve. `file` holds its bytes, unless it is an earlier version in place of the file.
    async fn finish_approval(
        &self,
        name: &str,
        digest: &str,
        file: Option<Bytes>,
    ) -> Result<PluginReport, ChangeRefusal> {
        let unknown = || ChangeRefusal::Unknown(name.to_owned());
        {
            let mut entries = self.entries();
            if let Some(held) = entries.get(name).and_then(PluginEntry::held).filter(|held| held.digest == digest) {
                self.require_own_types(&entries, name, &held.build, false)?;
            }
            let entry = entries.get_mut(name).ok_or_else(unknown)?;
            let (build, added) = entry.approve(digest).ok_or_else(|| ChangeRefusal::NoneHeld(name.to_owned()))?;
            let (short, added) = (short_digest(digest), added.describe());
            tracing::info!(plugin.id = %name, plugin.digest = %short, "plugin approved: it newly {added}");
            self.take_over(&entries, name, &build);
            self.update_routing(entries);
        }
        self.save_owners().await;
        self.record_serving(name, digest, file).await;
        self.status(name).ok_or_else(unknown)
    }
}

/// The digest and the file of the held build, and whether it is that file, if the caller asked for that one.
fn requested_build(
    name: &str,
    entry: Option<&PluginEntry>,
    digest: Option<&str>,
) -> Result<(String, PathBuf, bool), ChangeRefusal> {
    let entry = entry.ok_or_else(|| ChangeRefusal::Unknown(name.to_owned()))?;
    let build = entry.held().ok_or_else(|| ChangeRefusal::NoneHeld(name.to_owned()))?;
    let (name, held, new) = (name.to_owned(), build.digest.clone(), build.added.describe());
    match digest {
        None => Err(ChangeRefusal::Unnamed { name, held, new }),
        Some(asked) if asked != held => Err(ChangeRefusal::Another { name, asked: asked.to_owned(), held, new }),
        Some(_) => Ok((held, build.file.clone(), build.rolled_back_from.is_none())),
    }
}
