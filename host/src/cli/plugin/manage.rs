//! `eventstream plugin list | rollback | approve | remove`: manages the plugins of a server.
//!
//! A change is sent to one server. Servers that share the work each need the same change.

use std::fmt::Write as _;

use eventstream::printable::Printable;
use serde_json::{Value, json};

use crate::cli::client::{ClientError, CommandReport, ServerAnswer, ServerTarget, path_with_query};
use crate::cli::failed;
use crate::cli::inspect::parse_plugin_name;
use crate::cli::output::ExitReason;
use crate::cli::pause::describe_pause;

pub(crate) const LIST_EXAMPLES: &str = "\
Examples:
  eventstream plugin list
  eventstream plugin list --json | jq '.[] | select(.error)'

Exit codes: 0 done, 1 failed, 2 usage, 3 server unreachable";

pub(crate) const ROLLBACK_EXAMPLES: &str = "\
Examples:
  eventstream plugin rollback user-signup
  eventstream plugin rollback user-signup --json

Activates the previous version at once; it stays active after a restart. A new file in the plugin directory, or the same file
put there again, ends the rollback. Run the command again to go back one version further. The rollback applies to one server:
repeat it on every server that shares the work.

Exit codes: 0 done, 1 there is no such plugin or no earlier version, or other plugins own its types by now, 2 usage, 3 server
unreachable";

pub(crate) const APPROVE_EXAMPLES: &str = "\
Examples:
  eventstream plugin approve user-signup
  eventstream plugin approve user-signup --digest 01ba4719c80b6fe911b091a7c05124b64eeece964e09c058ef8f9805daca546b

A build that takes types from another plugin waits for approval. With plugins.hold_new_capabilities = true, so does a build
that imports more than the active one. `plugin list` shows what waits and why. An approved build becomes active at once and
stays approved after a restart. Use --digest to approve exactly the build that you inspected. Without it, the build that
waits when the command starts is approved; a build that replaced it meanwhile is refused. The approval applies to one server:
repeat it on every server that shares the work.

Exit codes: 0 done, 1 there is no such plugin, no such build waits, or plugins that serve own its types, 2 usage, 3 server
unreachable";

pub(crate) const REMOVE_EXAMPLES: &str = "\
Examples:
  eventstream plugin remove user-signup
  eventstream plugin remove user-signup --state
  eventstream plugin remove user-signup --json

Removes the file from the server's plugin directory. The settings file, the plugin's state and its earlier versions stay.
--state also removes the plugin's state, even if the plugin was removed before; this cannot be undone. Events of its types
wait as retry.no-handler says, and are handled once a plugin for them is loaded.

Exit codes: 0 done, 1 there is no such plugin or its file cannot be removed, 2 usage, 3 server unreachable";

/// How many characters of a digest a table shows.
const DIGEST_CHARS: usize = 12;

/// The arguments of `plugin list`.
#[derive(Debug, clap::Args)]
pub(crate) struct ListArgs {
    #[command(flatten)]
    server: ServerTarget,
    /// Print the list as JSON
    #[arg(long)]
    json: bool,
}

/// A plugin of a server. These are the arguments of `plugin rollback`.
#[derive(Debug, clap::Args)]
pub(crate) struct PluginTarget {
    /// The name of the plugin
    #[arg(value_name = "NAME", value_parser = parse_plugin_name)]
    name: String,
    /// Why; the audit shows it
    #[arg(long, value_name = "TEXT")]
    reason: Option<String>,
    #[command(flatten)]
    server: ServerTarget,
    /// Print the server's answer as JSON
    #[arg(long)]
    json: bool,
}

/// The arguments of `plugin approve`.
#[derive(Debug, clap::Args)]
pub(crate) struct ApproveArgs {
    /// The SHA-256 of the build to approve, 64 hexadecimal digits [default: the build that waits]
    #[arg(long, value_name = "SHA256", value_parser = parse_digest)]
    digest: Option<String>,
    #[command(flatten)]
    plugin: PluginTarget,
}

/// The arguments of `plugin remove`.
#[derive(Debug, clap::Args)]
pub(crate) struct RemoveArgs {
    #[command(flatten)]
    plugin: PluginTarget,
    /// Remove the plugin's state as well, even if the plugin was removed before
    #[arg(long)]
    state: bool,
}

impl PluginTarget {
    /// The body of a change.
    fn body(&self) -> String {
        self.reason.as_ref().map(|reason| json!({ "reason": reason }).to_string()).unwrap_or_default()
    }
}

fn parse_digest(text: &str) -> Result<String, &'static str> {
    if text.len() == 64 && text.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        Ok(text.to_ascii_lowercase())
    } else {
        Err("a digest is the SHA-256 of the file, 64 hexadecimal digits; `plugin list --json` shows it")
    }
}

/// Lists the plugins of the server.
pub(crate) fn list(args: &ListArgs) -> Result<CommandReport, ClientError> {
    let answer = args.server.get("/plugins")?.require_success()?.parse_json()?;
    let plugins = answer["plugins"].as_array().cloned().unwrap_or_default();
    if args.json {
        return Ok(CommandReport::Json(Value::Array(plugins).to_string()));
    }
    let overlooked = answer["overlooked"].as_array().into_iter().flatten().filter_map(Value::as_str).map(Printable);
    let lines = overlooked.fold(format_table(&plugins), |text, words| format!("{text}\noverlooked: {words}"));
    Ok(CommandReport::Text(lines))
}

/// Activates the previous version.
pub(crate) fn rollback(plugin: &PluginTarget) -> Result<CommandReport, ClientError> {
    let PluginTarget { name, server, json, .. } = plugin;
    let status =
        server.post(&format!("/plugins/{name}/rollback"), None, &plugin.body())?.require_success()?.parse_json()?;
    if *json {
        return Ok(CommandReport::Json(status.to_string()));
    }
    let (digest, from) = (short_digest(&status["digest"]), short_digest(&status["rolledBackFrom"]));
    Ok(CommandReport::Text(format!("{name} is back at {digest}, from {from}")))
}

/// Approves the build that waits.
pub(crate) fn approve(args: &ApproveArgs) -> Result<CommandReport, ClientError> {
    let PluginTarget { name, server, json, .. } = &args.plugin;
    let path = format!("/plugins/{name}");
    let waiting = server.get(&path)?.require_success()?.parse_json()?["needsApproval"].clone();
    let build = match (&args.digest, waiting["digest"].as_str()) {
        (Some(digest), _) => digest.clone(),
        (None, Some(digest)) => digest.to_owned(),
        (None, None) => {
            let message = format!("no build of {name:?} waits for approval; `plugin list` shows the active one");
            return Err(ClientError::new(ExitReason::Failed, message));
        }
    };
    let path = format!("{path}/approve?digest={build}");
    let status = server.post(&path, None, &args.plugin.body())?.require_success()?.parse_json()?;
    Ok(match json {
        true => CommandReport::Json(status.to_string()),
        false => CommandReport::Text(describe_approval(name, &build, &waiting, &status)),
    })
}

/// Describes what was approved and whether it is active now.
fn describe_approval(name: &str, build: &str, waiting: &Value, status: &Value) -> String {
    let imports = join_texts(&waiting["imports"]);
    let imports = if imports.is_empty() { "nothing new".to_owned() } else { imports };
    let mut text = match (status["digest"].as_str(), status["error"].as_str()) {
        (Some(digest), _) if digest == build => format!("{name} is active at {}", short_digest(&status["digest"])),
        (_, error) => {
            format!("{name} is approved but not active: {}", Printable(error.unwrap_or("`plugin list` shows why")))
        }
    };
    let _ = write!(text, "\n  digest   {}\n  imports  {imports}", Printable(build));
    for taking in waiting["takes"].as_array().into_iter().flatten() {
        let [types, plugin] = ["types", "plugin"].map(|name| Printable(taking[name].as_str().unwrap_or("-")));
        let _ = write!(text, "\n  takes    {types} from {plugin}");
    }
    text
}

/// Removes a plugin.
pub(crate) fn remove(args: &RemoveArgs) -> Result<CommandReport, ClientError> {
    let PluginTarget { name, reason, server, json } = &args.plugin;
    let parameters = [("state", args.state.then_some("true")), ("reason", reason.as_deref())];
    let path = path_with_query(&format!("/plugins/{name}"), &parameters);
    let answer: ServerAnswer = server.delete(&path)?.require_success()?;
    let removal = answer.parse_json()?;
    if *json {
        return Ok(CommandReport::Json(removal.to_string()));
    }
    let mut text = match removal["file"].as_str().map(Printable) {
        Some(file) => format!("{name} is removed: {file} is deleted"),
        None if removal["state"].is_string() => format!("{name} is removed; its file was gone already"),
        None => format!("there is no plugin {name}, only the state that it left"),
    };
    if let Some(settings) = removal["settings"].as_str().map(Printable) {
        text.push_str(&format!("\n  its settings stay in {settings}; they apply to any plugin of that name"));
    }
    match &removal["stateKeysRemoved"] {
        Value::Null => text.push_str(&format!("\n  its state stays; `plugin remove {name} --state` removes it")),
        keys => text.push_str(&format!("\n  its state is removed, {} keys", Printable(keys))),
    }
    text.push_str("\n  events of its types wait as retry.no-handler says");
    // The plugin is removed, so a server that cannot say what stays is no failure of the command.
    if let Ok(Some(kept)) = failed::describe_kept(server, name) {
        text.push_str(&format!("\n  {kept}"));
    }
    Ok(CommandReport::Text(text))
}

/// Joins the texts in a list on one line.
fn join_texts(list: &Value) -> String {
    let texts: Vec<&str> = list.as_array().into_iter().flatten().filter_map(Value::as_str).collect();
    Printable(texts.join(", ")).to_string()
}

fn short_digest(digest: &Value) -> String {
    let digest: String = digest.as_str().unwrap_or("-").chars().take(DIGEST_CHARS).collect();
    Printable(digest).to_string()
}

fn format_table(plugins: &[Value]) -> String {
    if plugins.is_empty() {
        return "no plugins".into();
    }
    let mut text = format!("{:<24} {:<21} {:<12} TYPES\n", "NAME", "STATE", "DIGEST");
    for plugin in plugins {
        let word = |name: &str| Printable(plugin[name].as_str().unwrap_or("-"));
        let digest = short_digest(&plugin["digest"]);
        let types = join_texts(&plugin["types"]);
        let line = format!("{:<24} {:<21} {digest:<12} {types}", word("name"), word("state"));
        // Writing into a `String` does not fail.
        let _ = writeln!(text, "{}", line.trim_end());
        if plugin["rolledBackFrom"].is_string() {
            let from = short_digest(&plugin["rolledBackFrom"]);
            let _ = writeln!(text, "  rolled back from {from}; put that file there again to undo it");
        }
        if let Some(pause) = describe_pause(&plugin["paused"]) {
            let _ = writeln!(text, "  {pause}");
        }
        if let Some(at) = plugin["removedAt"].as_str().map(Printable) {
            let _ = writeln!(text, "  its file was removed at {at}; events of its types wait for a plugin");
        }
        if let Some(error) = plugin["error"].as_str().map(Printable) {
            let _ = writeln!(text, "  {error}");
        }
    }
    text.trim_end().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_shows_states_and_their_reasons() {
        let text = format_table(&[
            json!({ "name": "signup", "state": "active", "digest": "0123456789abcdef", "types": ["a", "b.*"] }),
            json!({ "name": "old", "state": "active", "digest": "00", "types": ["c"], "rolledBackFrom": "abc" }),
            json!({ "name": "broken", "state": "failed", "types": [], "error": "not WebAssembly",
                "paused": { "since": "S", "by": "key:ops" } }),
            json!({ "name": "went", "state": "removed", "types": [], "removedAt": "2026-01-01T00:00:00.000Z" }),
        ]);
        let lines: Vec<_> = text.lines().collect();
        assert!(lines[1].contains("0123456789ab a, b.*"), "{text}");
        assert_eq!(lines[3], "  rolled back from abc; put that file there again to undo it");
        assert!(lines[4].starts_with("broken") && lines[4].ends_with('-'), "{text}");
        assert_eq!(lines[5..7], ["  paused since S by key:ops", "  not WebAssembly"]);
        assert!(lines[8].starts_with("  its file was removed at 2026-01-01T00:00:00.000Z"), "{text}");
    }

    #[test]
    fn an_approval_names_the_build_and_what_it_may_do() {
        let build = "ab".repeat(32);
        let waiting =
            json!({ "digest": build, "imports": [], "takes": [{ "types": "order.paid", "plugin": "orders" }] });
        let text = describe_approval("paid", &build, &waiting, &json!({ "digest": build }));
        let lines: Vec<_> = text.lines().collect();
        assert_eq!(lines[0], "paid is active at abababababab");
        assert_eq!(
            lines[1..],
            [&*format!("  digest   {build}"), "  imports  nothing new", "  takes    order.paid from orders"]
        );
        let refused =
            describe_approval("paid", &build, &json!({ "imports": ["x"] }), &json!({ "error": "x is taken" }));
        assert!(refused.starts_with("paid is approved but not active: x is taken"), "{refused}");
    }

    #[test]
    fn text_of_a_plugin_forges_no_line_of_the_table() {
        let hostile = "x\n  rolled back from 0\u{1b}[8m\u{202e}";
        let text = format_table(&[
            json!({ "name": hostile, "state": hostile, "digest": hostile, "types": [hostile], "error": hostile,
                "rolledBackFrom": hostile, "removedAt": hostile }),
        ]);
        assert_eq!(text.lines().count(), 5, "{text}");
        assert!(!text.contains(|c: char| c != '\n' && (c.is_control() || c == '\u{202e}')), "{text:?}");
    }

    #[test]
    fn a_digest_is_whole() {
        assert_eq!(parse_digest(&"AB".repeat(32)).unwrap(), "ab".repeat(32));
        for text in ["", "01ba4719c80b", &"xy".repeat(32)] {
            assert!(parse_digest(text).is_err(), "{text}");
        }
    }
}
