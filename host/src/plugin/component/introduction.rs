//! The first instance of a component: whether it can be made, and how the plugin describes itself.

use std::sync::Arc;

use super::load_error::LoadError;
use super::load_tracks::{LoadTicket, LoadTrack, QUICK_INTRODUCTION_MS};
use crate::clock;
use crate::event::{Event, InvalidPattern, TypePattern};
use crate::plugin::host_api::bindings::exports::eventstream::plugin::describe::Manifest;
use crate::plugin::run::instance::{self, PreparedComponent};
use crate::plugin::run::outcome;
use crate::plugin::run::plugin::GuestRuntime;
use crate::plugin::sandbox::limits::LimitBreach;
use crate::plugin::settings::secrets::PluginSecrets;

/// The most types that `describe` may name.
const MAX_DESCRIBED_TYPES: usize = 256;
/// How often a first instance is tried that does not answer in time. On a busy machine that need not be its fault.
const MAX_TRIES: u32 = 3;
/// The longest version and description that are kept.
const MAX_DESCRIPTION_CHARS: usize = 1_024;

/// What a guest says of itself, checked and without secrets. Its patterns may come from the settings instead.
pub(super) struct CheckedManifest {
    pub(super) patterns: Vec<TypePattern>,
    pub(super) version: Option<String>,
    pub(super) description: Option<String>,
}

/// What to do about the answer of a first instance.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum IntroductionStep {
    /// Use it.
    Accept,
    /// It came too late. Try again.
    Retry,
    /// It came too late for the quick track. Try again on the slow one.
    MoveToSlowTrack,
}

/// Makes a first instance and asks the plugin to describe itself. The time does not count towards any attempt.
pub(super) async fn introduce(
    runtime: &GuestRuntime,
    name: &str,
    prepared: Arc<PreparedComponent>,
    ticket: &mut LoadTicket,
) -> Result<Option<Manifest>, LoadError> {
    let event = first_event(name).ok_or(LoadError::Name)?;
    let limit_ms = prepared.context.limits.wall_ms;
    let mut tries = 1;
    let (answer, stderr) = loop {
        let is_quick = ticket.track == LoadTrack::Quick && limit_ms > QUICK_INTRODUCTION_MS;
        let wall_ms = if is_quick { QUICK_INTRODUCTION_MS } else { limit_ms };
        let turn = runtime.tracks.turns(ticket).introductions.turn(&ticket.applicant).await;
        let (tried, event) = (prepared.clone(), event.clone());
        let (answer, stderr) = {
            let _ticking = runtime.ticker.ticking();
            let run = runtime.executor.run(move |meter| {
                meter.set_plugin(&name.into());
                instance::introduce(tried, event, meter, wall_ms)
            });
            run.await.ok_or(LoadError::Host)?
        };
        drop(turn);
        match next_step(answer.as_ref().err(), is_quick, tries) {
            IntroductionStep::Accept => break (answer, stderr),
            IntroductionStep::Retry => tries += 1,
            IntroductionStep::MoveToSlowTrack => runtime.tracks.move_to_slow_track(ticket),
        }
    };
    answer.map_err(|error| {
        let is_guests = error.is::<wasmtime::WasmBacktrace>() || error.is::<LimitBreach>();
        let words = if is_guests { outcome::classify(&error, stderr.as_deref()).message } else { format!("{error:#}") };
        LoadError::Trial(prepared.context.secrets.hide_cut_end(&words))
    })
}

fn next_step(error: Option<&wasmtime::Error>, is_quick: bool, tries: u32) -> IntroductionStep {
    let is_late = error.is_some_and(|error| matches!(error.downcast_ref(), Some(LimitBreach::WallTime { .. })));
    match is_late {
        true if is_quick => IntroductionStep::MoveToSlowTrack,
        true if tries < MAX_TRIES => IntroductionStep::Retry,
        _ => IntroductionStep::Accept,
    }
}

/// The types of a plugin, and its version and description without secrets. The types are those of the settings, else those
/// that the plugin names itself, else the name of its file.
pub(super) fn describe(
    name: &str,
    types: Option<Vec<TypePattern>>,
    manifest: Option<Manifest>,
    secrets: &PluginSecrets,
) -> Result<CheckedManifest, LoadError> {
    // The guest may know the secrets by now. The cut leaves room for the longest one, so that none is cut in two.
    let room = MAX_DESCRIPTION_CHARS.saturating_add(secrets.longest_bytes());
    let hidden = |text: &str| secrets.hide_cut_end(first_chars(text, room));
    let short = |text: &str| first_chars(&hidden(text), MAX_DESCRIPTION_CHARS).to_owned();
    // The error quotes a text that is no type, so it is parsed again with the secrets hidden.
    let parsed = |text: &String| text.parse().or_else(|_| hidden(text).parse::<TypePattern>());
    let invalid = |error: InvalidPattern| LoadError::Describe(error.to_string());
    let (named, version, description) = match manifest {
        None => (Vec::new(), None, None),
        Some(manifest) if manifest.types.len() > MAX_DESCRIBED_TYPES => {
            let words = format!("{} types; a plugin may name {MAX_DESCRIBED_TYPES}", manifest.types.len());
            return Err(LoadError::Describe(words));
        }
        Some(manifest) => (manifest.types, Some(short(&manifest.version)), Some(short(&manifest.description))),
    };
    let mut patterns = match types {
        Some(patterns) => patterns,
        None if named.is_empty() => vec![name.parse().map_err(|_| LoadError::Name)?],
        None => named.iter().map(parsed).collect::<Result<_, _>>().map_err(invalid)?,
    };
    patterns.sort();
    patterns.dedup();
    Ok(CheckedManifest { patterns, version, description })
}

/// The event that a component sees if it asks for the delivery in progress while it describes itself.
fn first_event(name: &str) -> Option<Event> {
    Some(Event::new(name.parse().ok()?, format!("/plugins/{name}"), clock::now()))
}

fn first_chars(text: &str, n: usize) -> &str {
    text.char_indices().nth(n).map_or(text, |(end, _)| &text[..end])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_are_hidden_in_what_a_plugin_says_of_itself() {
        let source = crate::plugin::SecretSource::Text("hunter2hunter2".into());
        let secrets = PluginSecrets::read(&[("a".to_owned(), source)].into()).unwrap();
        let says = |description: String, types: &[&str]| {
            let types = types.iter().map(|text| (*text).to_owned()).collect();
            let manifest = Manifest { name: "p".into(), version: "1-hunter2hunter2".into(), description, types };
            describe("p", None, Some(manifest), &secrets)
        };
        let said = says(format!("{} hunter2hunter2", "x".repeat(MAX_DESCRIPTION_CHARS - 8)), &[]).unwrap();
        assert_eq!(said.version.as_deref(), Some("1-[secret a]"));
        let description = said.description.unwrap();
        assert!(!description.contains("hunt") && description.chars().count() <= MAX_DESCRIPTION_CHARS, "{description}");
        let Err(refused) = says(String::new(), &[&format!("{} hunter2hunter2", "x".repeat(120))]) else {
            panic!("it is no type")
        };
        assert!(!refused.to_string().contains("hunt"), "{refused}");
    }

    #[test]
    fn a_first_instance_that_answers_too_late_is_tried_again_and_one_that_fails_is_not() {
        let late = wasmtime::Error::from(LimitBreach::WallTime { limit_ms: 1 });
        let wrong = wasmtime::format_err!("it traps");
        for (error, is_quick, tries, expected) in [
            (None, true, 1, IntroductionStep::Accept),
            (Some(&wrong), true, 1, IntroductionStep::Accept),
            (Some(&wrong), false, 1, IntroductionStep::Accept),
            (Some(&late), true, 1, IntroductionStep::MoveToSlowTrack),
            (Some(&late), false, 1, IntroductionStep::Retry),
            (Some(&late), false, MAX_TRIES, IntroductionStep::Accept),
        ] {
            assert_eq!(next_step(error, is_quick, tries), expected, "{error:?}, quick: {is_quick}, try {tries}");
        }
    }
}
