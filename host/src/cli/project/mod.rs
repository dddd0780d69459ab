//! `eventstream plugin new | build | test`: the project of a plugin, from a template to a component that passes its tests.
//!
//! The tools of the language build a project. A tool that is missing is named with the command that installs it.

mod build;
mod manifest;
mod new;
mod test;

pub(super) use build::{BUILD_EXAMPLES, BuildArgs, build_component, run as build};
pub(super) use manifest::Project;
pub(super) use new::{NEW_EXAMPLES, NewArgs, run as new};
pub(super) use test::{TEST_EXAMPLES, TestArgs, run as test};
