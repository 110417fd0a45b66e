//! The notation of formulas in the labels of a figure.
//!
//! A formula stands between backticks: `` `o_w` `` is an o with the index w, and `` 10`^{-2}` `` a power of ten. `_` and `^` take the next letter or
//! what is in braces. Letters are upright, and a label without an index or a power is one piece of text: some programs that turn an SVG
//! into pixels misplace the pieces of a label that is centred.

/// A piece of a label at one height.
#[derive(Debug, Clone)]
struct Run {
    text: String,
    height: Height,
}

/// Whether a piece is an index, a power, or neither.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Height {
    Line,
    Index,
    Power,
}

impl Height {
    /// Size of the letters, and the distance of their line below the line of the label, over the size of the label.
    fn geometry(self) -> [f64; 2] {
        match self {
            Self::Line => [1.0, 0.0],
            Self::Index => [0.72, 0.22],
            Self::Power => [0.72, -0.38],
        }
    }
}

/// Cuts a label into pieces, neighbours of which have different heights.
fn runs(label: &str) -> Vec<Run> {
    let mut runs: Vec<Run> = Vec::new();
    for (number, piece) in label.split('`').enumerate() {
        if number % 2 == 0 {
            append(&mut runs, piece, Height::Line);
        } else {
            formula(piece, &mut runs);
        }
    }
    runs
}

fn append(runs: &mut Vec<Run>, text: &str, height: Height) {
    match runs.last_mut() {
        _ if text.is_empty() => {}
        Some(last) if last.height == height => last.text += text,
        _ => runs.push(Run { text: text.to_owned(), height }),
    }
}

fn formula(text: &str, runs: &mut Vec<Run>) {
    let mut letters = text.chars().peekable();
    while let Some(letter) = letters.next() {
        let height = match letter {
            '_' => Height::Index,
            '^' => Height::Power,
            _ => Height::Line,
        };
        let group: String = match letter {
            '_' | '^' if letters.next_if_eq(&'{').is_some() => {
                letters.by_ref().take_while(|letter| *letter != '}').collect()
            }
            '_' | '^' => letters.next().into_iter().collect(),
            letter => letter.into(),
        };
        append(runs, &group, height);
    }
}

/// An SVG with its labels typeset. Its texts are escaped already, and escapes do not occur in formulas.
pub fn typeset(svg: &str) -> String {
    let mut typeset = String::with_capacity(svg.len());
    let mut rest = svg;
    while let Some((before, element)) = rest.split_once("<text ") {
        let Some((attributes, after)) = element.split_once('>') else { break };
        let Some((label, after)) = after.split_once("</text>") else { break };
        typeset += &format!("{before}<text {attributes}>{}</text>", spans(label, size(attributes)));
        rest = after;
    }
    typeset + rest
}

/// The size of the letters in the attributes of a text.
fn size(attributes: &str) -> f64 {
    const DEFAULT: f64 = 12.0;
    let value = attributes.split_once("font-size=\"").and_then(|(_, after)| after.split_once('"'));
    value.and_then(|(value, _)| value.parse().ok()).unwrap_or(DEFAULT)
}

fn spans(label: &str, size: f64) -> String {
    let runs = runs(label);
    if let [Run { text, height: Height::Line }] = runs.as_slice() {
        return text.clone();
    }
    let mut line = 0.0;
    runs.into_iter()
        .map(|Run { text, height }| {
            let [share, below] = height.geometry();
            let step = below * size - line;
            line += step;
            format!("<tspan font-size=\"{:.1}\" dy=\"{step:.2}\">{text}</tspan>", share * size)
        })
        .collect()
}

/// A label in plain Unicode, for pictures whose texts cannot be styled.
pub fn plain(label: &str) -> String {
    runs(label)
        .into_iter()
        .map(|Run { text, height }| match height {
            Height::Power => text.chars().map(raised).collect(),
            Height::Index => format!("_{text}"),
            Height::Line => text,
        })
        .collect()
}

fn raised(letter: char) -> char {
    const DIGITS: [char; 10] = ['⁰', '¹', '²', '³', '⁴', '⁵', '⁶', '⁷', '⁸', '⁹'];
    match letter {
        '-' | '−' => '⁻',
        digit => digit.to_digit(10).and_then(|digit| DIGITS.get(digit as usize)).copied().unwrap_or(digit),
    }
}

/// The label of a tick of a logarithmic axis: a power of ten, or nothing between powers of ten.
pub fn power_of_ten(value: f64) -> String {
    let power = value.log10();
    if (power - power.round()).abs() > 1e-6 {
        return String::new();
    }
    match power.round() as i32 {
        0 => "1".to_owned(),
        1 => "10".to_owned(),
        power if power < 0 => format!("10`^{{−{}}}`", -power),
        power => format!("10`^{{{power}}}`"),
    }
}
