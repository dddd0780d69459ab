//! `eventstream key`: makes, lists, rotates and revokes the keys of a deployment.
//!
//! The text of a key goes to standard output and everything else to standard error, so that a script can take the key.

use std::fmt::Write as _;
use std::time::Duration;

use clap::{Args as Arguments, Subcommand};
use eventstream::api_key::{
    KEY_PREFIX, KeyId, KeyRights, KeyToken, MAX_KEY_TYPES, RequestRate, Scope, ScopeSet, is_key_name,
};
use eventstream::app::{make_key, new_key_token};
use eventstream::event::TypePattern;
use eventstream::printable::Printable;
use serde_json::{Value, json};

use super::client::{ClientError, ServerAnswer, ServerTarget, path_with_query};
use super::output::{
    CommandResult, ExitReason, OutputResult, print_json, print_line, print_lines, print_note, print_note_lines,
};
use super::settings::BrokerArgs;

pub(super) const NEW_EXAMPLES: &str = "\
Examples:
  eventstream key new admin --scopes all
  eventstream key new shop --scopes publish --types 'order.*' --rate 100/s
  eventstream key new ci --scopes deploy,read --expires 90d
  eventstream key new admin --scopes all --broker redis://127.0.0.1:6379
  eventstream key new shop --scopes publish --for-config

The key is printed once; nobody can show it again. Commands take a key from EVENTSTREAM_KEY, or from the file that
EVENTSTREAM_KEY_FILE names. While there is no key, the server's own machine may make the first one, with the scope keys. From
then on everybody needs a key. A key makes only keys that allow no more than itself.

Exit codes: 0 made, 1 refused, 2 usage or configuration, 3 server or broker unreachable";

pub(super) const ROTATE_EXAMPLES: &str = "\
Examples:
  eventstream key rotate 4fZk2mQ9xA
  eventstream key rotate 4fZk2mQ9xA --overlap 0s

The id and the rights stay. If the answer is lost, rotate again: the secrets before it stay valid for their overlap.

Exit codes: 0 rotated, 1 refused, 2 usage, 3 server unreachable";

/// The commands for keys.
#[derive(Debug, Subcommand)]
pub(super) enum KeyCommand {
    /// Make a key and print it
    #[command(visible_alias = "create", after_help = NEW_EXAMPLES)]
    New(NewKeyArgs),
    /// Show every key, without its secret
    List(ShowKeysArgs),
    /// Give a key a new secret; the earlier one stays valid for a while
    #[command(after_help = ROTATE_EXAMPLES)]
    Rotate(RotateKeyArgs),
    /// End a key for good
    Revoke(RevokeKeyArgs),
    /// Show what the key in EVENTSTREAM_KEY allows
    Whoami(ShowKeysArgs),
}

/// The arguments of `key new`.
#[derive(Debug, Arguments)]
pub(super) struct NewKeyArgs {
    /// Whose key it is: 1 to 64 letters, digits and ._@-
    #[arg(value_name = "NAME", value_parser = parse_name)]
    name: String,
    /// What it allows: publish, read, operate, deploy, keys, or all
    #[arg(long, value_name = "SCOPE,…", value_parser = parse_scopes)]
    scopes: ScopeSet,
    /// The types of events that it may publish, such as order.*,USER_SIGNUP [default: all]
    #[arg(long, value_name = "TYPE,…", value_delimiter = ',')]
    types: Vec<TypePattern>,
    /// How many events and other requests it allows in a time, such as 100/s, 50/m or 1000/h [default: any number]
    #[arg(long)]
    rate: Option<RequestRate>,
    /// After which time it ends, with a unit: 12h, 90d [default: never]
    #[arg(long, value_name = "DURATION", value_parser = humantime::parse_duration)]
    expires: Option<Duration>,
    /// Make it in the store of the configuration and without a server; an embedded store must not be in use
    #[arg(long)]
    in_store: bool,
    #[command(flatten)]
    store: BrokerArgs,
    /// Print a key and its entry for [[auth.keys]]; nothing is stored
    #[arg(long, conflicts_with_all = ["in_store", "broker", "expires"])]
    for_config: bool,
    #[command(flatten)]
    server: ServerTarget,
    /// Print the answer as JSON
    #[arg(long)]
    json: bool,
}

/// The arguments of `key list` and `key whoami`.
#[derive(Debug, Arguments)]
pub(super) struct ShowKeysArgs {
    #[command(flatten)]
    server: ServerTarget,
    /// Print the answer as JSON
    #[arg(long)]
    json: bool,
}

/// The arguments of `key rotate`.
#[derive(Debug, Arguments)]
pub(super) struct RotateKeyArgs {
    /// The key
    #[arg(value_name = "ID", value_parser = parse_id)]
    id: KeyId,
    /// How long the earlier secret stays valid, with a unit [default: 24h]
    #[arg(long, value_name = "DURATION", value_parser = humantime::parse_duration)]
    overlap: Option<Duration>,
    #[command(flatten)]
    server: ServerTarget,
    /// Print the answer as JSON
    #[arg(long)]
    json: bool,
}

/// The arguments of `key revoke`.
#[derive(Debug, Arguments)]
pub(super) struct RevokeKeyArgs {
    /// The key
    #[arg(value_name = "ID", value_parser = parse_id)]
    id: KeyId,
    /// Why; the audit shows it
    #[arg(long, value_name = "TEXT")]
    reason: Option<String>,
    #[command(flatten)]
    server: ServerTarget,
    /// Print the answer as JSON
    #[arg(long)]
    json: bool,
}

/// Runs the command.
pub(super) fn run(command: &KeyCommand) -> CommandResult {
    match command {
        KeyCommand::New(args) if args.for_config => make_for_config(args),
        KeyCommand::New(args) if args.in_store || args.store.names_broker() => make_in_store(args),
        KeyCommand::New(args) => answered(make_on_server(args)),
        KeyCommand::List(args) => answered(list(args)),
        KeyCommand::Rotate(args) => answered(rotate(args)),
        KeyCommand::Revoke(args) => answered(revoke(args)),
        KeyCommand::Whoami(args) => answered(show_caller(args)),
    }
}

fn answered(done: Result<(), ClientError>) -> CommandResult {
    done.map(|()| ExitReason::Done).map_err(|failure| failure.report())
}

// No message of these repeats a value, and the usage message hides keys.
fn parse_name(text: &str) -> Result<String, &'static str> {
    is_key_name(text).then(|| text.to_owned()).ok_or("a name has 1 to 64 letters, digits and ._@-, and is no key")
}

fn parse_id(text: &str) -> Result<KeyId, &'static str> {
    match text.parse() {
        Err(_) if text.starts_with(KEY_PREFIX) => {
            Err("this is a key, which others now see (ps): revoke it; its id is the ten characters after es1_")
        }
        parsed => parsed,
    }
}

fn parse_scopes(text: &str) -> Result<ScopeSet, String> {
    if text == "all" { Ok(ScopeSet::ALL) } else { text.parse().map_err(|error| format!("{error}, or all")) }
}

impl NewKeyArgs {
    fn body(&self) -> Value {
        let mut body = json!({ "name": self.name, "scopes": self.scopes });
        if !self.types.is_empty() {
            body["types"] = json!(self.types);
        }
        if let Some(rate) = self.rate {
            body["rate"] = json!(rate);
        }
        if let Some(expires) = self.expires {
            body["expiresIn"] = humantime::format_duration(expires).to_string().into();
        }
        body
    }

    fn rights(&self) -> Result<KeyRights, ExitReason> {
        if self.types.len() > MAX_KEY_TYPES {
            print_note(format_args!("eventstream: a key has at most {MAX_KEY_TYPES} types"));
            return Err(ExitReason::Usage);
        }
        let types = self.types.clone();
        Ok(KeyRights { scopes: self.scopes, types, rate: self.rate, expires_at: None })
    }

    fn print_key(&self, token: &KeyToken) -> OutputResult {
        if self.json {
            let (key, id, name) = (token.expose(), token.id().to_string(), &self.name);
            return print_json(json!({ "key": key, "id": id, "name": name, "scopes": self.scopes }));
        }
        print_line(token.expose())
    }
}

fn make_on_server(args: &NewKeyArgs) -> Result<(), ClientError> {
    let answer = args.server.post("/keys", None, &args.body().to_string())?.require_success()?;
    print_new(&answer, args.json, "made")
}

fn make_in_store(args: &NewKeyArgs) -> CommandResult {
    let rights = args.rights()?;
    let (config, runtime, _log) = args.store.open()?;
    let made = runtime.block_on(make_key(&config, args.name.clone(), rights, args.expires));
    runtime.shutdown_background();
    let token = made.map_err(|error| ExitReason::report(&error))?;
    args.print_key(&token)?;
    let limits = if args.scopes.has(Scope::Keys) { "" } else { "; it makes no other key, since it has no scope keys" };
    print_note(format_args!(
        "made the key {} for {} in the store{limits}. It is shown only now",
        token.id(),
        args.name
    ));
    Ok(ExitReason::Done)
}

fn make_for_config(args: &NewKeyArgs) -> CommandResult {
    let rights = args.rights()?;
    let token = new_key_token().map_err(|error| ExitReason::report(&error))?;
    args.print_key(&token)?;
    let texts = |texts: Vec<String>| texts.iter().map(|text| format!("{text:?}")).collect::<Vec<_>>().join(", ");
    let mut entry =
        "Put this into the configuration file; the key itself is shown only now.\n\n[[auth.keys]]\n".to_owned();
    let scopes = texts(rights.scopes.iter().map(|scope| scope.to_string()).collect());
    // Writing into a `String` does not fail.
    let _ = write!(entry, "name = {:?}\nsha256 = \"{}\"\nscopes = [{scopes}]", args.name, token.hash());
    if !rights.types.is_empty() {
        let _ = write!(entry, "\ntypes = [{}]", texts(rights.types.iter().map(ToString::to_string).collect()));
    }
    if let Some(rate) = rights.rate {
        let _ = write!(entry, "\nrate = \"{rate}\"");
    }
    print_note_lines(entry);
    Ok(ExitReason::Done)
}

fn rotate(args: &RotateKeyArgs) -> Result<(), ClientError> {
    let body = args.overlap.map(|overlap| json!({ "overlap": humantime::format_duration(overlap).to_string() }));
    let body = body.map(|body| body.to_string()).unwrap_or_default();
    let answer = args.server.post(&format!("/keys/{}/rotate", args.id), None, &body)?.require_success()?;
    print_new(&answer, args.json, "rotated")
}

/// Prints a key that the server made or rotated.
fn print_new(answer: &ServerAnswer, as_json: bool, verb: &str) -> Result<(), ClientError> {
    let document = answer.parse_json()?;
    let Some(key) = document["key"].as_str() else {
        return Err(ClientError::new(ExitReason::Failed, "the answer has no key; is this an eventstream server?"));
    };
    if as_json {
        return print_json(&answer.text).map_err(ClientError::reported);
    }
    print_line(key).map_err(ClientError::reported)?;
    let mut note = format!("{verb} the key {} for {}", shown(&document["id"]), shown(&document["name"]));
    if let Some(until) = document["overlapUntil"].as_str() {
        let _ = write!(note, "; its earlier secret is valid until {}", Printable(until));
    }
    print_note(format_args!("{note}. It is shown only now"));
    Ok(())
}

fn revoke(args: &RevokeKeyArgs) -> Result<(), ClientError> {
    let path = path_with_query(&format!("/keys/{}", args.id), &[("reason", args.reason.as_deref())]);
    let answer = args.server.delete(&path)?.require_success()?;
    let document = answer.parse_json()?;
    let printed = match args.json {
        true => print_json(&answer.text),
        false => {
            let (name, at) = (shown(&document["name"]), shown(&document["revokedAt"]));
            print_lines(format_args!("revoked the key {} of {name} at {at}; every host refuses it within 2 s", args.id))
        }
    };
    printed.map_err(ClientError::reported)
}

fn show_caller(args: &ShowKeysArgs) -> Result<(), ClientError> {
    let answer = args.server.get("/whoami")?.require_success()?;
    let printed =
        if args.json { print_json(&answer.text) } else { print_lines(describe_caller(&answer.parse_json()?)) };
    printed.map_err(ClientError::reported)
}

fn list(args: &ShowKeysArgs) -> Result<(), ClientError> {
    let answer = args.server.get("/keys")?.require_success()?;
    let printed = if args.json { print_json(&answer.text) } else { print_lines(describe_list(&answer.parse_json()?)) };
    printed.map_err(ClientError::reported)
}

fn describe_caller(document: &Value) -> String {
    let who = match document["caller"].as_str() {
        Some("key") => format!("the key {} ({})", shown(&document["name"]), shown(&document["id"])),
        Some("local") => "a person on the server's own machine, which has no key yet".into(),
        _ => "somebody without a key".into(),
    };
    format!("{who}\n  {}", describe_rights(document))
}

fn describe_list(document: &Value) -> String {
    let keys = document["keys"].as_array().map(Vec::as_slice).unwrap_or_default();
    let mut text = String::new();
    for key in keys {
        let last_use = match key["lastUsedAt"].as_str() {
            Some(at) => format!("last used {}", Printable(at)),
            None if key["source"] == "configuration" => "of the configuration".into(),
            None => "never used".into(),
        };
        let (id, name, state) = (shown(&key["id"]), shown(&key["name"]), shown(&key["state"]));
        let _ = writeln!(text, "{id:<10}  {state:<7}  {name}  {}; {last_use}", describe_rights(key));
    }
    for id in document["unreadable"].as_array().into_iter().flatten() {
        let _ = writeln!(text, "{:<10}  refused: this host cannot read it", shown(id));
    }
    if text.is_empty() { "there is no key".into() } else { text.trim_end().to_owned() }
}

fn describe_rights(key: &Value) -> String {
    let joined = |name: &str| {
        let items = key[name].as_array().into_iter().flatten();
        items.filter_map(Value::as_str).map(|item| Printable(item).to_string()).collect::<Vec<_>>().join(",")
    };
    let mut text = joined("scopes");
    if !joined("types").is_empty() {
        let _ = write!(text, " for {}", joined("types"));
    }
    for (name, what) in [("rate", "at most"), ("expiresAt", "until")] {
        if let Some(value) = key[name].as_str() {
            let _ = write!(text, ", {what} {}", Printable(value));
        }
    }
    text
}

fn shown(value: &Value) -> String {
    Printable(value.as_str().unwrap_or("-")).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_shows_each_key_on_one_line() {
        let document = json!({ "keys": [
            { "id": "abcdefghij", "name": "shop", "state": "active", "scopes": ["publish"], "types": ["order.*", "a"],
              "rate": "9/s", "expiresAt": "2027-01-01T00:00:00.000Z", "lastUsedAt": null, "source": "store" },
            { "name": "ci", "state": "active", "scopes": ["deploy", "read"], "types": [], "source": "configuration" },
        ], "unreadable": ["later00000"] });
        assert_eq!(
            describe_list(&document),
            "abcdefghij  active   shop  publish for order.*,a, at most 9/s, until 2027-01-01T00:00:00.000Z; never used\n\
             -           active   ci  deploy,read; of the configuration\n\
             later00000  refused: this host cannot read it"
        );
        assert_eq!(describe_list(&json!({ "keys": [] })), "there is no key");
    }

    #[test]
    fn a_whole_key_in_place_of_an_id_or_a_name_is_not_repeated() {
        let token = KeyToken::from_random(&KeyId::from_random([1; 16]), [2; 32]);
        assert!(parse_id(token.expose()).unwrap_err().contains("this is a key"));
        assert_eq!(parse_id(token.id().as_str()), Ok(token.id()));
        assert!(parse_name(token.expose()).is_err() && parse_name("ada@example.com").is_ok());
        assert_eq!(parse_scopes("all"), Ok(ScopeSet::ALL));
        assert!(parse_scopes("everything").unwrap_err().ends_with("or all"));
    }
}
