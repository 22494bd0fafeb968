//! An identity outside of a home: the PKCS#8 PEM block that the home keeps, with what it does not say in comments above it, as RFC 7468
//! §2 allows and `age-keygen` does. Any Ed25519 key in that format is an identity; it only lacks a name.

use pilot_core::identity::Identity;
use zeroize::Zeroizing;

const PEM_BEGIN: &str = "-----BEGIN ";
const PEM_DASHES: &str = "-----";
/// The label of PKCS#8 without a passphrase (RFC 7468 §10).
const PEM_LABEL: &str = "PRIVATE KEY";

/// What the file says.
#[derive(Debug)]
pub(super) struct Exported {
    pub(super) name: Option<String>,
    pub(super) identity: Identity,
}

/// The file of an agent.
pub(super) fn write(name: &str, identity: &Identity) -> Zeroizing<String> {
    let (address, key, modifier) = (identity.address(), identity.key(), identity.modifier());
    let head = format!(
        "# Pilot identity. Whoever has this file is this agent.\n# hostname: {name}\n# address: {address}\n# key: {key}\n\
         # modifier: {modifier}\n"
    );
    Zeroizing::new(head + &identity.to_pem())
}

/// Reads a file, or says what is wrong with it.
pub(super) fn read(text: &str) -> Result<Exported, String> {
    let Some(start) = text.find(PEM_BEGIN) else {
        return Err("there is no PEM block in it".to_owned());
    };
    let (head, pem) = text.split_at(start);
    let label = pem[PEM_BEGIN.len()..].split(PEM_DASHES).next().unwrap_or_default();
    if label != PEM_LABEL {
        return Err(format!("it holds '{}', not '{PEM_LABEL}'", label.lines().next().unwrap_or_default()));
    }
    let identity = match comment(head, "modifier") {
        Some(modifier) => {
            let modifier = modifier.parse().map_err(|_| format!("its modifier '{modifier}' is no number"))?;
            Identity::from_pem_at(pem, modifier)
        }
        None => Identity::from_pem(pem),
    };
    let identity = identity.map_err(|error| error.to_string())?;
    for (what, is) in [("address", identity.address().to_string()), ("key", identity.key().to_string())] {
        if let Some(said) = comment(head, what).filter(|said| *said != is) {
            return Err(format!("it says {what} {said}, but its key has {is}"));
        }
    }
    Ok(Exported { name: comment(head, "hostname").map(str::to_owned), identity })
}

/// The value of `# NAME: VALUE`.
fn comment<'a>(head: &'a str, name: &str) -> Option<&'a str> {
    head.lines().find_map(|line| line.strip_prefix("# ")?.strip_prefix(name)?.strip_prefix(": ")).map(str::trim)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn identity() -> Identity {
        Identity::generate([7; 32])
    }

    #[test]
    fn what_is_written_is_read() {
        let written = write("my-agent", &identity());
        let read = read(&written).expect("an identity");
        assert_eq!((read.name.as_deref(), read.identity.key()), (Some("my-agent"), identity().key()));
    }

    #[test]
    fn an_agent_that_came_second_to_its_address_keeps_the_next_one() {
        let second = identity().next_address();
        let read = read(&write("my-agent", &second)).expect("an identity");
        assert_eq!((read.identity.address(), read.identity.modifier()), (second.address(), second.modifier()));
    }

    #[test]
    fn a_bare_key_is_an_identity_without_a_name() {
        let read = read(&identity().to_pem().replace('\n', "\r\n")).expect("an identity");
        assert_eq!((read.name, read.identity.address()), (None, identity().address()));
    }

    #[test]
    fn what_is_no_identity_is_told_apart() {
        let written = write("my-agent", &identity());
        let other = Identity::generate([8; 32]);
        let cases = [
            (String::new(), "there is no PEM block in it"),
            (written.replace(PEM_LABEL, "PUBLIC KEY"), "it holds 'PUBLIC KEY', not 'PRIVATE KEY'"),
            (written.replace("MC4C", "MC4D"), "not an Ed25519 private key in PKCS#8 PEM"),
            (written.replace("modifier: ", "modifier: x"), "is no number"),
            (written.replace("modifier: ", "modifier: 1"), "gives this key no address"),
            (
                written.replace(&identity().address().to_string(), "0:0000.0000.0001"),
                "it says address 0:0000.0000.0001, but",
            ),
            (written.replace(&identity().key().to_string(), &other.key().to_string()), "but its key has"),
            (written[..written.len() - 30].to_owned(), "not an Ed25519 private key"),
        ];
        for (text, reason) in cases {
            let error = read(&text).expect_err(reason);
            assert!(error.contains(reason), "{error}: {text}");
        }
    }
}
