//! Which pre-training ridge is best for LoRA on *reused* sequences? The answer depends on the meaning of
//! "best".
//!
//! ```text
//! cargo run --release --example quickstart
//! ```
//!
//! The example is linear attention with two tokens, fine-tuned on a subset of its own pre-training sequences.
//! The pre-training ridge `lambda` that aligns the LoRA weights best with the true ones (largest `o_w`) is
//! the smallest one. The ridge that predicts best (least test error `E'`) is finite. The program prints a
//! table, and writes `target/quickstart/mismatch.csv` and `.svg`.

use std::error::Error;
use std::fs;
use std::path::Path;

use kuva::backend::svg::SvgBackend;
use kuva::plot::LinePlot;
use kuva::render::figure::Figure;
use kuva::render::layout::Layout;
use kuva::render::layout::TickFormat;
use kuva::render::plots::Plot;
use lora_asymptotics::{Model, Options, Teacher, lora, pretrain};
use serde::Serialize;

/// One row of the table, and of the CSV file.
#[derive(Serialize)]
struct Row {
    lambda: f64,
    /// `o_w`, the cosine between the learned and the true perturbation.
    alignment: f64,
    alignment_std: f64,
    /// `E'`, the test error with noisy labels.
    test_error: f64,
    test_error_std: f64,
    /// `E'` without LoRA.
    frozen_error: f64,
    /// `Delta_eff` on the training sequences, and on new sequences.
    noise_train: f64,
    noise_test: f64,
    verdict: lora::Verdict,
}

fn main() -> Result<(), Box<dyn Error>> {
    let model = Model::linear(2, 0.5)?.with_teacher(Teacher::Wishart { kappa0: 0.5 })?;
    let fine_tuning = lora::Training::fresh(3.0, 0.2)?.reused();

    let rows = (0..22)
        .map(|k| solve(&model, 1e-3 * 10f64.powf(f64::from(k) / 7.0), &fine_tuning))
        .collect::<Result<Vec<_>, _>>()?;

    println!(
        "linear attention, T = 2, Delta = 0.5, kappa0 = 0.5, alpha = 0.2; LoRA on reused sequences, alpha' = 3, lambda' = 0.2\n"
    );
    println!("  lambda   alignment o_w      test error E'      frozen   Delta_eff: train   test   verdict");
    for row in &rows {
        println!(
            "{:8.4}   {:.5} +- {:.0e}   {:.5} +- {:.0e}   {:.4}   {:16.4}   {:.4}   {}",
            row.lambda,
            row.alignment,
            row.alignment_std,
            row.test_error,
            row.test_error_std,
            row.frozen_error,
            row.noise_train,
            row.noise_test,
            row.verdict,
        );
    }
    let aligned = best(&rows, |row| -row.alignment);
    let accurate = best(&rows, |row| row.test_error);
    println!(
        "\nbest alignment:  lambda = {:.4} of {:.4}..{:.4}, o_w = {:.4}",
        aligned.lambda,
        rows[0].lambda,
        rows[rows.len() - 1].lambda,
        aligned.alignment
    );
    println!("best prediction: lambda = {:.4}, E' = {:.4}", accurate.lambda, accurate.test_error);

    let folder = Path::new("target").join("quickstart");
    fs::create_dir_all(&folder)?;
    let mut table = csv::Writer::from_path(folder.join("mismatch.csv"))?;
    for row in &rows {
        table.serialize(row)?;
    }
    table.flush()?;
    fs::write(folder.join("mismatch.svg"), picture(&rows))?;
    println!("written: {0}/mismatch.csv, {0}/mismatch.svg", folder.display());
    Ok(())
}

fn solve(model: &Model, lambda: f64, fine_tuning: &lora::Training) -> Result<Row, lora_asymptotics::Error> {
    let options = Options::default();
    let frozen = pretrain::solve(model, &pretrain::Training::new(0.2, lambda)?, &options)?
        .into_converged()?
        .freeze()?;
    let solution = lora::solve(model, &frozen, fine_tuning, &options)?.into_converged()?;
    let noise = solution.effective_noise;
    Ok(Row {
        lambda,
        alignment: solution.alignment,
        alignment_std: solution.std_error.alignment.unwrap_or(0.0),
        test_error: solution.errors.test,
        test_error_std: solution.std_error.test.unwrap_or(0.0),
        frozen_error: solution.errors.frozen,
        noise_train: noise.and_then(|noise| noise.train).unwrap_or(f64::NAN),
        noise_test: noise.map_or(f64::NAN, |noise| noise.test),
        verdict: solution.validity.verdict,
    })
}

/// The row with the least cost.
fn best(rows: &[Row], cost: impl Fn(&Row) -> f64) -> &Row {
    rows.iter().fold(&rows[0], |best, row| if cost(row) < cost(best) { row } else { best })
}

/// Two panels with the same logarithmic abscissa.
fn picture(rows: &[Row]) -> String {
    let panel = |value: fn(&Row) -> f64, color: &str, label: &str| {
        let points = rows.iter().map(|row| (row.lambda, value(row))).collect::<Vec<_>>();
        let plots =
            vec![Plot::Line(LinePlot::new().with_data(points).with_color(color).with_stroke_width(2.0))];
        let layout = Layout::auto_from_plots(&plots)
            .with_log_x()
            .with_x_tick_format(TickFormat::Sci)
            .with_x_label("pre-training ridge lambda")
            .with_y_label(label);
        (plots, layout)
    };
    // The colours (Okabe-Ito) can be told apart by the colour-blind.
    let (left, left_layout) = panel(|row| row.alignment, "#0072B2", "alignment o_w of the LoRA weights");
    let (right, right_layout) = panel(|row| row.test_error, "#D55E00", "test error E' (units of the loss)");
    let figure = Figure::new(1, 2)
        .with_plots(vec![left, right])
        .with_layouts(vec![left_layout, right_layout])
        .with_title("LoRA on reused sequences: the best ridge depends on the target");
    SvgBackend.render_scene(&figure.render())
}
