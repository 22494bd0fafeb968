//! Every committed input once more, on whatever compiler there is.

use std::fs;
use std::path::{Path, PathBuf};

use pilot_fuzz_targets::TARGETS;

/// Corpora are to be read as well as replayed.
const CORPORA_BYTES_MAX: u64 = 200 * 1_024;

fn corpus(target: &str) -> Vec<PathBuf> {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("../corpus").join(target);
    let entries = fs::read_dir(&directory).unwrap_or_else(|error| panic!("{}: {error}", directory.display()));
    let mut files: Vec<PathBuf> = entries.map(|entry| entry.expect("an entry").path()).collect();
    files.sort();
    files
}

#[test]
fn every_input_of_every_corpus_passes() {
    for (name, target) in TARGETS {
        let files = corpus(name);
        assert!(files.len() > 1, "{name} has no corpus");
        for file in files {
            // Printed only if the target fails: it names the input.
            println!("{}", file.display());
            target(&fs::read(&file).expect("a file"));
        }
    }
}

#[test]
fn corpora_stay_small() {
    let files = TARGETS.iter().flat_map(|(name, _)| corpus(name));
    let bytes: u64 = files.map(|file| file.metadata().expect("a file").len()).sum();
    assert!(bytes < CORPORA_BYTES_MAX, "{bytes} bytes");
}
