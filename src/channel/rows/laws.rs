//! The laws of the logits of two matrices.

/// The law of two centred normals. Those of two matrices of logits are per orthonormal coordinate of `Sym(T)`, and in units of the
/// temperature.
#[derive(Debug, Clone, Copy)]
pub(crate) struct NormalPair {
    pub(crate) variances: [f64; 2],
    pub(crate) covariance: f64,
}

/// The laws of two perturbed matrices of logits.
#[derive(Debug, Clone, Copy)]
pub(crate) struct PerturbedPair {
    pub(crate) logits: NormalPair,
    /// The law of both `chi` at one token.
    pub(crate) chi: NormalPair,
    /// The factor `c` of the perturbation, in units of the temperature.
    pub(crate) coupling: f64,
}

impl NormalPair {
    /// The correlation of the two normals, and zero if one of them vanishes.
    pub(super) fn correlation(&self) -> f64 {
        let [one, two] = self.variances;
        let norm = (one * two).sqrt();
        if norm > 0.0 { (self.covariance / norm).clamp(-1.0, 1.0) } else { 0.0 }
    }
}

impl PerturbedPair {
    /// Two matrices without a perturbation.
    pub(super) fn unperturbed(logits: NormalPair) -> Self {
        let none = NormalPair { variances: [0.0; 2], covariance: 0.0 };
        Self { logits, chi: none, coupling: 0.0 }
    }
}
