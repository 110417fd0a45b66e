//! The order of the modules: nothing imports what stands above it, and no two files import each other, directly or in a circle.
//!
//! The test reads the paths that begin with `crate`, `self` or `super` in `src/`, except in unit tests and
//! documentation.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

mod source;

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

/// The layers of the library from the ground up. A module may use the modules in the lines before its own,
/// and no others.
const LAYERS: &[&[&str]] = &[
    &["status", "verdict", "divergence", "nullable", "std_error", "roots", "observables", "json_words"],
    &["error", "threshold"],
    &["parallel"],
    &["lanes"],
    &["activation"],
    &["attention"],
    &["check", "descent", "quadrature", "fixed_point", "json", "journal"],
    &["frozen", "options"],
    &["channel", "spectrum", "state_evolution"],
    &["model"],
    &["memory"],
    &["fields"],
    &["losses"],
    &["pretrain"],
    &["lora"],
    &["scenario"],
    &["lines", "optimize", "sweep", "simulate"],
];

/// A source file as the path of its module, `["lora", "linear", "prox"]`. The path of `lib.rs` is empty.
type Module = Vec<String>;

fn module_of(file: &Path, root: &Path) -> Module {
    let relative = file.strip_prefix(root).unwrap().with_extension("");
    let mut module: Module = relative.iter().map(|part| part.to_str().unwrap().to_owned()).collect();
    if module.last().is_some_and(|last| last == "mod" || last == "lib") {
        module.pop();
    }
    module
}

/// All paths in `code` that begin with `crate`, `self` or `super`, with the lists in braces written out.
fn paths(code: &str) -> Vec<Vec<String>> {
    let mut found = Vec::new();
    for root in ["crate", "self", "super"] {
        for (start, _) in code.match_indices(&format!("{root}::")) {
            let before = code[..start].chars().next_back();
            // A visibility names a module, but does not import it.
            let visibility = code[..start].ends_with("pub(in ");
            if !visibility && !before.is_some_and(|c| c.is_alphanumeric() || c == '_' || c == ':' || c == '$')
            {
                let tokens = tokens(&code[start..]);
                expand(&tokens, &mut 0, &[], &mut found);
            }
        }
    }
    found
}

/// The names, `::`, braces and commas, up to the first token that does not belong to a path.
fn tokens(text: &str) -> Vec<String> {
    let mut tokens = Vec::new();
    let mut rest = text;
    let mut depth = 0;
    loop {
        rest = if depth > 0 { rest.trim_start() } else { rest };
        let name: String = rest.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect();
        let token = if !name.is_empty() {
            name
        } else if rest.starts_with("::") {
            "::".to_owned()
        } else if let Some(c) = rest.chars().next().filter(|c| "{},*".contains(*c)) {
            c.to_string()
        } else {
            return tokens;
        };
        match token.as_str() {
            "{" if tokens.last().is_none_or(|last: &String| last != "::") => return tokens,
            "{" => depth += 1,
            "}" if depth == 0 => return tokens,
            "}" => depth -= 1,
            "," if depth == 0 => return tokens,
            _ => {}
        }
        rest = &rest[token.len()..];
        tokens.push(token);
    }
}

/// Reads one path, or a list of paths in braces, beginning with `tokens[*at]`.
fn expand(tokens: &[String], at: &mut usize, prefix: &[String], found: &mut Vec<Vec<String>>) {
    let mut path = prefix.to_vec();
    while let Some(token) = tokens.get(*at) {
        match token.as_str() {
            "::" => *at += 1,
            "{" => {
                *at += 1;
                while tokens.get(*at).is_some_and(|token| token != "}") {
                    if tokens[*at] == "," {
                        *at += 1;
                    } else {
                        expand(tokens, at, &path, found);
                    }
                }
                *at += 1;
                return;
            }
            "," | "}" => break,
            "as" => {
                // The new name after `as` is not part of the path.
                *at += 2;
                break;
            }
            name => {
                path.push(name.to_owned());
                *at += 1;
            }
        }
    }
    found.push(path);
}

/// The deepest module that a path in the file of `from` leads to.
fn resolve(path: &[String], from: &Module, modules: &BTreeSet<Module>) -> Module {
    let mut here = from.clone();
    for (i, name) in path.iter().enumerate() {
        match name.as_str() {
            "crate" => here.clear(),
            "super" => {
                here.pop();
            }
            "self" if i == 0 => {}
            name => {
                let mut next = here.clone();
                next.push(name.to_owned());
                if !modules.contains(&next) {
                    break;
                }
                here = next;
            }
        }
    }
    here
}

/// Every module with the modules that it imports from.
fn imports() -> BTreeMap<Module, BTreeSet<Module>> {
    let root = source::root();
    let files = source::files(&root);
    let modules: BTreeSet<Module> = files.iter().map(|file| module_of(file, &root)).collect();
    files
        .iter()
        .map(|file| {
            let module = module_of(file, &root);
            let code = source::code(file);
            let mut used: BTreeSet<Module> =
                paths(&code).iter().map(|path| resolve(path, &module, &modules)).collect();
            // A module uses the modules that it declares.
            used.extend(
                modules.iter().filter(|m| m.len() == module.len() + 1 && m.starts_with(&module)).cloned(),
            );
            used.remove(&module);
            (module, used)
        })
        .collect()
}

fn name(module: &Module) -> String {
    if module.is_empty() { "lib".to_owned() } else { module.join("::") }
}

#[test]
fn nothing_imports_what_stands_above_it() {
    let layer = |module: &Module| {
        let room = &module[0];
        LAYERS
            .iter()
            .position(|rooms| rooms.contains(&room.as_str()))
            .unwrap_or_else(|| panic!("{room} is in no layer"))
    };
    let mut upwards = Vec::new();
    for (module, used) in imports().iter().filter(|(module, _)| !module.is_empty()) {
        for other in used {
            if other.is_empty() {
                upwards.push(format!("{} imports from the root of the crate", name(module)));
            } else if other[0] != module[0] && layer(other) >= layer(module) {
                upwards.push(format!("{} imports from {}", name(module), name(other)));
            }
        }
    }
    assert!(upwards.is_empty(), "{}", upwards.join("\n"));
}

#[test]
fn there_is_no_circle_of_files() {
    let imports = imports();
    // Modules that import no remaining module are removed, until only circles and the modules that lead to
    // them remain.
    let mut left: BTreeMap<&Module, BTreeSet<&Module>> =
        imports.iter().map(|(module, used)| (module, used.iter().collect())).collect();
    loop {
        let done: Vec<&Module> =
            left.iter().filter(|(_, used)| used.is_empty()).map(|(module, _)| *module).collect();
        if done.is_empty() {
            break;
        }
        for module in done {
            left.remove(module);
            for used in left.values_mut() {
                used.remove(module);
            }
        }
    }
    let circles: Vec<String> = left
        .iter()
        .map(|(module, used)| {
            let used: Vec<String> = used.iter().map(|other| name(other)).collect();
            format!("{} -> {}", name(module), used.join(", "))
        })
        .collect();
    assert!(circles.is_empty(), "{}", circles.join("\n"));
}

#[test]
fn paths_are_read_as_the_compiler_reads_them() {
    let code = "use crate::a::{b::C, d::{self, E}, f};\nlet x = super::g::h(1);\nfor y in self::z {}";
    let found: Vec<String> = paths(code).iter().map(|path| path.join("::")).collect();
    assert_eq!(
        found,
        ["crate::a::b::C", "crate::a::d::self", "crate::a::d::E", "crate::a::f", "self::z", "super::g::h"]
    );
}
