//! What the commands share that load a plugin without a server: the sandbox, the settings, and the reports.

use std::fmt::Write as _;
use std::path::Path;

use eventstream::app::{InspectError, InspectedFile, PluginInspector, PluginSettings};
use eventstream::config::Config;
use eventstream::event::is_plugin_name;
use eventstream::printable::Printable;
use tokio::runtime::Runtime;

use super::output::{CommandResult, ExitReason, format_thousands, print_note, print_note_lines, report_error_lines};
use super::settings;

/// Parses the name of a plugin. No other text becomes part of a URL.
pub(super) fn parse_plugin_name(text: &str) -> Result<String, &'static str> {
    let name = is_plugin_name(text).then(|| text.to_owned());
    name.ok_or("a plugin's name is letters, digits and ._-, at most 128, and begins with a letter or digit")
}

/// Runs a function with a sandbox and a runtime.
pub(super) fn with_inspector(
    config: Result<Config, ExitReason>,
    work: impl FnOnce(PluginInspector, Runtime) -> CommandResult,
) -> CommandResult {
    let (config, runtime) = (config?, settings::start_runtime()?);
    work(PluginInspector::open(&config).map_err(|error| ExitReason::report(&error))?, runtime)
}

/// Reads the named settings file and prints what it grants the plugin. An error has been reported.
pub(super) fn load_settings(
    file: Option<&Path>,
    inspector: &PluginInspector,
    runtime: &Runtime,
) -> Result<Option<PluginSettings>, ExitReason> {
    let Some(file) = file else { return Ok(None) };
    let settings = runtime.block_on(inspector.read_settings(file)).map_err(|refusal| report_refusal(file, &refusal))?;
    let summary = settings.summary();
    if !summary.is_empty() {
        let mut text = format!("{} grants the plugin:", Printable(file.display()));
        for (what, value) in summary {
            // Writing into a `String` does not fail.
            let _ = write!(text, "\n  {what:<8} {}", Printable(value));
        }
        print_note_lines(text);
    }
    Ok(Some(settings))
}

/// Notes that a settings file beside the component is not used.
pub(super) fn note_unused_settings(file: &Path) {
    let beside = file.with_extension("toml");
    if beside.is_file() {
        print_note(format_args!("{} is not used; name it with --settings to use it", beside.display()));
    }
}

/// Reports a file that was refused, and returns the exit code.
pub(super) fn report_refusal(file: &Path, refusal: &InspectError) -> ExitReason {
    report_error_lines(describe_refusal(file, refusal));
    refusal_exit(refusal)
}

/// Returns the exit code for a file that was refused.
pub(super) fn refusal_exit(refusal: &InspectError) -> ExitReason {
    if refusal.is_usage { ExitReason::Usage } else { ExitReason::Invalid }
}

/// Describes a plugin for a person. Each value stays on its line.
pub(super) fn describe_plugin(file: &Path, facts: &InspectedFile) -> String {
    let version = Printable(facts.version.as_deref().unwrap_or("without a version"));
    let name = Printable(&facts.name);
    let mut text = format!("{}: a plugin\n  name     {name} {version}\n", Printable(file.display()));
    let imports = if facts.imports.is_empty() { "nothing".to_owned() } else { facts.imports.join(", ") };
    let memory = format!(
        "starts with {} bytes, may have {}",
        format_thousands(facts.initial_memory_bytes),
        format_thousands(facts.memory_limit_bytes)
    );
    let size = format!("{} bytes", format_thousands(facts.size_bytes));
    for (name, value) in [
        ("does", facts.description.as_deref().unwrap_or_default()),
        ("called", &facts.dialect),
        ("types", &facts.types.join(", ")),
        ("size", &size),
        ("memory", &memory),
        ("digest", &facts.digest),
        ("imports", &imports),
    ] {
        if !value.is_empty() {
            // Writing into a `String` does not fail.
            let _ = writeln!(text, "  {name:<8} {}", Printable(value));
        }
    }
    text.trim_end().to_owned()
}

/// Describes everything that is wrong with a file. Each fault stays on its line.
pub(super) fn describe_refusal(file: &Path, refusal: &InspectError) -> String {
    let mut text = format!("{}: ", Printable(file.display()));
    match refusal.misfits.as_slice() {
        [_] | [] => {
            let _ = write!(text, "{}", Printable(&refusal.error));
        }
        misfits => {
            text.push_str("does not fit this host:");
            for misfit in misfits {
                let _ = write!(text, "\n  {}", Printable(misfit));
            }
        }
    }
    text
}
