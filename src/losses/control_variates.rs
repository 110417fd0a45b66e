//! Control variates: terms that vanish on average, and take away much of the noise of other averages.
//!
//! If the controls `x` vanish on average, `t - C x` has the mean of the term `t` for every matrix `C` that does not depend
//! on the nodes. The matrix is that of a least-squares fit to other nodes, and stays fixed during an iteration, so
//! that averages are as smooth in the order parameters as they were if the controls are measured in every evaluation. The fit is to sums over groups
//! of consecutive nodes: what is left of a term in such a sum is the part that quasi-Monte-Carlo does not integrate by
//! itself. (F. J. Hickernell, C. Lemieux and A. B. Owen, Statist. Sci. 20, 1 (2005).)

use nalgebra::{DMatrix, DVector};

/// Penalty on the squares of the coefficients in the fit, relative to the squares of the controls. It decides where
/// controls are linearly dependent.
const PENALTY: f64 = 1e-9;
/// Smallest number of groups per control. The noise of the coefficients adds a part of its inverse to the variance.
const GROUPS_PER_CONTROL: usize = 8;

/// The coefficients of `CONTROLS` controls in each of `TERMS` averages.
pub(crate) struct ControlVariates<const TERMS: usize, const CONTROLS: usize>([[f64; CONTROLS]; TERMS]);

impl<const TERMS: usize, const CONTROLS: usize> ControlVariates<TERMS, CONTROLS> {
    /// The fit, with a constant, to sums of terms and controls over groups of nodes. It is `None` if the groups are too few, or if a number
    /// is not finite.
    pub(crate) fn fitted(groups: &[([f64; TERMS], [f64; CONTROLS])]) -> Option<Self> {
        let finite =
            groups.iter().all(|(terms, controls)| terms.iter().chain(controls).all(|x| x.is_finite()));
        if groups.len() < GROUPS_PER_CONTROL * CONTROLS || !finite {
            return None;
        }
        let centred = |column: &dyn Fn(usize) -> f64| {
            let column = DVector::from_fn(groups.len(), |i, _| column(i));
            let mean = column.mean();
            column.add_scalar(-mean)
        };
        let controls: [DVector<f64>; CONTROLS] = std::array::from_fn(|j| centred(&|i| groups[i].1[j]));
        let sizes = controls.each_ref().map(DVector::norm);
        // A control that vanishes everywhere, such as one that is switched off, gets the coefficient zero.
        let scaled = |j: usize, x: f64| if sizes[j] > 0.0 { x / sizes[j] } else { 0.0 };
        let controls = DMatrix::from_fn(groups.len(), CONTROLS, |i, j| scaled(j, controls[j][i]));
        let penalty = DMatrix::from_diagonal_element(CONTROLS, CONTROLS, PENALTY);
        let decomposition = (controls.tr_mul(&controls) + penalty).cholesky()?;
        let coefficients: [[f64; CONTROLS]; TERMS] = std::array::from_fn(|k| {
            let fit = decomposition.solve(&controls.tr_mul(&centred(&|i| groups[i].0[k])));
            std::array::from_fn(|j| scaled(j, fit[j]))
        });
        coefficients.iter().flatten().all(|c| c.is_finite()).then_some(Self(coefficients))
    }

    /// What the means of the controls tell of the noise of the terms.
    pub(crate) fn noise(&self, controls: &[f64; CONTROLS]) -> [f64; TERMS] {
        self.0.map(|coefficients| coefficients.iter().zip(controls).map(|(c, x)| c * x).sum())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Groups in which the first term is linear in two controls, of which there are three, the last always zero, and the second term does
    /// not depend on them.
    fn groups(count: usize) -> Vec<([f64; 2], [f64; 3])> {
        (0..count)
            .map(|i| {
                let [a, b, c] = [0.37, 1.91, 2.63].map(|frequency| (frequency * i as f64).sin());
                ([5.0 + 2.0 * a - 3.0 * b, c], [a, 1e3 * b, 0.0])
            })
            .collect()
    }

    #[test]
    fn a_term_that_is_linear_in_the_controls_loses_all_noise() {
        let groups = groups(400);
        let fit = ControlVariates::fitted(&groups).unwrap();
        for (terms, controls) in &groups {
            let [first, second] = fit.noise(controls);
            approx::assert_relative_eq!(terms[0] - first, 5.0, max_relative = 1e-7);
            assert!(second.abs() < 0.1, "{second}");
        }
    }

    #[test]
    fn controls_that_depend_on_each_other_are_no_obstacle() {
        let groups: Vec<_> =
            groups(400).into_iter().map(|(t, [a, b, _])| (t, [a, b, a + 1e-3 * b])).collect();
        let fit = ControlVariates::fitted(&groups).unwrap();
        for (terms, controls) in &groups {
            approx::assert_relative_eq!(terms[0] - fit.noise(controls)[0], 5.0, max_relative = 1e-6);
        }
    }

    #[test]
    fn few_groups_and_numbers_that_are_not_finite_give_no_fit() {
        assert!(ControlVariates::fitted(&groups(20)).is_none());
        for bad in [f64::NAN, f64::INFINITY] {
            let mut groups = groups(400);
            groups[7].0[1] = bad;
            assert!(ControlVariates::fitted(&groups).is_none());
            groups[7] = ([1.0; 2], [bad; 3]);
            assert!(ControlVariates::fitted(&groups).is_none());
        }
    }
}
