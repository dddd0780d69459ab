//! `cargo xtask test` and `cargo xtask ci`.
//!
//! `ci` is the whole of what decides about a change, and its last step is the very command that the README names, so
//! that what holds here holds for whoever follows the README.

use std::time::Instant;

use crate::guests::{self, WORKSPACES, ensure_target, guest_cargo};
use crate::process::{cargo, is_installed, run};
use crate::projects;
use crate::redis;

/// The project whose component the end-to-end tests in `webhook` serve.
const WEBHOOK: &str = "webhook-python";

/// Which tests to run.
#[derive(clap::Args)]
pub struct TestOptions {
    /// Arguments for `cargo test`, in place of `--workspace`: `cargo xtask test -- -p eventstream-tests --test e2e`.
    #[arg(last = true)]
    arguments: Vec<String>,
}

/// Builds the guests and runs every test, those of the example plugins included.
pub fn test(options: &TestOptions) -> anyhow::Result<()> {
    redis::ensure_program()?;
    guests::build()?;
    // The binary that the end-to-end tests start, with the switches that they need.
    run(&mut cargo("", &["build", "--workspace", "--locked"]))?;
    if !options.arguments.is_empty() {
        return run(cargo("", &["test", "--locked"]).args(&options.arguments));
    }
    run(&mut guest_cargo("plugins", &["test", "--locked"])?)?;
    let left_out = projects::test()?;
    let mut tests = cargo("", &["test", "--workspace", "--locked"]);
    // Most of them wait for servers most of the time: one more than there are cores keeps the cores busy.
    if std::env::var_os("RUST_TEST_THREADS").is_none() {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        tests.env("RUST_TEST_THREADS", (cores + 1).to_string());
    }
    if left_out.iter().any(|project| project == WEBHOOK) {
        tests.args(["--", "--skip", "webhook::"]);
    }
    run(&mut tests)
}

/// Formatting, lints, documentation, then all tests.
pub fn ci() -> anyhow::Result<()> {
    let begun = Instant::now();
    WORKSPACES.iter().try_for_each(|workspace| ensure_target(workspace.target))?;
    run(&mut cargo("", &["fmt", "--all", "--check"]))?;
    for workspace in WORKSPACES {
        run(&mut cargo(workspace.path, &["fmt", "--all", "--check"]))?;
    }
    run(&mut cargo("", &["clippy", "--workspace", "--all-targets", "--locked", "--", "-D", "warnings"]))?;
    for workspace in WORKSPACES {
        let arguments = ["clippy", "--workspace", "--target", workspace.target, "--locked", "--", "-D", "warnings"];
        run(&mut guest_cargo(workspace.path, &arguments)?)?;
    }
    let mut document = cargo("", &["doc", "--workspace", "--no-deps", "--document-private-items", "--locked"]);
    run(document.env("RUSTDOCFLAGS", "-D warnings"))?;
    if is_installed("cargo-deny") {
        run(&mut cargo("", &["deny", "check", "bans", "licenses", "sources"]))?;
    }
    run(&mut cargo("", &["xtask", "test"]))?;
    eprintln!("everything passed in {} s", begun.elapsed().as_secs());
    Ok(())
}
