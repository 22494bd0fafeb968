use std::collections::BTreeSet;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use ::redb::StorageBackend;
use pilot_core::id::IdentityKey;
use pilot_core::rng::Rng;

use super::*;
use crate::journal::{Journal, Outcome};
use crate::store::memory::MemoryStore;
use crate::store::tests::{NOW, registration};
use crate::store::{Operation, Store};

/// The part of a redb file that says where everything is.
const HEADER_LEN: usize = 320;

fn agent(number: u8) -> (IdentityKey, StoredAgent) {
    (
        IdentityKey([number; 32]),
        StoredAgent { identity: vec![number; 400], lease_until: NOW, hand_overs: vec![vec![number; 150].into()] },
    )
}

fn kept() -> StoredName {
    StoredName { key: IdentityKey([9; 32]), until: NOW, hand_overs: vec![], handed_over_by: None }
}

fn org(number: u8) -> StoredOrg {
    let (charters, lists) = (vec![vec![number; 300].into()], vec![vec![number; 900].into()]);
    StoredOrg { org: IdentityKey([number; 32]), by: IdentityKey([9; 32]), charters, lists, proofs: vec![] }
}

fn register(file: &mut DirectoryFile, number: u8) -> Result<(), String> {
    let (key, agent) = agent(number);
    file.commit(&Batch { changes: vec![Change::PutAgent(key, agent)] })
}

/// A file in which so many agents are, each acknowledged by a commit of its own.
fn file_of(path: &Path, agents: u8) {
    let (mut file, _) = DirectoryFile::open(path).unwrap();
    (1..=agents).for_each(|number| register(&mut file, number).unwrap());
}

fn numbers(stored: &Stored) -> BTreeSet<u8> {
    stored.agents.iter().map(|agent| agent.identity[0]).collect()
}

#[test]
fn what_was_committed_is_there_when_the_file_is_opened_again() {
    let home = tempfile::tempdir().unwrap();
    let path = home.path().join(FILE_NAME);
    let (mut file, stored) = DirectoryFile::open(&path).unwrap();
    assert_eq!(stored, Stored::default());
    register(&mut file, 1).unwrap();
    let changes = vec![
        Change::PutAgent(agent(2).0, agent(2).1),
        Change::RemoveAgent(agent(1).0),
        Change::PutName("old".into(), kept()),
        Change::PutName("older".into(), kept()),
        Change::RemoveName("older".into()),
        Change::PutOrg(org(3).org, org(3)),
        Change::PutOrg(org(4).org, org(4)),
        Change::RemoveOrg(org(4).org),
    ];
    file.commit(&Batch { changes }).unwrap();
    drop(file);
    let (_, stored) = DirectoryFile::open(&path).unwrap();
    assert_eq!(stored, Stored { agents: vec![agent(2).1], names: vec![("old".into(), kept())], orgs: vec![org(3)] });
}

#[test]
fn nobody_else_may_read_the_file() {
    let home = tempfile::tempdir().unwrap();
    let path = home.path().join(FILE_NAME);
    file_of(&path, 1);
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    assert_eq!(fs::read_dir(home.path()).unwrap().count(), 1);
}

#[test]
fn a_creation_that_was_cut_short_is_begun_anew() {
    let home = tempfile::tempdir().unwrap();
    let path = home.path().join(FILE_NAME);
    fs::write(path.with_extension("redb.new"), b"half of a fi").unwrap();
    file_of(&path, 1);
    assert_eq!(numbers(&DirectoryFile::open(&path).unwrap().1), BTreeSet::from([1]));
}

/// The promise, whatever has happened to the bytes: everything that was acknowledged, or an error.
#[track_caller]
fn assert_all_or_error(path: &Path, all: &BTreeSet<u8>, what: &str) -> bool {
    match DirectoryFile::open(path) {
        Ok((_, stored)) => {
            assert_eq!(numbers(&stored), *all, "{what}: something is missing, and nobody was told");
            assert!(stored.agents.iter().all(|agent| agent.identity.iter().all(|byte| *byte == agent.identity[0])));
            false
        }
        Err(OpenError::Damaged { .. }) => true,
        Err(error) => panic!("{what}: {error}"),
    }
}

#[test]
fn a_flipped_byte_is_an_error_or_does_no_harm() {
    let home = tempfile::tempdir().unwrap();
    let path = home.path().join(FILE_NAME);
    file_of(&path, 5);
    let genuine = fs::read(&path).unwrap();
    let all = (1..=5).collect();
    let in_use: Vec<_> = (0..genuine.len()).filter(|at| genuine[*at] != 0).collect();
    // Byte 9 is the one that says which commit is the last; all bits of it, one of every other byte of the header, a sample of the pages.
    let of_flags = (0..8).map(|bit| (9, 1 << bit));
    let of_header = (0..HEADER_LEN).map(|at| (at, 1 << (at % 8)));
    let of_pages = in_use.iter().step_by(in_use.len() / 100 + 1).map(|at| (*at, 0x40));
    let mut found = 0;
    for (at, mask) in of_flags.chain(of_header).chain(of_pages) {
        let mut bytes = genuine.clone();
        bytes[at] ^= mask;
        fs::write(&path, bytes).unwrap();
        found += usize::from(assert_all_or_error(&path, &all, &format!("byte {at} ^ {mask:#x}")));
    }
    assert!(found > 20, "only {found} were found out");
}

#[test]
fn a_flipped_byte_after_a_kill_is_an_error_or_does_no_harm() {
    let home = tempfile::tempdir().unwrap();
    let path = home.path().join(FILE_NAME);
    let (mut file, _) = DirectoryFile::open(&path).unwrap();
    (1..=5).for_each(|number| register(&mut file, number).unwrap());
    // What a killed process leaves is what the system has of the file at that moment.
    let genuine = fs::read(&path).unwrap();
    drop(file);
    let all = (1..=5).collect();
    let in_use: Vec<_> = (0..genuine.len()).filter(|at| genuine[*at] != 0).collect();
    for at in (0..HEADER_LEN).step_by(3).chain(in_use.iter().copied().step_by(in_use.len() / 100 + 1)) {
        let mut bytes = genuine.clone();
        bytes[at] ^= 1;
        fs::write(&path, bytes).unwrap();
        assert_all_or_error(&path, &all, &format!("byte {at}"));
    }
}

#[test]
fn a_truncated_file_is_an_error_and_stays_as_it_is() {
    let home = tempfile::tempdir().unwrap();
    let path = home.path().join(FILE_NAME);
    file_of(&path, 5);
    let genuine = fs::read(&path).unwrap();
    for len in [0, 1, 100, 4_096, genuine.len() / 2, genuine.len() - 1] {
        fs::write(&path, &genuine[..len]).unwrap();
        assert!(assert_all_or_error(&path, &BTreeSet::new(), &format!("{len} bytes")), "{len} bytes were taken");
        assert_eq!(fs::read(&path).unwrap().len(), len);
    }
}

#[test]
fn a_file_of_a_later_version_is_left_alone() {
    let home = tempfile::tempdir().unwrap();
    let path = home.path().join(FILE_NAME);
    file_of(&path, 1);
    let database = Database::open(&path).unwrap();
    write(&database, |transaction| {
        transaction.open_table(ABOUT)?.insert(VERSION_ROW, VERSION + 1)?;
        Ok(())
    })
    .unwrap();
    drop(database);
    let error = DirectoryFile::open(&path).unwrap_err();
    assert!(matches!(error, OpenError::LaterVersion { version: 2, .. }), "{error}");
    assert!(error.hint().contains("version of pilotctl"));
}

#[test]
fn a_file_that_cannot_be_written_is_no_damaged_one() {
    let home = tempfile::tempdir().unwrap();
    // A directory in its place cannot be opened as a file by any user, root included.
    fs::create_dir(home.path().join(FILE_NAME)).unwrap();
    let error = DirectoryFile::open(&home.path().join(FILE_NAME)).unwrap_err();
    assert!(matches!(error, OpenError::Unusable { .. }), "{error}");
    let error = DirectoryFile::open(&home.path().join("nowhere").join(FILE_NAME)).unwrap_err();
    assert!(matches!(error, OpenError::Unusable { .. }), "{error}");
    assert!(error.hint().contains("permissions"));
}

#[test]
fn a_damaged_file_is_kept_under_another_name() {
    let home = tempfile::tempdir().unwrap();
    let path = home.path().join(FILE_NAME);
    fs::write(&path, b"not a database").unwrap();
    let aside = set_aside(&path, NOW).unwrap();
    assert_eq!(fs::read(aside).unwrap(), b"not a database");
    assert!(DirectoryFile::open(&path).is_ok());
}

/// A file whose process is killed at some operation: that one is done by half, and none after it.
#[derive(Debug)]
struct Mortal {
    file: File,
    operations_left: Arc<AtomicUsize>,
}

impl Mortal {
    /// Runs an operation, or the half of it at which the process ends.
    fn live(&self, whole: impl FnOnce() -> io::Result<()>, half: impl FnOnce() -> io::Result<()>) -> io::Result<()> {
        let left = self.operations_left.load(Ordering::SeqCst);
        self.operations_left.store(left.saturating_sub(1), Ordering::SeqCst);
        match left {
            0 => Err(io::Error::other("killed")),
            1 => half().and(Err(io::Error::other("killed"))),
            _ => whole(),
        }
    }
}

impl StorageBackend for Mortal {
    fn len(&self) -> io::Result<u64> {
        Ok(self.file.metadata()?.len())
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.file.read_exact_at(out, offset)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.live(|| self.file.set_len(len), || Ok(()))
    }

    fn sync_data(&self) -> io::Result<()> {
        self.live(|| Ok(()), || Ok(()))
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        let half = || self.file.write_all_at(&data[..data.len() / 2], offset);
        self.live(|| self.file.write_all_at(data, offset), half)
    }
}

/// Registers more agents in a file of three until the process "dies"; gives those that were acknowledged.
fn register_until_killed(path: &Path, operations: usize) -> BTreeSet<u8> {
    let file = OpenOptions::new().read(true).write(true).open(path).unwrap();
    let operations_left = Arc::new(AtomicUsize::new(usize::MAX));
    let mortal = Mortal { file, operations_left: Arc::clone(&operations_left) };
    let database = Builder::new().create_with_backend(mortal).unwrap();
    operations_left.store(operations, Ordering::SeqCst);
    // A process that is dead does not open the file again.
    let mut file = DirectoryFile { path: path.join("dead"), database: Some(database) };
    let acknowledged = (4..10).take_while(|number| register(&mut file, *number).is_ok());
    (1..4).chain(acknowledged).collect()
}

#[test]
fn no_acknowledged_registration_is_lost_by_a_kill_at_any_write() {
    let home = tempfile::tempdir().unwrap();
    let path = home.path().join(FILE_NAME);
    file_of(&path, 3);
    let genuine = fs::read(&path).unwrap();
    let mut most = 0;
    for operations in 1.. {
        fs::write(&path, &genuine).unwrap();
        let acknowledged = register_until_killed(&path, operations);
        let (_, stored) = DirectoryFile::open(&path).unwrap();
        let found = numbers(&stored);
        assert!(found.is_superset(&acknowledged), "killed at operation {operations}: {found:?} of {acknowledged:?}");
        assert!(found.len() <= acknowledged.len() + 1, "killed at operation {operations}: {found:?}");
        most = acknowledged.len();
        if most == 9 {
            break;
        }
        assert!(operations < 1_000, "the file is never written");
    }
    assert_eq!(most, 9);
}

/// Says to the child what it is, and which file is its own.
const CHILD: &str = "PILOT_TEST_DIRECTORY_FILE";

/// What the next test starts and kills. On its own it does nothing.
#[test]
fn child_that_registers_until_it_is_killed() {
    let Some(path) = std::env::var_os(CHILD) else { return };
    let (mut file, stored) = DirectoryFile::open(Path::new(&path)).unwrap();
    let (mut journal, mut store) = (Journal::default(), MemoryStore::new());
    let mut stdout = io::stdout().lock();
    for number in stored.agents.len() as u8 + 1..u8::MAX {
        let mut registration = registration(number, &format!("agent-{number}"));
        registration.identity_bytes = vec![number; 400];
        journal.submit(Operation::Register(Box::new(registration))).unwrap();
        let batch = journal.poll_batch(NOW, &mut store).unwrap();
        journal.batch_written(file.commit(&batch), &mut store);
        let (_, outcome) = journal.poll_outcome().unwrap();
        assert!(matches!(outcome, Outcome::Done(_)), "{outcome:?}");
        // This is the acknowledgement.
        writeln!(stdout, "acknowledged {number}").unwrap();
        stdout.flush().unwrap();
    }
    assert_eq!(store.len(), 254);
}

fn spawn_child(path: &Path) -> Child {
    Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "store::redb::tests::child_that_registers_until_it_is_killed", "--nocapture"])
        .env(CHILD, path)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap()
}

/// Kills the child after so many acknowledgements and a little more, and gives the last one that it has made.
fn kill_after(mut child: Child, acknowledgements: u8, more: u16) -> u8 {
    let mut last = 0;
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines().map(Result::unwrap);
    let mut acknowledged = lines.by_ref().filter_map(|line| line.strip_prefix("acknowledged ")?.parse().ok());
    for number in acknowledged.by_ref().take(usize::from(acknowledgements)) {
        last = number;
    }
    (0..more).for_each(|_| std::hint::spin_loop());
    child.kill().unwrap();
    child.wait().unwrap();
    acknowledged.last().unwrap_or(last)
}

#[test]
fn no_acknowledged_registration_is_lost_when_the_process_is_killed() {
    const SEED: [u8; 32] = [36; 32];
    let home = tempfile::tempdir().unwrap();
    let path = home.path().join(FILE_NAME);
    let mut rng = Rng::new(SEED);
    let mut all = 0;
    for kill in 0..12 {
        let [acknowledgements, high, low] = rng.array();
        let acknowledged = kill_after(spawn_child(&path), acknowledgements % 16, u16::from_be_bytes([high, low]));
        all = all.max(acknowledged);
        let (_, stored) = DirectoryFile::open(&path).unwrap();
        let found = numbers(&stored);
        assert!((1..=all).all(|number| found.contains(&number)), "kill {kill}: {all} acknowledged, {found:?} found");
        all = found.len() as u8;
    }
    assert!(all > 12, "only {all} were ever registered");
}

/// Says to the child that it may not make the file any longer.
const FULL_CHILD: &str = "PILOT_TEST_FULL_DISK";

fn register_long(file: &mut DirectoryFile, number: u8) -> Result<(), String> {
    let agent =
        StoredAgent { identity: vec![number; 8_000], lease_until: NOW, hand_overs: vec![vec![number; 150].into()] };
    file.commit(&Batch { changes: vec![Change::PutAgent(IdentityKey([number; 32]), agent)] })
}

/// What the next test starts. On its own it does nothing.
#[test]
fn child_that_registers_until_the_disk_is_full() {
    let Some(path) = std::env::var_os(FULL_CHILD) else { return };
    let (mut file, _) = DirectoryFile::open(Path::new(&path)).unwrap();
    let mut results = (1..u8::MAX).map(|number| (number, register_long(&mut file, number)));
    let (refused, error) =
        results.find_map(|(number, result)| Some((number, result.err()?))).expect("no end of the disk");
    assert!(register_long(&mut file, refused).is_err(), "room has come from nowhere");
    println!("acknowledged {}\nrefused: {error}", refused - 1);
}

#[test]
fn a_full_disk_is_an_error_and_takes_nothing_that_was_acknowledged() {
    let home = tempfile::tempdir().unwrap();
    let path = home.path().join(FILE_NAME);
    file_of(&path, 1);
    let blocks = fs::metadata(&path).unwrap().len().div_ceil(512);
    let child = format!("trap '' XFSZ; ulimit -f {blocks}; exec \"$0\" \"$@\"");
    let output = Command::new("sh")
        .args(["-c", &child])
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", "store::redb::tests::child_that_registers_until_the_disk_is_full", "--nocapture"])
        .env(FULL_CHILD, &path)
        .output()
        .unwrap();
    let said = String::from_utf8(output.stdout).unwrap();
    let value = |prefix| said.lines().find_map(|line| line.strip_prefix(prefix)).unwrap_or_else(|| panic!("{said}"));
    assert!(value("refused: ").contains("File too large"), "{said}");
    let acknowledged: u8 = value("acknowledged ").parse().unwrap();
    let (mut file, stored) = DirectoryFile::open(&path).unwrap();
    assert!((1..=acknowledged).all(|number| numbers(&stored).contains(&number)), "{said}");
    register_long(&mut file, 200).expect("there is room again");
}
