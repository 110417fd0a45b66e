//! The fuzz targets are run on their seed corpus and on mutated copies of it, for machines without a fuzzer.

use std::path::PathBuf;

use proptest::prelude::*;

use super::values::{apply, change, config};

#[path = "../../fuzz/src/lib.rs"]
pub mod targets;

/// The files of the corpus of a target.
fn corpus(target: &str) -> Vec<String> {
    let folder: PathBuf = [env!("CARGO_MANIFEST_DIR"), "fuzz", "corpus", target].iter().collect();
    let mut files: Vec<PathBuf> =
        std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    assert!(files.len() >= 2);
    files
        .into_iter()
        .map(|file| String::from_utf8_lossy(&std::fs::read(file).unwrap()).into_owned())
        .collect()
}

/// A file of the corpus, of which some values or some bytes are changed.
fn mutated(target: &'static str) -> impl Strategy<Value = String> {
    let files = corpus(target);
    let bytes = prop::collection::vec((any::<prop::sample::Index>(), any::<char>()), 0..2);
    (prop::sample::select(files), prop::collection::vec(change(), 0..4), bytes).prop_map(
        |(file, changes, bytes)| {
            let mut text = file;
            if let Ok(mut value) = serde_json::from_str(&text) {
                changes.iter().for_each(|change| apply(&mut value, change));
                text = value.to_string();
            }
            let mut characters: Vec<char> = text.chars().collect();
            for (place, character) in bytes {
                let place = place.index(characters.len());
                characters[place] = character;
            }
            characters.into_iter().collect()
        },
    )
}

#[test]
fn the_corpus_passes() {
    corpus("scenario").iter().for_each(|file| targets::scenario(file.as_bytes()));
    corpus("sweep").iter().for_each(|file| targets::sweep(file.as_bytes()));
    corpus("laboratory").iter().for_each(|file| targets::laboratory(file.as_bytes()));
    targets::scenario(b"\xff\xfe");
}

proptest! {
    #![proptest_config(config(4))]

    #[test]
    fn scenarios(text in mutated("scenario")) {
        targets::scenario(text.as_bytes());
    }

    #[test]
    fn sweeps(text in mutated("sweep")) {
        targets::sweep(text.as_bytes());
    }

    #[test]
    fn laboratories(text in mutated("laboratory")) {
        targets::laboratory(text.as_bytes());
    }
}
