//! A figure as a table on the terminal, and how numbers are written everywhere.

use crate::figure::{Figure, Ratio, Row, grouped};

/// Prints a figure.
pub(super) fn print(name: &str, about: &str, figure: &Figure) {
    println!("\n{name}: {about}");
    let width = figure.rows.iter().map(|row| row.name.chars().count()).max().unwrap_or(0).max(12);
    for row in &figure.rows {
        let own = format!("{} {}", number(row.median()), row.unit);
        println!("  {:<width$}  {own:>18}  {}", row.name, held(row));
    }
    for note in &figure.notes {
        println!("  ({note})");
    }
}

/// What a row is held against, in words.
fn held(row: &Row) -> String {
    let (Some(limit), Some(ratio)) = (&row.limit, row.ratio()) else { return spread(row) };
    let limit = format!("{} of {} {}", share(ratio), number(crate::figure::median(&limit.values)), limit.name);
    match row.target {
        None => limit,
        Some(target) => format!(
            "{limit}; floor {}, aim {}: {}",
            factor(target.floor),
            factor(target.aim),
            target.verdict(ratio.median)
        ),
    }
}

/// The lowest and the highest of more than one value.
pub(super) fn spread(row: &Row) -> String {
    let lowest = row.values.iter().copied().fold(f64::INFINITY, f64::min);
    let highest = row.values.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    if row.values.len() < 2 { String::new() } else { format!("({}..{})", number(lowest), number(highest)) }
}

/// A ratio with its spread.
pub(super) fn share(ratio: Ratio) -> String {
    format!("{} ({}..{})", factor(ratio.median), factor(ratio.lowest), factor(ratio.highest))
}

/// A ratio: two digits behind the point, three where it is small.
pub(super) fn factor(ratio: f64) -> String {
    if ratio < 0.1 { format!("{ratio:.3}") } else { format!("{ratio:.2}") }
}

/// A number, none below zero, as precise as a measurement is: three digits at the least, with commas where it is long.
pub(super) fn number(value: f64) -> String {
    if !value.is_finite() {
        return "?".into();
    }
    match value {
        value if value >= 100.0 || value == 0.0 => grouped(value.round() as u64),
        value if value >= 10.0 => format!("{value:.1}"),
        value if value >= 1.0 => format!("{value:.2}"),
        _ => format!("{value:.3}"),
    }
}
