//! Objectives and their derivatives at the points of a batch of samples.

/// The objectives of some samples and their derivatives, one sample after the other.
#[derive(Debug, Clone, Default)]
pub(crate) struct LocalExpansion {
    pub(crate) x: Vec<f64>,
    pub(crate) value: Vec<f64>,
    /// The loss, without the pull.
    pub(crate) loss: Vec<f64>,
    /// The gradient of the loss in the logits, a `T x T` matrix.
    pub(crate) slope: Vec<f64>,
    pub(crate) gradient: Vec<f64>,
    /// The Hessian of the objective. While a descent is under way, it is that of Gauss and Newton if the
    /// activation has no second derivative.
    pub(crate) hessian: Vec<f64>,
    /// The derivatives of the attention along all coordinates: `n` matrices for each sample.
    pub(crate) images: Vec<f64>,
}

/// Copies the block of `source` with the number `from` to the block of `target` with the number `to`.
fn copy_block(target: &mut [f64], to: usize, source: &[f64], from: usize, size: usize) {
    target[to * size..(to + 1) * size].copy_from_slice(&source[from * size..(from + 1) * size]);
}

impl LocalExpansion {
    /// Replaces the numbers of sample `to` by those of sample `from` of `other`.
    pub(super) fn replace(&mut self, to: usize, other: &Self, from: usize) {
        let n = other.x.len() / other.value.len();
        let square = other.slope.len() / other.value.len();
        // Derivatives in closed form leave the images out.
        let image = other.images.len() / other.value.len();
        copy_block(&mut self.x, to, &other.x, from, n);
        copy_block(&mut self.value, to, &other.value, from, 1);
        copy_block(&mut self.loss, to, &other.loss, from, 1);
        copy_block(&mut self.slope, to, &other.slope, from, square);
        copy_block(&mut self.gradient, to, &other.gradient, from, n);
        copy_block(&mut self.hessian, to, &other.hessian, from, n * n);
        copy_block(&mut self.images, to, &other.images, from, image);
    }
}
