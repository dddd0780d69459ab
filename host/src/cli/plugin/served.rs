//! `eventstream plugin list | rollback | approve | remove`: the plugins that a server has loaded.
//!
//! What changes them is asked of one server; others that share the work are asked likewise.

use std::fmt::Write as _;

use eventstream::printable::Printable;
use serde_json::Value;

use super::super::ExitReason;
use super::super::client::{AnswerReading, ClientError, ServerAnswer, ServerTarget};
use super::name;

pub(in super::super) const LIST_EXAMPLES: &str = "\
Examples:
  eventstream plugin list
  eventstream plugin list --json | jq '.[] | select(.error)'

Exit codes: 0 done, 1 failed, 2 usage, 3 server unreachable";

pub(in super::super) const ROLLBACK_EXAMPLES: &str = "\
Examples:
  eventstream plugin rollback user-signup
  eventstream plugin rollback user-signup --json

The version that served before serves again at once, after a restart too, until another file is put into the directory, or
the same one again: that undoes it. Called again it goes back one version further. It is asked of one server; others that share the work are asked likewise.

Exit codes: 0 done, 1 there is no such plugin or no earlier version, 2 usage, 3 server unreachable";

pub(in super::super) const APPROVE_EXAMPLES: &str = "\
Examples:
  eventstream plugin approve user-signup
  eventstream plugin approve user-signup --digest 01ba4719c80b6fe911b091a7c05124b64eeece964e09c058ef8f9805daca546b

A build that takes types from another plugin waits for this, and with plugins.hold_new_capabilities = true one that imports
more than the one that serves; plugin list shows what waits and why. It serves at once, and stays approved after a restart.
Name what you have looked at by --digest: without it, the build is approved that waits when the command starts. A build that
took its place meanwhile is refused. It is asked of one server; others that share the work are asked likewise.

Exit codes: 0 done, 1 there is no such plugin or no such build waits, 2 usage, 3 server unreachable";

pub(in super::super) const REMOVE_EXAMPLES: &str = "\
Examples:
  eventstream plugin remove user-signup
  eventstream plugin remove user-signup --state
  eventstream plugin remove user-signup --json

Removes the file from the directory of the server. Its settings beside the file, its state and its earlier versions stay.
With --state what the plugin keeps is removed too, also when the plugin itself went before; that cannot be undone.
Events of its types wait as retry.no-handler says, and are handled once a plugin for them is there.

Exit codes: 0 done, 1 there is no such plugin or its file cannot be removed, 2 usage, 3 server unreachable";

/// How much of a digest is shown in a table.
const DIGEST_CHARS: usize = 12;

/// The arguments of `plugin list`.
#[derive(Debug, clap::Args)]
pub(in super::super) struct ListArgs {
    #[command(flatten)]
    server: ServerTarget,
    /// Print it as JSON
    #[arg(long)]
    json: bool,
}

/// One plugin of a server.
#[derive(Debug, clap::Args)]
struct ListedPlugin {
    /// The name of the plugin
    #[arg(value_name = "NAME", value_parser = name)]
    name: String,
    #[command(flatten)]
    server: ServerTarget,
}

/// The arguments of `plugin rollback`.
#[derive(Debug, clap::Args)]
pub(in super::super) struct RollbackArgs {
    #[command(flatten)]
    plugin: ListedPlugin,
    /// Print the status that follows as JSON
    #[arg(long)]
    json: bool,
}

/// The arguments of `plugin approve`.
#[derive(Debug, clap::Args)]
pub(in super::super) struct ApproveArgs {
    /// The SHA-256 of the build
    #[arg(long, value_name = "SHA256", value_parser = digest)]
    digest: Option<String>,
    #[command(flatten)]
    plugin: ListedPlugin,
    /// Print the status that follows as JSON
    #[arg(long)]
    json: bool,
}

/// The arguments of `plugin remove`.
#[derive(Debug, clap::Args)]
pub(in super::super) struct RemoveArgs {
    #[command(flatten)]
    plugin: ListedPlugin,
    /// Remove what the plugin keeps as well, also if the plugin itself went before
    #[arg(long)]
    state: bool,
    /// Print what was removed as JSON
    #[arg(long)]
    json: bool,
}

fn digest(text: &str) -> Result<String, &'static str> {
    if text.len() == 64 && text.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        Ok(text.to_ascii_lowercase())
    } else {
        Err("a digest is the SHA-256 of the file, 64 hexadecimal digits; plugin list --json shows it")
    }
}

/// Lists all.
pub(in super::super) fn list(args: &ListArgs) -> Result<AnswerReading, ClientError> {
    let answer = args.server.get("/plugins")?.accepted()?.json()?;
    let plugins = answer["plugins"].as_array().cloned().unwrap_or_default();
    if args.json {
        return Ok(AnswerReading::Json(Value::Array(plugins).to_string()));
    }
    let overlooked = answer["overlooked"].as_array().into_iter().flatten().filter_map(Value::as_str).map(Printable);
    let lines = overlooked.fold(table(&plugins), |text, words| format!("{text}\noverlooked: {words}"));
    Ok(AnswerReading::Report(lines))
}

/// Brings back the version before.
pub(in super::super) fn rollback(args: &RollbackArgs) -> Result<AnswerReading, ClientError> {
    let ListedPlugin { name, server } = &args.plugin;
    let status = server.post(&format!("/plugins/{name}/rollback"), None, "")?.accepted()?.json()?;
    if args.json {
        return Ok(AnswerReading::Json(status.to_string()));
    }
    let (digest, from) = (short(&status["digest"]), short(&status["rolledBackFrom"]));
    Ok(AnswerReading::Report(format!("{name} is back at {digest}, from {from}")))
}

/// Has the build serve that waits.
pub(in super::super) fn approve(args: &ApproveArgs) -> Result<AnswerReading, ClientError> {
    let ListedPlugin { name, server } = &args.plugin;
    let path = format!("/plugins/{name}");
    let waiting = server.get(&path)?.accepted()?.json()?["needsApproval"].clone();
    let build = match (&args.digest, waiting["digest"].as_str()) {
        (Some(digest), _) => digest.clone(),
        (None, Some(digest)) => digest.to_owned(),
        (None, None) => {
            let words = format!("no build of {name:?} waits to be approved; plugin list shows what serves");
            return Err(ClientError::new(ExitReason::Failed, words));
        }
    };
    let status = server.post(&format!("{path}/approve?digest={build}"), None, "")?.accepted()?.json()?;
    Ok(match args.json {
        true => AnswerReading::Json(status.to_string()),
        false => AnswerReading::Report(approved(name, &build, &waiting, &status)),
    })
}

/// What was approved, and what serves from then on.
fn approved(name: &str, build: &str, waiting: &Value, status: &Value) -> String {
    let imports = words(&waiting["imports"]);
    let imports = if imports.is_empty() { "nothing new".to_owned() } else { imports };
    let mut text = match (status["digest"].as_str(), status["error"].as_str()) {
        (Some(digest), _) if digest == build => format!("{name} serves at {}", short(&status["digest"])),
        (_, error) => {
            format!("{name} is approved and does not serve: {}", Printable(error.unwrap_or("plugin list says why")))
        }
    };
    let _ = write!(text, "\n  digest   {}\n  imports  {imports}", Printable(build));
    for taking in waiting["takes"].as_array().into_iter().flatten() {
        let [types, plugin] = ["types", "plugin"].map(|name| Printable(taking[name].as_str().unwrap_or("-")));
        let _ = write!(text, "\n  takes    {types} from {plugin}");
    }
    text
}

/// Removes one.
pub(in super::super) fn remove(args: &RemoveArgs) -> Result<AnswerReading, ClientError> {
    let ListedPlugin { name, server } = &args.plugin;
    let query = if args.state { "?state=true" } else { "" };
    let answer: ServerAnswer = server.delete(&format!("/plugins/{name}{query}"))?.accepted()?;
    let removal = answer.json()?;
    if args.json {
        return Ok(AnswerReading::Json(removal.to_string()));
    }
    let mut text = match removal["file"].as_str().map(Printable) {
        Some(file) => format!("{name} is removed: {file} is gone"),
        None => format!("there is no plugin {name}, but it had left its state"),
    };
    if let Some(settings) = removal["settings"].as_str().map(Printable) {
        text.push_str(&format!("\n  its settings stay in {settings}, and hold for a plugin that takes its name"));
    }
    match &removal["stateKeysRemoved"] {
        Value::Null => text.push_str("\n  its state stays; plugin remove NAME --state removes it as well"),
        keys => text.push_str(&format!("\n  its state is removed, {} keys", Printable(keys))),
    }
    text.push_str("\n  events of its types wait as retry.no-handler says");
    Ok(AnswerReading::Report(text))
}

/// The texts in a list, in one line.
fn words(list: &Value) -> String {
    let words: Vec<&str> = list.as_array().into_iter().flatten().filter_map(Value::as_str).collect();
    Printable(words.join(", ")).to_string()
}

fn short(digest: &Value) -> String {
    let digest: String = digest.as_str().unwrap_or("-").chars().take(DIGEST_CHARS).collect();
    Printable(digest).to_string()
}

fn table(plugins: &[Value]) -> String {
    if plugins.is_empty() {
        return "no plugins".into();
    }
    let mut text = format!("{:<24} {:<21} {:<12} TYPES\n", "NAME", "STATE", "DIGEST");
    for plugin in plugins {
        let word = |name: &str| Printable(plugin[name].as_str().unwrap_or("-"));
        let digest = short(&plugin["digest"]);
        let types = words(&plugin["types"]);
        let line = format!("{:<24} {:<21} {digest:<12} {types}", word("name"), word("state"));
        // Writing into a text does not fail.
        let _ = writeln!(text, "{}", line.trim_end());
        if plugin["rolledBackFrom"].is_string() {
            let from = short(&plugin["rolledBackFrom"]);
            let _ = writeln!(text, "  rolled back from {from}; putting that file there again undoes it");
        }
        if let Some(at) = plugin["removedAt"].as_str().map(Printable) {
            let _ = writeln!(text, "  its file went at {at}; events of its types wait for a plugin");
        }
        if let Some(error) = plugin["error"].as_str().map(Printable) {
            let _ = writeln!(text, "  {error}");
        }
    }
    text.trim_end().to_owned()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_table_names_what_a_person_needs() {
        let text = table(&[
            json!({ "name": "signup", "state": "active", "digest": "0123456789abcdef", "types": ["a", "b.*"] }),
            json!({ "name": "old", "state": "active", "digest": "00", "types": ["c"], "rolledBackFrom": "abc" }),
            json!({ "name": "broken", "state": "failed", "types": [], "error": "not WebAssembly" }),
            json!({ "name": "went", "state": "removed", "types": [], "removedAt": "2026-01-01T00:00:00.000Z" }),
        ]);
        let lines: Vec<_> = text.lines().collect();
        assert!(lines[1].contains("0123456789ab a, b.*"), "{text}");
        assert_eq!(lines[3], "  rolled back from abc; putting that file there again undoes it");
        assert!(lines[4].starts_with("broken") && lines[4].ends_with('-'), "{text}");
        assert_eq!(lines[5], "  not WebAssembly");
        assert!(lines[7].starts_with("  its file went at 2026-01-01T00:00:00.000Z"), "{text}");
    }

    #[test]
    fn what_was_approved_is_named_with_what_it_may_do() {
        let build = "ab".repeat(32);
        let waiting =
            json!({ "digest": build, "imports": [], "takes": [{ "types": "order.paid", "plugin": "orders" }] });
        let text = approved("paid", &build, &waiting, &json!({ "digest": build }));
        let lines: Vec<_> = text.lines().collect();
        assert_eq!(lines[0], "paid serves at abababababab");
        assert_eq!(
            lines[1..],
            [&*format!("  digest   {build}"), "  imports  nothing new", "  takes    order.paid from orders"]
        );
        let refused = approved("paid", &build, &json!({ "imports": ["x"] }), &json!({ "error": "x is taken" }));
        assert!(refused.starts_with("paid is approved and does not serve: x is taken"), "{refused}");
    }

    #[test]
    fn what_a_plugin_says_forges_no_line_of_the_table() {
        let hostile = "x\n  rolled back from 0\u{1b}[8m\u{202e}";
        let text = table(&[
            json!({ "name": hostile, "state": hostile, "digest": hostile, "types": [hostile], "error": hostile,
                "rolledBackFrom": hostile, "removedAt": hostile }),
        ]);
        assert_eq!(text.lines().count(), 5, "{text}");
        assert!(!text.contains(|c: char| c != '\n' && (c.is_control() || c == '\u{202e}')), "{text:?}");
    }

    #[test]
    fn a_digest_is_whole() {
        assert_eq!(digest(&"AB".repeat(32)).unwrap(), "ab".repeat(32));
        for text in ["", "01ba4719c80b", &"xy".repeat(32)] {
            assert!(digest(text).is_err(), "{text}");
        }
    }
}
