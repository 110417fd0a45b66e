//! The figure shows optimal pre-training for LoRA on fresh sequences: test error `E'` and alignment `o_w`
//! against the pre-training ridge, with and without recalibration `beta = M/Q`, for several amounts of
//! fine-tuning data. For linear attention it also shows the effective noise, whose minimum is at the same
//! ridge as all the other optima. The parameters are `T = 3`, `lambda' = .5`, `alpha = .1`,
//! `kappa0 = kappa = 1`, `Delta = .5`.
//!
//! ```text
//! cargo run --release -p gallery --example fig2
//! cargo run --release -p gallery --example fig2 -- --full --simulate   # more nodes, and trained networks: minutes
//! ```

mod common;

use std::error::Error;

use clap::Parser;
use common::{
    Arguments, COLOURS, Dot, GREY, Point, decades, extrapolate, fact, mark, measured, points_of, save,
    smooth, write_csv, write_points,
};
use kuva::plot::legend::LegendPosition;
use lora_asymptotics::{Estimator, Model, Options, Scenario, Teacher, lora, observables, pretrain};
use serde::Serialize;

#[derive(Serialize)]
struct Row {
    activation: &'static str,
    lora_alpha: f64,
    lambda: f64,
    beta: f64,
    recalibrated: bool,
    test: f64,
    test_std_error: f64,
    alignment: f64,
    effective_noise: f64,
    verdict: String,
}

/// The rows of both recalibrations for every amount of data, on one pre-training.
fn rows(
    model: &Model,
    activation: &'static str,
    lambda: f64,
    alphas: &[f64],
    options: &Options,
) -> Result<Vec<Row>, lora_asymptotics::Error> {
    let base = pretrain::solve(model, &pretrain::Training::new(0.1, lambda)?, options)?.into_converged()?;
    let frozen = base.freeze()?;
    let best = observables::optimal_recalibration(frozen.q(), frozen.m()).unwrap_or(1.0);
    let mut rows = Vec::new();
    for &lora_alpha in alphas {
        for (recalibrated, beta) in [(false, 1.0), (true, best)] {
            let training = lora::Training::fresh(lora_alpha, 0.5)?.recalibrated(beta)?;
            let solution = lora::solve(model, &frozen, &training, options)?;
            rows.push(Row {
                activation,
                lora_alpha,
                lambda,
                beta,
                recalibrated,
                test: solution.errors.test,
                test_std_error: solution.std_error.test.unwrap_or(0.0),
                alignment: solution.alignment,
                effective_noise: observables::effective_noise(&frozen.overlaps(), model.delta(), beta),
                verdict: solution.validity.verdict.to_string(),
            });
        }
    }
    Ok(rows)
}

/// The amount of fine-tuning data at which networks are trained, without recalibration, and at which the best recalibration is found.
const MARKED: f64 = 5.0;
/// The other amounts of fine-tuning data.
const ALPHAS: [(&str, &[f64]); 2] =
    [("linear", &[0.5, 1.0, 2.0, MARKED, 10.0]), ("softmax", &[2.0, MARKED, 10.0])];
/// Number of points on a curve.
const POINTS: u32 = 60;
/// The smallest and the largest ridge.
const RIDGES: [f64; 2] = [0.004, 0.5];

/// The largest ridge of the best recalibration.
const LARGEST_RECALIBRATED: f64 = 0.2;

/// The ridges, from the given largest one to the smallest.
fn ridges(largest: f64) -> impl Iterator<Item = f64> {
    let [smallest, _] = RIDGES;
    (0..POINTS).map(move |k| largest * (smallest / largest).powf(f64::from(k) / f64::from(POINTS - 1)))
}

#[derive(Serialize)]
struct Recalibration {
    lambda: f64,
    best: f64,
    test: f64,
    overlaps: f64,
}

/// Distance in `ln beta` of the errors through which the parabola of [`recalibration`] goes.
const STEP: f64 = 0.15;

/// For softmax attention, `M/Q` is not the best recalibration. The best one gives the least `E'`. It is the minimum of the parabola through
/// three errors, centred on a point near it.
fn recalibration(
    model: &Model,
    frozen: &lora::Frozen,
    near: f64,
    options: &Options,
) -> Result<[f64; 2], lora_asymptotics::Error> {
    let error = |step: f64| {
        let training = lora::Training::fresh(MARKED, 0.5)?.recalibrated(near * step.exp())?;
        Ok::<_, lora_asymptotics::Error>(lora::solve(model, frozen, &training, options)?.errors.test)
    };
    let [below, at, above] = [error(-STEP)?, error(0.0)?, error(STEP)?];
    let (slope, curvature) = (0.5 * (above - below), above - 2.0 * at + below);
    Ok([near * (-STEP * slope / curvature).exp(), at - 0.5 * slope * slope / curvature])
}

/// The best recalibrations, each found from the one before.
fn recalibrations(model: &Model, options: &Options) -> Result<Vec<Recalibration>, lora_asymptotics::Error> {
    let mut best: Option<f64> = None;
    let mut all = Vec::new();
    for lambda in ridges(LARGEST_RECALIBRATED) {
        let training = pretrain::Training::new(0.1, lambda)?;
        let frozen = pretrain::solve(model, &training, options)?.into_converged()?.freeze()?;
        let overlaps = observables::optimal_recalibration(frozen.q(), frozen.m()).unwrap_or(1.0);
        // The first one is far from M/Q.
        let near = match best {
            Some(best) => best,
            None => (0..3).try_fold(overlaps, |near, _| {
                recalibration(model, &frozen, near, options).map(|[best, _]| best)
            })?,
        };
        let [found, test] = recalibration(model, &frozen, near, options)?;
        best = Some(found);
        all.push(Recalibration { lambda, best: found, test, overlaps });
    }
    Ok(all)
}

/// Trains networks in both stages.
fn markers(models: [(&str, &Model); 2], options: &Options) -> Result<Vec<Point>, Box<dyn Error>> {
    let mut markers = Vec::new();
    for (activation, model) in models {
        for lambda in [0.01, 0.05, 0.2] {
            let scenario = Scenario {
                model: model.clone(),
                pretrain: Some(pretrain::Training::new(0.1, lambda)?),
                frozen: None,
                lora: Some(lora::Training::fresh(MARKED, 0.5)?),
                estimator: Estimator::Erm,
                options: *options,
            };
            markers.extend(extrapolate(&scenario, [activation, &MARKED.to_string()], lambda)?);
        }
    }
    Ok(markers)
}

fn main() -> Result<(), Box<dyn Error>> {
    let arguments = Arguments::parse();
    let teacher = Teacher::Wishart { kappa0: 1.0 };
    let linear = Model::linear(3, 0.5)?.with_teacher(teacher.clone())?;
    let softmax = Model::softmax(3, 0.5)?.with_teacher(teacher)?;
    // The averages of linear attention are cheap.
    let nodes = |activation: &str| {
        let (log2_nodes, scrambles) = if arguments.full { (11, 8) } else { (9, 2) };
        let more = usize::from(activation == "linear");
        Options::default().with_log2_nodes(log2_nodes + more)?.with_scrambles(scrambles)?.with_tolerance(1e-4)
    };
    let models = [("linear", &linear), ("softmax", &softmax)];
    let mut table = Vec::new();
    for ((activation, model), (_, alphas)) in models.into_iter().zip(ALPHAS) {
        for lambda in ridges(RIDGES[1]) {
            table.extend(rows(model, activation, lambda, alphas, &nodes(activation)?)?);
        }
    }
    write_csv(&arguments.out, "fig2", &table)?;
    let markers = if arguments.simulate {
        markers(models, &Options::default().with_log2_nodes(13)?)?
    } else {
        Vec::new()
    };
    if arguments.simulate {
        write_points(&arguments.out, "fig2_trained", &markers)?;
    }
    let recalibrations = recalibrations(&softmax, &nodes("softmax")?)?;
    write_csv(&arguments.out, "fig2_recalibration", &recalibrations)?;

    for pair in table.chunks_exact(2).filter(|pair| pair[0].activation == "linear") {
        if pair.iter().all(|row| row.verdict != "unreliable") {
            fact(pair[1].test < pair[0].test + 1e-6, "recalibration never hurts linear attention")?;
        }
    }
    for one in &recalibrations {
        fact(one.best < one.overlaps, "the best recalibration of softmax attention is below M/Q")?;
    }

    let dots = |activation: &str, alpha: f64, recalibrated: bool, value: fn(&Row) -> f64| -> Vec<Dot> {
        let here = |row: &&Row| {
            row.activation == activation
                && (row.lora_alpha - alpha).abs() < 1e-9
                && row.recalibrated == recalibrated
        };
        let dot = |row: &Row| Dot { x: row.lambda, y: value(row), reliable: row.verdict != "unreliable" };
        table.iter().filter(here).map(dot).collect()
    };
    let x = "pre-training ridge `λ`";
    let mut panels = Vec::new();
    for (activation, alphas) in ALPHAS {
        for (observable, name, value) in [
            ("test", "test error `E′`", (|row: &Row| row.test) as fn(&Row) -> f64),
            ("alignment", "alignment `o_w`", |row: &Row| row.alignment),
        ] {
            let mut plots = Vec::new();
            let mut on_top = Vec::new();
            for (alpha, colour) in alphas.iter().zip(COLOURS) {
                let plain = dots(activation, *alpha, false, value);
                plots.extend(smooth(&plain, colour, &format!("`α′` = {alpha}"), false));
                plots.extend(smooth(&dots(activation, *alpha, true, value), colour, "", true));
                let points = points_of(&markers, [activation, &alpha.to_string()], observable);
                if !points.is_empty() {
                    on_top.push(measured(&points, colour, "trained"));
                }
            }
            plots.extend(on_top);
            panels.push(decades(plots, RIDGES, activation, [x, name], LegendPosition::OutsideRightTop));
        }
        if activation == "linear" {
            let mut plots = Vec::new();
            for (recalibrated, legend) in [(false, "`β` = 1"), (true, "`β = M/Q`")] {
                let noise = dots("linear", 2.0, recalibrated, |row| row.effective_noise);
                let noise: Vec<Dot> = noise.into_iter().map(|dot| Dot { reliable: true, ..dot }).collect();
                plots.extend(smooth(&noise, GREY, legend, recalibrated));
                if let Some(best) = noise.iter().min_by(|a, b| a.y.total_cmp(&b.y)) {
                    plots.push(mark(best.x, best.y, GREY));
                }
            }
            let labels = [x, "effective noise `Δ_{eff}`"];
            panels.push(decades(plots, RIDGES, activation, labels, LegendPosition::InsideTopLeft));
        }
    }
    let shown = |value: fn(&Recalibration) -> f64| -> Vec<Dot> {
        recalibrations.iter().map(|one| Dot { x: one.lambda, y: value(one), reliable: true }).collect()
    };
    let mut plots =
        smooth(&shown(|one| one.best), COLOURS[1], &format!("least `E′`, `α′` = {MARKED}"), false);
    plots.extend(smooth(&shown(|one| one.overlaps), GREY, "`M/Q`", true));
    let labels = [x, "recalibration `β`"];
    panels.push(decades(
        plots,
        [RIDGES[0], LARGEST_RECALIBRATED],
        "softmax",
        labels,
        LegendPosition::InsideTopLeft,
    ));
    save(&arguments, "fig2", "The ridge that is best for LoRA (dashed: recalibrated, `β = M/Q`)", 3, panels)
}
