//! Reads the vectors of the spec: cases separated by empty lines, `name = value` in each, `#` begins a comment line.

use std::collections::BTreeMap;

use data_encoding::HEXLOWER;

/// One case: its fields by name. A field that is missing or malformed fails the test that asks for it.
pub(crate) struct Case<'a>(BTreeMap<&'a str, &'a str>);

/// The cases of a file, at least one.
pub(crate) fn cases(file: &str) -> Vec<Case<'_>> {
    let cases: Vec<_> = file.split("\n\n").map(fields).filter(|fields| !fields.is_empty()).map(Case).collect();
    assert!(!cases.is_empty(), "a file of vectors has cases");
    cases
}

impl<'a> Case<'a> {
    /// A field as it stands.
    pub(crate) fn text(&self, name: &str) -> &'a str {
        self.0.get(name).unwrap_or_else(|| panic!("no field {name}"))
    }

    /// A decimal field.
    pub(crate) fn number(&self, name: &str) -> u64 {
        self.text(name).parse().unwrap_or_else(|error| panic!("{name}: {error}"))
    }

    /// A hexadecimal field.
    pub(crate) fn bytes(&self, name: &str) -> Vec<u8> {
        HEXLOWER.decode(self.text(name).as_bytes()).unwrap_or_else(|error| panic!("{name}: {error}"))
    }

    /// A hexadecimal field of known length.
    pub(crate) fn array<const N: usize>(&self, name: &str) -> [u8; N] {
        self.bytes(name).try_into().unwrap_or_else(|bytes: Vec<u8>| panic!("{name} has {} bytes", bytes.len()))
    }
}

fn fields(block: &str) -> BTreeMap<&str, &str> {
    block
        .lines()
        .filter(|line| !line.starts_with('#') && !line.is_empty())
        .map(|line| line.split_once(" = ").unwrap_or_else(|| panic!("not a field: {line}")))
        .collect()
}
