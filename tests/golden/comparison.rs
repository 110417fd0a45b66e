//! The differences between two outcomes, field by field.

use std::fmt;

use serde_json::{Map, Value};

/// The accuracy with which numbers are compared. Texts, booleans, nulls and the presence of fields are always
/// compared exactly.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Accuracy {
    /// Numbers are compared to the last bit.
    Bits,
    /// Numbers are compared to [`RELATIVE`], plus the rounding of differences between numbers of order one,
    /// which may depend on the mathematics library. Integers are compared exactly. The exceptions are the
    /// iterations of a stage that was solved to rounding, and of a stage whose numbers are not finite: there
    /// the last bits decide when to stop.
    Rounding,
    /// A number with a standard error is compared to [`SHARE`] of its error. A standard error is compared to
    /// the same share of its value, and other averages to the same share of the largest relative standard
    /// error of the stage. The residual and the number of iterations are not compared, because the search for
    /// a solution may differ.
    Statistical,
    /// Numbers and integers are not compared, because they depend on the last bits of the arithmetic.
    Words,
}

/// Relative difference of two numbers that count as equal on two machines.
const RELATIVE: f64 = 1e-9;
/// Absolute difference of two numbers that count as equal on two machines. The smallest numbers are
/// differences of terms of order one, `Q0 - 2M + Q` for example, which have several rounding errors of 2e-16
/// each.
const ROUNDING: f64 = 1e-14;
/// Absolute difference for a residual, `|ln F(x) - ln x|`, in which `F` is an average over up to `2^12`
/// numbers of order one.
const ROUNDING_OF_RESIDUAL: f64 = 1e-12;
/// Share of a standard error by which a deliberate change may move a number.
const SHARE: f64 = 0.1;

const STD_ERROR: &str = "std_error";
const RESIDUAL: &str = "residual";
const ITERATIONS: &str = "iterations";

/// One field that differs. A value is `None` if the field is absent.
#[derive(Debug, Clone, PartialEq)]
pub struct Difference {
    pub path: String,
    pub old: Option<Value>,
    pub new: Option<Value>,
}

impl fmt::Display for Difference {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = |value: &Option<Value>| value.as_ref().map_or("absent".to_owned(), Value::to_string);
        write!(formatter, "{}: {} -> {}", self.path, text(&self.old), text(&self.new))
    }
}

/// Returns every field that differs.
pub fn differences(old: &Value, new: &Value, accuracy: Accuracy) -> Vec<Difference> {
    let mut comparison = Comparison { accuracy, differences: Vec::new() };
    comparison.values(&Place::default(), Some(old), Some(new));
    comparison.differences
}

struct Comparison {
    accuracy: Accuracy,
    differences: Vec<Difference>,
}

/// The place in the outcome, and the stage around it.
#[derive(Default, Clone)]
struct Place<'a> {
    path: String,
    name: &'a str,
    /// The parent is the table of standard errors.
    is_std_error: bool,
    stage: Option<Stage<'a>>,
}

/// The information of the recorded outcome about the stage around a number.
#[derive(Clone, Copy)]
struct Stage<'a> {
    std_error: &'a Map<String, Value>,
    /// The largest standard error, relative to the number that it belongs to.
    relative: f64,
    /// Whether the residual is nothing but rounding, or is not a number.
    ends_in_rounding: bool,
}

impl<'a> Stage<'a> {
    /// The standard errors of `fields`, if they have any.
    fn of(fields: &'a Map<String, Value>) -> Option<Self> {
        let std_error = fields.get(STD_ERROR)?.as_object()?;
        let value = |name: &str| {
            let tables = ["order", "errors"].iter().filter_map(|table| fields.get(*table)?.get(name));
            tables.chain(fields.get(name)).find_map(Value::as_f64)
        };
        let relative =
            std_error.iter().filter_map(|(name, error)| Some(error.as_f64()? / value(name)?.abs()));
        // The relative error of a number that vanishes says nothing about the other numbers.
        let relative = relative.filter(|x| x.is_finite()).fold(0.0, f64::max).min(1.0);
        let residual = fields.get(RESIDUAL).and_then(Value::as_f64);
        let ends_in_rounding = residual.is_none_or(|residual| residual <= ROUNDING_OF_RESIDUAL);
        Some(Self { std_error, relative, ends_in_rounding })
    }
}

impl<'a> Place<'a> {
    fn field(&self, fields: Option<&'a Map<String, Value>>, name: &'a str) -> Self {
        let path = if self.path.is_empty() { name.to_owned() } else { format!("{}.{name}", self.path) };
        let stage = fields.and_then(Stage::of).or(self.stage);
        Self { path, name, is_std_error: self.name == STD_ERROR, stage }
    }

    /// The amount by which a number that was `old` may have changed in rounding.
    fn rounding(&self, old: f64, new: f64) -> f64 {
        let absolute = if self.name == RESIDUAL { ROUNDING_OF_RESIDUAL } else { ROUNDING };
        RELATIVE * old.abs().max(new.abs()) + absolute
    }

    /// The amount by which a number that was `old` may have changed deliberately.
    fn statistical(&self, old: f64) -> f64 {
        let Some(Stage { std_error, relative, .. }) = self.stage else { return 0.0 };
        match std_error.get(self.name).and_then(Value::as_f64) {
            _ if self.is_std_error => SHARE * old.abs(),
            Some(own) => SHARE * own,
            None => SHARE * relative * old.abs(),
        }
    }
}

impl Comparison {
    fn values<'a>(&mut self, place: &Place<'a>, old: Option<&'a Value>, new: Option<&'a Value>) {
        let same = match (old, new) {
            (Some(Value::Object(old)), Some(Value::Object(new))) => return self.fields(place, old, new),
            (Some(Value::Number(old)), Some(Value::Number(new))) => match (old.is_f64(), new.is_f64()) {
                (true, true) => self.same(place, old.as_f64(), new.as_f64()),
                (false, false) => old == new || self.may_change_integer(place),
                _ => false,
            },
            (Some(Value::String(old)), Some(Value::String(new))) => self.same_text(place, old, new),
            (old, new) => old == new,
        };
        if !same {
            self.differences.push(Difference {
                path: place.path.clone(),
                old: old.cloned(),
                new: new.cloned(),
            });
        }
    }

    fn fields<'a>(&mut self, place: &Place<'a>, old: &'a Map<String, Value>, new: &'a Map<String, Value>) {
        let added = new.keys().filter(|name| !old.contains_key(*name));
        for name in old.keys().chain(added) {
            self.values(&place.field(Some(old), name), old.get(name), new.get(name));
        }
    }

    fn may_change_integer(&self, place: &Place<'_>) -> bool {
        match self.accuracy {
            Accuracy::Bits => false,
            Accuracy::Rounding => {
                place.name == ITERATIONS && place.stage.is_some_and(|stage| stage.ends_in_rounding)
            }
            Accuracy::Statistical => place.name == ITERATIONS,
            Accuracy::Words => true,
        }
    }

    fn same(&self, place: &Place<'_>, old: Option<f64>, new: Option<f64>) -> bool {
        let (Some(old), Some(new)) = (old, new) else { return false };
        let change = (new - old).abs();
        match self.accuracy {
            Accuracy::Bits => old.to_bits() == new.to_bits(),
            Accuracy::Rounding => change <= place.rounding(old, new),
            Accuracy::Words => true,
            Accuracy::Statistical => {
                place.name == RESIDUAL || change <= place.rounding(old, new) + place.statistical(old)
            }
        }
    }

    /// Compares two messages. They may contain numbers, as words of their own.
    fn same_text(&self, place: &Place<'_>, old: &str, new: &str) -> bool {
        let words = |text: &str| text.split(' ').map(str::to_owned).collect::<Vec<_>>();
        let number =
            |word: &str| word.trim_end_matches([',', ':']).parse::<f64>().ok().filter(|x| x.is_finite());
        let (old, new) = (words(old), words(new));
        old.len() == new.len()
            && old.iter().zip(&new).all(|(old, new)| {
                old == new || matches!((number(old), number(new)), (Some(x), Some(y)) if self.same(place, Some(x), Some(y)))
            })
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn outcome() -> Value {
        json!({"outcome": {"lora": {
            "order": {"q": 0.5, "v": 0.25},
            "errors": {"test": 2.0},
            "validity": {"jump": 0.01, "reliable": true, "verdict": "good"},
            "effective_noise": null,
            "status": "converged",
            "residual": 1e-11,
            "iterations": 12,
            "std_error": {"q": 1e-3, "test": 1e-2}
        }}})
    }

    /// The accuracies at which numbers are compared.
    const COUNTING: [Accuracy; 3] = [Accuracy::Bits, Accuracy::Rounding, Accuracy::Statistical];
    const ALL: [Accuracy; 4] = [Accuracy::Bits, Accuracy::Rounding, Accuracy::Statistical, Accuracy::Words];

    /// The paths that differ after a field of `outcome()` has become `value`.
    fn paths(pointer: &str, value: Value, accuracy: Accuracy) -> Vec<String> {
        let mut new = outcome();
        *new.pointer_mut(&format!("/outcome/lora/{pointer}")).unwrap() = value;
        differences(&outcome(), &new, accuracy).into_iter().map(|d| d.path).collect()
    }

    fn passes(pointer: &str, value: Value, accuracy: Accuracy) -> bool {
        let paths = paths(pointer, value, accuracy);
        if !paths.is_empty() {
            assert_eq!(paths, [format!("outcome.lora.{}", pointer.replace('/', "."))]);
        }
        paths.is_empty()
    }

    #[test]
    fn an_outcome_is_itself() {
        for accuracy in ALL {
            assert_eq!(differences(&outcome(), &outcome(), accuracy), []);
        }
    }

    #[test]
    fn a_perturbed_number() {
        let next = f64::from_bits(0.5_f64.to_bits() + 1);
        // Each value is listed with its result in each of the three ways of comparing it with 0.5 +- 1e-3.
        for (value, expected) in [
            (next, [false, true, true]),
            (0.5 * (1.0 + 0.9e-9), [false, true, true]),
            (0.5 * (1.0 + 1.1e-9), [false, false, true]),
            (0.5 + 0.9e-4, [false, false, true]),
            (0.5 - 1.1e-4, [false, false, false]),
            (-0.5, [false, false, false]),
        ] {
            assert_eq!(
                COUNTING.map(|accuracy| passes("order/q", json!(value), accuracy)),
                expected,
                "{value}"
            );
        }
        assert_eq!(differences(&json!(0.0), &json!(-0.0), Accuracy::Bits).len(), 1);
    }

    #[test]
    fn numbers_of_other_kinds() {
        // A standard error is compared to a tenth of its value. A number without one is compared to a tenth
        // of the largest relative standard error, here 5e-3 of the test error.
        for (pointer, value, expected) in [
            ("std_error/q", 1.05e-3, [false, false, true]),
            ("std_error/q", 1.15e-3, [false, false, false]),
            ("order/v", 0.25 * (1.0 + 4.9e-4), [false, false, true]),
            ("order/v", 0.25 * (1.0 + 5.1e-4), [false, false, false]),
            ("validity/jump", 0.01 * (1.0 + 5.1e-4), [false, false, false]),
            ("residual", 1.09e-11, [false, true, true]),
            ("residual", 2.0e-11, [false, false, true]),
        ] {
            assert_eq!(
                COUNTING.map(|accuracy| passes(pointer, json!(value), accuracy)),
                expected,
                "{pointer} {value}"
            );
        }
        assert_eq!(COUNTING.map(|accuracy| passes("iterations", json!(13), accuracy)), [false, false, true]);
        assert_eq!(COUNTING.map(|accuracy| passes("iterations", json!(12.0), accuracy)), [false; 3]);
    }

    #[test]
    fn iterations_to_rounding() {
        for (residual, expected) in [
            (json!(1e-11), [false, false, true]),
            (json!(1e-15), [false, true, true]),
            (Value::Null, [false, true, true]),
        ] {
            let [old, new] = [12, 13].map(|iterations| {
                json!({"pretrain": {"residual": residual, "iterations": iterations, "std_error": {}}})
            });
            let found = COUNTING.map(|accuracy| differences(&old, &new, accuracy).is_empty());
            assert_eq!(found, expected, "{residual}");
        }
        let integer = |x: i32| json!({"residual": 0.0, "other": x, "std_error": {}});
        assert_eq!(differences(&integer(1), &integer(2), Accuracy::Rounding).len(), 1);
    }

    #[test]
    fn words_only() {
        assert!(passes("order/q", json!(-7.0), Accuracy::Words));
        assert!(passes("iterations", json!(13), Accuracy::Words));
        assert!(!passes("iterations", json!(12.0), Accuracy::Words), "not the same kind of number");
    }

    #[test]
    fn text_booleans_and_nulls() {
        for accuracy in ALL {
            assert!(!passes("status", json!("collapsed"), accuracy));
            assert!(!passes("validity/verdict", json!("marginal"), accuracy));
            assert!(!passes("validity/reliable", json!(false), accuracy));
            assert!(!passes("effective_noise", json!(1.0), accuracy));
            assert!(!passes("order/q", Value::Null, accuracy));
            assert!(!passes("residual", Value::Null, accuracy));
            assert!(!passes("iterations", Value::Null, accuracy));
        }
    }

    #[test]
    fn missing_and_added_fields() {
        for accuracy in ALL {
            let mut fewer = outcome();
            fewer["outcome"]["lora"]["std_error"].as_object_mut().unwrap().remove("q");
            let lost = differences(&outcome(), &fewer, accuracy);
            let gained = differences(&fewer, &outcome(), accuracy);
            assert_eq!(
                lost.iter().map(ToString::to_string).collect::<Vec<_>>(),
                ["outcome.lora.std_error.q: 0.001 -> absent"]
            );
            assert_eq!(
                gained.iter().map(ToString::to_string).collect::<Vec<_>>(),
                ["outcome.lora.std_error.q: absent -> 0.001"]
            );
            let error = json!({"error": {"kind": "conflict", "message": "x"}});
            assert_eq!(
                differences(&outcome(), &error, accuracy).len(),
                2,
                "an outcome lost, an error gained"
            );
        }
    }

    #[test]
    fn messages() {
        let message = |text: &str| json!({"error": {"message": text}});
        let old = message("pretrain.lambda = 0: must be > 0 below alpha = 0.5, always");
        for (text, expected) in [
            ("pretrain.lambda = 0: must be > 0 below alpha = 0.5, always", [true; 3]),
            (
                "pretrain.lambda = 0: must be > 0 below alpha = 0.5000000000000001, always",
                [false, true, true],
            ),
            ("pretrain.lambda = 0: must be > 0 below alpha = 0.51, always", [false; 3]),
            ("pretrain.lambda = 0: must be > 0 above alpha = 0.5, always", [false; 3]),
            ("pretrain.lambda = 0: must be > 0 below alpha = 0.5", [false; 3]),
        ] {
            let found = COUNTING.map(|accuracy| differences(&old, &message(text), accuracy).is_empty());
            assert_eq!(found, expected, "{text}");
        }
    }

    /// Without standard errors (one token, or one scramble), no deliberate change is accepted.
    #[test]
    fn a_statistical_comparison_needs_errors() {
        let [old, new] = [0.5, 0.5 + 1e-6].map(|q| json!({"lora": {"order": {"q": q}, "std_error": {}}}));
        assert_eq!(differences(&old, &new, Accuracy::Statistical).len(), 1);
    }
}
