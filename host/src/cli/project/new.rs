//! `eventstream plugin new`: writes a project that builds and passes its tests as it is.

use std::fs;
use std::path::{Path, PathBuf};

use eventstream::printable::Printable;

use super::super::plugin::name;
use super::super::{ExitReason, complain, say_lines};
use super::Language;

pub(in super::super) const NEW_EXAMPLES: &str = "\
Examples:
  eventstream plugin new order-paid
  eventstream plugin new --lang python order-paid --dir ./services/order-paid

Makes a folder with a handler, the contract it is written against (wit/), and tests. Then, in that folder:
  eventstream plugin build
  eventstream plugin test

Exit codes: 0 done, 1 the folder cannot be written, 2 the name cannot be used, or the folder holds something";

/// The arguments of `plugin new`.
#[derive(Debug, clap::Args)]
pub(in super::super) struct NewArgs {
    /// The name of the plugin, and the type of event that it handles
    #[arg(value_name = "NAME", value_parser = name)]
    name: String,
    /// The language
    #[arg(long, value_enum, default_value_t = Language::Rust)]
    lang: Language,
    /// The folder to make [default: NAME]
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
}

macro_rules! templates {
    ($($path:literal: $source:literal),+ $(,)?) => {
        &[$(($path, include_str!(concat!("../../../", $source)))),+]
    };
}

/// Files of every project.
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
    fn files(self) -> &'static [(&'static str, &'static str)] {
        match self {
            Self::Rust => RUST,
            Self::Js => JS,
            Self::Python => PYTHON,
        }
    }

    fn handler(self) -> &'static str {
        match self {
            Self::Rust => "src/lib.rs",
            Self::Js => "handler.js",
            Self::Python => "app.py",
        }
    }

    /// The command that installs what a project is built with.
    pub(super) fn install(self) -> &'static str {
        match self {
            Self::Rust => "rustup target add wasm32-wasip2",
            Self::Js => "npm install",
            Self::Python => "python3 -m venv .venv && .venv/bin/pip install -r requirements.txt",
        }
    }
}

/// Writes the project.
pub(in super::super) fn run(args: &NewArgs) -> ExitReason {
    let folder = args.dir.clone().unwrap_or_else(|| PathBuf::from(&args.name));
    if args.lang == Language::Rust && !args.name.starts_with(|c: char| c.is_ascii_alphabetic()) {
        complain(format!("{:?} cannot be the name of a Rust package: begin with a letter", args.name));
        return ExitReason::Usage;
    }
    if fs::read_dir(&folder).is_ok_and(|mut entries| entries.next().is_some()) {
        complain(format!("{} is there already and not empty: choose another folder with --dir", folder.display()));
        return ExitReason::Usage;
    }
    for (path, template) in COMMON.iter().chain(args.lang.files()) {
        // The contract is the same for everybody.
        let is_contract = path.starts_with("wit/");
        let text = if is_contract { (*template).to_owned() } else { filled(template, args) };
        if let Err(error) = write(&folder.join(path), &text) {
            complain(format!("{} cannot be written: {error}", folder.join(path).display()));
            return ExitReason::Failed;
        }
    }
    let (shown, install) = (Printable(folder.display()), args.lang.install());
    let next = format!("{shown} is a plugin project; next:\n  cd {shown}\n  {install}\n  eventstream plugin test");
    ExitReason::Done.unless_unwritten(say_lines(next))
}

fn filled(template: &str, args: &NewArgs) -> String {
    template
        .replace("{{name}}", &args.name)
        // Cargo knows no dots in names.
        .replace("{{package}}", &args.name.replace('.', "-"))
        .replace("{{handler}}", args.lang.handler())
        .replace("{{install}}", args.lang.install())
}

fn write(path: &Path, text: &str) -> std::io::Result<()> {
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder)?;
    }
    fs::write(path, text)
}
