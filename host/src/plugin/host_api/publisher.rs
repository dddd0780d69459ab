//! `publisher`: publishes events together with the outcome of the attempt, or not at all.

use super::bindings::eventstream::plugin::publisher::{Error, Host, NewEvent};
use super::guest::GuestState;
use super::publish_buffer::{check, size_bytes};

impl Host for GuestState {
    fn publish(&mut self, new: NewEvent) -> wasmtime::Result<Result<String, Error>> {
        self.output.charge(size_bytes(&new))?;
        let published = self.current.publishing.published.len();
        let answer = check(new, published, &self.context.limits).map(|checked| {
            let published = checked.publish(&self.context.name, &self.current.event);
            let id = published.event.id.to_string();
            self.current.publishing.published.push(published);
            id
        });
        if let Err(error) = &answer {
            self.current.publishing.refuse(words(error));
        }
        Ok(answer)
    }
}

fn words(error: &Error) -> &str {
    match error {
        Error::Denied(words) | Error::Invalid(words) | Error::TooLarge(words) | Error::TooMany(words) => words,
    }
}
