//! Gaussian integration by parts.

/// The slopes `[a, b]` of the least-squares fit `g = a x + b y`, from `[g.x, g.y]` and `[|x|^2, x.y, |y|^2]` on the same
/// nodes. If `x` and `y` are independent standard normals, `a` is the mean of `div_x g` and `b` that of `div_y g`, per
/// coordinate. The second moments of the same nodes remove the error of the linear part of `g`.
pub(crate) fn slopes([gx, gy]: [f64; 2], [xx, xy, yy]: [f64; 3]) -> [f64; 2] {
    let determinant = xx * yy - xy * xy;
    [(yy * gx - xy * gy) / determinant, (xx * gy - xy * gx) / determinant]
}
