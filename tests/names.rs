//! The names of types: no name stands for two things.
//!
//! The test reads the definitions of structs, enums, traits and type aliases in `src/`, private ones included, except in
//! unit tests. A type may be exported under a shorter name, where the path of its module says the rest.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

mod source;

use std::collections::BTreeMap;

/// The names of the types that `code` defines. Associated types, which are indented, are not among them.
fn definitions(code: &str) -> Vec<String> {
    let defined = |line: &str| -> Option<String> {
        let mut words = line.split_whitespace();
        let mut word = words.next()?;
        if word.starts_with("pub") {
            // A visibility may contain a space: `pub(in crate::lora)`.
            let mut open = word.contains('(') && !word.contains(')');
            word = words.next()?;
            while open {
                open = !word.contains(')');
                word = words.next()?;
            }
        }
        let indented = line.starts_with(' ');
        let is_type = matches!(word, "struct" | "enum" | "trait" | "union") || (word == "type" && !indented);
        let name = words.next().filter(|_| is_type)?;
        Some(name.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect())
    };
    code.lines().filter_map(defined).collect()
}

#[test]
fn no_name_stands_for_two_types() {
    let mut found: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for file in source::files(&source::root()) {
        for name in definitions(&source::code(&file)) {
            found.entry(name).or_default().push(file.display().to_string());
        }
    }
    assert!(found.len() > 100, "hardly any types were found: {found:?}");
    found.retain(|_, files| files.len() > 1);
    assert!(found.is_empty(), "{found:#?}");
}

#[test]
fn definitions_are_read_as_the_compiler_reads_them() {
    let code = "pub(in crate::a) struct A<T> {\n    b: B,\n}\npub enum C {}\ntrait D: E {\n    type F;\n}\n\
                pub(super) type G = [f64; 2];\nfn f() {\n    struct H(bool);\n}\nlet enumerated = I;";
    assert_eq!(definitions(code), ["A", "C", "D", "G", "H"]);
}
