//! Load for measurements: senders side by side, each on a connection that it keeps, as fast as answers come.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::client::Client;

/// What is sent.
#[derive(Clone, Copy, Debug)]
pub struct Load {
    /// How many send side by side.
    pub senders: usize,
    /// Events in one request; 1 for single events.
    pub batch: usize,
    /// Events in all.
    pub events: usize,
}

impl Load {
    /// Sends events of a type with a payload, and gives the time until the last was accepted.
    ///
    /// # Panics
    /// One was not accepted.
    pub fn send(&self, url: &str, event_type: &str, payload: &Value) -> Duration {
        let event = json!({"type": event_type, "payload": payload});
        let begun = Instant::now();
        std::thread::scope(|threads| {
            for sender in 0..self.senders {
                let event = &event;
                threads.spawn(move || self.send_share(sender, url, event));
            }
        });
        begun.elapsed()
    }

    fn send_share(&self, sender: usize, url: &str, event: &Value) {
        let client = Client::new(url);
        let mut left = self.events / self.senders + usize::from(sender < self.events % self.senders);
        let whole = self.body(self.batch, event);
        while left >= self.batch {
            client.post(&whole).expect(202);
            left -= self.batch;
        }
        if left > 0 {
            client.post(&self.body(left, event)).expect(202);
        }
    }

    fn body(&self, events: usize, event: &Value) -> String {
        if self.batch == 1 { event.to_string() } else { json!(vec![event; events]).to_string() }
    }
}

/// How many in a second.
pub fn rate(count: usize, time: Duration) -> f64 {
    count as f64 / time.as_secs_f64()
}
