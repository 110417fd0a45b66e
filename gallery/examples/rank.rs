//! Rank against data: what it costs to learn fewer or more columns than the truth has. The figure shows, for linear
//! attention, the test error `E'` at the best ridge `lambda'` against the rank `r` of LoRA, for true perturbations of
//! `r0 = 1, 2, 4` equal columns and several amounts of data `alpha'`; the alignment; what the task of pre-training
//! loses (forgetting); and `E'` against the ridge for one true column. The true perturbations have the same norm, `q0 = r0^{-1/2}` for every column. The parameters are
//! `T = 2`, `Delta = .5`, and frozen weights with `(Q0, Q, M) = (2, 1.2, 1.1)`.
//!
//! ```text
//! cargo run --release -p gallery --example rank -- --simulate
//! ```

mod common;

use std::error::Error;

use clap::Parser;
use common::{
    Arguments, COLOURS, Dot, GREY, curve, fact, log_panel, measured, panel, save, solve, train, write_csv,
};
use kuva::plot::legend::LegendPosition;
use kuva::render::layout::Layout;
use kuva::render::plots::Plot;
use lora_asymptotics::optimize::{Parameter, Settings, Target, Variable, minimize};
use lora_asymptotics::{Scenario, observables};
use serde::Serialize;

const TRUE_RANKS: [usize; 3] = [1, 2, 4];
const LARGEST_RANK: usize = 5;
const ALPHAS: [f64; 3] = [4.0, 8.0, 24.0];
/// The amount of data of the panel with ridges, and the ranks in it.
const SHOWN_ALPHA: f64 = 8.0;
const SHOWN_RANKS: [usize; 3] = [1, 2, 4];

/// The solution at the best ridge.
#[derive(Serialize)]
struct Row {
    true_rank: usize,
    lora_alpha: f64,
    rank: usize,
    best_lambda: f64,
    /// The test error in units of that of the frozen weights.
    relative_test: f64,
    relative_test_std_error: f64,
    alignment: f64,
    /// The test error on the task of pre-training, in units of that of the frozen weights there.
    relative_forgetting: f64,
    verdict: String,
}

impl Row {
    fn dot(&self, value: f64) -> Dot {
        Dot { x: self.rank as f64, y: value, reliable: self.verdict != "unreliable" }
    }
}

/// The solution at one ridge.
#[derive(Serialize)]
struct RidgeRow {
    rank: usize,
    lambda: f64,
    relative_test: f64,
    verdict: String,
}

/// Networks that were trained at the best ridge.
#[derive(Serialize)]
struct Marker {
    true_rank: usize,
    lora_alpha: f64,
    rank: usize,
    dimension: usize,
    relative_test: f64,
    relative_test_std_error: f64,
    alignment: f64,
    alignment_std_error: f64,
}

fn scenario(true_rank: usize, rank: usize, alpha: f64, lambda: f64, full: bool) -> String {
    let q0 = vec![(true_rank as f64).powf(-0.5); true_rank];
    let (log2_nodes, scrambles) = if full { (9, 4) } else { (7, 2) };
    format!(
        r#"{{"model": {{"tokens": 2, "activation": "linear", "delta": 0.5}}, "frozen": {{"q0": 2.0, "q": 1.2, "m": 1.1}},
            "lora": {{"alpha": {alpha}, "lambda": {lambda}, "rank": {rank}, "q0": {q0:?}}},
            "options": {{"log2_nodes": {log2_nodes}, "scrambles": {scrambles}, "tolerance": 1e-5}}}}"#
    )
}

fn best(true_rank: usize, rank: usize, alpha: f64, full: bool) -> Result<Row, Box<dyn Error>> {
    let scenario = Scenario::from_json(&scenario(true_rank, rank, alpha, 1.0, full))?;
    let (tolerance, scan) = if full { (3e-2, 7) } else { (1e-1, 4) };
    // The verdict on more learned than true columns is shown, and not used to leave points out.
    let settings = Settings { tolerance, scan, reliable_only: false, ..Settings::default() };
    let ridge = Variable::new(Parameter::LoraLambda, 0.05, 30.0)?;
    let optimum = minimize(&scenario, Target::LoraTest, &[ridge], &settings)?;
    let overlaps = scenario.frozen.ok_or("the frozen weights are given")?.overlaps();
    let noise = observables::effective_noise(&overlaps, scenario.model.delta(), 1.0);
    let before = observables::linear_forgetting(scenario.model.tokens(), noise, 0.0);
    let stage = optimum.outcome.lora.as_ref().ok_or("the outcome has no fine-tuning")?;
    Ok(Row {
        true_rank,
        lora_alpha: alpha,
        rank,
        best_lambda: optimum.found[0].value,
        relative_test: stage.errors.test / stage.errors.frozen,
        relative_test_std_error: stage.std_error.test.unwrap_or(0.0) / stage.errors.frozen,
        alignment: stage.alignment,
        relative_forgetting: stage.errors.forgetting / before,
        verdict: stage.validity.verdict.to_string(),
    })
}

/// `E'` against the ridge for one true column.
fn ridges(rank: usize, full: bool) -> Result<Vec<RidgeRow>, Box<dyn Error>> {
    let count = if full { 61 } else { 9 };
    let grid = format!(
        r#"{{"scenario": {}, "axes": [{{"field": "lora.lambda", "from": 30.0, "to": 0.03, "count": {count}, "scale": "log"}}]}}"#,
        scenario(1, rank, SHOWN_ALPHA, 1.0, full)
    );
    let row = |record: &lora_asymptotics::sweep::Record| {
        let stage = record.outcome.as_ref()?.lora.as_ref()?;
        Some(RidgeRow {
            rank,
            lambda: record.values[0],
            relative_test: stage.errors.test / stage.errors.frozen,
            verdict: stage.validity.verdict.to_string(),
        })
    };
    Ok(solve(&grid)?.iter().filter_map(row).collect())
}

fn marker(row: &Row, full: bool) -> Result<Option<Marker>, Box<dyn Error>> {
    let here =
        Scenario::from_json(&scenario(row.true_rank, row.rank, row.lora_alpha, row.best_lambda, full))?;
    let frozen = here.solve()?.lora.ok_or("the outcome has no fine-tuning")?.errors.frozen;
    Ok(train(&here, false)?.map(|trained| Marker {
        true_rank: row.true_rank,
        lora_alpha: row.lora_alpha,
        rank: row.rank,
        dimension: trained.dimension,
        relative_test: trained.test.mean / frozen,
        relative_test_std_error: trained.test.std_error / frozen,
        alignment: trained.alignment.mean,
        alignment_std_error: trained.alignment.std_error,
    }))
}

/// What the theory says about the figure.
fn check(rows: &[Row]) -> Result<(), Box<dyn Error>> {
    for row in rows.iter().filter(|row| row.rank < row.true_rank) {
        let bound = (row.rank as f64 / row.true_rank as f64).powf(0.25);
        fact(row.alignment <= bound + 1e-9, "o_w is at most (r/r0)^{1/4} if r < r0")?;
    }
    for true_rank in TRUE_RANKS {
        let here = || rows.iter().filter(|row| row.true_rank == true_rank && row.lora_alpha >= MUCH);
        let at_truth = here().find(|row| row.rank == true_rank).ok_or("no row at the true rank")?;
        for row in here() {
            let noise = 4.0 * row.relative_test_std_error.hypot(at_truth.relative_test_std_error);
            let least = at_truth.relative_test <= row.relative_test + noise;
            fact(least, &format!("with much data E' is least at r = r0 = {true_rank}"))?;
        }
    }
    Ok(())
}

fn main() -> Result<(), Box<dyn Error>> {
    let arguments = Arguments::parse();
    let mut rows = Vec::new();
    for true_rank in TRUE_RANKS {
        for alpha in ALPHAS {
            for rank in 1..=LARGEST_RANK {
                rows.push(best(true_rank, rank, alpha, arguments.full)?);
            }
        }
    }
    write_csv(&arguments.out, "rank", &rows)?;
    check(&rows)?;
    let mut ridge_rows = Vec::new();
    for rank in SHOWN_RANKS {
        ridge_rows.extend(ridges(rank, arguments.full)?);
    }
    write_csv(&arguments.out, "rank_ridges", &ridge_rows)?;
    let mut markers = Vec::new();
    if arguments.simulate {
        for row in rows.iter().filter(|row| [8.0, 24.0].contains(&row.lora_alpha)) {
            markers.extend(marker(row, arguments.full)?);
        }
        write_csv(&arguments.out, "rank_trained", &markers)?;
    }

    let mut panels: Vec<_> = TRUE_RANKS.iter().map(|true_rank| errors(&rows, &markers, *true_rank)).collect();
    panels.push(alignments(&rows, &markers));
    panels.push(forgetting(&rows));
    panels.push(against_ridges(&ridge_rows));
    let mut title =
        "The rank of LoRA against the rank of the truth, at the best ridge (hollow: not reliable".to_owned();
    if let Some(one) = markers.first() {
        title += &format!("; dots: networks trained at D = {}", one.dimension);
    }
    save(&arguments, "rank", &(title + ")"), 3, panels)
}

fn errors(rows: &[Row], markers: &[Marker], true_rank: usize) -> (Vec<Plot>, Layout) {
    let mut plots = Vec::new();
    for (alpha, colour) in ALPHAS.into_iter().zip(COLOURS) {
        let same =
            |true_r: usize, lora_alpha: f64| true_r == true_rank && lora_alpha.total_cmp(&alpha).is_eq();
        let here = rows.iter().filter(|row| same(row.true_rank, row.lora_alpha));
        let dots: Vec<Dot> = here.map(|row| row.dot(row.relative_test)).collect();
        plots.extend(curve(&dots, colour, &format!("alpha' = {alpha}"), false));
        let trained = markers.iter().filter(|one| same(one.true_rank, one.lora_alpha));
        let points: Vec<_> =
            trained.map(|one| (one.rank as f64, one.relative_test, one.relative_test_std_error)).collect();
        if !points.is_empty() {
            plots.push(measured(&points, colour, ""));
        }
    }
    let (plots, layout) = panel(
        plots,
        &format!("r0 = {true_rank}"),
        "rank r of LoRA",
        "test error E' / E'(w = 0)",
        LegendPosition::InsideTopRight,
    );
    // The legend has room above the curves.
    let highest = rows.iter().filter(|row| row.true_rank == true_rank).map(|row| row.relative_test);
    (plots, layout.with_y_axis_max(highest.fold(0.0, f64::max) + 0.1))
}

/// The largest amount of data.
const MUCH: f64 = ALPHAS[ALPHAS.len() - 1];

/// A quantity against the rank at the largest amount of data, for the true perturbations of one rank.
fn with_much_data(rows: &[Row], true_rank: usize, colour: &str, value: fn(&Row) -> f64) -> Vec<Plot> {
    let here = rows.iter().filter(|row| row.true_rank == true_rank && row.lora_alpha >= MUCH);
    let dots: Vec<Dot> = here.map(|row| row.dot(value(row))).collect();
    curve(&dots, colour, &format!("r0 = {true_rank}"), false)
}

fn alignments(rows: &[Row], markers: &[Marker]) -> (Vec<Plot>, Layout) {
    let mut plots = Vec::new();
    for (true_rank, colour) in TRUE_RANKS.into_iter().zip(COLOURS) {
        plots.extend(with_much_data(rows, true_rank, colour, |row| row.alignment));
        let trained = markers.iter().filter(|one| one.true_rank == true_rank && one.lora_alpha >= MUCH);
        let points: Vec<_> =
            trained.map(|one| (one.rank as f64, one.alignment, one.alignment_std_error)).collect();
        if !points.is_empty() {
            plots.push(measured(&points, colour, ""));
        }
        let bound = |k: usize| {
            let rank = 1.0 + (LARGEST_RANK - 1) as f64 * k as f64 / 60.0;
            Dot { x: rank, y: (rank / true_rank as f64).powf(0.25).min(1.0), reliable: true }
        };
        let legend = if true_rank == 4 { "(r/r0)^(1/4)" } else { "" };
        plots.extend(curve(&(0..=60).map(bound).collect::<Vec<_>>(), GREY, legend, true));
    }
    let title = format!("alpha' = {MUCH}");
    panel(plots, &title, "rank r of LoRA", "alignment o_w", LegendPosition::InsideBottomRight)
}

fn forgetting(rows: &[Row]) -> (Vec<Plot>, Layout) {
    let lines = TRUE_RANKS.into_iter().zip(COLOURS);
    let plots = lines
        .flat_map(|(true_rank, colour)| {
            with_much_data(rows, true_rank, colour, |row| row.relative_forgetting)
        })
        .collect();
    let title = format!("alpha' = {MUCH}");
    panel(
        plots,
        &title,
        "rank r of LoRA",
        "error on the first task / E(w = 0)",
        LegendPosition::InsideBottomRight,
    )
}

fn against_ridges(rows: &[RidgeRow]) -> (Vec<Plot>, Layout) {
    let mut plots = Vec::new();
    for (rank, colour) in SHOWN_RANKS.into_iter().zip(COLOURS) {
        let here = rows.iter().filter(|row| row.rank == rank);
        let dots: Vec<Dot> = here
            .map(|row| Dot { x: row.lambda, y: row.relative_test, reliable: row.verdict != "unreliable" })
            .collect();
        plots.extend(curve(&dots, colour, &format!("r = {rank}"), false));
    }
    let title = format!("r0 = 1, alpha' = {SHOWN_ALPHA}");
    log_panel(plots, &title, "ridge lambda'", "test error E' / E'(w = 0)", LegendPosition::InsideTopLeft)
}
