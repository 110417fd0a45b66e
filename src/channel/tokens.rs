//! The step from a number of tokens known at run time to code that is compiled for it.

/// The value of an expression, a `Result`, in which `$tokens` is a constant. It is compiled for 2 to 8 tokens, the
/// sizes of the fast kernels; any other number is an error. The expression should do no work of its own but call
/// one function: every line of it is compiled seven times.
macro_rules! with_tokens {
    ($number:expr, $tokens:ident => $value:expr) => {
        $crate::channel::with_tokens!(@ $number, $tokens, $value, 2 3 4 5 6 7 8)
    };
    (@ $number:expr, $tokens:ident, $value:expr, $($size:literal)*) => {
        match $number {
            $($size => {
                const $tokens: usize = $size;
                $value
            })*
            other => Err($crate::error::Error::invalid("model.tokens", other, "between 2 and 8")),
        }
    };
}
pub(crate) use with_tokens;
