//! `host/benches/RESULTS.md`: the last run of every figure, as it is checked in.

use std::fmt::Write;

use super::table::{factor, number, share, spread};
use super::{BUSY, Measured};
use crate::figure::{Row, median};

const HEAD: &str = "# Measured

`cargo xtask bench --write-results` writes this file. Limit and product take turns in one run. A ratio is that of the
medians, with the lowest and the highest of the turns. Compare ratios between machines, not absolute numbers: host, store
and load generator share the cores. The ratio should reach the floor at least, and the aim at best. Where the aim is the
smaller number, less is better. [MEASUREMENTS.md](MEASUREMENTS.md) explains where the time goes.
";

/// The whole document.
pub(super) fn document(figures: &[(&str, &Measured)]) -> String {
    let mut text = HEAD.to_owned();
    targets(&mut text, figures);
    for (name, measured) in figures {
        section(&mut text, name, measured);
    }
    text
}

/// All rows that have a target, in one table at the top.
fn targets(text: &mut String, figures: &[(&str, &Measured)]) {
    line(
        text,
        "\n## Targets\n\n| figure | | ratio (lowest..highest) | floor | aim | reached |\n|---|---|---|---|---|---|",
    );
    for (name, measured) in figures {
        for row in &measured.figure.rows {
            let (Some(target), Some(ratio), Some(limit)) = (row.target, row.ratio(), &row.limit) else { continue };
            let verdict = target.verdict(ratio.median);
            let cells = [
                format!("{name}: {}", row.name),
                format!("of {}", limit.name),
                share(ratio),
                factor(target.floor),
                factor(target.aim),
                if verdict == "below" { "**not the floor**".into() } else { verdict.to_owned() },
            ];
            line(text, &format!("| {} |", cells.join(" | ")));
        }
    }
}

fn section(text: &mut String, name: &str, measured: &Measured) {
    line(text, &format!("\n## {name}\n\n{}.\n", capital(&measured.about)));
    let quick = if measured.quick { " --quick" } else { "" };
    let (commit, seconds, machine) = (&measured.commit, measured.seconds, &measured.machine);
    let busy = if measured.load_before > BUSY {
        format!(" The machine was busy with other things (load {:.1}).", measured.load_before)
    } else {
        String::new()
    };
    line(text, &format!("`cargo xtask bench {name}{quick}` at {commit}, {seconds} s, on {machine}.{busy}\n"));
    line(
        text,
        "| | measured | unit | held against | its figure | ratio (lowest..highest) |\n|---|---|---|---|---|---|",
    );
    for row in &measured.figure.rows {
        line(text, &row_line(row));
    }
    for note in &measured.figure.notes {
        line(text, &format!("\n{}.", capital(note)));
    }
    for curve in &measured.figure.curves {
        line(text, &format!("\n![{}]({}.svg)", curve.title, curve.file));
    }
}

fn row_line(row: &Row) -> String {
    let own = format!("{} {}", number(row.median()), spread(row));
    let (limit, held, ratio) = match (&row.limit, row.ratio()) {
        (Some(limit), Some(ratio)) => (limit.name.clone(), number(median(&limit.values)), share(ratio)),
        _ => Default::default(),
    };
    format!("| {} | {} | {} | {limit} | {held} | {ratio} |", row.name, own.trim(), row.unit)
}

fn capital(text: &str) -> String {
    let mut letters = text.chars();
    letters.next().map(|first| first.to_uppercase().chain(letters).collect()).unwrap_or_default()
}

fn line(text: &mut String, line: &str) {
    // Writing to a string cannot fail.
    let _ = writeln!(text, "{line}");
}
