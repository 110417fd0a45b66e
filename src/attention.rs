//! Which tokens the queries and the keys come from, and the geometry of the `T x T` logits that follows from it.

use serde::{Deserialize, Serialize};

use crate::activation::Unseen;

/// Whether the head attends from a sequence to itself with tied weights, or to another sequence with separate weights for
/// queries and keys.
///
/// The logits are Gaussian on new sequences. With `Q0 = |S*|_F^2/D^2`, `Q = |S-hat|_F^2/D^2` and `M = Tr(S-hat^T S*)/D^2`, the true
/// and the learned logits have the covariance `c [[Q0, M], [M, Q]]` in every one of `K` orthonormal coordinates, and are independent from
/// coordinate to coordinate:
///
/// | | logits | coordinates | `K` | `K'` seen by softmax | `c` |
/// |---|---|---|---|---|---|
/// | tied | `(X S X^T - Tr(S) I)/D`, `S` symmetric | `h_aa`, `sqrt(2) h_ab` for `a < b` | `T(T+1)/2` | `K - 1` | 2 |
/// | cross | `X_q S X_k^T/D`, any `S` | all `h_ab` | `T^2` | `T^2 - T` | 1 |
///
/// The variance of the label noise is `Delta` in every coordinate.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Attention {
    /// Queries and keys have the same weights and see the same sequence, so that `S = W W^T` is positive and the logits
    /// are symmetric.
    #[default]
    Tied,
    /// Queries and keys have weights of their own and see independent sequences, so that `S = U V^T` is any matrix and no two
    /// logits are related.
    Cross,
}

impl Attention {
    /// The name in the schema.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Tied => "tied",
            Self::Cross => "cross",
        }
    }

    /// Whether this is the default.
    pub(crate) fn is_tied(&self) -> bool {
        *self == Self::Tied
    }

    /// Number `K` of orthonormal coordinates of the logits of `tokens` tokens.
    #[must_use]
    pub fn coordinates(self, tokens: usize) -> usize {
        match self {
            Self::Tied => dimension(tokens),
            Self::Cross => tokens.saturating_mul(tokens),
        }
    }

    /// Number `K'` of the coordinates that an activation sees.
    pub(crate) fn seen(self, tokens: usize, unseen: Unseen) -> usize {
        let hidden = match (unseen, self) {
            (Unseen::Nothing, _) => 0,
            // Of all row shifts, only that along 11^T is symmetric.
            (Unseen::RowShifts, Self::Tied) => 1,
            (Unseen::RowShifts, Self::Cross) => tokens,
        };
        self.coordinates(tokens).saturating_sub(hidden)
    }

    /// Number of factors of the weights, each of which has a ridge.
    pub(crate) fn factors(self) -> f64 {
        match self {
            Self::Tied => 1.0,
            Self::Cross => 2.0,
        }
    }

    /// The variance `c` of a coordinate of the logits, in units of `Q`.
    #[must_use]
    pub fn logit_variance(self) -> f64 {
        match self {
            Self::Tied => 2.0,
            Self::Cross => 1.0,
        }
    }
}

/// Dimension `K = T(T+1)/2` of `Sym(T)`.
#[must_use]
pub const fn dimension(tokens: usize) -> usize {
    tokens.saturating_mul(tokens.saturating_add(1)) / 2
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn coordinates_of_three_tokens() {
        for (attention, all, softmax) in [(Attention::Tied, 6, 5), (Attention::Cross, 9, 6)] {
            assert_eq!(attention.coordinates(3), all);
            assert_eq!(attention.seen(3, Unseen::Nothing), all);
            assert_eq!(attention.seen(3, Unseen::RowShifts), softmax);
        }
    }
}
