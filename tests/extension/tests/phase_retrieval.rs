//! Phase retrieval against published thresholds, against a curve computed by plain quadrature, and against the spread of its
//! own error bars.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

use std::ops::ControlFlow;

use extension::phase_retrieval::{Information, Magnitudes, Odds, solve, step_by_step};
use extension::statistics::mean_and_error;
use lora_asymptotics::fixed_point::{History, Iterate, Observer, Unobserved};
use lora_asymptotics::state_evolution::{OutputChannel, Pass, Solved};
use lora_asymptotics::{Options, Status};

/// The odds of a start almost without overlap.
const NOTHING: Odds = Odds(1e-3);

fn options(log2_nodes: usize, scrambles: usize, seed: u64) -> Options {
    let options = Options::default().with_log2_nodes(log2_nodes).unwrap();
    options.with_scrambles(scrambles).unwrap().with_seed(seed)
}

/// The rows of a file in `data/`, see the README there.
fn data(file: &str) -> Vec<csv::StringRecord> {
    let path = format!("{}/data/{file}", env!("CARGO_MANIFEST_DIR"));
    csv::Reader::from_path(path).unwrap().records().collect::<Result<_, _>>().unwrap()
}

/// The value of a threshold by plain quadrature.
fn threshold(name: &str, delta: f64) -> f64 {
    let rows = data("phase_retrieval_thresholds.csv");
    let row =
        rows.iter().find(|row| &row[0] == name && (row[1].parse::<f64>().unwrap() - delta).abs() < 1e-12);
    row.unwrap()[2].parse().unwrap()
}

/// The amount of data `alpha = (q/(1 - q))/E g^2` at which there is a fixed point at the given odds, in every replicate.
fn data_needed(output: &mut Magnitudes, odds: f64) -> Vec<f64> {
    let finest = output.levels() - 1;
    output.averages(finest, Pass::Fresh, &Odds(odds)).iter().map(|average| odds / average.0).collect()
}

/// Published: `alpha = 1/2` without noise, where an overlap begins to grow from nothing.
#[test]
fn weak_recovery_is_where_it_was_published() {
    assert!((threshold("weak_recovery", 0.0) - 0.5).abs() < 1e-9);
    for delta in [0.0, 0.01, 0.1, 1.0] {
        let mut output = Magnitudes::new(delta, &options(14, 16, 1)).unwrap();
        // At these odds, the threshold differs from its limit by less than 1e-5.
        let (alpha, error) = mean_and_error(&data_needed(&mut output, 1e-6));
        let exact = threshold("weak_recovery", delta);
        println!("delta {delta}: weak recovery at {alpha:.5} +- {error:.5}, by quadrature {exact:.5}");
        assert!(error < 5e-3 * exact);
        assert!((alpha - exact).abs() < 4.0 * error + 1e-5, "{delta}: {alpha} +- {error}, not {exact}");
    }
}

/// Published: message passing recovers perfectly from `alpha = 1.128` on. There the fixed point with a partial overlap
/// vanishes, at the largest `alpha` that has one.
#[test]
fn perfect_recovery_begins_where_it_was_published() {
    let mut output = Magnitudes::new(0.0, &options(14, 16, 2)).unwrap();
    let mut at = |q: f64| mean_and_error(&data_needed(&mut output, q / (1.0 - q)));
    let peak = (0..=60).map(|i| at(0.78 + 0.002 * f64::from(i)));
    let (alpha, error) = peak.max_by(|a, b| a.0.total_cmp(&b.0)).unwrap();
    // The peak has a curvature of some 6, so that a grid of step 0.002 misses it by less than 1e-5.
    let exact = threshold("algorithmic", 0.0);
    println!("perfect recovery at {alpha:.5} +- {error:.5}, by quadrature {exact:.5}");
    assert!(error < 5e-4);
    assert!((alpha - exact).abs() < 4.0 * error + 1e-5, "{alpha} +- {error}, not {exact}");
    assert!((alpha - 1.128).abs() < 5e-4 + 4.0 * error);
}

/// An observer that ends the solve when the overlap is perfect for all purposes.
#[derive(Default)]
struct UntilPerfect {
    evaluations: usize,
}

impl Observer for UntilPerfect {
    fn iterate(&mut self, iterate: &Iterate<'_>) -> ControlFlow<()> {
        self.evaluations = iterate.iteration;
        if iterate.point[0] < 1e5 { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
    }
}

#[test]
fn without_noise_message_passing_stops_below_the_threshold_and_runs_on_above_it() {
    let options = options(12, 4, 3);
    let mut output = Magnitudes::new(0.0, &options).unwrap();
    let below = solve(&mut output, 1.10, NOTHING, &options, step_by_step(20), &mut Unobserved).unwrap();
    assert_eq!(below.status, Status::Converged);
    assert!(below.point.overlap() < 0.75, "{}", below.point.overlap());
    let mut perfect = UntilPerfect::default();
    let above = solve(&mut output, 1.20, NOTHING, &options, step_by_step(1000), &mut perfect).unwrap();
    assert_eq!(above.status, Status::Interrupted);
    assert_eq!(above.iterations, perfect.evaluations);
    // An informed start reaches perfect recovery already above the information-theoretic threshold of 1.
    let mut perfect = UntilPerfect::default();
    let informed = solve(&mut output, 1.10, Odds(1e2), &options, step_by_step(1000), &mut perfect).unwrap();
    assert_eq!(informed.status, Status::Interrupted);
}

/// All points of the curve, from a start almost without overlap: no noise, and noise of variance 0.01, 0.1 and 1.
#[test]
fn overlaps_agree_with_plain_quadrature() {
    let rows = data("phase_retrieval.csv");
    let mut squares = 0.0;
    for (seed, row) in rows.iter().enumerate() {
        let [delta, alpha, q]: [f64; 3] = std::array::from_fn(|i| row[i].parse().unwrap());
        let options = options(13, 16, seed as u64);
        let mut output = Magnitudes::new(delta, &options).unwrap();
        let solved = solve(&mut output, alpha, NOTHING, &options, step_by_step(20), &mut Unobserved).unwrap();
        assert_eq!(solved.status, Status::Converged, "delta {delta}, alpha {alpha}");
        let found = solved.point.overlap();
        let error = solved.standard_error(|point, _| point.overlap()).unwrap();
        // The error is largest just below the threshold of perfect recovery, where the overlap changes fast.
        assert!(error < 5e-3, "delta {delta}, alpha {alpha}: error {error}");
        let z = (found - q) / error;
        println!("delta {delta}, alpha {alpha:.4}: q {found:.6} +- {error:.6}, by quadrature {q}, z {z:.2}");
        assert!(z.abs() < 4.0, "delta {delta}, alpha {alpha}: {found} +- {error}, not {q}");
        squares += z * z;
    }
    // Each z has Student's law with 15 degrees of freedom, whose square has mean 15/13 and variance 3.4.
    let count = rows.len() as f64;
    let mean = squares / count;
    println!("rms z {:.3} of {count} points", mean.sqrt());
    assert!((mean - 15.0 / 13.0).abs() < 4.0 * (3.4 / count).sqrt(), "mean square of z: {mean}");
}

/// The spread of the answers over seeds is what the standard errors say.
#[test]
fn error_bars_are_the_spread_over_seeds() {
    const SEEDS: usize = 96;
    const SCRAMBLES: usize = 8;
    let (delta, alpha, exact) = (0.1, 1.565238033472, 0.7);
    let mut answers = Vec::new();
    let mut variances = Vec::new();
    for seed in 0..SEEDS {
        let options = options(10, SCRAMBLES, 1000 + seed as u64);
        let mut output = Magnitudes::new(delta, &options).unwrap();
        let solved =
            solve(&mut output, alpha, Odds(1.0), &options, step_by_step(20), &mut Unobserved).unwrap();
        assert_eq!(solved.replicates.len(), SCRAMBLES);
        answers.push(solved.point.overlap());
        variances.push(solved.standard_error(|point, _| point.overlap()).unwrap().powi(2));
    }
    let (centre, error) = mean_and_error(&answers);
    let spread2 = error * error * SEEDS as f64;
    let (reported2, _) = mean_and_error(&variances);
    // The relative standard deviations of a sample variance, and of the mean of many of fewer terms.
    let uncertainty = (2.0 / (SEEDS as f64 - 1.0) + 2.0 / ((SCRAMBLES as f64 - 1.0) * SEEDS as f64)).sqrt();
    let ratio = spread2 / reported2;
    println!(
        "spread {:.2e}, reported {:.2e}, ratio of variances {ratio:.3} +- {uncertainty:.3}",
        spread2.sqrt(),
        reported2.sqrt()
    );
    assert!((ratio - 1.0).abs() < 4.0 * uncertainty, "{ratio} +- {uncertainty}");
    assert!((centre - exact).abs() < 4.0 * error, "{centre} +- {error}");
}

/// An output channel that remembers how it was asked.
struct Recorded {
    inner: Magnitudes,
    passes: Vec<(usize, Pass)>,
    /// Whether it finds that the levels above level 1 are not worth their time.
    frugal: bool,
    climb: usize,
}

impl Recorded {
    fn new(options: &Options, frugal: bool) -> Self {
        let inner = Magnitudes::new(0.1, options).unwrap();
        Self { climb: inner.levels(), inner, passes: Vec::new(), frugal }
    }
}

impl OutputChannel for Recorded {
    type Point = Odds;
    type Averages = Information;

    fn levels(&self) -> usize {
        self.inner.levels()
    }

    fn levels_to_climb(&self) -> usize {
        self.climb
    }

    fn averages(&mut self, level: usize, pass: Pass, at: &Odds) -> Vec<Information> {
        self.passes.push((level, pass));
        self.inner.averages(level, pass, at)
    }

    fn prepare(&mut self, level: usize, _at: &Odds) {
        if self.frugal && level == 1 {
            self.climb = 2;
        }
    }
}

#[test]
fn the_solve_climbs_the_levels_and_shows_every_iterate() {
    let options = options(14, 4, 4);
    let mut output = Recorded::new(&options, false);
    assert_eq!(output.levels(), 3);
    let mut history = History::default();
    let solved = solve(&mut output, 1.5, NOTHING, &options, step_by_step(20), &mut history).unwrap();
    assert_eq!(solved.status, Status::Converged);
    assert_eq!(history.iterates.len(), solved.iterations);
    // Most of the steps are cheap, the levels are climbed in order, and the last evaluation is from scratch.
    let steps: Vec<usize> =
        output.passes.iter().filter(|(_, pass)| *pass == Pass::Step).map(|(level, _)| *level).collect();
    assert!(steps.is_sorted());
    let count = |level| steps.iter().filter(|step| **step == level).count();
    assert!(count(0) > count(1) && count(1) > 0 && count(2) > 0 && count(2) < 10, "{steps:?}");
    assert_eq!(output.passes.last(), Some(&(2, Pass::Fresh)));
}

#[test]
fn a_channel_may_end_the_climb_on_the_second_level() {
    let options = options(13, 16, 4);
    let [whole, early] = [false, true].map(|frugal| {
        let mut output = Recorded::new(&options, frugal);
        let solved = solve(&mut output, 1.5, NOTHING, &options, step_by_step(20), &mut Unobserved).unwrap();
        assert_eq!(solved.status, Status::Converged);
        let last = if frugal { 1 } else { 2 };
        assert_eq!(output.passes.iter().map(|(level, _)| *level).max(), Some(last));
        assert_eq!(output.passes.last(), Some(&(last, Pass::Fresh)));
        solved
    });
    let overlap = |solved: &Solved<Odds, Information>| {
        (solved.point.overlap(), solved.standard_error(|at, _| at.overlap()).unwrap())
    };
    let ((q, error), (other, larger)) = (overlap(&whole), overlap(&early));
    assert!(larger > error && (q - other).abs() < 4.0 * larger, "{q} +- {error}, {other} +- {larger}");
}

#[test]
fn the_number_of_threads_changes_nothing() {
    let solve = || {
        let options = options(13, 3, 5);
        let mut output = Magnitudes::new(0.1, &options).unwrap();
        solve(&mut output, 1.5, NOTHING, &options, step_by_step(20), &mut Unobserved).unwrap()
    };
    let on = |threads| rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap().install(solve);
    assert_eq!(on(1), on(3));
}
