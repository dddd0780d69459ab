//! A plugin that takes its event and does nothing with it: the measurements measure everything around it.
//!
//! It has no `describe`: a copy of it under any file name handles the type of that name.

use self::exports::eventstream::plugin::handler::{Event, EventData, Failure, Guest};

wit_bindgen::generate!({ path: "../../../wit", world: "eventstream:plugin/plugin", generate_all });

struct Idle;
export!(Idle);

impl Guest for Idle {
    fn handle(_event: Event) -> Result<Option<EventData>, Failure> {
        Ok(None)
    }
}
