//! Reads an export and restores it into a store, batch by batch.

use std::io::{BufRead, Read};

use super::line::{self, ExportLine, LineCounts};
use super::{Error, TransferCounts, TransferKind};
use crate::broker::{self, EventLog, RestoreOutcome, SnapshotItem, StoreTransfer};

/// The most items that the store receives in one batch.
const MAX_BATCH: usize = 500;
/// About the most bytes of lines in one batch.
const MAX_BATCH_BYTES: usize = 4 * 1024 * 1024;
/// The longest line: the largest payload that can be configured, escaped, with the details of many attempts.
const MAX_LINE_BYTES: usize = 256 * 1024 * 1024;

/// Imports an export. `moved` always holds what was imported so far. `progress` is called after each batch with the number
/// of bytes read. Items that the store already has stay as they are.
///
/// Reading blocks the thread. If the future is dropped or fails, what was imported stays; begin again with the first line.
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
    lines.read_header()?;
    let before = event_log.stats().await?.counters;
    let mut pending =
        PendingImport { store, moved, read: TransferCounts::default(), batch: Vec::new(), batch_bytes: 0 };
    let ended = loop {
        match lines.read_item() {
            Ok(ExportLine::Item(exported)) => pending.add(*exported, lines.line.len()),
            Ok(ExportLine::End(holds)) => break lines.expect_end().map(|()| holds),
            Err(error) => break Err(error),
        }
        if pending.is_full() {
            pending.flush().await?;
            progress(lines.read_bytes);
        }
    };
    // What precedes a wrong line is imported as well.
    pending.flush().await?;
    progress(lines.read_bytes);
    let accepted = pending.moved.events + pending.moved.failed;
    // A store that was emptied between two batches accepted the later ones. Its totals were lost too, so the number of
    // losses may look unchanged.
    let after = event_log.stats().await?.counters;
    if after.data_losses != before.data_losses || after.accepted < before.accepted + accepted {
        return Err(Error::Lost);
    }
    if ended? != LineCounts::of(&pending.read) {
        return Err(Error::CutShort);
    }
    Ok(())
}

/// The batch that was read and not yet sent to the store, and the counts so far.
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

/// Reads the lines of an export one by one.
struct LineReader<'a> {
    input: &'a mut dyn BufRead,
    line: Vec<u8>,
    number: u64,
    read_bytes: u64,
}

impl LineReader<'_> {
    fn read_header(&mut self) -> Result<(), Error> {
        self.fill_line()?;
        line::read_header(&self.line)
    }

    /// Reads the next line. The end of the input is an error: the export was cut short.
    fn read_item(&mut self) -> Result<ExportLine, Error> {
        self.fill_line()?;
        // An export that was interrupted ends in the middle of a line.
        if !self.line.ends_with(b"\n") {
            return Err(Error::CutShort);
        }
        line::read_line(&self.line).map_err(|reason| Error::Line { number: self.number, reason })
    }

    fn expect_end(&mut self) -> Result<(), Error> {
        self.fill_line()?;
        match self.line.is_empty() {
            true => Ok(()),
            false => Err(Error::Line { number: self.number, reason: "it follows the end of the export".into() }),
        }
    }

    /// Reads a line including its end; leaves `line` empty at the end of the input.
    fn fill_line(&mut self) -> Result<(), Error> {
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
