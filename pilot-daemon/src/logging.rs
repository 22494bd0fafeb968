//! The daemon's log: one line an event, in a file that cannot fill the disk.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use tracing_subscriber::EnvFilter;
use tracing_subscriber::util::{SubscriberInitExt, TryInitError};

/// At this size the file becomes `log.1`, in place of the one before: weeks of an agent's life, or minutes of a storm.
const LOG_MAX: u64 = 8 * 1024 * 1024;
/// What is logged unless `PILOT_LOG` says otherwise.
const DEFAULT_FILTER: &str = "info";

/// A log file with its length.
#[derive(Debug)]
struct BoundedLog {
    path: PathBuf,
    file: File,
    len: u64,
}

/// Sends the process's log events to the file; `PILOT_LOG` chooses which, for example `debug` or `pilot_core=trace`.
///
/// # Errors
/// If the file cannot be opened.
pub fn start(path: &Path) -> io::Result<()> {
    let log = BoundedLog::open(path)?;
    let chosen = std::env::var("PILOT_LOG").ok().filter(|chosen| !chosen.is_empty());
    let filter = chosen.and_then(|chosen| EnvFilter::try_new(chosen).ok());
    let filter = filter.unwrap_or_else(|| EnvFilter::new(DEFAULT_FILTER));
    let subscriber = tracing_subscriber::fmt().with_ansi(false).with_env_filter(filter).with_writer(Mutex::new(log));
    // A line that the disk has no room for is lost. Said on stderr, which is the same file, that would be a panic.
    let subscriber = subscriber.log_internal_errors(false);
    subscriber.finish().try_init().map_err(|error: TryInitError| io::Error::other(error))
}

impl BoundedLog {
    fn open(path: &Path) -> io::Result<Self> {
        let file = OpenOptions::new().create(true).append(true).mode(0o600).open(path)?;
        let len = file.metadata()?.len();
        Ok(Self { path: path.to_owned(), file, len })
    }

    fn rotate(&mut self) -> io::Result<()> {
        fs::rename(&self.path, self.path.with_extension("1"))?;
        *self = Self::open(&self.path)?;
        Ok(())
    }
}

impl Write for BoundedLog {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        if self.len + line.len() as u64 > LOG_MAX && self.len > 0 {
            self.rotate()?;
        }
        let written = self.file.write(line)?;
        self.len += written as u64;
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn full_log_makes_room_and_keeps_the_one_before() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("log");
        let mut log = BoundedLog::open(&path).unwrap();
        let line = vec![b'x'; 1024 * 1024];
        for _ in 0..20 {
            log.write_all(&line).unwrap();
        }
        let len = |name: &str| fs::metadata(directory.path().join(name)).unwrap().len();
        assert_eq!((len("log"), len("log.1")), (4 << 20, 8 << 20));
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 2);
    }
}
