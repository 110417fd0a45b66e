//! `lora-asymptotics solve`: lines in, answers out, and how the program ends.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

mod common;

use std::fs;

use common::{SCENARIO, answer, folder, said, status, written};
use serde_json::Value;

fn is_outcome(line: &str) -> bool {
    serde_json::from_str::<Value>(line).is_ok_and(|outcome| outcome["lora"]["status"] == "converged")
}

/// The same scenario with two iterations, which are not enough.
fn without_convergence() -> String {
    SCENARIO.replace("\"log2_nodes\": 8", "\"log2_nodes\": 8, \"max_iterations\": 2")
}

#[test]
fn lines_are_answered_in_order_with_any_line_ends() {
    let alone = answer(&["solve"], SCENARIO.as_bytes());
    assert_eq!((status(&alone), said(&alone)), (Some(0), ""));
    assert!(is_outcome(written(&alone)) && written(&alone).ends_with('\n'));
    // A byte order mark, empty lines, the line ends of another system, and a last line without one.
    let other = SCENARIO.replace("0.5}}}", "1.5}}}");
    let input = format!("\u{feff}{SCENARIO}\r\n\r\n  \n\n{other}\r\n{SCENARIO}");
    let output = answer(&["solve"], input.as_bytes());
    assert_eq!((status(&output), said(&output)), (Some(0), ""));
    let lines: Vec<&str> = written(&output).lines().collect();
    assert_eq!(lines.len(), 3);
    assert!(lines.iter().all(|line| is_outcome(line)));
    assert_eq!([lines[0], lines[2]], [written(&alone).trim_end(); 2]);
    assert_ne!(lines[1], lines[0]);
}

#[test]
fn a_scenario_may_span_lines() {
    let alone = answer(&["solve"], SCENARIO.as_bytes());
    let scenario: Value = serde_json::from_str(SCENARIO).unwrap();
    let spanning = serde_json::to_string_pretty(&scenario).unwrap();
    let path = folder("solve_spanning").join("scenario.json");
    fs::write(&path, format!("{spanning}\n\n{{\n  \"model\": 1,\n}}\n{spanning}\r\n{SCENARIO}")).unwrap();
    let output = answer(&["solve", path.to_str().unwrap()], b"");
    assert_eq!((status(&output), said(&output)), (Some(1), ""));
    let lines: Vec<&str> = written(&output).lines().collect();
    assert_eq!(lines.len(), 4);
    assert_eq!([lines[0], lines[2], lines[3]], [written(&alone).trim_end(); 3]);
    assert!(lines[1].contains("at line 2 column"), "{}", lines[1]);
    let table = answer(&["solve", "--format", "csv", path.to_str().unwrap()], b"");
    let begins = |row: &str| row.split(',').next().map(str::to_owned);
    let mut begun: Vec<String> = written(&table).lines().skip(1).filter_map(begins).collect();
    begun.dedup();
    let second = spanning.lines().count() + 5;
    assert_eq!(begun, [1, second - 3, second, 2 * second - 5].map(|line| line.to_string()));
}

#[test]
fn a_bad_line_is_answered_by_an_error_and_told_by_the_exit_status() {
    let input = format!("nonsense\n{SCENARIO}\n{}\n", SCENARIO.replace("3.0", "-3.0"));
    let output = answer(&["solve"], input.as_bytes());
    assert_eq!((status(&output), said(&output)), (Some(1), ""));
    let lines: Vec<Value> =
        written(&output).lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(lines.len(), 3);
    for (line, kind, message) in
        [(&lines[0], "syntax", "expected"), (&lines[2], "invalid_parameter", "lora.alpha = -3")]
    {
        assert_eq!(line.as_object().unwrap().keys().collect::<Vec<_>>(), ["error"]);
        assert_eq!(line["error"]["kind"], kind);
        assert!(line["error"]["message"].as_str().unwrap().contains(message), "{line}");
    }
    assert_eq!(lines[1]["lora"]["status"], "converged");
}

#[test]
fn no_convergence_is_no_failure() {
    let output = answer(&["solve"], without_convergence().as_bytes());
    assert_eq!(status(&output), Some(0));
    assert!(written(&output).contains("max_iterations"));
}

#[test]
fn nothing_is_answered_by_nothing() {
    for form in [&["solve"][..], &["solve", "--format", "csv"], &["solve", "--explain"]] {
        let output = answer(form, b"\n\r\n");
        assert_eq!((status(&output), written(&output), said(&output)), (Some(0), "", ""));
    }
}

#[test]
fn scenarios_are_read_from_a_file() {
    let path = folder("solve_file").join("scenarios.jsonl");
    fs::write(&path, format!("{SCENARIO}\n{SCENARIO}")).unwrap();
    let path = path.to_str().unwrap();
    let from_file = answer(&["solve", path], b"");
    let piped = answer(&["solve", "-", "--threads", "1"], &fs::read(path).unwrap());
    assert_eq!([status(&from_file), status(&piped)], [Some(0); 2]);
    assert_eq!(written(&from_file), written(&piped));
    let missing = answer(&["solve", "no/such/file.jsonl"], b"");
    assert_eq!((status(&missing), written(&missing)), (Some(1), ""));
    assert!(said(&missing).starts_with("no/such/file.jsonl: "), "{}", said(&missing));
}

#[test]
fn a_wrong_call_has_its_own_exit_status() {
    for wrong in [
        &["solve", "--no-such-option"][..],
        &["solve", "--format", "xml"],
        &["solve", "--format", "csv", "--explain"],
        &["solve", "--threads", "0"],
        &["solve", "a", "b"],
        &["sovle"],
        &[],
    ] {
        let output = answer(wrong, b"");
        assert_eq!((status(&output), written(&output)), (Some(2), ""), "{wrong:?}");
        assert!(!said(&output).is_empty(), "{wrong:?}");
    }
}

#[test]
fn numbers_and_words_as_rows_of_a_table() {
    let input = format!("{SCENARIO}\n\nnonsense, with \"quotes\"\n{}\n", without_convergence());
    let table = answer(&["solve", "--format", "csv"], input.as_bytes());
    assert_eq!((status(&table), said(&table)), (Some(1), ""));
    let outcome = answer(&["solve"], SCENARIO.as_bytes());
    let outcome: Value = serde_json::from_str(written(&outcome)).unwrap();

    let mut reader = csv::Reader::from_reader(written(&table).as_bytes());
    assert_eq!(reader.headers().unwrap(), &["line", "quantity", "value", "std_error"][..]);
    let rows: Vec<[String; 4]> = reader.deserialize().collect::<Result<_, _>>().unwrap();
    let find = |line: &str, quantity: &str| {
        let row = rows.iter().find(|row| row[0] == line && row[1] == quantity);
        row.map(|row| [row[2].as_str(), row[3].as_str()]).unwrap_or_else(|| panic!("{line} {quantity}"))
    };
    // Every number has all its digits, and its own standard error.
    let number = |text: &str| text.parse::<f64>().unwrap();
    let lora = &outcome["lora"];
    let [value, error] = find("1", "lora.errors.test");
    assert_eq!(
        [number(value), number(error)].map(Value::from),
        [lora["errors"]["test"].clone(), lora["std_error"]["test"].clone()]
    );
    assert_eq!(find("1", "pretrain.order.q")[1], "");
    assert_eq!(find("1", "lora.validity.verdict"), ["good", ""]);
    assert_eq!(find("1", "lora.validity.reliable"), ["true", ""]);
    // The lines are those of the input, the empty one included.
    assert_eq!(find("3", "error.kind"), ["syntax", ""]);
    assert_eq!(find("4", "pretrain.status"), ["max_iterations", ""]);
    assert!(rows.iter().all(|row| row[0] != "2"));
    assert_eq!(rows.iter().filter(|row| row[0] == "3").count(), 2);
}

#[test]
fn a_readable_table_says_what_to_do() {
    let output = answer(&["solve", "--explain"], format!("{SCENARIO}\nnonsense").as_bytes());
    assert_eq!((status(&output), said(&output)), (Some(1), ""));
    let text = written(&output);
    let line = |name: &str| {
        let found = text.lines().find(|line| line.trim_start().starts_with(name));
        found.unwrap_or_else(|| panic!("{name} is missing in\n{text}"))
    };
    assert!(line("Pre-training").contains("converged after"), "{text}");
    assert!(
        line("order.eta").contains(" +- ") && line("order.eta").contains("the shift of the ridge"),
        "{text}"
    );
    assert!(text.contains("Q = D^{-2} |S-hat|_F^2") && text.contains("q = |w-hat|^2/D"), "{text}");
    assert!(line("verdict").contains("good"), "{text}");
    assert!(line("what to do").contains("can be used"), "{text}");
    assert!(line("not solved").contains("syntax"), "{text}");

    let output = answer(&["solve", "--explain"], without_convergence().as_bytes());
    assert!(written(&output).contains("options.max_iterations"), "{}", written(&output));
    assert!(!written(&output).contains("can be used"), "{}", written(&output));
    assert!(written(&output).contains("did not converge"), "{}", written(&output));

    let bound = SCENARIO
        .replace(", \"lambda\": 0.1", "")
        .replace(", \"lambda\": 0.5", "")
        .replace("\"options\"", "\"estimator\": \"bayes_optimal\", \"options\"");
    let output = answer(&["solve", "--explain"], bound.as_bytes());
    assert!(written(&output).contains("overlap of two draws of the posterior"), "{}", written(&output));

    // The bound beside the solution of training is explained in the words of the bound, and no formula is cut in two.
    let both = SCENARIO.replace("\"options\"", "\"estimator\": \"both\", \"options\"");
    let output = answer(&["solve", "--explain"], both.as_bytes());
    let text = written(&output);
    assert!(text.contains("overlap of two draws of the posterior"), "{text}");
    assert!(!text.contains("The fine-tuning stage") && !text.contains(" text "), "{text}");
}

#[cfg(unix)]
mod endings {
    use std::io::{BufRead, BufReader, Read, Write};
    use std::process::{Child, Stdio};
    use std::thread;

    use super::common::{SCENARIO, interrupt, piped, program};
    use super::is_outcome;

    /// The exit status of a program that ended by itself and said nothing to the user.
    fn quiet_status(mut child: Child) -> Option<i32> {
        let mut said = String::new();
        child.stderr.take().unwrap().read_to_string(&mut said).unwrap();
        assert_eq!(said, "");
        child.wait().unwrap().code()
    }

    #[test]
    fn a_program_that_waits_for_input_ends_at_ctrl_c() {
        let mut child = piped(&["solve"]);
        // The input stays open, so that it has no end, and the answer comes before there is another line.
        let mut input = child.stdin.take().unwrap();
        writeln!(input, "{SCENARIO}").unwrap();
        let mut output = BufReader::new(child.stdout.take().unwrap());
        let mut answer = String::new();
        output.read_line(&mut answer).unwrap();
        assert!(is_outcome(&answer), "{answer}");
        interrupt(&child);
        let mut rest = String::new();
        output.read_to_string(&mut rest).unwrap();
        assert_eq!(rest, "");
        assert_eq!(quiet_status(child), Some(130));
    }

    #[test]
    fn the_line_in_hand_is_finished() {
        let mut child = piped(&["solve"]);
        // The input is lines without end.
        let mut input = child.stdin.take().unwrap();
        let writer = thread::spawn(move || while writeln!(input, "{SCENARIO}").is_ok() {});
        let mut output = BufReader::new(child.stdout.take().unwrap());
        let mut answer = String::new();
        output.read_line(&mut answer).unwrap();
        interrupt(&child);
        output.read_to_string(&mut answer).unwrap();
        assert!(answer.ends_with('\n') && answer.lines().all(is_outcome), "{answer}");
        assert_eq!(quiet_status(child), Some(130));
        writer.join().unwrap();
    }

    #[test]
    fn a_closed_pipe_ends_the_program_without_a_message() {
        for form in [&["solve"][..], &["solve", "--format", "csv"], &["solve", "--explain"]] {
            let mut child = piped(form);
            let mut input = child.stdin.take().unwrap();
            let writer = thread::spawn(move || while writeln!(input, "{SCENARIO}").is_ok() {});
            let mut output = BufReader::new(child.stdout.take().unwrap());
            output.read_line(&mut String::new()).unwrap();
            drop(output);
            assert_eq!(quiet_status(child), Some(141), "{form:?}");
            writer.join().unwrap();
        }
        // Nobody reads from the beginning.
        for command in [&["schema", "outcome"][..], &["completions", "zsh"], &["compare", "--print"]] {
            let (reader, writer) = std::io::pipe().unwrap();
            drop(reader);
            let child = program(command).stdout(writer).stderr(Stdio::piped()).spawn().unwrap();
            assert_eq!(quiet_status(child), Some(141), "{command:?}");
        }
    }
}
