//! A handler of wasmCloud's messaging that knows nothing of eventstream. Its payload is a JSON text: a word, a blank,
//! and the word's text.
//!
//! `publish` publishes the text on the subject `child`. `facts` publishes what the message says of itself. `request` and
//! `reply` call functions that the host does not offer. `error` answers with the text.

use self::exports::wasmcloud::messaging::handler::Guest;
use self::wasmcloud::messaging::consumer;
use self::wasmcloud::messaging::types::BrokerMessage;

wit_bindgen::generate!({
    path: "../../../host/src/plugin/dialect/wit/wasmcloud-messaging.wit",
    inline: "
        package tests:messaging;
        world messages {
            import wasmcloud:messaging/consumer@0.2.0;
            export wasmcloud:messaging/handler@0.2.0;
        }
    ",
    world: "tests:messaging/messages",
    generate_all,
});

struct Handler;
export!(Handler);

impl Guest for Handler {
    fn handle_message(message: BrokerMessage) -> Result<(), String> {
        let payload = String::from_utf8(message.body).map_err(|error| error.to_string())?;
        let payload = payload.trim_matches('"');
        let (word, text) = payload.split_once(' ').unwrap_or((payload, ""));
        match word {
            "ok" => Ok(()),
            "publish" => publish("child", text, None),
            "facts" => publish("facts", &format!("{:?} {:?}", message.subject, message.reply_to), None),
            "request" => consumer::request("child", text.as_bytes(), 100).map(drop),
            "reply" => publish("child", text, Some("inbox".to_owned())).or(Ok(())),
            "error" => Err(text.to_owned()),
            _ => panic!("{text}"),
        }
    }
}

fn publish(subject: &str, text: &str, reply_to: Option<String>) -> Result<(), String> {
    consumer::publish(&BrokerMessage { subject: subject.to_owned(), body: text.as_bytes().to_vec(), reply_to })
}
