//! A build that waits for the approval of a person, and what it is held for.

use std::path::PathBuf;
use std::sync::Arc;

use crate::event::TypePattern;
use crate::plugin::Plugin;

/// How many characters of a digest messages show.
const SHORT_DIGEST_CHARS: usize = 12;

/// A build that is loaded and may not serve before a person approves it.
#[derive(Debug)]
pub(super) struct HeldBuild<P = Plugin> {
    pub(super) build: Arc<P>,
    pub(super) digest: String,
    /// The file that the build was loaded from.
    pub(super) file: PathBuf,
    /// What the build is held for.
    pub(super) added: AddedRights,
}

/// What a build can do that the version that serves cannot.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct AddedRights {
    /// The interfaces that only the build imports.
    pub(super) imports: Vec<String>,
    /// The types that the build would take from other plugins.
    pub(super) takes: Vec<TakenTypes>,
}

/// Types that a build would take from another plugin.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TakenTypes {
    /// The types.
    pub types: TypePattern,
    /// The plugin that handles them.
    pub plugin: String,
}

impl AddedRights {
    pub(super) fn is_empty(&self) -> bool {
        self.imports.is_empty() && self.takes.is_empty()
    }

    /// A predicate for sentences such as "the build ...".
    pub(super) fn describe(&self) -> String {
        let imports = (!self.imports.is_empty()).then(|| format!("imports {}", self.imports.join(", ")));
        let takes =
            self.takes.iter().map(|TakenTypes { types, plugin }| format!("takes {types} from the plugin {plugin:?}"));
        imports.into_iter().chain(takes).collect::<Vec<_>>().join(" and ")
    }
}

impl<P> HeldBuild<P> {
    /// What is held, why, and how to approve it. `name` is the plugin, `serving` the digest of the version that serves.
    pub(super) fn describe(&self, name: &str, serving: Option<&str>) -> String {
        let (digest, added) = (&self.digest, self.added.describe());
        let compared = match serving {
            Some(serving) => format!("which {} that serves does not", short_digest(serving)),
            None if self.added.imports.is_empty() => "and no version of it serves".to_owned(),
            None => "and nothing serves that it could be compared to".to_owned(),
        };
        format!(
            "the build {} {added}, {compared}; it serves once it is approved: eventstream plugin approve {name} --digest \
             {digest} (POST /plugins/{name}/approve?digest={digest})",
            short_digest(digest)
        )
    }
}

/// The beginning of a digest, for messages.
pub(super) fn short_digest(digest: &str) -> &str {
    digest.get(..SHORT_DIGEST_CHARS).unwrap_or(digest)
}
