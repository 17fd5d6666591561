// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Drawings as SVG: bars side by side, and lines over numbers that grow.

use std::fmt::Write;

/// Values of some engines under one label.
#[derive(Debug, Clone)]
pub struct Bars {
    /// What is compared.
    pub label: String,
    /// Engines and their values.
    pub values: Vec<(String, f64)>,
}

/// One engine's values, by the number they belong to.
#[derive(Debug, Clone)]
pub struct Line {
    /// The engine.
    pub name: String,
    /// The number and the value.
    pub points: Vec<(f64, f64)>,
}

const COLOURS: [&str; 9] =
    ["#0b6e4f", "#6bbf8a", "#3a7ca5", "#c0392b", "#e08e45", "#8e5ea2", "#7f8c8d", "#b5a642", "#34495e"];
const WIDTH: f64 = 760.0;
const LEFT: f64 = 190.0;
const BAR: f64 = 16.0;

/// Bars from left to right, one below the other, in groups; `show` writes a value.
pub fn bars(title: &str, groups: &[Bars], show: impl Fn(f64) -> String) -> String {
    let names = names(groups.iter().flat_map(|group| group.values.iter().map(|(name, _)| name)));
    let greatest =
        groups.iter().flat_map(|group| &group.values).map(|(_, value)| *value).fold(f64::MIN_POSITIVE, f64::max);
    let scale = (WIDTH - LEFT - 110.0) / greatest;
    let (mut drawn, mut y) = (String::new(), 40.0);
    for group in groups {
        text(&mut drawn, 12.0, y + 12.0, "start", "bold", &group.label);
        y += 20.0;
        for (name, value) in &group.values {
            let (colour, width) = (colour(&names, name), (value * scale).max(1.0));
            text(&mut drawn, LEFT - 8.0, y + 12.0, "end", "normal", name);
            let height = BAR - 3.0;
            let _ =
                writeln!(drawn, r#"<rect x="{LEFT}" y="{y}" width="{width:.1}" height="{height}" fill="{colour}"/>"#);
            text(&mut drawn, LEFT + width + 6.0, y + 12.0, "start", "normal", &show(*value));
            y += BAR;
        }
        y += 10.0;
    }
    document(title, y + 4.0, &drawn)
}

/// Lines, with both axes by powers of ten; `show` writes a value.
pub fn lines(title: &str, below: &str, lines: &[Line], show: impl Fn(f64) -> String) -> String {
    let points = || lines.iter().flat_map(|line| &line.points).filter(|(x, y)| *x > 0.0 && *y > 0.0);
    let range = |of: fn(&(f64, f64)) -> f64| {
        let values = points().map(|point| of(point).log10());
        let (least, greatest) =
            values.fold((f64::MAX, f64::MIN), |(low, high), value| (low.min(value), high.max(value)));
        (least, (greatest - least).max(1e-9))
    };
    let ((x0, dx), (y0, dy)) = (range(|point| point.0), range(|point| point.1));
    let (left, top, width, height) = (80.0, 50.0, WIDTH - 280.0, 260.0);
    let place =
        |(x, y): &(f64, f64)| (left + (x.log10() - x0) / dx * width, top + height - (y.log10() - y0) / dy * height);
    let mut drawn = String::new();
    let _ =
        writeln!(drawn, "<path d=\"M{left} {top}V{}H{}\" fill=\"none\" stroke=\"#999\"/>", top + height, left + width);
    let mut marks: Vec<f64> = points().map(|point| point.0).collect();
    marks.sort_by(f64::total_cmp);
    marks.dedup();
    for mark in marks {
        let (x, _) = place(&(mark, 10_f64.powf(y0)));
        text(&mut drawn, x, top + height + 18.0, "middle", "normal", &format!("{mark}"));
    }
    text(&mut drawn, left + width / 2.0, top + height + 36.0, "middle", "normal", below);
    let names = names(lines.iter().map(|line| &line.name));
    let mut ends = Vec::new();
    for line in lines.iter().filter(|line| !line.points.is_empty()) {
        let colour = colour(&names, &line.name);
        let places: Vec<_> = line.points.iter().filter(|(x, y)| *x > 0.0 && *y > 0.0).map(place).collect();
        let path = places.iter().map(|(x, y)| format!("{x:.1},{y:.1}")).collect::<Vec<_>>().join(" ");
        let _ = writeln!(drawn, r#"<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="2"/>"#);
        for ((x, y), (_, value)) in places.iter().zip(&line.points) {
            let _ = writeln!(
                drawn,
                r#"<circle cx="{x:.1}" cy="{y:.1}" r="3" fill="{colour}"><title>{}</title></circle>"#,
                show(*value)
            );
        }
        if let (Some((x, y)), Some((_, value))) = (places.last(), line.points.last()) {
            ends.push((*y, *x, format!("{}: {}", line.name, show(*value))));
        }
    }
    ends.sort_by(|one, other| one.0.total_cmp(&other.0));
    let mut lowest = f64::MIN;
    for (y, x, label) in ends {
        // Labels that would lie on each other move down.
        lowest = (lowest + 14.0).max(y);
        text(&mut drawn, x + 8.0, lowest + 4.0, "start", "normal", &label);
    }
    document(title, top + height + 50.0, &drawn)
}

fn names<'a>(all: impl Iterator<Item = &'a String>) -> Vec<&'a String> {
    let mut names = Vec::new();
    for name in all {
        if !names.contains(&name) {
            names.push(name);
        }
    }
    names
}

fn colour(names: &[&String], name: &String) -> &'static str {
    let at = names.iter().position(|known| *known == name).unwrap_or_default();
    COLOURS[at % COLOURS.len()]
}

fn text(drawn: &mut String, x: f64, y: f64, anchor: &str, weight: &str, words: &str) {
    let words = words.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;");
    let _ =
        writeln!(drawn, r#"<text x="{x:.1}" y="{y:.1}" text-anchor="{anchor}" font-weight="{weight}">{words}</text>"#);
}

fn document(title: &str, height: f64, drawn: &str) -> String {
    let mut head = String::new();
    text(&mut head, 12.0, 22.0, "start", "bold", title);
    format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height:.0}\" width=\"{WIDTH}\" height=\"{height:.0}\" \
         font-family=\"sans-serif\" font-size=\"12\" fill=\"#222\">\n<rect width=\"100%\" height=\"100%\" fill=\"#fff\"/>\n{head}{drawn}</svg>\n"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_bar_is_the_greatest_value() {
        let group = Bars { label: "a < b & c".into(), values: vec![("stos".into(), 1.0), ("podman".into(), 4.0)] };
        let svg = bars("title", &[group], |value| format!("{value} ms"));
        assert!(svg.contains("a &lt; b &amp; c") && svg.contains("4 ms"), "{svg}");
        let widths: Vec<f64> = svg
            .lines()
            .filter(|line| line.contains("fill=\"#") && line.starts_with("<rect x"))
            .map(|line| line.split("width=\"").nth(1).unwrap().split('"').next().unwrap().parse().unwrap())
            .collect();
        assert_eq!(widths.len(), 2);
        assert!((widths[1] / widths[0] - 4.0).abs() < 0.01, "{widths:?}");
    }

    #[test]
    fn lines_rise_with_their_values() {
        let line = Line { name: "stos".into(), points: vec![(1.0, 10.0), (10.0, 10.0), (1000.0, 20.0)] };
        let svg = lines("title", "containers", &[line], |value| format!("{value} ms"));
        let points = svg.split("points=\"").nth(1).unwrap().split('"').next().unwrap();
        let ys: Vec<f64> = points.split(' ').map(|point| point.split(',').nth(1).unwrap().parse().unwrap()).collect();
        assert!(ys[0] == ys[1] && ys[2] < ys[1], "{points}");
        assert!(svg.contains("stos: 20 ms") && svg.contains(">1000<"), "{svg}");
        assert!(lines("none", "", &[], |_| String::new()).ends_with("</svg>\n"));
    }
}
