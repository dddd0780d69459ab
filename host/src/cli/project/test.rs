//! `eventstream plugin test`: hands a plugin the events in its `tests/*.json` and compares what comes of them.
//!
//! A test has an `event` and what to `expect`, or several of both as `steps`, which share the plugin's state. Only what is
//! expected is compared: members that are not named may be anything, and an `error` need only contain the words.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use eventstream::app::{PluginInspector, PluginTrial};
use eventstream::printable::Printable;
use serde::Deserialize;
use serde_json::value::RawValue;
use serde_json::{Value, json};

use super::super::plugin::{faults, given, on_bench, refused};
use super::super::{ExitReason, complain, complain_lines, say_json, say_lines, settings};
use super::{Project, build};

pub(in super::super) const TEST_EXAMPLES: &str = "\
Examples:
  eventstream plugin test
  eventstream plugin test ./order-paid --no-build --json

A test is a file tests/*.json:
  { \"name\": \"greets\", \"event\": { \"type\": \"hello\", \"payload\": {} }, \"expect\": { \"outcome\": \"processed\" } }
with \"config\" in place of that in DIR/NAME.toml, and \"steps\": [{ \"event\", \"attempt\", \"expect\" }] for several events
in a row. The other settings in that file hold, as on a server.

Exit codes: 0 all passed, 1 one failed or the build did, 2 no project or no tests, 4 not a plugin";

/// The arguments of `plugin test`.
#[derive(Debug, clap::Args)]
pub(in super::super) struct TestArgs {
    /// The project
    #[arg(value_name = "DIR", default_value = ".")]
    dir: PathBuf,
    /// Test what was built before
    #[arg(long)]
    no_build: bool,
    /// Print one line of JSON for each test
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct TestCase {
    #[serde(default)]
    name: Option<String>,
    #[serde(default)]
    config: Option<BTreeMap<String, String>>,
    #[serde(default)]
    event: Option<Box<RawValue>>,
    #[serde(default)]
    attempt: Option<u32>,
    #[serde(default)]
    expect: Option<Value>,
    #[serde(default)]
    steps: Vec<TestStep>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct TestStep {
    event: Box<RawValue>,
    #[serde(default)]
    attempt: Option<u32>,
    expect: Value,
}

impl TestCase {
    fn read(path: &Path) -> Result<(String, Self), String> {
        let text = fs::read_to_string(path).map_err(|error| format!("{} cannot be read: {error}", path.display()))?;
        let mut case: Self = serde_json::from_str(text.strip_prefix('\u{feff}').unwrap_or(&text))
            .map_err(|error| format!("{} is no test: {error}", path.display()))?;
        match (case.event.take(), case.expect.take(), case.steps.is_empty()) {
            (Some(event), Some(expect), true) => case.steps.push(TestStep { event, attempt: case.attempt, expect }),
            (None, None, false) => {}
            _ => {
                let words = "it has an \"event\" and an \"expect\", or \"steps\" of both";
                return Err(format!("{} is no test: {words}", path.display()));
            }
        }
        let file = path.file_stem().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        Ok((case.name.clone().unwrap_or(file), case))
    }
}

/// Builds and tests.
pub(in super::super) fn run(args: &TestArgs) -> ExitReason {
    let found = Project::in_folder(&args.dir).and_then(|project| Ok((cases(&args.dir)?, project)));
    let (cases, project) = match found {
        Ok(found) => found,
        Err(words) => {
            complain(words);
            return ExitReason::Usage;
        }
    };
    if !args.no_build
        && let Err(words) = build::make(&project)
    {
        complain(words);
        return ExitReason::Failed;
    }
    on_bench(settings::load(None, Vec::new()), |bench, runtime| {
        test(args, &project, &cases, &bench, &runtime).unwrap_or_else(|exit| exit)
    })
}

fn cases(folder: &Path) -> Result<Vec<(String, TestCase)>, String> {
    let folder = folder.join("tests");
    let none = || format!("there are no tests: {} holds no .json file", folder.display());
    let mut paths: Vec<PathBuf> = fs::read_dir(&folder)
        .map_err(|_| none())?
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| path.extension().is_some_and(|extension| extension == "json"))
        .collect();
    paths.sort();
    if paths.is_empty() {
        return Err(none());
    }
    paths.iter().map(|path| TestCase::read(path)).collect()
}

fn test(
    args: &TestArgs,
    project: &Project,
    cases: &[(String, TestCase)],
    bench: &PluginInspector,
    runtime: &tokio::runtime::Runtime,
) -> Result<ExitReason, ExitReason> {
    let component = &project.component();
    let settings = given(project.settings().as_deref(), bench, runtime)?;
    // Compiling is what takes time, so that one plugin serves all tests with the same settings.
    let mut plugins: Vec<(Option<&BTreeMap<String, String>>, PluginTrial<'_>)> = Vec::new();
    let mut failed = 0;
    for (name, case) in cases {
        let config = case.config.as_ref();
        if !plugins.iter().any(|(known, _)| *known == config) {
            match runtime.block_on(bench.load_with(component, settings.as_ref(), config.cloned())) {
                Ok(plugin) => plugins.push((config, plugin)),
                Err(no) => {
                    complain_lines(faults(component, &no));
                    return Err(refused(&no));
                }
            }
        }
        let Some((_, plugin)) = plugins.iter().find(|(known, _)| *known == config) else { continue };
        let differences = runtime.block_on(differences(&plugin.afresh(), &case.steps));
        failed += usize::from(!differences.is_empty());
        if args.json {
            say_json(json!({ "test": name, "ok": differences.is_empty(), "differences": differences }))?;
        } else {
            say_lines(told(name, &differences))?;
        }
    }
    if !args.json {
        say_lines(format_args!("{} passed, {failed} failed", cases.len() - failed))?;
    }
    Ok(if failed == 0 { ExitReason::Done } else { ExitReason::Failed })
}

/// How a test ended, for a person. Each difference stays on its line.
fn told(name: &str, differences: &[String]) -> String {
    if differences.is_empty() {
        return format!("ok      {}", Printable(name));
    }
    let differences: String = differences.iter().map(|words| format!("\n        {}", Printable(words))).collect();
    format!("FAILED  {}{differences}", Printable(name))
}

/// What is not as expected; empty if all is.
async fn differences(plugin: &PluginTrial<'_>, steps: &[TestStep]) -> Vec<String> {
    let mut differences = Vec::new();
    for (index, step) in steps.iter().enumerate() {
        let place = if steps.len() > 1 { format!("step {}: ", index + 1) } else { String::new() };
        let event = Bytes::from(step.event.get().to_owned());
        match plugin.handle(event, step.attempt.unwrap_or(1)).await {
            Ok(line) => {
                let is: Value = serde_json::from_str(&line).unwrap_or_default();
                let before = differences.len();
                compare(&place, &step.expect, &is, &mut differences);
                if differences.len() > before {
                    differences.extend(reason(&place, &step.expect, &is));
                }
            }
            Err(faults) => {
                let faults = faults
                    .iter()
                    .map(|fault| format!("{place}the event is wrong: {} {}", fault.pointer, fault.message));
                differences.extend(faults);
            }
        }
    }
    differences
}

/// Why the attempt failed, where the test did not expect it to: that explains the differences.
fn reason(place: &str, expected: &Value, is: &Value) -> Option<String> {
    let error = is["error"].as_str().filter(|_| expected.get("error").is_none())?;
    Some(format!("{place}the attempt failed: {}", error.trim_end().replace('\n', "\n          ")))
}

/// Adds what is not as expected, each with its place.
fn compare(place: &str, expected: &Value, is: &Value, differences: &mut Vec<String>) {
    match (expected, is) {
        (Value::Object(expected), Value::Object(is)) => {
            for (name, expected) in expected {
                let found = is.get(name).unwrap_or(&Value::Null);
                compare(&format!("{place}/{name}"), expected, found, differences);
            }
        }
        (Value::Array(expected), Value::Array(is)) if expected.len() == is.len() => {
            for (index, (expected, is)) in expected.iter().zip(is).enumerate() {
                compare(&format!("{place}/{index}"), expected, is, differences);
            }
        }
        (Value::String(words), Value::String(text)) if place.ends_with("/error") && text.contains(words) => {}
        _ if expected == is => {}
        _ => differences.push(format!("{place}: expected {expected}, got {is}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn compared(expected: Value, is: Value) -> Vec<String> {
        let mut differences = Vec::new();
        compare("", &expected, &is, &mut differences);
        differences
    }

    #[test]
    fn an_attempt_that_failed_unexpectedly_is_told_with_its_reason() {
        let is = json!({"outcome": "retry", "error": "KeyError: 'x'\nTraceback:\n  File"});
        let told = reason("step 2: ", &json!({"outcome": "processed"}), &is).unwrap();
        assert_eq!(told, "step 2: the attempt failed: KeyError: 'x'\n          Traceback:\n            File");
        assert_eq!(reason("", &json!({"error": "y"}), &is), None, "the error is compared");
        assert_eq!(reason("", &json!({}), &json!({"outcome": "processed"})), None);
    }

    #[test]
    fn only_what_is_expected_is_compared() {
        let is = json!({"outcome": "failed", "error": "the payload is wrong: no name", "published": [{"type": "a", "id": 1}]});
        for expected in [
            json!({}),
            json!({"outcome": "failed"}),
            json!({"error": "payload is wrong"}),
            json!({"published": [{"type": "a"}]}),
            json!({"result": null}),
        ] {
            assert_eq!(compared(expected.clone(), is.clone()), [""; 0], "{expected}");
        }
        for (expected, words) in [
            (json!({"outcome": "processed"}), "/outcome: expected \"processed\", got \"failed\""),
            (json!({"error": "another"}), "/error: expected \"another\""),
            (json!({"published": []}), "/published: expected []"),
            (json!({"published": [{"type": "b"}]}), "/published/0/type: expected \"b\", got \"a\""),
            (json!({"result": {"a": 1}}), "/result: expected {\"a\":1}, got null"),
        ] {
            let told = compared(expected, is.clone());
            assert!(told.len() == 1 && told[0].contains(words), "{told:?} tells {words:?}");
        }
    }
}
