//! What was found, for people and for programs: a table on the terminal, `results.json` and plots below `target/bench`,
//! and `host/benches/RESULTS.md`.
//!
//! `results.json` has the last run of every figure, with its commit. A figure that was not measured this time stays
//! unchanged.

mod machine;
mod markdown;
mod plot;
mod table;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

use super::figure::Figure;
use super::setup::folder;
use super::{FIGURES, against};
use machine::MachineFacts;

/// The load of a machine from which on it is busy with something else.
const BUSY: f64 = 0.5;

/// Everything that is kept.
#[derive(Default, Serialize, Deserialize)]
struct Results {
    figures: BTreeMap<String, Measured>,
}

/// A figure, and where and when it was measured.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Measured {
    about: String,
    machine: MachineFacts,
    commit: String,
    quick: bool,
    seconds: u64,
    /// How many wanted a core before the run began.
    load_before: f64,
    #[serde(flatten)]
    figure: Figure,
}

/// The report of a run.
pub(super) struct BenchReport {
    folder: PathBuf,
    machine: MachineFacts,
    commit: String,
    load_before: f64,
    results: Results,
}

impl BenchReport {
    /// Goes on from what was found before.
    pub(super) fn open() -> Result<Self> {
        let folder = folder();
        std::fs::create_dir_all(&folder).with_context(|| format!("cannot make {}", folder.display()))?;
        // What an older version of this program wrote is not worth an error.
        let before = std::fs::read_to_string(folder.join("results.json")).ok();
        let results = before.and_then(|text| serde_json::from_str(&text).ok()).unwrap_or_default();
        Ok(Self {
            folder,
            machine: MachineFacts::look(),
            commit: machine::commit(),
            load_before: machine::load(),
            results,
        })
    }

    /// Prints a figure and keeps it.
    pub(super) fn add(
        &mut self,
        name: &'static str,
        about: &str,
        quick: bool,
        took: Duration,
        figure: Figure,
    ) -> Result<()> {
        table::print(name, about, &figure);
        for curve in &figure.curves {
            std::fs::write(self.folder.join(format!("{}.svg", curve.file)), plot::svg(curve))?;
        }
        let (machine, commit) = (self.machine.clone(), self.commit.clone());
        let (about, seconds, load_before) = (about.to_owned(), took.as_secs(), self.load_before);
        let measured = Measured { about, machine, commit, quick, seconds, load_before, figure };
        self.results.figures.insert(name.into(), measured);
        std::fs::write(self.folder.join("results.json"), serde_json::to_vec_pretty(&self.results)?)?;
        Ok(())
    }

    /// Says where everything is; writes what is checked in, if that is wanted.
    pub(super) fn finish(self, write_results: bool) -> Result<()> {
        println!("\n{}; commit {}", self.machine, self.commit);
        if self.load_before > BUSY {
            let load = self.load_before;
            println!("the machine was busy before (load {load:.1}): take ratios with care and nothing else at all");
        }
        println!("written to {}", self.folder.join("results.json").display());
        if write_results {
            let benches = Path::new(env!("CARGO_MANIFEST_DIR")).join("../host/benches");
            let order = FIGURES.iter().map(|(name, ..)| *name).chain([against::NAME]);
            let measured: Vec<(&str, &Measured)> =
                order.filter_map(|name| Some((name, self.results.figures.get(name)?))).collect();
            for (_, measured) in &measured {
                for curve in &measured.figure.curves {
                    std::fs::write(benches.join(format!("{}.svg", curve.file)), plot::svg(curve))?;
                }
            }
            std::fs::write(benches.join("RESULTS.md"), markdown::document(&measured))?;
            println!("and to host/benches/RESULTS.md");
        }
        Ok(())
    }
}
