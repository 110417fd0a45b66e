//! The variances of the columns of the true perturbation.

use serde::{Deserialize, Serialize, Serializer};

use crate::error::{Error, Number};

/// Range of a variance. The squares of numbers in this range stay far inside the range of double precision.
pub(super) const RANGE: [f64; 2] = [1e-100, 1e100];
/// Largest number of columns.
pub(super) const MAX_COLUMNS: usize = 8;

/// One variance for each column, in the order in which they were given.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Variances {
    /// The numbers beyond the last column are 0.
    all: [f64; MAX_COLUMNS],
    columns: usize,
}

/// A number for a single column, or one number per column.
#[derive(Debug, Clone, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(untagged, expecting = "lora.q0: a number, or a list of numbers")]
#[cfg_attr(feature = "schema", schemars(rename = "Variances"))]
pub(super) enum VariancesFields {
    /// The variance of a single column.
    One(f64),
    /// One variance per column, 1 to 8 of them.
    Each(Vec<f64>),
}

impl Default for VariancesFields {
    fn default() -> Self {
        Self::One(1.0)
    }
}

impl TryFrom<VariancesFields> for Variances {
    type Error = Error;

    fn try_from(fields: VariancesFields) -> Result<Self, Error> {
        match fields {
            VariancesFields::One(q0) => Self::new(&[q0]),
            VariancesFields::Each(q0) => Self::new(&q0),
        }
    }
}

impl Serialize for Variances {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self.as_slice() {
            [q0] => serializer.serialize_f64(*q0),
            each => serializer.collect_seq(each),
        }
    }
}

impl Variances {
    /// A single column of variance 1.
    pub(super) const ONE: Self = {
        let mut all = [0.0; MAX_COLUMNS];
        all[0] = 1.0;
        Self { all, columns: 1 }
    };

    pub(super) fn new(q0: &[f64]) -> Result<Self, Error> {
        let columns = q0.len();
        if !(1..=MAX_COLUMNS).contains(&columns) {
            let allowed = format!("1 to {} of them", MAX_COLUMNS);
            return Err(Error::invalid("lora.q0", format!("{columns} variances"), allowed));
        }
        q0.iter().try_for_each(|q0| check_variance(*q0))?;
        let mut all = [0.0; MAX_COLUMNS];
        all[..columns].copy_from_slice(q0);
        Ok(Self { all, columns })
    }

    pub(super) fn as_slice(&self) -> &[f64] {
        &self.all[..self.columns]
    }

    pub(super) fn largest(&self) -> f64 {
        self.all.iter().copied().fold(0.0, f64::max)
    }

    /// The root of the sum of squares. The squares are taken in units of the largest number.
    pub(super) fn norm(&self) -> f64 {
        match self.as_slice() {
            [q0] => *q0,
            each => {
                let unit = self.largest();
                unit * each.iter().map(|q0| (q0 / unit) * (q0 / unit)).sum::<f64>().sqrt()
            }
        }
    }
}

/// Checks a variance `lora.q0` of the true perturbation.
pub(super) fn check_variance(q0: f64) -> Result<(), Error> {
    let [low, high] = RANGE;
    if (low..=high).contains(&q0) {
        Ok(())
    } else {
        Err(Error::invalid("lora.q0", q0, format!("between {} and {}", Number(low), Number(high))))
    }
}
