//! The teacher is a real attention head. How much of it does pre-training recover, and how much does LoRA
//! add?
//!
//! ```text
//! cargo run --release -p gallery --example real_head                        # layer 0, head 2 of all-MiniLM-L6-v2
//! cargo run --release -p gallery --example real_head -- --layer 1 --head 7
//! cargo run --release -p gallery --example real_head -- --spectrum my_eigenvalues.json
//! ```
//!
//! The theory's teacher is a symmetric positive matrix. For a head, its eigenvalues are the singular values
//! of `W_Q^T W_K`, zeros included, scaled to `Q0 = 1 + rank/D`, which is the `Q0` of a Wishart teacher of the
//! same rank. Any JSON list of eigenvalues (or of singular values) can be used instead; it is scaled in the
//! same way. The model is linear attention with two tokens, and every ridge of the pre-training is the one of
//! least test error. The program prints tables, and writes `learning_curves.csv`, `spectrum.csv`, `heads.csv`
//! and `real_head.svg` to `target/real_head`.

use std::error::Error;
use std::fs;
use std::path::Path;

use clap::Parser;
use kuva::backend::svg::SvgBackend;
use kuva::plot::LinePlot;
use kuva::plot::legend::LegendPosition;
use kuva::render::figure::Figure;
use kuva::render::layout::{Layout, TickFormat};
use kuva::render::plots::Plot;
use lora_asymptotics::optimize::{Parameter, Settings, Target, Variable, minimize};
use lora_asymptotics::pretrain::LearnedSpectrum;
use lora_asymptotics::{Estimator, Model, Options, Scenario, Teacher, lora, pretrain};
use serde::{Deserialize, Serialize};

/// The label noise, and the parameters `alpha'` and `lambda'` of the fine-tuning.
const DELTA: f64 = 0.1;
const LORA_ALPHA: f64 = 2.0;
const LORA_LAMBDA: f64 = 0.5;
/// The amount of data at which spectra are shown and heads are compared.
const SHOWN_ALPHA: f64 = 0.05;

#[derive(Parser)]
struct Arguments {
    /// Layer of the head, 0 to 5.
    #[arg(long, default_value_t = 0)]
    layer: usize,
    /// Number of the head in its layer, 0 to 11.
    #[arg(long, default_value_t = 2)]
    head: usize,
    /// A file with a JSON list of eigenvalues, instead of a head.
    #[arg(long)]
    spectrum: Option<String>,
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
    /// `o_w` and `E'` of LoRA on fresh sequences, `E'` without LoRA, and the bound.
    lora_alignment: f64,
    lora_test_error: f64,
    lora_test_error_std: f64,
    frozen_error: f64,
    bayes_lora_alignment: f64,
    bayes_lora_test_error: f64,
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

/// One row of the spectra: a fraction of all eigenvalues, and the eigenvalue below which that fraction lies.
#[derive(Serialize)]
struct SpectrumRow {
    fraction: f64,
    truth: f64,
    learned: f64,
    learned_from_wishart: f64,
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
    let wishart = Model::linear(2, DELTA)?.with_teacher(Teacher::Wishart { kappa0: rank_fraction })?;

    let alphas: Vec<f64> = (0..15).map(|k| 4e-3 * 10f64.powf(f64::from(k) / 7.0)).collect();
    let mut rows = Vec::new();
    for (teacher, model) in [("head", &real), ("Wishart", &wishart)] {
        for &alpha in &alphas {
            rows.push(row(teacher, model, alpha)?);
        }
    }
    println!(
        "{name}: rank {:.4} D, Q0 = {:.4}; linear attention, T = 2, Delta = {DELTA}",
        rank_fraction,
        1.0 + rank_fraction
    );
    println!("LoRA on fresh sequences, alpha' = {LORA_ALPHA}, lambda' = {LORA_LAMBDA}\n");
    println!(
        "teacher    alpha   lambda     o_W  (bound)   rank/D    E      E' (bound)        frozen    o_w  (bound)"
    );
    for row in &rows {
        println!(
            "{:8} {:7.4} {:8.4}  {:.4} ({:.4})  {:.4}  {:.4}  {:.4} ({:.4})  {:.4}  {:.4} ({:.4})",
            row.teacher,
            row.alpha,
            row.best_lambda,
            row.alignment,
            row.bayes_alignment,
            row.rank_fraction,
            row.test_error,
            row.lora_test_error,
            row.bayes_lora_test_error,
            row.frozen_error,
            row.lora_alignment,
            row.bayes_lora_alignment
        );
    }

    let [learned, from_wishart] = [learned(&real)?, learned(&wishart)?];
    println!(
        "\nlearned spectrum at alpha = {SHOWN_ALPHA}: {:.4} of the eigenvalues are positive",
        1.0 - learned.atom()
    );
    for component in learned.components().iter().rev().take(6) {
        let kind = if component.outlier { "outlier" } else { "bulk" };
        println!(
            "  {:7} {:8.4} .. {:8.4}  weight {:.5}",
            kind, component.low, component.high, component.weight
        );
    }
    let spectra = spectra(&truth, &learned, &from_wishart)?;

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

    let folder = Path::new("target").join("real_head");
    fs::create_dir_all(&folder)?;
    write(&folder.join("learning_curves.csv"), &rows)?;
    write(&folder.join("spectrum.csv"), &spectra)?;
    write(&folder.join("heads.csv"), &compared)?;
    fs::write(folder.join("real_head.svg"), picture(&rows, &spectra, &learned, &from_wishart)?)?;
    println!(
        "\nwritten: learning_curves.csv, spectrum.csv, heads.csv and real_head.svg in {}",
        folder.display()
    );
    Ok(())
}

/// Returns the model with the given spectrum, scaled to `Q0 = 1 + rank/D`, its eigenvalues in decreasing
/// order, and `rank/D`.
fn normalised(mut spectrum: Vec<f64>) -> Result<(Model, Vec<f64>, f64), lora_asymptotics::Error> {
    // This reports an error in the list before the list is scaled.
    Model::linear(2, DELTA)?.with_teacher(Teacher::Spectrum { eigenvalues: spectrum.clone() })?;
    spectrum.sort_by(|a, b| b.total_cmp(a));
    let count = spectrum.len() as f64;
    let rank_fraction = spectrum.iter().filter(|s| **s > 0.0).count() as f64 / count;
    let q0 = spectrum.iter().map(|s| s * s).sum::<f64>() / count;
    let scale = ((1.0 + rank_fraction) / q0).sqrt();
    let eigenvalues: Vec<f64> = spectrum.iter().map(|s| scale * s).collect();
    let model =
        Model::linear(2, DELTA)?.with_teacher(Teacher::Spectrum { eigenvalues: eigenvalues.clone() })?;
    Ok((model, eigenvalues, rank_fraction))
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

fn row(teacher: &'static str, model: &Model, alpha: f64) -> Result<Row, lora_asymptotics::Error> {
    let options = Options::default().with_log2_nodes(12)?;
    let (training, solution) = best(model, alpha)?;
    let bound = pretrain::bayes_optimal(model, alpha, &options)?.into_converged()?;
    let tuned =
        lora::solve(model, &solution.freeze()?, &lora::Training::fresh(LORA_ALPHA, LORA_LAMBDA)?, &options)?
            .into_converged()?;
    let tuned_bound =
        lora::bayes_optimal(model, &bound.freeze()?, LORA_ALPHA, 1.0, &options)?.into_converged()?;
    Ok(Row {
        teacher,
        alpha,
        best_lambda: training.lambda().unwrap_or(f64::NAN),
        alignment: solution.alignment,
        bayes_alignment: bound.alignment,
        rank_fraction: solution.rank_fraction,
        test_error: solution.errors.test,
        bayes_test_error: bound.errors.test,
        lora_alignment: tuned.alignment,
        lora_test_error: tuned.errors.test,
        lora_test_error_std: tuned.std_error.test.unwrap_or(0.0),
        frozen_error: tuned.errors.frozen,
        bayes_lora_alignment: tuned_bound.alignment,
        bayes_lora_test_error: tuned_bound.errors.test,
    })
}

fn learned(model: &Model) -> Result<LearnedSpectrum, lora_asymptotics::Error> {
    let (training, solution) = best(model, SHOWN_ALPHA)?;
    LearnedSpectrum::new(model, &training, &solution)
}

fn spectra(
    truth: &[f64],
    learned: &LearnedSpectrum,
    from_wishart: &LearnedSpectrum,
) -> Result<Vec<SpectrumRow>, lora_asymptotics::Error> {
    let count = truth.len();
    (0..count)
        .map(|k| {
            let fraction = 1.0 - (k as f64 + 0.5) / count as f64;
            Ok(SpectrumRow {
                fraction,
                truth: truth[k],
                learned: learned.quantile(fraction)?,
                learned_from_wishart: from_wishart.quantile(fraction)?,
            })
        })
        .collect()
}

fn compare(head: &Head) -> Result<HeadRow, lora_asymptotics::Error> {
    let (model, eigenvalues, _) = normalised(head.spectrum())?;
    let (training, solution) = best(&model, SHOWN_ALPHA)?;
    let spectrum = LearnedSpectrum::new(&model, &training, &solution)?;
    let sum: f64 = eigenvalues.iter().sum();
    Ok(HeadRow {
        layer: head.layer,
        head: head.head,
        effective_rank: sum * sum / eigenvalues.iter().map(|s| s * s).sum::<f64>(),
        alignment: solution.alignment,
        bayes_alignment: pretrain::bayes_optimal(&model, SHOWN_ALPHA, &Options::default())?.alignment,
        learned_rank: solution.rank_fraction,
        outliers: spectrum.components().iter().filter(|component| component.outlier).count(),
    })
}

fn write<R: Serialize>(path: &Path, rows: &[R]) -> Result<(), Box<dyn Error>> {
    let mut table = csv::Writer::from_path(path)?;
    for row in rows {
        table.serialize(row)?;
    }
    Ok(table.flush()?)
}

/// The colours (Okabe-Ito) can be told apart by the colour-blind.
const BLUE: &str = "#0072B2";
const ORANGE: &str = "#D55E00";
const GREY: &str = "#777777";

fn line(points: Vec<(f64, f64)>, color: &str, legend: &str) -> LinePlot {
    LinePlot::new().with_data(points).with_color(color).with_stroke_width(2.0).with_legend(legend)
}

fn picture(
    rows: &[Row],
    spectra: &[SpectrumRow],
    learned: &LearnedSpectrum,
    from_wishart: &LearnedSpectrum,
) -> Result<String, lora_asymptotics::Error> {
    let curve = |teacher: &str, value: fn(&Row) -> f64| {
        rows.iter()
            .filter(|row| row.teacher == teacher)
            .map(|row| (row.alpha, value(row)))
            .collect::<Vec<_>>()
    };
    let curves = |value: fn(&Row) -> f64, bound: fn(&Row) -> f64| {
        vec![
            Plot::Line(line(curve("head", value), BLUE, "head")),
            Plot::Line(line(curve("head", bound), BLUE, "head, bound").with_dashed()),
            Plot::Line(line(curve("Wishart", value), ORANGE, "Wishart")),
            Plot::Line(line(curve("Wishart", bound), ORANGE, "Wishart, bound").with_dashed()),
        ]
    };
    let axes = |plots: &[Plot], x: &str, y: &str, legend: LegendPosition| {
        Layout::auto_from_plots(plots).with_x_label(x).with_y_label(y).with_legend_position(legend)
    };
    let data = "pre-training sequences alpha = N/D^2";
    let log = |layout: Layout| layout.with_log_x().with_x_tick_format(TickFormat::Sci);

    let alignment = curves(|row| row.alignment, |row| row.bayes_alignment);
    let alignment_axes = log(axes(&alignment, data, "alignment o_W", LegendPosition::InsideBottomRight));
    let error = curves(|row| row.lora_test_error, |row| row.bayes_lora_test_error);
    let error_axes = log(axes(&error, data, "LoRA test error E'", LegendPosition::InsideTopRight));

    // Only the largest eigenvalues are shown. All others are zero.
    let shown = &spectra[..spectra.len().min(64)];
    let ranked = |value: fn(&SpectrumRow) -> f64| {
        shown.iter().enumerate().map(|(k, row)| (k as f64 + 1.0, value(row))).collect::<Vec<_>>()
    };
    let scree = vec![
        Plot::Line(line(ranked(|row| row.truth), GREY, "head, true").with_dashed()),
        Plot::Line(line(ranked(|row| row.learned), BLUE, "head, learned")),
        Plot::Line(line(ranked(|row| row.learned_from_wishart), ORANGE, "Wishart, learned")),
    ];
    let scree_axes =
        axes(&scree, "rank of the eigenvalue", "eigenvalue of S/sqrt(D)", LegendPosition::InsideTopRight);

    let density = |spectrum: &LearnedSpectrum| -> Result<Vec<(f64, f64)>, lora_asymptotics::Error> {
        let table = spectrum.table(600)?;
        Ok(table.eigenvalues.into_iter().zip(table.density).collect())
    };
    let densities = vec![
        Plot::Line(line(density(learned)?, BLUE, "head")),
        Plot::Line(line(density(from_wishart)?, ORANGE, "Wishart")),
    ];
    let density_axes = axes(
        &densities,
        "learned eigenvalue of S/sqrt(D)",
        "density (without the atom at 0)",
        LegendPosition::InsideTopRight,
    );
    let figure = Figure::new(2, 2)
        .with_plots(vec![alignment, error, scree, densities])
        .with_layouts(vec![alignment_axes, error_axes, scree_axes, density_axes])
        .with_title("A real attention head as the teacher, beside a Wishart teacher of its rank");
    Ok(SvgBackend.render_scene(&figure.render()))
}
