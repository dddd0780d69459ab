//! `cargo xtask bench`: how fast, how large, how steady, each figure beside its own limit in the same run.
//!
//! The speed of a machine changes from minute to minute. So the product and its limit are measured in turns, and the result
//! is the ratio of the medians, with the lowest and the highest ratio of a turn. One module is one figure. A measurement
//! checks only that it measured what it claims to; promises are checked by the tests.
#![expect(clippy::print_stdout, clippy::print_stderr, reason = "a measurement prints what it found and how far it is")]

mod accept;
mod against;
mod calls;
mod cost;
mod drain;
mod figure;
mod isolation;
mod latency;
mod memory;
mod micro;
mod mixed;
mod recovery;
mod report;
mod setup;

use std::process::ExitCode;

use anyhow::{Context, Result, bail};

use against::EarlierBuild;
use figure::{Figure, Plan};

/// A figure by its name, what it is, and what measures it.
type Named = (&'static str, &'static str, fn(&Plan) -> Result<Figure>);

const FIGURES: [Named; 10] = [
    ("accept", "events accepted in a second, against axum that keeps nothing", accept::measure),
    ("drain", "events worked off in a second, against a native consumer that does nothing", drain::measure),
    ("mixed", "accepting and working off at the same time", mixed::measure),
    ("latency", "from POST to 202 and to the end, by an open loop", latency::measure),
    ("calls", "component calls without a broker, on one core and on two", calls::measure),
    ("cost", "what an event costs, against what else there is", cost::measure),
    ("micro", "the steps of an event, one by one", micro::measure),
    ("memory", "memory and disk: idle, under load, after millions of events", memory::measure),
    ("recovery", "after kill -9: until it listens, until it works", recovery::measure),
    ("isolation", "what one plugin's events feel of another plugin in trouble", isolation::measure),
];

/// What `--quick` measures if no figure is named.
const QUICK: [&str; 5] = ["accept", "drain", "mixed", "latency", "calls"];

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).filter(|argument| argument != "--bench").collect();
    match run(&arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("bench: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: &[String]) -> Result<()> {
    if let [command, cores, millis] = arguments
        && command == calls::CHILD
    {
        return calls::child(cores.parse()?, millis.parse()?);
    }
    let mut plan = Plan::default();
    let (mut names, mut write_results, mut before) = (Vec::new(), false, None);
    let mut rest = arguments.iter();
    while let Some(argument) = rest.next() {
        match argument.as_str() {
            "--quick" => plan.quick = true,
            "--write-results" => write_results = true,
            "--events" => plan.events = Some(rest.next().context("--events wants a number")?.parse()?),
            "--repetitions" => plan.repetitions = rest.next().context("--repetitions wants a number")?.parse()?,
            "--against" => {
                let [folder, commit] =
                    [rest.next(), rest.next()].map(|it| it.context("--against wants a folder and a commit"));
                before = Some(EarlierBuild::new(folder?.into(), commit?.clone()));
            }
            "--list" => {
                FIGURES.iter().for_each(|(name, about, _)| println!("{name:<10} {about}"));
                return Ok(());
            }
            name if FIGURES.iter().any(|(known, ..)| *known == name) => names.push(name),
            other => bail!("{other:?} is no figure; --list names them"),
        }
    }
    let mut report = report::BenchReport::open()?;
    if let Some(before) = before {
        eprintln!("· {}: {}", against::NAME, against::ABOUT);
        let begun = std::time::Instant::now();
        let figure = against::measure(&plan, &before)?;
        report.add(against::NAME, against::ABOUT, plan.quick, begun.elapsed(), figure)?;
        return report.finish(write_results);
    }
    if names.is_empty() {
        names = if plan.quick { QUICK.to_vec() } else { FIGURES.iter().map(|(name, ..)| *name).collect() };
    }
    for (name, about, measure) in FIGURES.iter().filter(|(name, ..)| names.contains(name)) {
        eprintln!("· {name}: {about}");
        let begun = std::time::Instant::now();
        let figure = measure(&plan).with_context(|| format!("the figure {name:?}"))?;
        report.add(name, about, plan.quick, begun.elapsed(), figure)?;
    }
    report.finish(write_results)
}
