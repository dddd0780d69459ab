//! A handler of HTTP requests as Spin's SDK makes it, which is any handler of `wasi:http`: a core module for
//! `wasm32-wasip1` that knows nothing of eventstream. Its payload is a JSON text: a number, a blank, and a text.
//!
//! The number is the status of the answer and the text its body; 429 and 503 wish for another attempt after a second. The
//! status 200 answers what the request said, 0 panics, 1 writes more than anyone wants.

use spin_sdk::http::{IntoResponse, Request, Response};
use spin_sdk::http_component;

#[http_component]
fn handle(request: Request) -> anyhow::Result<impl IntoResponse> {
    let body = String::from_utf8_lossy(request.body()).into_owned();
    let payload = body.trim_matches('"');
    let (status, text) = payload.split_once(' ').unwrap_or((payload, ""));
    let status: u16 = status.parse().unwrap_or(400);
    let mut builder = Response::builder();
    Ok(match status {
        0 => panic!("{text}"),
        1 => builder.status(200).body(vec![b'x'; 400_000]).build(),
        200 => builder.status(200).header("content-type", "text/plain").body(facts(&request)).build(),
        429 | 503 => builder.status(status).header("retry-after", "1").body(text.to_owned()).build(),
        _ => builder.status(status).body(text.to_owned()).build(),
    })
}

fn facts(request: &Request) -> String {
    let mut lines = vec![format!("{} {}", request.method(), request.path())];
    let told = request.headers().map(|(name, value)| format!("{name}: {}", value.as_str().unwrap_or_default()));
    lines.extend(told);
    lines.join("\n")
}
