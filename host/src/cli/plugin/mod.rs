//! `eventstream plugin`: creates, builds, tests, checks and runs plugins, and manages those of a server.
//!
//! [`manage`] manages the plugins of a server; [`crate::cli::project`] works on plugin projects.

mod check;
mod manage;
mod run;

use super::client::{ClientError, CommandReport};
use super::output::{CommandResult, ExitReason};
use super::project;

/// The commands for plugins.
#[derive(Debug, clap::Subcommand)]
pub(super) enum PluginCommand {
    /// Create a project for a plugin in Rust, JavaScript or Python
    #[command(after_help = project::NEW_EXAMPLES)]
    New(project::NewArgs),
    /// Build the component of a project, and check it
    #[command(after_help = project::BUILD_EXAMPLES)]
    Build(project::BuildArgs),
    /// Build a project, and run the tests in its tests/*.json
    #[command(after_help = project::TEST_EXAMPLES)]
    Test(project::TestArgs),
    /// Show what a component is and imports, or what is wrong with it
    #[command(after_help = check::EXAMPLES)]
    Check(check::CheckArgs),
    /// Run a component on events from standard input, without a server
    #[command(after_help = run::EXAMPLES)]
    Run(run::RunArgs),
    /// List the plugins of a server
    #[command(after_help = manage::LIST_EXAMPLES)]
    List(manage::ListArgs),
    /// Activate the version of a plugin that was active before
    #[command(after_help = manage::ROLLBACK_EXAMPLES)]
    Rollback(manage::PluginTarget),
    /// Approve a build that waits because it takes types from another plugin or imports more than before
    #[command(after_help = manage::APPROVE_EXAMPLES)]
    Approve(manage::ApproveArgs),
    /// Remove a plugin from a server
    #[command(after_help = manage::REMOVE_EXAMPLES)]
    Remove(manage::RemoveArgs),
}

/// Runs the command.
pub(super) fn run(command: &PluginCommand) -> CommandResult {
    match command {
        PluginCommand::New(args) => project::new(args),
        PluginCommand::Build(args) => project::build(args),
        PluginCommand::Test(args) => project::test(args),
        PluginCommand::Check(args) => check::run(args),
        PluginCommand::Run(args) => run::run(args),
        PluginCommand::List(args) => report_answer(manage::list(args)),
        PluginCommand::Rollback(args) => report_answer(manage::rollback(args)),
        PluginCommand::Approve(args) => report_answer(manage::approve(args)),
        PluginCommand::Remove(args) => report_answer(manage::remove(args)),
    }
}

fn report_answer(answer: Result<CommandReport, ClientError>) -> CommandResult {
    answer.map_err(|failure| failure.report())?.print().map(|()| ExitReason::Done)
}
