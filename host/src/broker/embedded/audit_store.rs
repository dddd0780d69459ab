//! The part of the broker that callers ask for the audit.

use async_trait::async_trait;

use super::step::{CommitMode, JobKind};
use super::{EmbeddedBroker, audit};
use crate::broker::{AuditNote, AuditPage, AuditQuery, AuditStore, Error};

#[async_trait]
impl AuditStore for EmbeddedBroker {
    async fn list_audit(&self, query: AuditQuery) -> Result<AuditPage, Error> {
        let cursor = match &query.cursor {
            None => i64::MAX,
            Some(cursor) => cursor.parse().map_err(|_| Error::BadCursor)?,
        };
        let turn = self.lists.enter().await?;
        let (page, _turn) = self.readers.read(move |db| Ok((audit::list(db, &query, cursor)?, turn))).await?;
        Ok(page)
    }

    async fn write_audit(&self, note: &AuditNote) -> Result<(), Error> {
        let note = note.encode()?;
        // The change is made, so that a full disk must not keep it out of the audit.
        let kind = JobKind::from(CommitMode::Synced).relieving();
        self.writer.run(kind, move |step| audit::write(step, Some(&note)).map(Ok)).await
    }
}
