//! A terminal, for programs that look whether they have one.

use std::fs::File;
use std::io::Read;
use std::thread::{self, JoinHandle};

use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};

/// The end for a program, and what it has shown there when all have closed that.
pub fn terminal() -> (File, JoinHandle<String>) {
    let ours = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).expect("a terminal");
    grantpt(&ours).expect("grantpt");
    unlockpt(&ours).expect("unlockpt");
    let name = ptsname(&ours, Vec::new()).expect("a name").into_string().expect("text");
    let theirs = File::options().read(true).write(true).open(name).expect("open");
    // It takes a few kilobytes at a time: read while the program runs.
    let shown = thread::spawn(move || {
        let mut shown = Vec::new();
        // Where the other side has been closed, reading ends with EIO.
        let _end = File::from(ours).read_to_end(&mut shown);
        String::from_utf8(shown).expect("text")
    });
    (theirs, shown)
}
