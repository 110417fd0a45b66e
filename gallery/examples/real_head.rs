//! The teacher is a real attention head. How much of it does pre-training recover, which rank of LoRA pays at which amount of
//! data, and at which ridge?
//!
//! ```text
//! cargo run --release -p gallery --example real_head                        # layer 0, head 2 of all-MiniLM-L6-v2
//! cargo run --release -p gallery --example real_head -- --layer 1 --head 7
//! cargo run --release -p gallery --example real_head -- --spectrum my_singular_values.json
//! ```
//!
//! Queries and keys of a head have weights of their own, so that its attention matrix `W_Q^T W_K` is not symmetric and has singular
//! values. They are the singular values of the truth of cross-attention, zeros included, scaled to `Q0 = 1`; the directions of the singular vectors
//! do not matter to the theory. Any JSON list of singular values can be used instead. The Gaussian teacher beside it, a product of two
//! Gaussian factors, has the same rank and `Q0`. The model is linear attention with two tokens, and every ridge of the pre-training is the one of
//! least test error.
//!
//! The equations are exact for queries and keys from independent sequences. In self-attention both come from the same sequence, and the
//! equations are an approximation: for linear attention of two and three tokens, independent simulations (not part of this repository) found
//! differences of 1 to 2% in the test error, 3 to 6% in the train error, and up to 7% in `Q`.
//! What the head is fine-tuned for is invented, because no measurement tells it: LoRA with two factors learns a perturbation of four
//! columns, each weaker than the one before, on top of the head that was pre-trained with `alpha = 0.1`.
//!
//! The program prints tables, and writes `real_head.svg` and, as CSV, `real_head` (learning curves), `real_head_spectrum`, `real_head_heads`
//! (all heads at one amount of data) and `real_head_ranks` (the test error at every rank and ridge of LoRA).

mod common;

use std::error::Error;
use std::fs;

use clap::Parser;
use common::{COLOURS, Dot, GREY, curve, fact, log_panel, panel, save, solve, write_csv};
use kuva::plot::legend::LegendPosition;
use kuva::render::layout::Layout;
use kuva::render::plots::Plot;
use lora_asymptotics::fixed_point::Status;
use lora_asymptotics::optimize::{Parameter, Settings, Target, Variable, minimize};
use lora_asymptotics::pretrain::LearnedSpectrum;
use lora_asymptotics::sweep::Record;
use lora_asymptotics::{Attention, Estimator, Model, Options, Scenario, Teacher, pretrain};
use serde::{Deserialize, Serialize};

const TOKENS: usize = 2;
/// The label noise.
const DELTA: f64 = 0.1;
/// The amount of data at which spectra are shown and heads are compared, and after which fine-tuning begins.
const SHOWN_ALPHA: f64 = 0.1;
/// The variances of the columns of the perturbation that LoRA learns.
const VARIANCES: [f64; 4] = [0.8, 0.5, 0.3, 0.15];
/// The amount of data of fine-tuning at which the test error is shown against the ridge.
const RIDGE_ALPHA: f64 = 4.0;

#[derive(Parser)]
struct Arguments {
    /// Layer of the head, 0 to 5.
    #[arg(long, default_value_t = 0)]
    layer: usize,
    /// Number of the head in its layer, 0 to 11.
    #[arg(long, default_value_t = 2)]
    head: usize,
    /// A file with a JSON list of singular values, instead of a head.
    #[arg(long)]
    spectrum: Option<String>,
    #[command(flatten)]
    figure: common::Arguments,
}

#[derive(Deserialize)]
struct Heads {
    heads: Vec<Head>,
}

#[derive(Deserialize)]
struct Head {
    layer: usize,
    head: usize,
    dimension: usize,
    singular_values: Vec<f64>,
}

impl Head {
    fn spectrum(&self) -> Vec<f64> {
        let mut spectrum = self.singular_values.clone();
        spectrum.resize(self.dimension.max(spectrum.len()), 0.0);
        spectrum
    }
}

/// One row of the learning curves.
#[derive(Serialize)]
struct Row {
    teacher: &'static str,
    alpha: f64,
    best_lambda: f64,
    /// `o_W` of empirical risk minimisation, and the largest `o_W` that any algorithm reaches.
    alignment: f64,
    bayes_alignment: f64,
    /// The learned rank over `D`.
    rank_fraction: f64,
    test_error: f64,
    bayes_test_error: f64,
}

/// One row of the comparison of all heads, at one amount of data.
#[derive(Serialize)]
struct HeadRow {
    layer: usize,
    head: usize,
    /// The effective number of directions of the head, `(sum s)^2 / sum s^2`.
    effective_rank: f64,
    alignment: f64,
    bayes_alignment: f64,
    learned_rank: f64,
    outliers: usize,
}

/// One row of the spectra: a fraction of all singular values, and the singular value below which that fraction lies.
#[derive(Serialize)]
struct SpectrumRow {
    fraction: f64,
    truth: f64,
    learned: f64,
    learned_from_gaussian: f64,
}

/// LoRA of one rank at one ridge.
#[derive(Serialize)]
struct RidgeRow {
    lora_alpha: f64,
    rank: usize,
    lambda: f64,
    /// `E'` and its standard error in units of `E'` without LoRA.
    relative_test: f64,
    relative_test_std_error: f64,
    alignment: f64,
    verdict: String,
    status: String,
}

impl RidgeRow {
    fn reliable(&self) -> bool {
        self.verdict != "unreliable"
    }
}

fn main() -> Result<(), Box<dyn Error>> {
    let arguments = Arguments::parse();
    let heads: Heads = serde_json::from_str(include_str!("data/minilm_heads.json"))?;
    let (name, raw) = match &arguments.spectrum {
        Some(path) => (path.clone(), serde_json::from_str::<Vec<f64>>(&fs::read_to_string(path)?)?),
        None => {
            let wanted = |head: &&Head| head.layer == arguments.layer && head.head == arguments.head;
            let head = heads.heads.iter().find(wanted).ok_or("there are layers 0 to 5 with heads 0 to 11")?;
            (format!("layer {}, head {} of all-MiniLM-L6-v2", head.layer, head.head), head.spectrum())
        }
    };
    let (real, truth, rank_fraction) = normalised(raw)?;
    let gaussian = layer(Teacher::Wishart { kappa0: rank_fraction })?;
    println!(
        "{name}: rank {rank_fraction:.4} D, Q0 = 1; linear cross-attention, T = {TOKENS}, Delta = {DELTA}\n"
    );

    let rows = learning_curves(&real, &gaussian)?;
    let [learned, from_gaussian] = [learned(&real)?, learned(&gaussian)?];
    println!(
        "\nlearned spectrum at alpha = {SHOWN_ALPHA}: {:.4} of the singular values are positive",
        1.0 - learned.atom()
    );
    for component in learned.components().iter().rev().take(6) {
        let kind = if component.outlier { "outlier" } else { "bulk" };
        println!(
            "  {:7} {:8.4} .. {:8.4}  weight {:.5}",
            kind, component.low, component.high, component.weight
        );
    }
    let spectra = spectra(&truth, &learned, &from_gaussian)?;
    let compared = compare_heads(&heads)?;
    let tuned = ridges(&real, arguments.figure.full)?;
    println!(
        "\nLoRA on the head pre-trained with alpha = {SHOWN_ALPHA}, columns of variance {VARIANCES:?}, at the best ridge"
    );
    println!("alpha'  rank  lambda'  E'/E'(w = 0)   +-     alignment  verdict");
    for row in at_best_ridge(&tuned) {
        println!(
            "{:6} {:5} {:8.3}      {:.4}   {:.4}    {:.4}   {}",
            row.lora_alpha,
            row.rank,
            row.lambda,
            row.relative_test,
            row.relative_test_std_error,
            row.alignment,
            row.verdict
        );
    }

    let folder = &arguments.figure.out;
    write_csv(folder, "real_head", &rows)?;
    write_csv(folder, "real_head_spectrum", &spectra)?;
    write_csv(folder, "real_head_heads", &compared)?;
    write_csv(folder, "real_head_ranks", &tuned)?;
    check(&rows, &tuned)?;
    let panels = vec![alignments(&rows), scree(&spectra), errors(&tuned), against_ridge(&tuned)];
    save(&arguments.figure, "real_head", "A real attention head as the teacher", 2, panels)
}

fn layer(teacher: Teacher) -> Result<Model, lora_asymptotics::Error> {
    Model::linear(TOKENS, DELTA)?.with_attention(Attention::Cross)?.with_teacher(teacher)
}

/// Returns the model with the given singular values, scaled to `Q0 = 1`, these values in decreasing order, and `rank/D`.
fn normalised(mut spectrum: Vec<f64>) -> Result<(Model, Vec<f64>, f64), lora_asymptotics::Error> {
    // This reports an error in the list before the list is scaled.
    layer(Teacher::SingularValues { singular_values: spectrum.clone() })?;
    spectrum.sort_by(|a, b| b.total_cmp(a));
    let count = spectrum.len() as f64;
    let rank_fraction = spectrum.iter().filter(|s| **s > 0.0).count() as f64 / count;
    let scale = (count / spectrum.iter().map(|s| s * s).sum::<f64>()).sqrt();
    let singular_values: Vec<f64> = spectrum.iter().map(|s| scale * s).collect();
    let model = layer(Teacher::SingularValues { singular_values: singular_values.clone() })?;
    Ok((model, singular_values, rank_fraction))
}

/// Solves the pre-training with the ridge of least test error.
fn best(
    model: &Model,
    alpha: f64,
) -> Result<(pretrain::Training, pretrain::Solution), lora_asymptotics::Error> {
    let largest =
        pretrain::lambda_collapse(model, &pretrain::Training::new(alpha, 0.0)?, &Options::default())?.value;
    let scenario = Scenario {
        model: model.clone(),
        pretrain: Some(pretrain::Training::new(alpha, largest)?),
        frozen: None,
        lora: None,
        estimator: Estimator::Erm,
        options: Options::default(),
    };
    let ridge = Variable::new(Parameter::PretrainLambda, 1e-3 * largest, 0.95 * largest)?;
    let optimum = minimize(&scenario, Target::PretrainTest, &[ridge], &Settings::default())?;
    let training = pretrain::Training::new(alpha, optimum.found[0].value)?;
    let solution = pretrain::solve(model, &training, &Options::default())?.into_converged()?;
    Ok((training, solution))
}

fn learning_curves(real: &Model, gaussian: &Model) -> Result<Vec<Row>, lora_asymptotics::Error> {
    let alphas: Vec<f64> = (0..15).map(|k| 4e-3 * 10f64.powf(f64::from(k) / 7.0)).collect();
    println!("teacher     alpha   lambda     o_W  (bound)   rank/D       E  (bound)");
    let mut rows = Vec::new();
    for (teacher, model) in [("head", real), ("Gaussian", gaussian)] {
        for &alpha in &alphas {
            let (training, solution) = best(model, alpha)?;
            let bound = pretrain::bayes_optimal(model, alpha, &Options::default())?.into_converged()?;
            let row = Row {
                teacher,
                alpha,
                best_lambda: training.lambda().unwrap_or(f64::NAN),
                alignment: solution.alignment,
                bayes_alignment: bound.alignment,
                rank_fraction: solution.rank_fraction,
                test_error: solution.errors.test,
                bayes_test_error: bound.errors.test,
            };
            println!(
                "{teacher:8} {alpha:8.4} {:8.4}  {:.4} ({:.4})  {:.4}  {:.4} ({:.4})",
                row.best_lambda,
                row.alignment,
                row.bayes_alignment,
                row.rank_fraction,
                row.test_error,
                row.bayes_test_error
            );
            rows.push(row);
        }
    }
    Ok(rows)
}

fn learned(model: &Model) -> Result<LearnedSpectrum, lora_asymptotics::Error> {
    let (training, solution) = best(model, SHOWN_ALPHA)?;
    LearnedSpectrum::new(model, &training, &solution)
}

fn spectra(
    truth: &[f64],
    learned: &LearnedSpectrum,
    from_gaussian: &LearnedSpectrum,
) -> Result<Vec<SpectrumRow>, lora_asymptotics::Error> {
    let count = truth.len();
    (0..count)
        .map(|k| {
            let fraction = 1.0 - (k as f64 + 0.5) / count as f64;
            Ok(SpectrumRow {
                fraction,
                truth: truth[k],
                learned: learned.quantile(fraction)?,
                learned_from_gaussian: from_gaussian.quantile(fraction)?,
            })
        })
        .collect()
}

fn compare_heads(heads: &Heads) -> Result<Vec<HeadRow>, lora_asymptotics::Error> {
    let compared = heads.heads.iter().map(compare).collect::<Result<Vec<_>, _>>()?;
    let by_alignment = |row: &&HeadRow| (1e9 * row.alignment) as i64;
    if let Some((worst, best)) =
        compared.iter().min_by_key(by_alignment).zip(compared.iter().max_by_key(by_alignment))
    {
        println!("\nall {} heads at alpha = {SHOWN_ALPHA}:", compared.len());
        for (kind, row) in [("best", best), ("worst", worst)] {
            println!(
                "  {kind} recovered: layer {}, head {}: o_W = {:.4} (bound {:.4}), effective rank {:.1}, {} outliers",
                row.layer, row.head, row.alignment, row.bayes_alignment, row.effective_rank, row.outliers
            );
        }
    }
    Ok(compared)
}

fn compare(head: &Head) -> Result<HeadRow, lora_asymptotics::Error> {
    let (model, singular_values, _) = normalised(head.spectrum())?;
    let (training, solution) = best(&model, SHOWN_ALPHA)?;
    let spectrum = LearnedSpectrum::new(&model, &training, &solution)?;
    let sum: f64 = singular_values.iter().sum();
    Ok(HeadRow {
        layer: head.layer,
        head: head.head,
        effective_rank: sum * sum / singular_values.iter().map(|s| s * s).sum::<f64>(),
        alignment: solution.alignment,
        bayes_alignment: pretrain::bayes_optimal(&model, SHOWN_ALPHA, &Options::default())?.alignment,
        learned_rank: solution.rank_fraction,
        outliers: spectrum.components().iter().filter(|component| component.outlier).count(),
    })
}

/// The test error of LoRA for several amounts of data, every rank and a grid of ridges, each from the one before.
fn ridges(model: &Model, full: bool) -> Result<Vec<RidgeRow>, Box<dyn Error>> {
    let (_, base) = best(model, SHOWN_ALPHA)?;
    let pretrain::Order { q, m, .. } = base.order;
    let alphas = if full { "[2.0, 4.0, 8.0, 16.0]" } else { "[4.0, 16.0]" };
    let (count, log2_nodes, scrambles) = if full { (13, 8, 4) } else { (7, 7, 2) };
    let grid = format!(
        r#"{{"scenario": {{"model": {{"tokens": {TOKENS}, "activation": "linear", "attention": "cross", "delta": {DELTA}}},
                           "frozen": {{"q0": 1.0, "q": {q}, "m": {m}}}, "lora": {{"alpha": 1.0, "lambda": 1.0, "q0": {VARIANCES:?}}},
                           "options": {{"log2_nodes": {log2_nodes}, "scrambles": {scrambles}}}}},
             "axes": [{{"field": "lora.alpha", "values": {alphas}}}, {{"field": "lora.rank", "values": [1, 2, 3, 4]}},
                      {{"field": "lora.lambda", "from": 10.0, "to": 0.1, "count": {count}, "scale": "log"}}]}}"#
    );
    let row = |record: &Record| {
        let stage = record.outcome.as_ref()?.lora.as_ref()?;
        // A solve that ended far from a fixed point has no error to show.
        let solved = stage.status.is_success() || stage.status == Status::NoiseLimited;
        solved.then(|| RidgeRow {
            lora_alpha: record.values[0],
            rank: record.values[1] as usize,
            lambda: record.values[2],
            relative_test: stage.errors.test / stage.errors.frozen,
            relative_test_std_error: stage.std_error.test.unwrap_or(0.0) / stage.errors.frozen,
            alignment: stage.alignment,
            verdict: stage.validity.verdict.to_string(),
            status: stage.status.to_string(),
        })
    };
    Ok(solve(&grid)?.iter().filter_map(row).collect())
}

/// The rows at the best ridge of the grid, one for every amount of data and rank.
fn at_best_ridge(rows: &[RidgeRow]) -> Vec<&RidgeRow> {
    let same =
        |a: &&RidgeRow, b: &&RidgeRow| a.rank == b.rank && a.lora_alpha.total_cmp(&b.lora_alpha).is_eq();
    let all: Vec<&RidgeRow> = rows.iter().collect();
    let least = |own: &[&'_ RidgeRow]| own.iter().map(|row| row.relative_test).fold(f64::INFINITY, f64::min);
    all.chunk_by(|a, b| same(a, b))
        .filter_map(|own| own.iter().find(|row| row.relative_test <= least(own)).copied())
        .collect()
}

/// What the theory says about the figure.
fn check(rows: &[Row], tuned: &[RidgeRow]) -> Result<(), Box<dyn Error>> {
    for row in rows {
        fact(row.alignment <= row.bayes_alignment + 1e-9, "no estimator is better than the bound")?;
    }
    let norm = |columns: &[f64]| columns.iter().map(|variance| variance * variance).sum::<f64>();
    for row in tuned {
        let bound = (norm(&VARIANCES[..row.rank]) / norm(&VARIANCES)).sqrt();
        fact(row.alignment <= bound + 1e-9, "the columns that are left out bound the alignment")?;
    }
    let best = at_best_ridge(tuned);
    let largest = best.iter().map(|row| row.lora_alpha).fold(0.0, f64::max);
    let much: Vec<f64> =
        best.iter().filter(|row| row.lora_alpha >= largest).map(|row| row.relative_test).collect();
    fact(much.len() == VARIANCES.len() && much.is_sorted_by(|a, b| a > b), "with much data every column pays")
}

fn alignments(rows: &[Row]) -> (Vec<Plot>, Layout) {
    let of = |teacher: &str, value: fn(&Row) -> f64| -> Vec<Dot> {
        let own = rows.iter().filter(|row| row.teacher == teacher);
        own.map(|row| Dot { x: row.alpha, y: value(row), reliable: true }).collect()
    };
    let mut plots = Vec::new();
    for (teacher, colour) in ["head", "Gaussian"].into_iter().zip(COLOURS) {
        plots.extend(curve(&of(teacher, |row| row.alignment), colour, teacher, false));
        plots.extend(curve(
            &of(teacher, |row| row.bayes_alignment),
            colour,
            &format!("{teacher}, bound"),
            true,
        ));
    }
    let data = "pre-training sequences alpha = N/D^2";
    log_panel(plots, "What pre-training recovers", data, "alignment o_W", LegendPosition::InsideBottomRight)
}

fn scree(spectra: &[SpectrumRow]) -> (Vec<Plot>, Layout) {
    // Only the largest singular values are shown. All others are zero.
    let shown = &spectra[..spectra.len().min(40)];
    let ranked = |value: fn(&SpectrumRow) -> f64| -> Vec<Dot> {
        let numbered = shown.iter().enumerate();
        numbered.map(|(k, row)| Dot { x: k as f64 + 1.0, y: value(row), reliable: true }).collect()
    };
    let plots = [
        curve(&ranked(|row| row.truth), GREY, "head, true", true),
        curve(&ranked(|row| row.learned), COLOURS[0], "head, learned", false),
        curve(&ranked(|row| row.learned_from_gaussian), COLOURS[1], "Gaussian, learned", false),
    ];
    let title = format!("alpha = {SHOWN_ALPHA}");
    let plots = plots.into_iter().flatten().collect();
    panel(
        plots,
        &title,
        "number of the singular value",
        "singular value of S/sqrt(D)",
        LegendPosition::InsideTopRight,
    )
}

/// The test error at the best ridge, with a line for every amount of data.
fn errors(rows: &[RidgeRow]) -> (Vec<Plot>, Layout) {
    let best = at_best_ridge(rows);
    let mut plots = Vec::new();
    for (own, colour) in best.chunk_by(|a, b| a.lora_alpha.total_cmp(&b.lora_alpha).is_eq()).zip(COLOURS) {
        let dot =
            |row: &&RidgeRow| Dot { x: row.rank as f64, y: row.relative_test, reliable: row.reliable() };
        let dots: Vec<Dot> = own.iter().map(dot).collect();
        plots.extend(curve(&dots, colour, &format!("alpha' = {}", own[0].lora_alpha), false));
    }
    let title = "LoRA at the best ridge (hollow: not reliable)";
    let (plots, layout) =
        panel(plots, title, "rank r of LoRA", "test error E' / E'(w = 0)", LegendPosition::InsideBottomLeft);
    (plots, layout.with_y_axis_min(0.0))
}

/// The test error against the ridge, with a line for every rank.
fn against_ridge(rows: &[RidgeRow]) -> (Vec<Plot>, Layout) {
    let mut plots = Vec::new();
    for (rank, colour) in (1..=VARIANCES.len()).zip(COLOURS) {
        let here = |row: &&RidgeRow| row.rank == rank && row.lora_alpha.total_cmp(&RIDGE_ALPHA).is_eq();
        let dot = |row: &RidgeRow| Dot { x: row.lambda, y: row.relative_test, reliable: row.reliable() };
        let dots: Vec<Dot> = rows.iter().filter(here).map(dot).collect();
        plots.extend(curve(&dots, colour, &format!("r = {rank}"), false));
    }
    let title = format!("LoRA, alpha' = {RIDGE_ALPHA}");
    log_panel(plots, &title, "ridge lambda'", "test error E' / E'(w = 0)", LegendPosition::InsideTopLeft)
}
