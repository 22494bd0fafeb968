//! The directory's file (spec/backbone.md §5): a `redb` database that holds what outlives the node.
//!
//! Every batch is committed twice. `redb` keeps the last two commits and falls back to the older one where the newer does not verify, which
//! is right after a torn write and wrong after a rotten byte; with both commits holding what was acknowledged, it is right always. A byte
//! that both share and that has changed is found by the checksums, all of which are checked when the file is opened.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use ::redb::backends::FileBackend;
use ::redb::{Builder, Database, ReadableDatabase, ReadableTable, TableDefinition, TableError, WriteTransaction};
use pilot_core::time::UnixTime;
use pilot_core::wire::cbor;

use super::Change;
use super::stored::{Stored, StoredAgent, StoredName, StoredOrg};
use crate::journal::Batch;

/// What a node calls the file in its home.
pub const FILE_NAME: &str = "directory.redb";
/// The layout of the tables. A node reads this one only.
const VERSION: u64 = 1;
/// The file is read once, at the start; afterwards only the branches of the trees are worth keeping.
const CACHE_BYTES: usize = 4 * 1_024 * 1_024;

/// Numbers about the file itself.
const ABOUT: TableDefinition<'_, &str, u64> = TableDefinition::new("about");
const VERSION_ROW: &str = "version";
const COMMITS_ROW: &str = "commits";
/// Identity key to [`StoredAgent`].
const AGENTS: TableDefinition<'_, [u8; 32], &[u8]> = TableDefinition::new("agents");
/// Name to [`StoredName`].
const NAMES: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("names");
/// Organisation to [`StoredOrg`]. A file in which none was ever held has no such table.
const ORGS: TableDefinition<'_, [u8; 32], &[u8]> = TableDefinition::new("organisations");

/// Why the file cannot be used. It was not changed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OpenError {
    /// Its bytes are not those that were written.
    #[error("the directory's file {} is damaged: {what}", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        what: String,
    },
    /// A later version of the program has written it.
    #[error("the directory's file {} has format {version}, which is later than {VERSION}, the one known here", path.display())]
    LaterVersion {
        /// The file.
        path: PathBuf,
        /// Its format.
        version: u64,
    },
    /// The system does not let it be read or written.
    #[error("the directory's file {} cannot be used", path.display())]
    Unusable {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
}

impl OpenError {
    /// What to do about it.
    pub fn hint(&self) -> &'static str {
        match self {
            Self::Damaged { .. } => {
                "restore it from a backup; or `pilotctl backbone start --set-aside-damaged` keeps it under another name and \
                 starts with an empty directory, to which agents that are running come back by themselves"
            }
            Self::LaterVersion { .. } => "run the version of pilotctl that wrote it, or a later one",
            Self::Unusable { .. } => "check the file's owner and permissions, and the free space on its disk",
        }
    }
}

/// The open file.
#[derive(Debug)]
pub struct DirectoryFile {
    path: PathBuf,
    /// None after a failed write, until the file was opened again.
    database: Option<Database>,
}

impl DirectoryFile {
    /// Opens the file, or makes it, and reads what is in it.
    ///
    /// # Errors
    /// [`OpenError`]; the file is left as it was.
    pub fn open(path: &Path) -> Result<(Self, Stored), OpenError> {
        let unusable = |source| OpenError::Unusable { path: path.to_owned(), source };
        if !path.try_exists().map_err(unusable)? {
            create(path).map_err(|error| classify(path, error))?;
        }
        let database = Builder::new().set_cache_size(CACHE_BYTES).set_check_integrity_on_open(true).open(path);
        let database = database.map_err(|error| classify(path, error.into()))?;
        match version(&database).map_err(|error| classify(path, error))? {
            Some(VERSION) => {}
            Some(version) if version > VERSION => {
                return Err(OpenError::LaterVersion { path: path.to_owned(), version });
            }
            Some(_) | None => return Err(damaged(path, "it has no version")),
        }
        let stored = read(&database).map_err(|error| classify(path, error))?;
        let stored = stored.ok_or_else(|| damaged(path, "a row makes no sense"))?;
        Ok((Self { path: path.to_owned(), database: Some(database) }, stored))
    }

    /// Writes a batch; it is durable when this returns.
    ///
    /// # Errors
    /// Why not, for people. The batch is not in the file then, unless the very last step has failed.
    pub fn commit(&mut self, batch: &Batch) -> Result<(), String> {
        self.try_commit(batch).map_err(|error| error.to_string())
    }

    fn try_commit(&mut self, batch: &Batch) -> Result<(), ::redb::Error> {
        // After a failure redb wants the file opened again. If that fails, this batch fails, too.
        let database = match self.database.take() {
            Some(database) => database,
            None => Builder::new().set_cache_size(CACHE_BYTES).open(&self.path)?,
        };
        write(&database, |transaction| put(transaction, batch))?;
        write(&database, |_| Ok(()))?;
        self.database = Some(database);
        Ok(())
    }
}

/// Gives a damaged file another name beside the old one, which it returns.
///
/// # Errors
/// Those of the system.
pub fn set_aside(path: &Path, now: UnixTime) -> io::Result<PathBuf> {
    let mut name = path.as_os_str().to_owned();
    name.push(format!(".damaged-{}", now.as_secs()));
    let aside = PathBuf::from(name);
    fs::rename(path, &aside)?;
    sync_directory(path)?;
    Ok(aside)
}

/// Makes an empty file, whole or not at all: a node that is killed meanwhile leaves nothing that the next would call damaged.
fn create(path: &Path) -> Result<(), ::redb::Error> {
    let unfinished = path.with_extension("redb.new");
    match fs::remove_file(&unfinished) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error.into()),
        Ok(()) | Err(_) => {}
    }
    let file = OpenOptions::new().read(true).write(true).create_new(true).mode(0o600).open(&unfinished)?;
    let database = Builder::new().set_cache_size(CACHE_BYTES).create_with_backend(FileBackend::new(file)?)?;
    write(&database, |transaction| {
        transaction.open_table(ABOUT)?.insert(VERSION_ROW, VERSION)?;
        transaction.open_table(AGENTS)?;
        transaction.open_table(NAMES)?;
        Ok(())
    })?;
    write(&database, |_| Ok(()))?;
    database.close()?;
    fs::rename(&unfinished, path)?;
    Ok(sync_directory(path)?)
}

fn sync_directory(path: &Path) -> io::Result<()> {
    File::open(path.parent().unwrap_or(Path::new(".")))?.sync_all()
}

/// One durable commit, which differs from the one before in its number at least.
fn write(
    database: &Database,
    fill: impl FnOnce(&WriteTransaction) -> Result<(), ::redb::Error>,
) -> Result<(), ::redb::Error> {
    let transaction = database.begin_write()?;
    fill(&transaction)?;
    {
        let mut about = transaction.open_table(ABOUT)?;
        let commits = about.get(COMMITS_ROW)?.map_or(0, |row| row.value());
        about.insert(COMMITS_ROW, commits + 1)?;
    }
    Ok(transaction.commit()?)
}

fn put(transaction: &WriteTransaction, batch: &Batch) -> Result<(), ::redb::Error> {
    let mut agents = transaction.open_table(AGENTS)?;
    let mut names = transaction.open_table(NAMES)?;
    let mut orgs = transaction.open_table(ORGS)?;
    for change in &batch.changes {
        match change {
            Change::PutAgent(key, agent) => drop(agents.insert(key.0, cbor::to_vec(agent).as_slice())?),
            Change::RemoveAgent(key) => drop(agents.remove(key.0)?),
            Change::PutName(name, kept) => drop(names.insert(name.as_str(), cbor::to_vec(kept).as_slice())?),
            Change::RemoveName(name) => drop(names.remove(name.as_str())?),
            Change::PutOrg(org, held) => drop(orgs.insert(org.0, cbor::to_vec(held).as_slice())?),
            Change::RemoveOrg(org) => drop(orgs.remove(org.0)?),
        }
    }
    Ok(())
}

fn version(database: &Database) -> Result<Option<u64>, ::redb::Error> {
    let about = database.begin_read()?.open_table(ABOUT)?;
    Ok(about.get(VERSION_ROW)?.map(|row| row.value()))
}

/// All rows; none if one of them is not what a row can be.
fn read(database: &Database) -> Result<Option<Stored>, ::redb::Error> {
    let transaction = database.begin_read()?;
    let mut stored = Stored::default();
    for row in transaction.open_table(AGENTS)?.iter()? {
        let Ok(agent) = cbor::from_slice::<StoredAgent>(row?.1.value()) else { return Ok(None) };
        stored.agents.push(agent);
    }
    for row in transaction.open_table(NAMES)?.iter()? {
        let (name, kept) = row?;
        let Ok(kept) = cbor::from_slice::<StoredName>(kept.value()) else { return Ok(None) };
        stored.names.push((name.value().to_owned(), kept));
    }
    let orgs = match transaction.open_table(ORGS) {
        Ok(orgs) => orgs,
        Err(TableError::TableDoesNotExist(_)) => return Ok(Some(stored)),
        Err(error) => return Err(error.into()),
    };
    for row in orgs.iter()? {
        let Ok(org) = cbor::from_slice::<StoredOrg>(row?.1.value()) else { return Ok(None) };
        stored.orgs.push(org);
    }
    Ok(Some(stored))
}

/// Whether the bytes are at fault or the system.
fn classify(path: &Path, error: ::redb::Error) -> OpenError {
    let is_of_bytes = !matches!(error, ::redb::Error::Io(_) | ::redb::Error::DatabaseAlreadyOpen);
    let source = if let ::redb::Error::Io(source) = error { source } else { io::Error::other(error.to_string()) };
    if is_of_bytes || matches!(source.kind(), io::ErrorKind::InvalidData | io::ErrorKind::UnexpectedEof) {
        return damaged(path, &source.to_string());
    }
    OpenError::Unusable { path: path.to_owned(), source }
}

fn damaged(path: &Path, what: &str) -> OpenError {
    OpenError::Damaged { path: path.to_owned(), what: what.to_owned() }
}

#[cfg(test)]
mod tests;
