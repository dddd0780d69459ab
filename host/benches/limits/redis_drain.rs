//! The limit of working off on Redis: a native consumer that does nothing, with a durable acknowledgement.
//!
//! One thread reads up to 500 entries at a time, another one commits them: one script for a batch, which looks at each
//! entry's owner (what a fence takes at the least), acknowledges and deletes. With `history` it also adds each payload to
//! a stream of what is done.

use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::time::Instant;

use anyhow::{Context, Result, bail};
use redis::{Connection, Value};

const STREAM: &str = "limit:waiting";
const DONE: &str = "limit:done";
const GROUP: &str = "limit";
const CONSUMER: &str = "one";
/// Entries of a read and of a commit.
const BATCH: usize = 500;
/// Batches between the reader and the committer.
const AHEAD: usize = 4;

const COMMIT: &str = r"
local held = {}
for n = 2, #ARGV, 2 do
  local p = redis.call('XPENDING', KEYS[1], ARGV[1], ARGV[n], ARGV[n], 1)
  if #p == 1 and p[1][2] == 'one' then
    held[#held + 1] = ARGV[n]
    if ARGV[n + 1] ~= '' then
      redis.call('XADD', KEYS[2], '*', 'e', ARGV[n + 1])
    end
  end
end
redis.call('XACK', KEYS[1], ARGV[1], unpack(held))
redis.call('XDEL', KEYS[1], unpack(held))
return #held";

/// An entry: its id and its payload.
type Entry = (Vec<u8>, Vec<u8>);

/// Fills a stream and works it off; events in a second.
pub(super) fn run(url: &str, events: usize, payload_bytes: usize, with_history: bool) -> Result<f64> {
    let client = redis::Client::open(url)?;
    let (mut reader, mut committer) = (client.get_connection()?, client.get_connection()?);
    fill(&mut reader, events, payload_bytes)?;
    let (batches, taken) = sync_channel(AHEAD);
    let begun = Instant::now();
    std::thread::scope(|threads| {
        let reading = threads.spawn(move || read(&mut reader, &batches));
        let committed = commit(&mut committer, &taken, with_history)?;
        match reading.join() {
            Ok(read) => read?,
            Err(_) => bail!("the reader panicked"),
        }
        if committed != events {
            bail!("{committed} of {events} events were committed");
        }
        Ok(events as f64 / begun.elapsed().as_secs_f64())
    })
}

fn fill(connection: &mut Connection, events: usize, payload_bytes: usize) -> Result<()> {
    let payload = vec![b'x'; payload_bytes];
    let mut left = events;
    while left > 0 {
        let mut pipe = redis::pipe();
        for _ in 0..left.min(BATCH) {
            pipe.cmd("XADD").arg(STREAM).arg("*").arg("e").arg(&payload).ignore();
        }
        left -= left.min(BATCH);
        let () = pipe.query(connection)?;
    }
    let () = redis::cmd("XGROUP").arg("CREATE").arg(STREAM).arg(GROUP).arg("0").query(connection)?;
    Ok(())
}

fn read(connection: &mut Connection, batches: &SyncSender<Vec<Entry>>) -> Result<()> {
    let mut command = redis::cmd("XREADGROUP");
    command.arg("GROUP").arg(GROUP).arg(CONSUMER).arg("COUNT").arg(BATCH).arg("STREAMS").arg(STREAM).arg(">");
    loop {
        let entries = entries(command.query(connection)?).context("an answer of XREADGROUP")?;
        if entries.is_empty() || batches.send(entries).is_err() {
            return Ok(());
        }
    }
}

/// The entries of `[[stream, [[id, [name, value]], …]]]`.
fn entries(answer: Value) -> Option<Vec<Entry>> {
    let Value::Array(mut streams) = answer else { return Some(Vec::new()) };
    let Value::Array(mut stream) = streams.pop()? else { return None };
    let Value::Array(entries) = stream.pop()? else { return None };
    let entry = |entry| {
        let Value::Array(mut entry) = entry else { return None };
        let (Value::Array(mut fields), Value::BulkString(id)) = (entry.pop()?, entry.pop()?) else { return None };
        let Value::BulkString(payload) = fields.pop()? else { return None };
        Some((id, payload))
    };
    entries.into_iter().map(entry).collect()
}

fn commit(connection: &mut Connection, taken: &Receiver<Vec<Entry>>, with_history: bool) -> Result<usize> {
    let script = redis::Script::new(COMMIT);
    let mut committed = 0;
    for batch in taken {
        let mut call = script.prepare_invoke();
        call.key(STREAM).key(DONE).arg(GROUP);
        for (id, payload) in &batch {
            call.arg(&id[..]).arg(if with_history { &payload[..] } else { b"" });
        }
        committed += call.invoke::<usize>(connection)?;
    }
    Ok(committed)
}
