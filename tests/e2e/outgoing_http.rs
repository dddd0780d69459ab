//! G13, F52: a plugin reaches what it was granted and nothing else, whatever it writes and whatever names stand for.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};

use eventstream_tests::guests::PluginsDir;
use eventstream_tests::stage::{Broker, Stage};
use serde_json::{Value, json};

/// A server on this machine that answers every request with the same bytes, one for each connection.
struct Canary {
    port: u16,
    requests: Arc<Mutex<Vec<String>>>,
}

impl Canary {
    fn answering(answer: impl Into<Vec<u8>>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let (port, answer) = (listener.local_addr().unwrap().port(), answer.into());
        let requests = Arc::<Mutex<Vec<String>>>::default();
        let seen = requests.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                serve(stream, &answer, &seen);
            }
        });
        Self { port, requests }
    }

    fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    fn requests(&self) -> Vec<String> {
        self.requests.lock().unwrap().clone()
    }
}

fn serve(mut stream: TcpStream, answer: &[u8], seen: &Mutex<Vec<String>>) {
    let (mut head, mut buffer) = (Vec::new(), [0; 4_096]);
    let at = seen.lock().unwrap().len();
    seen.lock().unwrap().push(String::new());
    while !head.windows(4).any(|end| end == b"\r\n\r\n") {
        match stream.read(&mut buffer) {
            Ok(read @ 1..) => head.extend_from_slice(&buffer[..read]),
            _ => return,
        }
    }
    let lowercase = String::from_utf8_lossy(&head).to_lowercase();
    let is_chunked = lowercase.contains("transfer-encoding: chunked");
    seen.lock().unwrap()[at] = lowercase;
    // Who is answered before it has sent its body may take that for a broken connection.
    while !answer.is_empty() && is_chunked && !head.ends_with(b"0\r\n\r\n") {
        match stream.read(&mut buffer) {
            Ok(read @ 1..) => head.extend_from_slice(&buffer[..read]),
            _ => return,
        }
    }
    if answer.is_empty() {
        // Held until the other side has had enough.
        while matches!(stream.read(&mut buffer), Ok(1..)) {}
        return;
    }
    // The other side may have had enough in the midst of it.
    let _ = stream.write_all(answer);
    let _ = stream.shutdown(Shutdown::Write);
}

const HELLO: &str = "HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 5\r\n\r\nhello";

fn stage(settings: &str, resolve: &str) -> Stage {
    let plugins = PluginsDir::scripted(&["p"]).with_settings("p", settings);
    let folder = plugins.path().join("config");
    std::fs::create_dir(&folder).unwrap();
    let file = folder.join("eventstream.toml");
    std::fs::write(&file, format!("[plugins.resolve]\n{resolve}")).unwrap();
    Stage::with(Broker::Embedded, plugins, |options| {
        options.with("retry.max_attempts", 1).flags(&["--config", file.to_str().unwrap()])
    })
}

#[track_caller]
fn send(stage: &Stage, request: Value) -> Value {
    let event = stage.client.wait_ended(&stage.client.post_event("p", &json!({"do": "http", "http": request})));
    assert_eq!(event.state, "processed", "{event:?}");
    serde_json::from_str(event.result.unwrap().get()).unwrap()
}

#[track_caller]
fn error(stage: &Stage, url: &str) -> String {
    let answers = send(stage, json!({"url": url}));
    answers[0]["error"].as_str().unwrap_or_else(|| panic!("{url} is answered: {answers}")).to_owned()
}

fn denied(stage: &Stage) -> Value {
    stage.client.get("/plugins").expect(200).json()["plugins"][0]["denied"]["http"].clone()
}

#[test]
fn nothing_is_granted_by_default_and_the_line_that_grants_it_is_told_once() {
    let canary = Canary::answering(HELLO);
    let stage = stage("", "");
    for _ in 0..3 {
        assert!(error(&stage, &canary.url()).contains("HttpRequestDenied"));
    }
    assert_eq!((canary.requests().len(), denied(&stage)), (0, json!(3)));
    let line = format!("grants.http = [\\\"{}\\\"]", canary.url());
    let plain = line.replace("\\", "");
    let output = stage.host.wait_for_output(&canary.url());
    assert_eq!(output.matches(&line).count() + output.matches(&plain).count(), 1, "{output}");

    stage.plugins.write("p.toml", plain.as_bytes());
    eventstream_tests::eventually::eventually("the grant is in force", || {
        let answers = send(&stage, json!({"url": canary.url()}));
        if answers[0]["body"] == "hello" { Ok(()) } else { Err(answers.to_string()) }
    });
}

#[test]
fn the_server_itself_is_no_place_that_a_grant_can_name() {
    let stage = stage("", "");
    let url = stage.host.url();
    let port = url.rsplit(':').next().unwrap();
    let grants = format!("grants.http = [\"{url}\", \"http://localhost:{port}\"]");
    stage.plugins.write("p.toml", grants.as_bytes());
    for host in ["127.0.0.1", "localhost"] {
        let request = json!({"method": "DELETE", "url": format!("http://{host}:{port}/plugins/p")});
        eventstream_tests::eventually::eventually("the grant leads nowhere", || {
            let answers = send(&stage, request.clone());
            let error = answers[0]["error"].as_str().unwrap_or_default();
            if error.contains("DestinationIpProhibited") { Ok(()) } else { Err(answers.to_string()) }
        });
    }
    assert_eq!(stage.client.get("/plugins/p").expect(200).json()["state"], "active");
    stage.host.wait_for_output("this server itself listens there");
}

#[test]
fn what_is_granted_by_address_is_answered_and_knows_the_event() {
    let canary = Canary::answering(HELLO);
    let grant =
        format!("grants.http = [{{ url = \"{}\", methods = [\"POST\"], idempotency_key = true }}]", canary.url());
    let stage = stage(&grant, "");
    let request = json!({"method": "POST", "url": format!("{}/a?b=c", canary.url()), "body": "x"});
    let id = stage.client.post_event("p", &json!({"do": "http", "http": request}));
    let event = stage.client.wait_ended(&id);
    let answers: Value = serde_json::from_str(event.result.unwrap().get()).unwrap();
    assert_eq!((&answers[0]["status"], &answers[0]["body"]), (&json!(200), &json!("hello")), "{answers}");
    let request = canary.requests().remove(0);
    assert!(request.starts_with("post /a?b=c http/1.1\r\n"), "{request}");
    assert!(request.contains(&format!("host: 127.0.0.1:{}\r\n", canary.port)), "{request}");
    assert!(request.contains(&format!("idempotency-key: {}", id.to_lowercase())), "{request}");
    assert!(send(&stage, json!({"url": canary.url()}))[0]["error"].as_str().unwrap().contains("HttpRequestDenied"));
}

#[test]
fn neither_names_nor_spellings_nor_redirects_lead_to_what_was_not_granted() {
    let canary = Canary::answering(HELLO);
    let port = canary.port;
    let to_canary =
        format!("HTTP/1.1 302 Found\r\nlocation: {}\r\nconnection: close\r\ncontent-length: 0\r\n\r\n", canary.url());
    let redirecting = Canary::answering(to_canary);
    let names = [
        ("private", "10.0.0.1"),
        ("loopback", "127.0.0.1"),
        ("loopback6", "::1"),
        ("metadata", "169.254.169.254"),
        ("linklocal", "fe80::1"),
        ("unique", "fd00:ec2::254"),
        ("mapped", "::ffff:127.0.0.1"),
        ("nat64", "64:ff9b::7f00:1"),
        ("sixtofour", "2002:7f00:1::"),
        ("unspecified", "0.0.0.0"),
    ];
    let resolve: Vec<String> =
        names.iter().map(|(name, address)| format!("\"{name}.test\" = \"{address}\"\n")).collect();
    let granted: Vec<String> = names.iter().map(|(name, _)| format!("\"http://{name}.test:{port}\"")).collect();
    let redirect = redirecting.url();
    let stage = stage(&format!("grants.http = [\"{redirect}\", {}]", granted.join(", ")), &resolve.concat());

    for (name, address) in names {
        let error = error(&stage, &format!("http://{name}.test:{port}"));
        assert!(error.contains("DestinationIpProhibited"), "{name} at {address}: {error}");
    }
    let r = redirecting.port;
    for url in [
        format!("http://127.0.0.1:{port}"),
        format!("http://0x7f.1:{r}"),
        format!("http://2130706433:{r}"),
        format!("http://0177.0.0.1:{r}"),
        format!("http://127.1:{r}"),
        format!("http://[::ffff:127.0.0.1]:{r}"),
        format!("http://[::1]:{r}"),
        format!("http://localhost:{r}"),
        format!("https://127.0.0.1:{r}"),
        format!("http://private.test:{r}"),
        format!("http://x.private.test:{port}"),
    ] {
        let error = error(&stage, &url);
        assert!(error.contains("HttpRequestDenied"), "{url}: {error}");
    }
    let answers = send(&stage, json!({"url": redirect}));
    assert_eq!(answers[0]["status"], 302, "{answers}");
    assert_eq!((canary.requests().len(), redirecting.requests().len()), (0, 1), "connections that were made");
    let host = send(&stage, json!({"url": redirect, "headers": [["host", "other"]]}));
    assert!(host[0]["error"].as_str().unwrap().contains("Forbidden"), "{host}");
}

#[test]
fn size_time_and_number_are_limited() {
    let large =
        format!("HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 200000\r\n\r\n{}", "x".repeat(200_000));
    let (large, silent, small) = (Canary::answering(large), Canary::answering(""), Canary::answering(HELLO));
    let settings = format!(
        "grants.http = [\"{}\", \"{}\", \"{}\"]\n[limits]\nhttp_response_bytes = \"64KiB\"\nhttp_timeout_ms = 6000\n\
         http_requests = 3\nhttp_request_bytes = 10\n",
        large.url(),
        silent.url(),
        small.url()
    );
    let stage = stage(&settings, "");
    for (url, expected) in
        [(large.url(), "response body size exceeds limit: 65536"), (silent.url(), "HttpResponseTimeout")]
    {
        let error = error(&stage, &url);
        assert!(error.contains(expected), "{error}");
    }
    let answers = send(&stage, json!({"url": small.url(), "times": 4}));
    assert_eq!((&answers[2]["status"], &answers[3]["status"]), (&json!(200), &Value::Null), "{answers}");
    assert!(answers[3]["error"].as_str().unwrap().contains("limits.http_requests"), "{answers}");
    // To a server that waits for the whole body: an answer that comes before the limit is met would count.
    let answers = send(&stage, json!({"method": "POST", "url": silent.url(), "body": "x".repeat(100_000)}));
    assert!(answers[0]["error"].as_str().is_some_and(|error| error.contains("HttpRequestBodySize")), "{answers}");
    assert_eq!(stage.host.exited(), None);
}
