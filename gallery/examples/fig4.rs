//! The figure shows active fine-tuning: of `100 D` new sequences, those with the smallest frozen logits are
//! kept. It has test error `E'` and alignment `o_w` against the fraction kept, for both scores and for a
//! random selection of the same size, at `lambda' = .5` and at the best `lambda'`. The parameters are
//! `T = 3`, `Delta = 0`, `alpha = .1`, `kappa0 = kappa = 1`, and the pre-training ridge of least error, which
//! is the smallest allowed one because there is no label noise. Linear frozen weights are then so good (`M/Q`
//! near 1) that the selection hardly matters, and the curves coincide.
//!
//! ```text
//! cargo run --release -p gallery --example fig4
//! ```

mod common;

use std::error::Error;

use clap::Parser;
use common::{
    Arguments, BLACK, COLOURS, Dot, GREY, Trained, curve, fact, log_panel, mark, measured, save, train,
    write_csv,
};
use kuva::plot::legend::LegendPosition;
use lora_asymptotics::lora::{Score, Selection, Sequences};
use lora_asymptotics::optimize::{Parameter, Settings, Target, Variable, minimize};
use lora_asymptotics::{Scenario, lora};
use serde::Serialize;

/// Number of available sequences, over `D`.
const POOL: f64 = 100.0;
/// The fractions at which networks are trained.
const MARKED: [f64; 3] = [0.04, 0.02, 0.015];
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

/// Results of networks fine-tuned on synthetic frozen logits, at `lambda' = .5`.
#[derive(Serialize)]
struct Marker {
    activation: &'static str,
    rule: &'static str,
    fraction: f64,
    dimension: usize,
    test: f64,
    test_std_error: f64,
    alignment: f64,
    alignment_std_error: f64,
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

fn row(
    scenario: &Scenario,
    activation: &'static str,
    rule: &'static str,
    fraction: f64,
    best_ridge: bool,
) -> Result<Option<Row>, lora_asymptotics::Error> {
    let mut scenario = with_rule(scenario, rule, fraction)?;
    let stage = if best_ridge {
        let settings = Settings { tolerance: 5e-2, scan: 5, ..Settings::default() };
        let ridge = Variable::new(Parameter::LoraLambda, 0.01, 10.0)?;
        match minimize(&scenario, Target::LoraTest, &[ridge], &settings) {
            Ok(best) => {
                if let Some(training) = &mut scenario.lora {
                    *training = training.with_lambda(best.found[0].value)?;
                }
                best.outcome.lora
            }
            // With so few sequences, no point can be trusted.
            Err(lora_asymptotics::Error::NoOptimum { .. }) => None,
            Err(error) => return Err(error),
        }
    } else {
        scenario.solve()?.lora
    };
    let lora_lambda = scenario.lora.and_then(|training| training.lambda()).unwrap_or(f64::NAN);
    Ok(stage.map(|lora::Solution { errors, alignment, validity, std_error, .. }| Row {
        activation,
        rule,
        fraction,
        best_ridge,
        lora_lambda,
        test: errors.test,
        test_std_error: std_error.test.unwrap_or(0.0),
        alignment,
        verdict: validity.verdict.to_string(),
    }))
}

/// The frozen weights of the pre-training with the ridge of least error. The fine-tuning is still to be
/// filled in.
fn base(activation: &str, log2_nodes: usize) -> Result<Scenario, lora_asymptotics::Error> {
    let mut scenario = Scenario::from_json(&format!(
        r#"{{"model": {{"tokens": 3, "activation": "{activation}", "delta": 0.0, "teacher": {{"wishart": {{"kappa0": 1.0}}}}}},
            "pretrain": {{"alpha": 0.1, "lambda": 0.1}}, "lora": {{"alpha": 1.0, "lambda": 0.5}},
            "options": {{"log2_nodes": {log2_nodes}, "tolerance": 1e-6}}}}"#
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
    let mut fractions: Vec<f64> = if arguments.full {
        (0..13).map(|k| 10f64.powf(-f64::from(k) / 6.0)).collect()
    } else {
        vec![1.0, 0.2]
    };
    fractions.extend(MARKED);
    fractions.sort_by(|a, b| b.total_cmp(a));
    let log2_nodes = if arguments.full { 13 } else { 9 };
    let mut table = Vec::new();
    let mut markers = Vec::new();
    for activation in ["linear", "softmax"] {
        let scenario = base(activation, log2_nodes)?;
        if arguments.simulate {
            for (rule, _) in [RULES[0], RULES[2]] {
                for fraction in MARKED {
                    let here = with_rule(&scenario, rule, fraction)?;
                    if let Some(Trained { dimension, test, alignment, .. }) = train(&here, arguments.full)? {
                        markers.push(Marker {
                            activation,
                            rule,
                            fraction,
                            dimension,
                            test: test.mean,
                            test_std_error: test.std_error,
                            alignment: alignment.mean,
                            alignment_std_error: alignment.std_error,
                        });
                    }
                }
            }
        }
        for best_ridge in [false, true] {
            for (rule, _) in RULES {
                for &fraction in &fractions {
                    table.extend(row(&scenario, activation, rule, fraction, best_ridge)?);
                }
            }
        }
    }
    write_csv(&arguments.out, "fig4", &table)?;
    if arguments.simulate {
        write_csv(&arguments.out, "fig4_trained", &markers)?;
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
        for (name, best_ridge, value) in [
            ("test error E'", false, (|row: &Row| row.test) as fn(&Row) -> f64),
            ("alignment o_w", false, |row: &Row| row.alignment),
            ("test error E'", true, |row: &Row| row.test),
        ] {
            let mut plots = Vec::new();
            // The markers are drawn on top of everything else.
            let mut trained = Vec::new();
            for (rule, colour) in RULES {
                let dots: Vec<Dot> = table
                    .iter()
                    .filter(|row| {
                        row.activation == activation && row.rule == rule && row.best_ridge == best_ridge
                    })
                    .map(|row| Dot { x: row.fraction, y: value(row), reliable: row.verdict != "unreliable" })
                    .collect();
                plots.extend(curve(&dots, colour, rule, rule == "random"));
                let marked = |dot: &&Dot| MARKED.iter().any(|marked| (marked - dot.x).abs() < 1e-9);
                plots.extend(dots.iter().filter(marked).map(|dot| mark(dot.x, dot.y, colour)));
                let points: Vec<(f64, f64, f64)> = markers
                    .iter()
                    .filter(|one| one.activation == activation && one.rule == rule && !best_ridge)
                    .map(|one| match name.starts_with('a') {
                        true => (one.fraction, one.alignment, one.alignment_std_error),
                        false => (one.fraction, one.test, one.test_std_error),
                    })
                    .collect();
                if !points.is_empty() {
                    let legend = if trained.is_empty() { "trained" } else { "" };
                    trained.push(measured(&points, BLACK, legend));
                }
            }
            plots.extend(trained);
            let title =
                format!("{activation}, {}", if best_ridge { "best lambda'" } else { "lambda' = 0.5" });
            let legend = if value(&table[0]) <= 1.0 && name.starts_with('a') {
                LegendPosition::InsideBottomRight
            } else {
                LegendPosition::InsideTopRight
            };
            panels.push(log_panel(plots, &title, "fraction kept rho, alpha' = 100 rho", name, legend));
        }
    }
    let mut title = "Selecting sequences with small frozen logits (diamonds: rho = .015, .02, .04".to_owned();
    if let Some(one) = markers.first() {
        title += &format!("; dots: networks trained at D = {}, frobenius and random", one.dimension);
    }
    save(&arguments, "fig4", &(title + ")"), 3, panels)
}
