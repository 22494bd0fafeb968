use pilot_core::config::Keys;
use pilot_core::identity::{CLOCK_SKEW, Identity};
use pilot_core::time::UnixTime;

use super::keys::TRANSPORT_KEY_ROTATION_SECS;
use super::*;
use crate::agent::ephemeral::make_room;

const NOW: UnixTime = UnixTime(1_800_000_000_000_000_000);

fn agent(root: &tempfile::TempDir) -> AgentHome {
    Home::at(root.path()).agent("agent-alpha").unwrap()
}

fn mode(agent: &AgentHome, name: &str) -> u32 {
    fs::metadata(agent.path().join(name)).unwrap().permissions().mode() & 0o777
}

#[test]
fn keys_survive_a_restart_and_are_readable_by_their_owner_alone() {
    let root = tempfile::tempdir().unwrap();
    let agent = agent(&root);
    let _lock = agent.lock().unwrap();
    let first = agent.keys(NOW).unwrap();
    let second = agent.keys(NOW).unwrap();
    assert_eq!(first.identity.key(), second.identity.key());
    assert_eq!(first.transport[0].id(), second.transport[0].id());
    assert_eq!(first.certificate.instance, second.certificate.instance);
    assert_eq!((mode(&agent, "identity.pem"), mode(&agent, "transport.keys")), (0o600, 0o600));
    assert!(Home::at(root.path()).identities().into_keys().eq([first.identity.key()]));
}

#[test]
fn transport_key_rotates_after_a_day_and_the_old_one_is_honoured_while_its_certificates_are() {
    let root = tempfile::tempdir().unwrap();
    let agent = agent(&root);
    let _lock = agent.lock().unwrap();
    let old = agent.keys(NOW).unwrap().transport[0].id();
    let day = std::time::Duration::from_secs(TRANSPORT_KEY_ROTATION_SECS);
    let rotated = agent.keys(NOW + day).unwrap().transport;
    assert_ne!(rotated[0].id(), old);
    assert_eq!(rotated[1].id(), old);
    assert!(agent.keys(NOW + day * 9).unwrap().transport.iter().all(|key| key.id() != old));
}

#[test]
fn a_transport_key_is_honoured_until_the_last_certificate_for_it_has_ended() {
    let root = tempfile::tempdir().unwrap();
    let agent = agent(&root);
    let _lock = agent.lock().unwrap();
    let day = std::time::Duration::from_secs(TRANSPORT_KEY_ROTATION_SECS);
    let second = std::time::Duration::from_secs(1);
    let first = agent.keys(NOW).unwrap();
    let last = agent.keys(NOW + day - second).unwrap().certificate;
    assert_eq!(last.key_id, first.certificate.key_id);
    // Daily starts: no rotation may drop the key before its time.
    for days in 1..=8 {
        agent.keys(NOW + day * days).unwrap();
    }
    let end = last.not_after + CLOCK_SKEW;
    assert!(last.check_dates(end).is_ok() && last.check_dates(end + second).is_err());
    let is_honoured = |now| agent.keys(now).unwrap().transport.iter().any(|key| key.id() == last.key_id);
    assert!(is_honoured(end));
    assert!(!is_honoured(end + second));
}

#[test]
fn transport_key_from_a_clock_that_was_ahead_rotates_all_the_same() {
    let root = tempfile::tempdir().unwrap();
    let agent = agent(&root);
    let _lock = agent.lock().unwrap();
    let year = std::time::Duration::from_secs(365 * 24 * 3600);
    let ahead = agent.keys(NOW + year).unwrap().transport[0].id();
    let rotated = agent.keys(NOW).unwrap().transport;
    assert_ne!(rotated[0].id(), ahead);
    assert_eq!(agent.keys(NOW).unwrap().transport[0].id(), rotated[0].id());
}

#[test]
fn renewal_keeps_the_identity_whatever_has_become_of_its_file() {
    let root = tempfile::tempdir().unwrap();
    let agent = agent(&root);
    let _lock = agent.lock().unwrap();
    let Keys { identity, certificate, .. } = agent.keys(NOW).unwrap();
    fs::remove_file(agent.path().join("identity.pem")).unwrap();
    agent.take_next_address(&identity).unwrap();
    let later = NOW + std::time::Duration::from_secs(2 * TRANSPORT_KEY_ROTATION_SECS);
    let renewed = agent.renewed_keys(identity.clone(), certificate.instance, later).unwrap().certificate;
    assert_eq!((renewed.identity, renewed.address()), (certificate.identity, certificate.address()));
    assert!(renewed.serial > certificate.serial && renewed.key_id != certificate.key_id);
    assert!(!agent.path().join("identity.pem").exists(), "no other identity was made");
}

#[test]
fn second_daemon_for_one_agent_is_told_the_pid_of_the_first() {
    let root = tempfile::tempdir().unwrap();
    let agent = agent(&root);
    let lock = agent.lock().unwrap();
    let error = agent.lock().unwrap_err();
    assert!(matches!(error, HomeError::AlreadyRunning { pid: Some(pid), .. } if pid == std::process::id()));
    assert_eq!(agent.running_pid(), Some(std::process::id()));
    drop(lock);
    assert_eq!(agent.running_pid(), None);
}

#[tokio::test]
async fn a_home_that_a_killed_daemon_still_holds_is_waited_for() {
    let root = tempfile::tempdir().unwrap();
    let (home, agent) = (Home::at(root.path()), agent(&root));
    let lock = agent.lock().unwrap();
    let waiting = tokio::spawn(async move { make_room(&home, "agent-alpha").await });
    for _ in 0..100 {
        tokio::task::yield_now().await;
    }
    assert!(!waiting.is_finished());
    drop(lock);
    waiting.await.unwrap();
}

#[test]
fn stale_pid_file_is_no_obstacle() {
    let root = tempfile::tempdir().unwrap();
    let agent = agent(&root);
    drop(agent.lock().unwrap());
    agent.save_number("pid", 1).unwrap();
    assert_eq!(agent.running_pid(), None);
    assert!(agent.lock().is_ok());
}

#[test]
fn damaged_key_file_is_an_error_and_is_left_alone() {
    let root = tempfile::tempdir().unwrap();
    let agent = agent(&root);
    let _lock = agent.lock().unwrap();
    agent.write("identity.pem", b"not a key", 0o600).unwrap();
    assert!(matches!(agent.keys(NOW), Err(HomeError::Damaged { .. })));
    assert_eq!(agent.read("identity.pem").unwrap().unwrap(), b"not a key");
}

#[test]
fn unreadable_key_file_is_an_error_and_no_new_identity() {
    let root = tempfile::tempdir().unwrap();
    let agent = agent(&root);
    let _lock = agent.lock().unwrap();
    // A directory in its place cannot be read as a file by any user, root included.
    fs::create_dir(agent.path().join("identity.pem")).unwrap();
    assert!(matches!(agent.keys(NOW), Err(HomeError::Read { .. })));
}

#[test]
fn home_that_cannot_be_written_is_an_error_with_advice() {
    let root = tempfile::tempdir().unwrap();
    fs::write(root.path().join("agents"), b"a file where the directory should be").unwrap();
    let error = agent(&root).lock().unwrap_err();
    assert!(matches!(error, HomeError::Write { .. }));
    assert!(error.hint().contains("PILOT_HOME"));
}

#[test]
fn socket_with_a_long_path_moves_to_the_runtime_directory() {
    let long = Home::at(format!("/{}", "x".repeat(100))).agent("agent-alpha").unwrap();
    let short = long.socket_path_with(Some("/run/user/1".into())).unwrap();
    assert!(short.starts_with("/run/user/1") && short.as_os_str().len() <= SOCKET_PATH_LEN_MAX);
    assert!(matches!(long.socket_path_with(None), Err(HomeError::SocketPath { .. })));
}

#[test]
fn settings_survive_a_restart() {
    let root = tempfile::tempdir().unwrap();
    let agent = agent(&root);
    let _lock = agent.lock().unwrap();
    assert_eq!(agent.settings().unwrap(), Settings::default());
    let settings = Settings { tags: vec!["mcp".into()], direct: false, ..Settings::default() };
    agent.save_settings(&settings).unwrap();
    assert_eq!(agent.settings().unwrap(), settings);
}

#[test]
fn a_stored_setting_leaves_what_a_person_wrote() {
    let root = tempfile::tempdir().unwrap();
    let agent = agent(&root);
    let _lock = agent.lock().unwrap();
    let written = "# of the office\nproxy = 'http://user:secret@proxy:3128'\ntimeout = '5s'\nbackbone = 'old'\n";
    agent.write("config.toml", written.as_bytes(), 0o600).unwrap();
    agent.save_settings(&Settings { tags: vec!["mcp".into()], ..Settings::default() }).unwrap();
    let kept = String::from_utf8(agent.read("config.toml").unwrap().unwrap()).unwrap();
    assert!(kept.starts_with("# of the office\nproxy = 'http://user:secret@proxy:3128'\ntimeout = '5s'\n"), "{kept}");
    assert!(!kept.contains("backbone") && kept.contains("tags = [\"mcp\"]"), "{kept}");
    assert_eq!(agent.proxy().as_deref(), Some("http://user:secret@proxy:3128"));
}

#[test]
fn names_that_are_no_host_names_are_refused() {
    for name in ["", "Agent", "a b", "../x", "-a"] {
        assert!(matches!(Home::at("/tmp").agent(name), Err(HomeError::Name(_))), "{name}");
    }
}

#[test]
fn an_identity_that_is_adopted_keeps_its_address_and_never_replaces_one() {
    let root = tempfile::tempdir().unwrap();
    let agent = agent(&root);
    // The second address of its key, which no search from the key alone would find.
    let identity = Identity::generate([7; 32]).next_address();
    assert!(agent.stored_identity().unwrap().is_none());
    agent.adopt_identity(&identity).unwrap();
    assert_eq!(agent.stored_identity().unwrap().unwrap().address(), identity.address());
    assert_eq!(agent.keys(NOW).unwrap().identity.address(), identity.address());
    assert_eq!((mode(&agent, "identity.pem"), agent.running_pid()), (0o600, None));

    let other = Identity::generate([8; 32]);
    assert!(matches!(agent.adopt_identity(&other), Err(HomeError::HasIdentity { .. })));
    assert_eq!(agent.stored_identity().unwrap().unwrap().key(), identity.key());
}

#[test]
fn no_identity_is_adopted_by_an_agent_that_is_starting() {
    let root = tempfile::tempdir().unwrap();
    let agent = agent(&root);
    let _starting = agent.lock().unwrap();
    let refused = agent.adopt_identity(&Identity::generate([7; 32]));
    assert!(matches!(refused, Err(HomeError::AlreadyRunning { .. })), "{refused:?}");
    assert!(agent.stored_identity().unwrap().is_none());
}

#[test]
fn a_directory_that_never_had_a_key_is_no_agent() {
    let root = tempfile::tempdir().unwrap();
    let home = Home::at(root.path());
    let failed = home.agent("failed").unwrap();
    failed.lock().unwrap();
    fs::write(failed.log_path(), "cannot start").unwrap();
    let agent = agent(&root);
    agent.lock().unwrap();
    agent.keys(NOW).unwrap();
    let names: Vec<_> = home.agents().iter().map(|agent| agent.name().to_owned()).collect();
    assert_eq!(names, ["agent-alpha"]);
}

/// The file once for each of its bytes, with that byte changed.
fn flips(agent: &AgentHome, name: &str) -> impl Iterator<Item = Vec<u8>> + use<> {
    let whole = agent.read(name).unwrap().unwrap();
    (0..whole.len()).map(move |at| {
        let mut flipped = whole.clone();
        flipped[at] ^= 1;
        flipped
    })
}

#[test]
fn a_flipped_byte_of_the_identity_is_an_error_or_does_no_harm() {
    let root = tempfile::tempdir().unwrap();
    let agent = agent(&root);
    let identity = Identity::generate([7; 32]);
    agent.adopt_identity(&identity).unwrap();
    let public = agent.read("identity.pub").unwrap().unwrap();
    let mut noticed = 0;
    for flipped in flips(&agent, "identity.pem") {
        agent.write("identity.pem", &flipped, 0o600).unwrap();
        match agent.stored_identity() {
            Ok(found) => assert_eq!(found.unwrap().key(), identity.key()),
            Err(error) => {
                assert!(matches!(error, HomeError::Damaged { .. }), "{error}");
                noticed += 1;
            }
        }
        assert_eq!(agent.read("identity.pem").unwrap().unwrap(), flipped, "it stays as it is");
        assert_eq!(agent.read("identity.pub").unwrap().unwrap(), public, "and so does what shows that it is damaged");
    }
    assert!(noticed > 60, "of the key alone there are 64 characters: {noticed}");
}

#[test]
fn a_flipped_byte_of_the_public_key_is_repaired_from_the_private_one() {
    let root = tempfile::tempdir().unwrap();
    let agent = agent(&root);
    agent.adopt_identity(&Identity::generate([7; 32])).unwrap();
    let public = agent.read("identity.pub").unwrap().unwrap();
    // Each search for the address takes a tenth of a second: a few bytes of the key, and of the modifier.
    for flipped in flips(&agent, "identity.pub").step_by(public.len() / 8) {
        agent.write("identity.pub", &flipped, 0o644).unwrap();
        agent.stored_identity().unwrap();
        assert_eq!(agent.read("identity.pub").unwrap().unwrap(), public, "{}", String::from_utf8_lossy(&flipped));
    }
}

#[test]
fn a_flipped_byte_of_the_transport_keys_is_an_error_and_stays() {
    let root = tempfile::tempdir().unwrap();
    let agent = agent(&root);
    let _lock = agent.lock().unwrap();
    let Keys { identity, certificate, .. } = agent.keys(NOW).unwrap();
    for flipped in flips(&agent, "transport.keys") {
        agent.write("transport.keys", &flipped, 0o600).unwrap();
        let result = agent.renewed_keys(identity.clone(), certificate.instance, NOW);
        assert!(matches!(result, Err(HomeError::Damaged { .. })), "{}", String::from_utf8_lossy(&flipped));
        assert_eq!(agent.read("transport.keys").unwrap().unwrap(), flipped);
    }
}

#[test]
fn a_file_that_many_replace_at_once_is_always_one_of_theirs() {
    let root = tempfile::tempdir().unwrap();
    let agent = agent(&root);
    let _lock = agent.lock().unwrap();
    let contents = |writer: u8| vec![writer; 64 * 1024];
    std::thread::scope(|scope| {
        for writer in 1..=8 {
            let agent = agent.clone();
            scope.spawn(move || {
                for _ in 0..8 {
                    agent.write("pins", &contents(writer), 0o600).unwrap();
                    let found = agent.read("pins").unwrap().unwrap();
                    assert_eq!(found, contents(found[0]));
                }
            });
        }
    });
    assert_eq!(fs::read_dir(agent.path()).unwrap().count(), 3, "lock, pid and the file itself");
}

#[test]
fn a_bare_file_name_lies_in_the_working_directory() {
    let directories = ["fleet.invite", "invites/fleet", "/fleet"].map(|path| directory_of(Path::new(path)));
    assert_eq!(directories, [Path::new("."), Path::new("invites"), Path::new("/")]);
}
