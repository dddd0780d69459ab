//! Reads an export and has a store take it over, batch by batch.

use std::io::{BufRead, Read};

use super::line::{self, ExportLine, LineCounts};
use super::{Error, TransferCounts, TransferKind};
use crate::broker::{self, EventLog, RestoreOutcome, SnapshotItem, StoreTransfer};

/// The most things that the store is given at a time, and about the most bytes of their lines.
const MAX_BATCH: usize = 500;
const MAX_BATCH_BYTES: usize = 4 * 1024 * 1024;
/// The longest line: a payload of the largest size that can be configured, escaped, and a long story.
const MAX_LINE_BYTES: usize = 256 * 1024 * 1024;

/// Imports everything that an export holds. `moved` says all the time what was taken over, and `progress` is called after
/// each batch with the bytes that were read. What the store knows already is left as it is.
///
/// The reading blocks. If the future is dropped, or this fails, what was moved stays; begin again with the first line.
///
/// # Errors
/// See [`Error`].
pub async fn import(
    event_log: &dyn EventLog,
    store: &dyn StoreTransfer,
    input: &mut dyn BufRead,
    moved: &mut TransferCounts,
    progress: &mut dyn FnMut(u64),
) -> Result<(), Error> {
    let mut lines = LineReader { input, line: Vec::new(), number: 0, read_bytes: 0 };
    lines.header()?;
    let before = event_log.stats().await?.counters;
    let mut importing =
        PendingImport { store, moved, read: TransferCounts::default(), batch: Vec::new(), batch_bytes: 0 };
    let ended = loop {
        match lines.next() {
            Ok(ExportLine::Item(exported)) => importing.add(*exported, lines.line.len()),
            Ok(ExportLine::End(holds)) => break lines.nothing_more().map(|()| holds),
            Err(error) => break Err(error),
        }
        if importing.is_full() {
            importing.flush().await?;
            progress(lines.read_bytes);
        }
    };
    // Also before a line that is wrong: what stands before it is moved.
    importing.flush().await?;
    progress(lines.read_bytes);
    let accepted = importing.moved.events + importing.moved.failed;
    // A store that was emptied between two batches took the second one all the same. Its totals were lost as well, so
    // that the number of losses may be what it was.
    let after = event_log.stats().await?.counters;
    if after.data_losses != before.data_losses || after.accepted < before.accepted + accepted {
        return Err(Error::Lost);
    }
    if ended? != LineCounts::of(&importing.read) {
        return Err(Error::CutShort);
    }
    Ok(())
}

/// What was read and is not with the store yet, and what became of the rest.
struct PendingImport<'a> {
    store: &'a dyn StoreTransfer,
    moved: &'a mut TransferCounts,
    read: TransferCounts,
    batch: Vec<SnapshotItem>,
    batch_bytes: usize,
}

impl PendingImport<'_> {
    fn add(&mut self, exported: SnapshotItem, size_bytes: usize) {
        *self.read.count(TransferKind::of(&exported)) += 1;
        self.batch.push(exported);
        self.batch_bytes += size_bytes;
    }

    fn is_full(&self) -> bool {
        self.batch.len() >= MAX_BATCH || self.batch_bytes >= MAX_BATCH_BYTES
    }

    async fn flush(&mut self) -> Result<(), Error> {
        let batch = std::mem::take(&mut self.batch);
        self.batch_bytes = 0;
        if batch.is_empty() {
            return Ok(());
        }
        let kinds: Vec<TransferKind> = batch.iter().map(TransferKind::of).collect();
        let restored = self.store.restore(batch).await.map_err(|error| match error {
            broker::Error::Unsafe(_) => Error::Lost,
            error => Error::Store(error),
        })?;
        for (kind, restored) in kinds.into_iter().zip(restored) {
            *match restored {
                RestoreOutcome::Done => self.moved.count(kind),
                RestoreOutcome::Known => &mut self.moved.known,
                RestoreOutcome::Expired => &mut self.moved.expired,
            } += 1;
        }
        Ok(())
    }
}

/// The lines of an export, one at a time.
struct LineReader<'a> {
    input: &'a mut dyn BufRead,
    line: Vec<u8>,
    number: u64,
    read_bytes: u64,
}

impl LineReader<'_> {
    fn header(&mut self) -> Result<(), Error> {
        self.read()?;
        line::check_header(&self.line)
    }

    /// The next line; there is one, or the export was cut short.
    fn next(&mut self) -> Result<ExportLine, Error> {
        self.read()?;
        // The line that was being written when the export was interrupted.
        if !self.line.ends_with(b"\n") {
            return Err(Error::CutShort);
        }
        line::parse(&self.line).map_err(|reason| Error::Line { number: self.number, reason })
    }

    fn nothing_more(&mut self) -> Result<(), Error> {
        self.read()?;
        match self.line.is_empty() {
            true => Ok(()),
            false => Err(Error::Line { number: self.number, reason: "it stands behind the end of the export".into() }),
        }
    }

    /// Reads a line with its end; nothing at the end of the input.
    fn read(&mut self) -> Result<(), Error> {
        self.line.clear();
        let limit = MAX_LINE_BYTES as u64 + 1;
        let read_bytes = (&mut *self.input).take(limit).read_until(b'\n', &mut self.line).map_err(Error::Read)?;
        self.number += 1;
        self.read_bytes += read_bytes as u64;
        if self.line.len() > MAX_LINE_BYTES {
            return Err(Error::Line {
                number: self.number,
                reason: format!("it is longer than {MAX_LINE_BYTES} bytes"),
            });
        }
        Ok(())
    }
}
