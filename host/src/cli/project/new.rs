//! `eventstream plugin new`: writes a project that builds and passes its tests.

use std::fs;
use std::path::{Path, PathBuf};

use eventstream::printable::Printable;

use super::Language;
use crate::cli::inspect::parse_plugin_name;
use crate::cli::output::{CommandResult, ExitReason, print_lines, report_as};
use crate::cli::settings::path_parser;

pub(crate) const NEW_EXAMPLES: &str = "\
Examples:
  eventstream plugin new order-paid
  eventstream plugin new --lang python order-paid --dir ./services/order-paid

Creates a folder with a handler, its interface (wit/), and tests. Then run, in that folder:
  eventstream plugin build
  eventstream plugin test

Exit codes: 0 done, 1 the folder cannot be written, 2 the name cannot be used, or the folder is not empty";

/// The arguments of `plugin new`.
#[derive(Debug, clap::Args)]
pub(crate) struct NewArgs {
    /// The name of the plugin, which is also the type of event that it handles
    #[arg(value_name = "NAME", value_parser = parse_plugin_name)]
    name: String,
    /// The language of the handler
    #[arg(long, value_enum, default_value_t = Language::Rust)]
    lang: Language,
    /// The folder to create [default: NAME]
    #[arg(long, value_name = "DIR", value_parser = path_parser())]
    dir: Option<PathBuf>,
}

macro_rules! templates {
    ($($path:literal: $source:literal),+ $(,)?) => {
        &[$(($path, include_str!(concat!("../../../", $source)))),+]
    };
}

/// The files of every project, each with its template.
const COMMON: &[(&str, &str)] = templates! {
    "README.md": "templates/README.md",
    "tests/greets.json": "templates/tests/greets.json",
    "tests/greets-as-configured.json": "templates/tests/greets-as-configured.json",
    "tests/refuses-no-name.json": "templates/tests/refuses-no-name.json",
    "wit/world.wit": "templates/wit/world.wit",
    "wit/deps/eventstream/plugin.wit": "../wit/plugin.wit",
};
const RUST: &[(&str, &str)] = templates! {
    "Cargo.toml": "templates/rust/Cargo.toml",
    ".cargo/config.toml": "templates/rust/config.toml",
    ".gitignore": "templates/rust/gitignore",
    "src/lib.rs": "templates/rust/src/lib.rs",
};
const JS: &[(&str, &str)] = templates! {
    "package.json": "templates/js/package.json",
    ".gitignore": "templates/js/gitignore",
    "handler.js": "templates/js/handler.js",
};
const PYTHON: &[(&str, &str)] = templates! {
    "pyproject.toml": "templates/python/pyproject.toml",
    "requirements.txt": "templates/python/requirements.txt",
    ".gitignore": "templates/python/gitignore",
    "app.py": "templates/python/app.py",
};

impl Language {
    fn templates(self) -> &'static [(&'static str, &'static str)] {
        match self {
            Self::Rust => RUST,
            Self::Js => JS,
            Self::Python => PYTHON,
        }
    }

    fn handler_file(self) -> &'static str {
        match self {
            Self::Rust => "src/lib.rs",
            Self::Js => "handler.js",
            Self::Python => "app.py",
        }
    }

    /// The command that installs the build tools of the language.
    pub(super) fn install_command(self) -> &'static str {
        match self {
            Self::Rust => "rustup target add wasm32-wasip2",
            Self::Js => "npm install",
            Self::Python => "python3 -m venv .venv && .venv/bin/pip install -r requirements.txt",
        }
    }
}

/// Creates the project.
pub(crate) fn run(args: &NewArgs) -> CommandResult {
    let folder = args.dir.clone().unwrap_or_else(|| PathBuf::from(&args.name));
    if args.lang == Language::Rust && !args.name.starts_with(|c: char| c.is_ascii_alphabetic()) {
        let message = format!("{} cannot be the name of a Rust package: begin it with a letter", args.name);
        return Err(report_as(ExitReason::Usage, message));
    }
    if fs::read_dir(&folder).is_ok_and(|mut entries| entries.next().is_some()) {
        let message = format!("{} exists and is not empty: choose another folder with --dir", folder.display());
        return Err(report_as(ExitReason::Usage, message));
    }
    for (path, template) in COMMON.iter().chain(args.lang.templates()) {
        // The interface has no placeholders.
        let is_interface = path.starts_with("wit/");
        let text = if is_interface { (*template).to_owned() } else { fill_template(template, args) };
        let path = folder.join(path);
        write_file(&path, &text).map_err(|error| {
            report_as(ExitReason::Failed, format_args!("{} cannot be written: {error}", path.display()))
        })?;
    }
    let (shown, install) = (Printable(folder.display()), args.lang.install_command());
    let next = format!("{shown} is a plugin project; next:\n  cd {shown}\n  {install}\n  eventstream plugin test");
    print_lines(next)?;
    Ok(ExitReason::Done)
}

fn fill_template(template: &str, args: &NewArgs) -> String {
    template
        .replace("{{name}}", &args.name)
        // A Cargo package name cannot have dots.
        .replace("{{package}}", &args.name.replace('.', "-"))
        .replace("{{handler}}", args.lang.handler_file())
        .replace("{{install}}", args.lang.install_command())
}

fn write_file(path: &Path, text: &str) -> std::io::Result<()> {
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder)?;
    }
    fs::write(path, text)
}
