//! The first instance of a component: whether it can be made, and what it says of itself.

use std::sync::Arc;

use super::compile_tracks::{CompilePassage, CompileTrack, QUICK_INTRODUCTION_MS};
use super::load_error::LoadError;
use super::loader::PluginLoader;
use crate::clock;
use crate::event::Event;
use crate::plugin::InvalidPattern;
use crate::plugin::registry::routing::TypePattern;
use crate::plugin::run::instance::{self, GuestIntroduction, PreparedComponent};
use crate::plugin::run::outcome;
use crate::plugin::sandbox::limits::LimitBreach;
use crate::plugin::settings::secrets::PluginSecrets;

/// The most types that `describe` may name.
const MAX_DESCRIBED_TYPES: usize = 256;
/// How often a first instance is tried that gives no answer in time: on a busy machine that need not be its fault.
const TRIES: u32 = 3;
/// The longest version and description that are kept.
const MAX_DESCRIPTION_CHARS: usize = 1_024;

/// What is told of a plugin, by whoever tells it.
pub(super) struct PluginDescription {
    pub(super) patterns: Vec<TypePattern>,
    pub(super) version: Option<String>,
    pub(super) description: Option<String>,
}

/// What follows from an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum IntroductionStep {
    /// It is the answer.
    Take,
    /// It came too late, and another one is asked for.
    Again,
    /// It was not as quick as is expected on this way; with more time there may be one.
    Slower,
}

impl PluginLoader {
    /// Makes a first instance, which takes no time of anybody's attempts.
    pub(super) async fn introduce(
        &self,
        name: &str,
        prepared: Arc<PreparedComponent>,
        passage: &mut CompilePassage,
    ) -> Result<GuestIntroduction, LoadError> {
        let lanes = &self.machine.lanes;
        let event = first_event(name).ok_or(LoadError::Name)?;
        let all_ms = prepared.context.limits.wall_ms;
        let mut tries = 1;
        let (answer, stderr) = loop {
            let is_quick = passage.lane() == CompileTrack::Quick && all_ms > QUICK_INTRODUCTION_MS;
            let wall_ms = if is_quick { QUICK_INTRODUCTION_MS } else { all_ms };
            let turn = lanes.steps(passage).introductions.turn(passage.applicant()).await;
            let (tried, event) = (prepared.clone(), event.clone());
            let (answer, stderr) = {
                let _ticking = self.machine.ticker.ticking();
                let run = self.machine.executor.run(move |meter| {
                    meter.belongs_to(&name.into());
                    instance::introduce(tried, event, meter, wall_ms)
                });
                run.await.ok_or(LoadError::Host)?
            };
            drop(turn);
            match next(answer.as_ref().err(), is_quick, tries) {
                IntroductionStep::Take => break (answer, stderr),
                IntroductionStep::Again => tries += 1,
                IntroductionStep::Slower => lanes.slow_down(passage),
            }
        };
        answer.map_err(|error| {
            let is_guests = error.is::<wasmtime::WasmBacktrace>() || error.is::<LimitBreach>();
            let words =
                if is_guests { outcome::classify(&error, stderr.as_deref()).message } else { format!("{error:#}") };
            LoadError::Trial(prepared.context.secrets.hide_cut_end(&words))
        })
    }
}

fn next(error: Option<&wasmtime::Error>, is_quick: bool, tries: u32) -> IntroductionStep {
    let is_late = error.is_some_and(|error| matches!(error.downcast_ref(), Some(LimitBreach::WallTime { .. })));
    match is_late {
        true if is_quick => IntroductionStep::Slower,
        true if tries < TRIES => IntroductionStep::Again,
        _ => IntroductionStep::Take,
    }
}

/// What the plugin handles: what the settings say, else what it says itself, else what its file is called.
/// The words are a guest's, which may know secrets by now.
pub(super) fn described(
    name: &str,
    set: Option<Vec<TypePattern>>,
    introduced: GuestIntroduction,
    secrets: &PluginSecrets,
) -> Result<PluginDescription, LoadError> {
    // With room for what is hidden, so that no value is cut in two before.
    let room = MAX_DESCRIPTION_CHARS.saturating_add(secrets.longest_bytes());
    let hidden = |text: &str| secrets.hide_cut_end(first_chars(text, room));
    let short = |text: &str| first_chars(&hidden(text), MAX_DESCRIPTION_CHARS).to_owned();
    // What is no type stands in the complaint, and is none either once something in it is hidden.
    let parsed = |text: &String| text.parse().or_else(|_| hidden(text).parse::<TypePattern>());
    let invalid = |error: InvalidPattern| LoadError::Describe(error.to_string());
    let (said, version, description) = match introduced.manifest {
        None => (Vec::new(), None, None),
        Some(manifest) if manifest.types.len() > MAX_DESCRIBED_TYPES => {
            let words = format!("{} types; a plugin may name {MAX_DESCRIBED_TYPES}", manifest.types.len());
            return Err(LoadError::Describe(words));
        }
        Some(manifest) => (manifest.types, Some(short(&manifest.version)), Some(short(&manifest.description))),
    };
    let mut patterns = match set {
        Some(patterns) => patterns,
        None if said.is_empty() => vec![name.parse().map_err(|_| LoadError::Name)?],
        None => said.iter().map(parsed).collect::<Result<_, _>>().map_err(invalid)?,
    };
    patterns.sort();
    patterns.dedup();
    Ok(PluginDescription { patterns, version, description })
}

/// What a component that is asked to describe itself finds if it asks for the delivery in progress.
fn first_event(name: &str) -> Option<Event> {
    Some(Event::new(name.parse().ok()?, format!("/plugins/{name}"), clock::now()))
}

fn first_chars(text: &str, n: usize) -> &str {
    text.char_indices().nth(n).map_or(text, |(end, _)| &text[..end])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plugin::host_api::bindings::exports::eventstream::plugin::describe::Manifest;

    #[test]
    fn secrets_are_in_nothing_that_a_plugin_says_of_itself() {
        let source = crate::plugin::SecretSource::Text("hunter2hunter2".into());
        let secrets = PluginSecrets::read(&[("a".to_owned(), source)].into()).unwrap();
        let says = |description: String, types: &[&str]| {
            let types = types.iter().map(|text| (*text).to_owned()).collect();
            let manifest = Manifest { name: "p".into(), version: "1-hunter2hunter2".into(), description, types };
            described("p", None, GuestIntroduction { manifest: Some(manifest) }, &secrets)
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
            (None, true, 1, IntroductionStep::Take),
            (Some(&wrong), true, 1, IntroductionStep::Take),
            (Some(&wrong), false, 1, IntroductionStep::Take),
            (Some(&late), true, 1, IntroductionStep::Slower),
            (Some(&late), false, 1, IntroductionStep::Again),
            (Some(&late), false, TRIES, IntroductionStep::Take),
        ] {
            assert_eq!(next(error, is_quick, tries), expected, "{error:?}, quick: {is_quick}, try {tries}");
        }
    }
}
