//! Components for the tests of this module, written as text so that no toolchain for guests is needed.

use std::collections::BTreeMap;

use crate::event::{Data, Event, EventId, Timestamp};

/// An event with a payload, for the plugin `test`.
pub(super) fn event(payload: &str) -> Event {
    Event {
        id: EventId::new(),
        event_type: "test".parse().unwrap(),
        source: "/tests".into(),
        subject: None,
        time: None,
        data_content_type: Some("application/json".into()),
        data_schema: None,
        extensions: BTreeMap::from([("traceparent".to_owned(), "00-1-2-01".to_owned())]),
        accepted: Timestamp::from_unix_ms(1_795_446_245_007),
        cause: None,
        data: Some(Data::text(payload)),
    }
}
