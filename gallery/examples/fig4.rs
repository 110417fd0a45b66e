//! The figure shows active fine-tuning: of `100 D` new sequences, those with the smallest frozen logits are
//! kept. It has test error `E'` and alignment `o_w` against the fraction kept, for both scores and for a
//! random selection of the same size, at `lambda' = .5` and at the best `lambda'`. The parameters are
//! `T = 3`, `Delta = 0`, `alpha = .1`, `kappa0 = kappa = 1`, and the pre-training ridge of least error, which
//! is the smallest allowed one because there is no label noise. Linear frozen weights are then so good (`M/Q`
//! near 1) that the selection hardly matters, and the curves coincide.
//!
//! ```text
//! cargo run --release -p gallery --example fig4
//! cargo run --release -p gallery --example fig4 -- --full --simulate   # more nodes, and trained networks: minutes
//! ```

mod common;

use std::error::Error;

use clap::Parser;
use common::{
    Arguments, BLACK, COLOURS, Dot, GREY, decades, extrapolate, fact, measured, points_of, save, smooth,
    write_csv, write_points,
};
use kuva::plot::legend::LegendPosition;
use kuva::render::layout::TickFormat;
use lora_asymptotics::lora::{Score, Selection, Sequences};
use lora_asymptotics::optimize::{Parameter, Settings, Target, Variable, minimize};
use lora_asymptotics::{Scenario, lora};
use serde::Serialize;

/// Number of available sequences, over `D`.
const POOL: f64 = 100.0;
/// The fractions at which networks are trained.
const MARKED: [f64; 3] = [0.04, 0.02, 0.015];
/// The smallest fraction.
const SMALLEST: f64 = 0.015;
/// Number of points on a curve.
const POINTS: u32 = 60;
/// Number of fractions at which the best ridge is searched. It is interpolated in between, which changes `E'` in second order only.
const SEARCHED: u32 = 5;
/// The rules of selection and their colours. The random rule is last, so that it is drawn on top of the
/// others.
const RULES: [(&str, &str); 3] = [("frobenius", COLOURS[1]), ("centred", COLOURS[2]), ("random", GREY)];

#[derive(Serialize)]
struct Row {
    activation: &'static str,
    rule: &'static str,
    fraction: f64,
    /// Whether `lambda'` is the best one.
    best_ridge: bool,
    lora_lambda: f64,
    test: f64,
    test_std_error: f64,
    alignment: f64,
    verdict: String,
}

/// Fractions from 1 to the smallest one, at equal ratios.
fn fractions(count: u32) -> impl Iterator<Item = f64> {
    (0..count).map(move |k| SMALLEST.powf(f64::from(k) / f64::from(count - 1)))
}

fn with_rule(scenario: &Scenario, rule: &str, fraction: f64) -> Result<Scenario, lora_asymptotics::Error> {
    let mut scenario = scenario.clone();
    let selected = |score| Selection::new(fraction, score).map(Sequences::Active);
    if let Some(training) = &mut scenario.lora {
        *training = training.with_alpha(POOL * fraction)?.on(match rule {
            "frobenius" => selected(Score::Frobenius)?,
            "centred" => selected(Score::Centred)?,
            _ => Sequences::Fresh,
        });
    }
    Ok(scenario)
}

/// The best ridge at some fractions, without those at which no point can be trusted because there are so few sequences.
fn best_ridges(scenario: &Scenario, rule: &str) -> Result<Vec<[f64; 2]>, lora_asymptotics::Error> {
    let settings = Settings { tolerance: 0.1, scan: 4, ..Settings::default() };
    let ridge = Variable::new(Parameter::LoraLambda, 0.01, 2.0)?;
    let mut found = Vec::new();
    for fraction in fractions(SEARCHED) {
        match minimize(&with_rule(scenario, rule, fraction)?, Target::LoraTest, &[ridge], &settings) {
            Ok(best) => found.push([fraction, best.found[0].value]),
            Err(lora_asymptotics::Error::NoOptimum { .. }) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(found)
}

/// The value at a fraction, interpolated in logarithms between those at the fractions around it.
fn interpolated(values: &[[f64; 2]], fraction: f64) -> Option<f64> {
    const ROUNDING: f64 = 1e-9;
    let around = |pair: &&[[f64; 2]]| (pair[1][0] - ROUNDING..=pair[0][0] + ROUNDING).contains(&fraction);
    let pair = values.windows(2).find(around)?;
    let share = (fraction / pair[0][0]).ln() / (pair[1][0] / pair[0][0]).ln();
    Some(pair[0][1] * (pair[1][1] / pair[0][1]).powf(share))
}

/// The rows of one rule, at `lambda' = .5` or at the best ridge.
fn rows(
    scenario: &Scenario,
    activation: &'static str,
    rule: &'static str,
    best_ridge: bool,
) -> Result<Vec<Row>, lora_asymptotics::Error> {
    let ridges = if best_ridge { best_ridges(scenario, rule)? } else { Vec::new() };
    let mut rows = Vec::new();
    for fraction in fractions(POINTS) {
        let mut scenario = with_rule(scenario, rule, fraction)?;
        if let Some(training) = &mut scenario.lora
            && best_ridge
        {
            let Some(ridge) = interpolated(&ridges, fraction) else { continue };
            *training = training.with_lambda(ridge)?;
        }
        let lora_lambda = scenario.lora.and_then(|training| training.lambda()).unwrap_or(f64::NAN);
        let Some(lora::Solution { errors, alignment, validity, std_error, .. }) = scenario.solve()?.lora
        else {
            continue;
        };
        rows.push(Row {
            activation,
            rule,
            fraction,
            best_ridge,
            lora_lambda,
            test: errors.test,
            test_std_error: std_error.test.unwrap_or(0.0),
            alignment,
            verdict: validity.verdict.to_string(),
        });
    }
    Ok(rows)
}

/// The frozen weights of the pre-training with the ridge of least error. The fine-tuning is still to be
/// filled in.
fn base(activation: &str, full: bool) -> Result<Scenario, lora_asymptotics::Error> {
    let (log2_nodes, scrambles) = if full { (11, 8) } else { (9, 2) };
    let mut scenario = Scenario::from_json(&format!(
        r#"{{"model": {{"tokens": 3, "activation": "{activation}", "delta": 0.0, "teacher": {{"wishart": {{"kappa0": 1.0}}}}}},
            "pretrain": {{"alpha": 0.1, "lambda": 0.1}}, "lora": {{"alpha": 1.0, "lambda": 0.5}},
            "options": {{"log2_nodes": {log2_nodes}, "scrambles": {scrambles}, "tolerance": 1e-5}}}}"#
    ))?;
    let settings = Settings { tolerance: 2e-2, scan: 6, ..Settings::default() };
    let ridge = Variable::new(Parameter::PretrainLambda, 0.002, 0.4)?;
    let best = minimize(&scenario, Target::PretrainTest, &[ridge], &settings)?;
    let pretrained = best.outcome.pretrain.map(|stage| stage.freeze()).transpose()?;
    println!("{activation}: best pre-training ridge {:.4}", best.found[0].value);
    scenario.frozen = pretrained;
    scenario.pretrain = None;
    scenario.model = scenario.model.without_teacher();
    Ok(scenario)
}

fn main() -> Result<(), Box<dyn Error>> {
    let arguments = Arguments::parse();
    let mut table = Vec::new();
    let mut markers = Vec::new();
    for activation in ["linear", "softmax"] {
        let scenario = base(activation, arguments.full)?;
        if arguments.simulate {
            for (rule, _) in [RULES[0], RULES[2]] {
                for fraction in MARKED {
                    let here = with_rule(&scenario, rule, fraction)?;
                    markers.extend(extrapolate(&here, [activation, rule], fraction)?);
                }
            }
        }
        for best_ridge in [false, true] {
            for (rule, _) in RULES {
                table.extend(rows(&scenario, activation, rule, best_ridge)?);
            }
        }
    }
    write_csv(&arguments.out, "fig4", &table)?;
    if arguments.simulate {
        write_points(&arguments.out, "fig4_trained", &markers)?;
    }

    let random = |row: &Row| {
        table.iter().find(|other| {
            other.rule == "random"
                && other.activation == row.activation
                && other.best_ridge == row.best_ridge
                && (other.fraction - row.fraction).abs() < 1e-9
        })
    };
    for row in table.iter().filter(|row| row.rule != "random" && row.fraction < 1.0) {
        let Some(random) = random(row) else { continue };
        if row.verdict == "unreliable" || random.verdict == "unreliable" {
            continue;
        }
        let slack = 4.0 * row.test_std_error.hypot(random.test_std_error);
        if row.activation == "linear" && row.best_ridge {
            fact(
                row.test < random.test + slack.min(1e-3 * random.test),
                "selection is not worse than chance",
            )?;
        }
        if row.activation == "softmax" && !row.best_ridge {
            fact(row.alignment > random.alignment - 1e-4, "selection aligns softmax attention better")?;
        }
    }

    let mut panels = Vec::new();
    for activation in ["linear", "softmax"] {
        for (observable, name, best_ridge, value) in [
            ("test", "test error `E′`", false, (|row: &Row| row.test) as fn(&Row) -> f64),
            ("alignment", "alignment `o_w`", false, |row: &Row| row.alignment),
            ("test", "test error `E′`", true, |row: &Row| row.test),
        ] {
            let mut plots = Vec::new();
            // The markers are drawn on top of everything else.
            let mut on_top = Vec::new();
            for (rule, colour) in RULES {
                let dots: Vec<Dot> = table
                    .iter()
                    .filter(|row| {
                        row.activation == activation && row.rule == rule && row.best_ridge == best_ridge
                    })
                    .map(|row| Dot { x: row.fraction, y: value(row), reliable: row.verdict != "unreliable" })
                    .collect();
                plots.extend(smooth(&dots, colour, rule, rule == "random"));
                let points = points_of(&markers, [activation, rule], observable);
                if !best_ridge && !points.is_empty() {
                    let legend = if on_top.is_empty() { "trained" } else { "" };
                    on_top.push(measured(&points, BLACK, legend));
                }
            }
            plots.extend(on_top);
            let title = format!("{activation}, {}", if best_ridge { "best `λ′`" } else { "`λ′` = 0.5" });
            let legend = match observable {
                "alignment" => LegendPosition::InsideBottomRight,
                _ => LegendPosition::InsideTopRight,
            };
            let labels = ["fraction kept `ρ`, with `α′` = 100`ρ`", name];
            let (plots, mut layout) = decades(plots, [0.9 * SMALLEST, 1.0], &title, labels, legend);
            if activation == "linear" && best_ridge {
                layout = layout.with_y_tick_format(TickFormat::Fixed(5));
            }
            panels.push((plots, layout));
        }
    }
    save(&arguments, "fig4", "Selecting the sequences with small frozen logits", 3, panels)
}
