//! A curve as a plain SVG: lines over a grid, legible in light and dark.

use std::fmt::Write;

use super::table::number;
use crate::figure::{Axis, Curve};

const WIDTH: f64 = 720.0;
const HEIGHT: f64 = 400.0;
const LEFT: f64 = 70.0;
const RIGHT: f64 = 20.0;
const TOP: f64 = 40.0;
const BOTTOM: f64 = 50.0;
const LINE_HEIGHT: f64 = 16.0;
const COLORS: [&str; 6] = ["#1f77b4", "#d62728", "#2ca02c", "#9467bd", "#ff7f0e", "#17becf"];

/// The plot of a curve.
pub(super) fn svg(curve: &Curve) -> String {
    let points = || curve.series.iter().flat_map(|series| &series.points);
    let x = Scale::of(&curve.x, points().map(|point| point.0), LEFT, WIDTH - RIGHT);
    let y = Scale::of(&curve.y, points().map(|point| point.1), HEIGHT - BOTTOM, TOP);
    let mut text = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" font-family=\"sans-serif\" font-size=\"12\">\n\
         <rect width=\"{WIDTH}\" height=\"{HEIGHT}\" fill=\"#fff\"/>\n"
    );
    label(&mut text, WIDTH / 2.0, 20.0, "middle", &curve.title);
    label(&mut text, (LEFT + WIDTH - RIGHT) / 2.0, HEIGHT - 12.0, "middle", &curve.x.label);
    label(&mut text, 8.0, TOP - 12.0, "start", &curve.y.label);
    for (value, at) in x.ticks() {
        rule(&mut text, (at, TOP), (at, HEIGHT - BOTTOM));
        label(&mut text, at, HEIGHT - BOTTOM + 18.0, "middle", &number(value));
    }
    for (value, at) in y.ticks() {
        rule(&mut text, (LEFT, at), (WIDTH - RIGHT, at));
        label(&mut text, LEFT - 6.0, at + 4.0, "end", &number(value));
    }
    for (index, series) in curve.series.iter().enumerate() {
        let color = COLORS[index % COLORS.len()];
        let place = |point: &(f64, f64)| format!("{:.1},{:.1}", x.place(point.0), y.place(point.1));
        let places: Vec<String> = series.points.iter().map(place).collect();
        line(
            &mut text,
            &format!("<polyline fill=\"none\" stroke=\"{color}\" stroke-width=\"2\" points=\"{}\"/>", places.join(" ")),
        );
        if series.points.len() <= 12 {
            for point in &series.points {
                let (at_x, at_y) = (x.place(point.0), y.place(point.1));
                line(&mut text, &format!("<circle cx=\"{at_x:.1}\" cy=\"{at_y:.1}\" r=\"3\" fill=\"{color}\"/>"));
            }
        }
        let at = TOP + LINE_HEIGHT * (index as f64 + 1.0);
        line(
            &mut text,
            &format!("<text x=\"{}\" y=\"{at:.1}\" fill=\"{color}\">{}</text>", LEFT + 10.0, escaped(&series.name)),
        );
    }
    text.push_str("</svg>\n");
    text
}

/// Where values lie along a side.
struct Scale {
    is_logarithmic: bool,
    lowest: f64,
    highest: f64,
    from: f64,
    to: f64,
}

impl Scale {
    fn of(axis: &Axis, values: impl Iterator<Item = f64> + Clone, from: f64, to: f64) -> Self {
        let finite = values.filter(|value| value.is_finite());
        let highest = finite.clone().fold(f64::MIN_POSITIVE, f64::max);
        let (lowest, highest) = if axis.is_logarithmic {
            // What is nothing has no logarithm and is drawn at the left end.
            let lowest = finite.filter(|value| *value > 0.0).fold(highest, f64::min);
            let (low, high) = (lowest.log10().floor(), highest.log10().ceil());
            (low, if high > low { high } else { low + 1.0 })
        } else {
            (0.0, highest * 1.15)
        };
        Self { is_logarithmic: axis.is_logarithmic, lowest, highest, from, to }
    }

    fn place(&self, value: f64) -> f64 {
        let value = match self.is_logarithmic {
            true if value <= 0.0 => self.lowest,
            true => value.log10(),
            false => value,
        };
        self.from + (value - self.lowest) / (self.highest - self.lowest) * (self.to - self.from)
    }

    /// The values at which the grid has its lines, and their places.
    fn ticks(&self) -> Vec<(f64, f64)> {
        if self.is_logarithmic {
            let powers = self.lowest as i32..=self.highest as i32;
            return powers.map(|power| 10_f64.powi(power)).map(|value| (value, self.place(value))).collect();
        }
        let rough = self.highest / 6.0;
        let power = 10_f64.powf(rough.log10().floor());
        let step = [1.0, 2.0, 5.0, 10.0].map(|times| times * power).into_iter().find(|step| *step >= rough);
        let step = step.unwrap_or(rough);
        let count = (self.highest / step) as u32;
        (0..=count).map(|index| f64::from(index) * step).map(|value| (value, self.place(value))).collect()
    }
}

fn rule(text: &mut String, from: (f64, f64), to: (f64, f64)) {
    let ((x1, y1), (x2, y2)) = (from, to);
    line(text, &format!("<line x1=\"{x1:.1}\" y1=\"{y1:.1}\" x2=\"{x2:.1}\" y2=\"{y2:.1}\" stroke=\"#ddd\"/>"));
}

fn label(text: &mut String, x: f64, y: f64, anchor: &str, words: &str) {
    line(text, &format!("<text x=\"{x:.1}\" y=\"{y:.1}\" text-anchor=\"{anchor}\">{}</text>", escaped(words)));
}

fn escaped(words: &str) -> String {
    words.replace('&', "&amp;").replace('<', "&lt;")
}

fn line(text: &mut String, line: &str) {
    // Writing to a string cannot fail.
    let _ = writeln!(text, "{line}");
}
