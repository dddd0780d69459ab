//! `cargo xtask test` and `cargo xtask ci`.
//!
//! `ci` runs everything that a change must pass. For the tests it runs `cargo xtask test`, the command that the README
//! names, so that CI and a reader of the README run the same tests.

use std::time::Instant;

use anyhow::bail;

use crate::guests::{self, WORKSPACES, ensure_target, guest_cargo};
use crate::lints::{self, LintRun};
use crate::process::{cargo, run};
use crate::projects;
use crate::redis;

/// Projects, and the end-to-end tests that need their components.
const TESTS_OF_PROJECTS: [(&str, &str); 3] = [
    ("page-views-js", "page_views::"),
    ("webhook-js", "webhook::javascript::"),
    ("webhook-python", "webhook::python::"),
];

/// Which tests to run.
#[derive(clap::Args)]
pub struct TestOptions {
    /// Run `cargo test` with these arguments only, after the builds: `-- --workspace --test e2e idempotency::`.
    #[arg(last = true)]
    arguments: Vec<String>,
}

/// Builds the guests and runs every test, those of the example plugins included.
pub fn test(options: &TestOptions) -> anyhow::Result<()> {
    redis::ensure_program()?;
    guests::build()?;
    // The end-to-end tests start this binary. `--workspace` builds it with the feature `test-util`, which they need.
    run(&mut cargo("", &["build", "--workspace", "--locked"]))?;
    if !options.arguments.is_empty() {
        return run(cargo("", &["test", "--locked"]).args(&options.arguments));
    }
    run(&mut guest_cargo("plugins", &["test", "--locked"])?)?;
    let left_out = projects::test()?;
    let mut tests = cargo("", &["test", "--workspace", "--locked"]);
    // Tests spend most of their time waiting for servers. One more thread than there are cores keeps the cores busy.
    if std::env::var_os("RUST_TEST_THREADS").is_none() {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        tests.env("RUST_TEST_THREADS", (cores + 1).to_string());
    }
    let skipped = TESTS_OF_PROJECTS.iter().filter(|(project, _)| left_out.iter().any(|name| name == project));
    tests.arg("--").args(skipped.flat_map(|(_, tests)| ["--skip", tests]));
    run(&mut tests)
}

/// Checks formatting, lints and documentation, and runs every test.
pub fn ci() -> anyhow::Result<()> {
    let begun = Instant::now();
    WORKSPACES.iter().try_for_each(|workspace| ensure_target(workspace.target))?;
    lints::check_formatting()?;
    let lints = LintRun::start()?;
    let tested = run(&mut cargo("", &["xtask", "test"]));
    let linted = lints.finish();
    if let (Err(of_tests), Err(of_lints)) = (&tested, &linted) {
        bail!("{of_tests:#}; and {of_lints:#}");
    }
    tested.and(linted)?;
    eprintln!("everything passed in {} s", begun.elapsed().as_secs());
    Ok(())
}
