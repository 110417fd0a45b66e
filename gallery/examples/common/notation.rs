//! The notation of formulas in the labels of a figure.
//!
//! A formula stands between backticks: `` `o_w` `` is an italic o with the index w, and `` 10`^{-2}` `` a power of ten. Letters are italic,
//! capital Greek letters and indices of several letters are upright, and `_` and `^` take the next letter or what is in braces.

/// A piece of a label in one style.
#[derive(Debug, Clone, Default)]
struct Run {
    text: String,
    italic: bool,
    height: Height,
}

/// Whether a piece is an index, a power, or neither.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
enum Height {
    #[default]
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

/// Cuts a label into pieces.
fn runs(label: &str) -> Vec<Run> {
    let mut runs: Vec<Run> = Vec::new();
    for (number, piece) in label.split('`').enumerate() {
        if number % 2 == 0 {
            runs.push(Run { text: piece.to_owned(), ..Run::default() });
        } else {
            formula(piece, &mut runs);
        }
    }
    runs.retain(|run| !run.text.is_empty());
    runs
}

fn formula(text: &str, runs: &mut Vec<Run>) {
    let mut letters = text.chars().peekable();
    while let Some(letter) = letters.next() {
        let height = match letter {
            '_' => Height::Index,
            '^' => Height::Power,
            _ => Height::Line,
        };
        let group = match letter {
            '_' | '^' if letters.next_if_eq(&'{').is_some() => {
                letters.by_ref().take_while(|letter| *letter != '}').collect()
            }
            '_' | '^' => letters.next().into_iter().collect(),
            letter => String::from(letter),
        };
        let word = group.chars().filter(|letter| letter.is_alphabetic()).count() > 1;
        for letter in group.chars() {
            let capital_greek = letter.is_uppercase() && !letter.is_ascii();
            let italic = letter.is_alphabetic() && !word && !capital_greek;
            runs.push(Run { text: letter.to_string(), italic, height });
        }
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
    if !label.contains('`') {
        return label.to_owned();
    }
    let mut line = 0.0;
    runs(label)
        .into_iter()
        .map(|Run { text, italic, height }| {
            let [share, below] = height.geometry();
            let step = below * size - line;
            line += step;
            let style = if italic { " font-style=\"italic\"" } else { "" };
            format!("<tspan{style} font-size=\"{:.1}\" dy=\"{step:.2}\">{text}</tspan>", share * size)
        })
        .collect()
}

/// A label in plain Unicode, for pictures whose texts cannot be styled.
pub fn plain(label: &str) -> String {
    let mut at = Height::Line;
    runs(label)
        .into_iter()
        .map(|Run { text, height, .. }| {
            let begins = height == Height::Index && at != Height::Index;
            at = height;
            match height {
                Height::Power => text.chars().map(raised).collect(),
                Height::Index if begins => format!("_{text}"),
                _ => text,
            }
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
