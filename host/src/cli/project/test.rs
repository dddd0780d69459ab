//! `eventstream plugin test`: runs a plugin on the events in its `tests/*.json` and compares the outcomes.
//!
//! A test has an `event` and an `expect`, or several of both as `steps`, which share the plugin's state. Only the members in
//! `expect` are compared. An `error` needs only to contain the expected text.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use eventstream::app::{PluginInspector, PluginTrial};
use eventstream::printable::Printable;
use eventstream::regular_file;
use serde::Deserialize;
use serde_json::value::RawValue;
use serde_json::{Value, json};

use super::Project;
use super::build::build_component;
use crate::cli::inspect::{load_settings, report_refusal, with_inspector};
use crate::cli::output::{CommandResult, ExitReason, print_json, print_lines, report_as};
use crate::cli::settings;

pub(crate) const TEST_EXAMPLES: &str = "\
Examples:
  eventstream plugin test
  eventstream plugin test ./order-paid --no-build --json

A test is a file tests/*.json:
  { \"name\": \"greets\", \"event\": { \"type\": \"hello\", \"payload\": {} }, \"expect\": { \"outcome\": \"processed\" } }
\"config\" replaces the config in DIR/NAME.toml, and \"steps\": [{ \"event\", \"attempt\", \"expect\" }] runs several events in
order. The other settings in DIR/NAME.toml apply as on a server. Only the members of \"expect\" are compared; \"error\" needs
only to contain the expected text.

Exit codes: 0 all tests passed, 1 a test or the build failed, 2 no project or no tests, 4 not a plugin";

/// The arguments of `plugin test`.
#[derive(Debug, clap::Args)]
pub(crate) struct TestArgs {
    /// The folder of the project
    #[arg(value_name = "DIR", default_value = ".", value_parser = settings::path_parser())]
    dir: PathBuf,
    /// Do not build; test the component of the last build
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
        let text = regular_file::read_to_string(path)
            .map_err(|error| format!("{} cannot be read: {error}", path.display()))?;
        let mut case: Self = serde_json::from_str(text.strip_prefix('\u{feff}').unwrap_or(&text))
            .map_err(|error| format!("{} is no test: {error}", path.display()))?;
        match (case.event.take(), case.expect.take(), case.steps.is_empty()) {
            (Some(event), Some(expect), true) => case.steps.push(TestStep { event, attempt: case.attempt, expect }),
            (None, None, false) => {}
            _ => {
                let message = "a test needs \"event\" and \"expect\", or \"steps\" with both";
                return Err(format!("{} is no test: {message}", path.display()));
            }
        }
        let file = path.file_stem().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        Ok((case.name.clone().unwrap_or(file), case))
    }
}

/// Builds the component and runs its tests.
pub(crate) fn run(args: &TestArgs) -> CommandResult {
    let found = Project::in_folder(&args.dir).and_then(|project| Ok((read_cases(&args.dir)?, project)));
    let (cases, project) = found.map_err(|message| report_as(ExitReason::Usage, message))?;
    if !args.no_build {
        build_component(&project).map_err(|message| report_as(ExitReason::Failed, message))?;
    }
    with_inspector(settings::load(None, Vec::new()), |inspector, runtime| {
        run_cases(args, &project, &cases, &inspector, &runtime)
    })
}

fn read_cases(folder: &Path) -> Result<Vec<(String, TestCase)>, String> {
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

fn run_cases(
    args: &TestArgs,
    project: &Project,
    cases: &[(String, TestCase)],
    inspector: &PluginInspector,
    runtime: &tokio::runtime::Runtime,
) -> CommandResult {
    let component = &project.component();
    let settings = load_settings(project.settings().as_deref(), inspector, runtime)?;
    // Compiling takes most of the time, so tests with the same config share one plugin.
    let mut plugins: Vec<(Option<&BTreeMap<String, String>>, PluginTrial<'_>)> = Vec::new();
    let mut failed = 0;
    for (name, case) in cases {
        let config = case.config.as_ref();
        if !plugins.iter().any(|(known, _)| *known == config) {
            match runtime.block_on(inspector.load(component, settings.as_ref(), config.cloned())) {
                Ok(plugin) => plugins.push((config, plugin)),
                Err(refusal) => return Err(report_refusal(component, &refusal)),
            }
        }
        let Some((_, plugin)) = plugins.iter().find(|(known, _)| *known == config) else { continue };
        let differences = runtime.block_on(find_differences(&plugin.afresh(), &case.steps));
        failed += usize::from(!differences.is_empty());
        if args.json {
            print_json(json!({ "test": name, "ok": differences.is_empty(), "differences": differences }))?;
        } else {
            print_lines(describe_case(name, &differences))?;
        }
    }
    if !args.json {
        print_lines(format_args!("{} passed, {failed} failed", cases.len() - failed))?;
    }
    Ok(if failed == 0 { ExitReason::Done } else { ExitReason::Failed })
}

/// Describes the result of a test. Each difference stays on its line.
fn describe_case(name: &str, differences: &[String]) -> String {
    if differences.is_empty() {
        return format!("ok      {}", Printable(name));
    }
    let differences: String =
        differences.iter().map(|difference| format!("\n        {}", Printable(difference))).collect();
    format!("FAILED  {}{differences}", Printable(name))
}

/// Runs the steps and returns the differences from what is expected.
async fn find_differences(plugin: &PluginTrial<'_>, steps: &[TestStep]) -> Vec<String> {
    let mut differences = Vec::new();
    for (index, step) in steps.iter().enumerate() {
        let place = if steps.len() > 1 { format!("step {}: ", index + 1) } else { String::new() };
        let event = Bytes::from(step.event.get().to_owned());
        match plugin.handle(event, step.attempt.unwrap_or(1)).await {
            Ok(line) => {
                let actual: Value = serde_json::from_str(&line).unwrap_or_default();
                let before = differences.len();
                collect_differences(&place, &step.expect, &actual, &mut differences);
                if differences.len() > before {
                    differences.extend(explain_failure(&place, &step.expect, &actual));
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

/// Returns the reason of a failure that the test does not expect, because it explains the differences.
fn explain_failure(place: &str, expected: &Value, actual: &Value) -> Option<String> {
    let error = actual["error"].as_str().filter(|_| expected.get("error").is_none())?;
    Some(format!("{place}the attempt failed: {}", error.trim_end().replace('\n', "\n          ")))
}

/// Adds each difference with its place.
fn collect_differences(place: &str, expected: &Value, actual: &Value, differences: &mut Vec<String>) {
    match (expected, actual) {
        (Value::Object(expected), Value::Object(actual)) => {
            for (name, expected) in expected {
                let found = actual.get(name).unwrap_or(&Value::Null);
                collect_differences(&format!("{place}/{name}"), expected, found, differences);
            }
        }
        (Value::Array(expected), Value::Array(actual)) if expected.len() == actual.len() => {
            for (index, (expected, actual)) in expected.iter().zip(actual).enumerate() {
                collect_differences(&format!("{place}/{index}"), expected, actual, differences);
            }
        }
        (Value::String(words), Value::String(text)) if place.ends_with("/error") && text.contains(words) => {}
        _ if expected == actual => {}
        _ => differences.push(format!("{place}: expected {expected}, got {actual}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn compare(expected: Value, actual: Value) -> Vec<String> {
        let mut differences = Vec::new();
        collect_differences("", &expected, &actual, &mut differences);
        differences
    }

    #[test]
    fn an_unexpected_failure_is_reported_with_its_reason() {
        let actual = json!({"outcome": "retry", "error": "KeyError: 'x'\nTraceback:\n  File"});
        let explanation = explain_failure("step 2: ", &json!({"outcome": "processed"}), &actual).unwrap();
        assert_eq!(explanation, "step 2: the attempt failed: KeyError: 'x'\n          Traceback:\n            File");
        assert_eq!(explain_failure("", &json!({"error": "y"}), &actual), None, "the error is compared");
        assert_eq!(explain_failure("", &json!({}), &json!({"outcome": "processed"})), None);
    }

    #[test]
    fn only_what_is_expected_is_compared() {
        let actual = json!({"outcome": "failed", "error": "the payload is wrong: no name", "published": [{"type": "a", "id": 1}]});
        for expected in [
            json!({}),
            json!({"outcome": "failed"}),
            json!({"error": "payload is wrong"}),
            json!({"published": [{"type": "a"}]}),
            json!({"result": null}),
        ] {
            assert_eq!(compare(expected.clone(), actual.clone()), [""; 0], "{expected}");
        }
        for (expected, words) in [
            (json!({"outcome": "processed"}), "/outcome: expected \"processed\", got \"failed\""),
            (json!({"error": "another"}), "/error: expected \"another\""),
            (json!({"published": []}), "/published: expected []"),
            (json!({"published": [{"type": "b"}]}), "/published/0/type: expected \"b\", got \"a\""),
            (json!({"result": {"a": 1}}), "/result: expected {\"a\":1}, got null"),
        ] {
            let differences = compare(expected, actual.clone());
            assert!(differences.len() == 1 && differences[0].contains(words), "{differences:?} has {words:?}");
        }
    }
}
