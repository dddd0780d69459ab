//! Starts events that are due later, and cancels events that wait. Against a claim the script decides: it sees whether a
//! consumer holds the entry.

use super::codec;
use super::connection::reply;
use super::history::EventHistory;
use crate::broker::{AuditNote, Error, Lane, WaitingEventChange};
use crate::clock;
use crate::event::{EventId, EventState};

impl EventHistory {
    /// Makes an event that is due later due now. The next promotion moves it to its lane.
    pub(super) async fn make_due(&self, id: EventId, audit: Option<&AuditNote>) -> Result<WaitingEventChange, Error> {
        let audit = audit.map(AuditNote::encode).transpose()?;
        let client = &self.client;
        loop {
            let mut call = client.script_call(&client.scripts.run_now).text(&id.to_string());
            call.push_audit(&client.keys, audit.as_deref());
            if reply::int(&client.call(&call).await?)? == 1 {
                return Ok(WaitingEventChange::Done);
            }
            match self.find_event(id).await?.map(|found| found.state) {
                None => return Ok(WaitingEventChange::Unknown),
                // An attempt failed in between, so it is due later by now.
                Some(EventState::Scheduled | EventState::Retrying) => {}
                Some(state) => return Ok(WaitingEventChange::NotWaiting(state)),
            }
        }
    }

    /// Ends an event that nobody handles.
    pub(super) async fn cancel(
        &self,
        id: EventId,
        reason: &str,
        audit: Option<&AuditNote>,
    ) -> Result<WaitingEventChange, Error> {
        let audit = audit.map(AuditNote::encode).transpose()?;
        let client = &self.client;
        loop {
            let Some(located) = self.locate_event(id).await? else { return Ok(WaitingEventChange::Unknown) };
            if !located.found.state.is_waiting() {
                return Ok(WaitingEventChange::NotWaiting(located.found.state));
            }
            let record = located.found.record.cancelled(clock::now(), reason);
            let blob = codec::encode(&record, client.record_version())?;
            // The place of an event that is due later names no lane.
            let lane = lane_in(&located.place).unwrap_or_else(Lane::unrouted);
            let mut call =
                client.script_call(&client.scripts.cancel).lane_keys(&client.keys, [&lane]).text(&id.to_string());
            call.push_bytes(&located.place);
            call.push_text(&format!("{:016x}", fastrand::u64(..)));
            call.push_key(client.keys.discarded());
            call.push_bytes(blob);
            call.push_audit(&client.keys, audit.as_deref());
            if reply::text(client.link.call_until_known(&call).await?)? == "D" {
                return Ok(WaitingEventChange::Done);
            }
            // It moved since it was read.
        }
    }
}

/// The lane in a place of the index, whose parts a bar separates.
fn lane_in(place: &[u8]) -> Option<Lane> {
    let lane = place.split(|byte| *byte == b'|').nth(1)?;
    std::str::from_utf8(lane).ok()?.parse().ok()
}
