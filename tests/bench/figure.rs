//! What a figure is made of: rows, each a median beside that of its limit, and curves.

use serde::{Deserialize, Serialize};

/// How thoroughly to measure.
#[derive(Clone, Debug)]
pub(super) struct Plan {
    /// Less of everything, for daily work.
    pub(super) quick: bool,
    /// How often limit and product take turns.
    pub(super) repetitions: usize,
    /// Events of the figures that go by number, in place of their own.
    pub(super) events: Option<usize>,
}

impl Default for Plan {
    fn default() -> Self {
        Self { quick: false, repetitions: 3, events: None }
    }
}

impl Plan {
    /// One of two values.
    pub(super) fn pick<T>(&self, full: T, quick: T) -> T {
        if self.quick { quick } else { full }
    }

    /// A number of events, if the command line says no other.
    pub(super) fn events(&self, full: usize, quick: usize) -> usize {
        self.events.unwrap_or(self.pick(full, quick))
    }
}

/// All that was measured under one name.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Figure {
    pub(super) rows: Vec<Row>,
    pub(super) curves: Vec<Curve>,
    /// What must be known to read it.
    pub(super) notes: Vec<String>,
}

impl Figure {
    pub(super) fn note(&mut self, note: impl Into<String>) {
        self.notes.push(note.into());
    }
}

/// One thing that was measured some times, beside what it is held against.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Row {
    pub(super) name: String,
    pub(super) unit: String,
    /// One value for each turn.
    pub(super) values: Vec<f64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) limit: Option<Limit>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) target: Option<Target>,
}

/// What a row is held against, measured in the same turns.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Limit {
    pub(super) name: String,
    pub(super) values: Vec<f64>,
}

/// What the ratio is meant to be.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Target {
    pub(super) floor: f64,
    pub(super) aim: f64,
}

impl Target {
    /// Whether less is better.
    fn is_ceiling(self) -> bool {
        self.aim < self.floor
    }

    /// `aim`, `floor` or `below`: which of them a ratio reaches.
    pub(super) fn verdict(self, ratio: f64) -> &'static str {
        let reaches = |target: f64| if self.is_ceiling() { ratio <= target } else { ratio >= target };
        match (reaches(self.aim), reaches(self.floor)) {
            (true, _) => "aim",
            (false, true) => "floor",
            (false, false) => "below",
        }
    }
}

/// A ratio of medians with the lowest and the highest ratio of a turn.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Ratio {
    pub(super) median: f64,
    pub(super) lowest: f64,
    pub(super) highest: f64,
}

impl Row {
    pub(super) fn new(name: impl Into<String>, unit: &str) -> Self {
        Self { name: name.into(), unit: unit.into(), values: Vec::new(), limit: None, target: None }
    }

    /// Held against this.
    pub(super) fn against(mut self, limit: impl Into<String>) -> Self {
        self.limit = Some(Limit { name: limit.into(), values: Vec::new() });
        self
    }

    /// The ratio is meant to be so; an aim below the floor means that less is better.
    pub(super) fn target(mut self, floor: f64, aim: f64) -> Self {
        self.target = Some(Target { floor, aim });
        self
    }

    /// The same with a value that stands alone.
    pub(super) fn with(mut self, value: f64) -> Self {
        self.values.push(value);
        self
    }

    /// Notes a turn.
    pub(super) fn turn(&mut self, limit: f64, value: f64) {
        if let Some(held) = &mut self.limit {
            held.values.push(limit);
        }
        self.values.push(value);
    }

    pub(super) fn median(&self) -> f64 {
        median(&self.values)
    }

    pub(super) fn ratio(&self) -> Option<Ratio> {
        let limit = self.limit.as_ref()?;
        let mut turns: Vec<f64> = self.values.iter().zip(&limit.values).map(|(value, limit)| value / limit).collect();
        turns.sort_by(f64::total_cmp);
        let median = median(&self.values) / median(&limit.values);
        Some(Ratio { median, lowest: *turns.first()?, highest: *turns.last()? })
    }
}

/// The middle one; of an even number the mean of the two in the middle. Not a number if there is none.
pub(super) fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let middle = sorted.len() / 2;
    match (sorted.len() % 2, sorted.get(middle)) {
        (_, None) => f64::NAN,
        (1, Some(value)) => *value,
        (_, Some(value)) => (sorted[middle - 1] + value) / 2.0,
    }
}

/// A whole number with a comma before every three digits.
pub(super) fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (index, digit) in digits.char_indices() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// Something against something else.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Curve {
    /// The name of the file, without its extension.
    pub(super) file: String,
    pub(super) title: String,
    pub(super) x: Axis,
    pub(super) y: Axis,
    pub(super) series: Vec<Series>,
}

/// What stands along a side.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Axis {
    pub(super) label: String,
    /// Powers of ten at equal distances.
    pub(super) is_logarithmic: bool,
}

impl Axis {
    pub(super) fn linear(label: &str) -> Self {
        Self { label: label.into(), is_logarithmic: false }
    }

    pub(super) fn logarithmic(label: &str) -> Self {
        Self { label: label.into(), is_logarithmic: true }
    }
}

/// One line of a plot.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Series {
    pub(super) name: String,
    pub(super) points: Vec<(f64, f64)>,
}
