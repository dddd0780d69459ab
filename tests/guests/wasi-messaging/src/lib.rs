//! A handler of `wasi:messaging` that knows nothing of eventstream. Its payload is a JSON text: a word, a blank, and the word's text.
//!
//! `send` sends the text to the topic `child` with the type and the metadata of the message. `facts` sends what the message
//! says of itself. `reply` calls a function that the host does not offer. `hoard` creates
//! messages without end and drops none. The other words are the errors that a handler can answer.

use self::exports::wasi::messaging::incoming_handler::Guest;
use self::wasi::messaging::types::{Client, Error, Message};
use self::wasi::messaging::{producer, request_reply};

wit_bindgen::generate!({
    path: "../../../host/src/plugin/dialect/wit/wasi-messaging.wit",
    inline: "
        package tests:messaging;
        world messages {
            import wasi:messaging/producer@0.2.0-draft;
            import wasi:messaging/request-reply@0.2.0-draft;
            export wasi:messaging/incoming-handler@0.2.0-draft;
        }
    ",
    world: "tests:messaging/messages",
    generate_all,
});

struct Handler;
export!(Handler);

impl Guest for Handler {
    fn handle(message: Message) -> Result<(), Error> {
        let payload = String::from_utf8(message.data()).map_err(|error| Error::Other(error.to_string()))?;
        let payload = payload.trim_matches('"');
        let (word, text) = payload.split_once(' ').unwrap_or((payload, ""));
        match word {
            "ok" => Ok(()),
            "send" => {
                message.set_data(text.as_bytes());
                message.add_metadata("tenant", "acme");
                producer::send(&Client::connect("any")?, "child", message)
            }
            "facts" => {
                let mut lines =
                    vec![format!("topic={:?}", message.topic()), format!("type={:?}", message.content_type())];
                lines.extend(
                    message.metadata().unwrap_or_default().into_iter().map(|(key, value)| format!("{key}={value}")),
                );
                producer::send(&Client::connect("any")?, "facts", Message::new(lines.join("\n").as_bytes()))
            }
            "invalid" => producer::send(&Client::connect("any")?, "not a type", Message::new(b"")).or(Ok(())),
            "reply" => request_reply::request(&Client::connect("any")?, "child", &message, None).map(drop),
            "hoard" => loop {
                std::mem::forget(Message::new(b""));
            },
            "timeout" => Err(Error::Timeout),
            "connection" => Err(Error::Connection(text.to_owned())),
            "denied" => Err(Error::PermissionDenied(text.to_owned())),
            "other" => Err(Error::Other(text.to_owned())),
            _ => panic!("{text}"),
        }
    }
}
