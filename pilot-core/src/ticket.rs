//! Tickets: all that one agent must know to reach another, as a line of text (spec/address.md §5).
//!
//! ```text
//! pilot:KEY.MODIFIER@ADDRESS:PORT,ADDRESS:PORT/KEY@HOST:PORT      an agent, where it was, and its home backbone node
//! pilot-backbone:KEY@HOST:PORT                                    a backbone node
//! ```
//!
//! KEY is an identity key in lower-case base32; addresses are IPv4 or bracketed IPv6; the part behind `/` may be missing, and so may
//! the addresses if it is there. A backbone ticket needs no modifier: the certificate that the node sends brings it.

use std::fmt;
use std::net::{Ipv6Addr, SocketAddr};
use std::str::FromStr;

use crate::address::{self, Address};
use crate::id::IdentityKey;

/// Most socket addresses in a ticket: an agent has a handful of interfaces, and a line must stay one that people can paste.
pub const ADDRESSES_MAX: usize = 16;
/// Longest host name (RFC 1035 §2.3.4).
const HOST_LEN_MAX: usize = 253;
const AGENT_SCHEME: &str = "pilot:";
const BACKBONE_SCHEME: &str = "pilot-backbone:";

/// Where an agent is and who it is: two agents with tickets need no directory.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Ticket {
    /// The agent's key.
    pub identity: IdentityKey,
    /// Gives the key its address.
    pub modifier: u64,
    /// Where the agent was when the ticket was made.
    pub addresses: Vec<SocketAddr>,
    /// The backbone node where it can be asked for.
    pub home: Option<BackboneTicket>,
    address: Address,
}

impl Ticket {
    /// A ticket for an agent.
    ///
    /// # Errors
    /// If the modifier gives the key no address, or the ticket leads nowhere.
    pub fn new(
        identity: IdentityKey,
        modifier: u64,
        addresses: Vec<SocketAddr>,
        home: Option<BackboneTicket>,
    ) -> Result<Self, TicketError> {
        let address = address::verify(&identity, modifier).ok_or(TicketError::Address)?;
        if addresses.is_empty() && home.is_none() {
            return Err(TicketError::Nowhere);
        }
        if addresses.len() > ADDRESSES_MAX {
            return Err(TicketError::TooManyAddresses);
        }
        Ok(Self { identity, modifier, addresses, home, address })
    }

    /// The agent's address.
    pub fn address(&self) -> Address {
        self.address
    }
}

impl fmt::Display for Ticket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{AGENT_SCHEME}{}.{}@", self.identity, self.modifier)?;
        for (position, address) in self.addresses.iter().enumerate() {
            let separator = if position == 0 { "" } else { "," };
            write!(f, "{separator}{address}")?;
        }
        match &self.home {
            Some(home) => write!(f, "/{}", Bare(home)),
            None => Ok(()),
        }
    }
}

impl FromStr for Ticket {
    type Err = TicketError;

    fn from_str(text: &str) -> Result<Self, TicketError> {
        let rest = text.trim().strip_prefix(AGENT_SCHEME).ok_or(TicketError::NotATicket)?;
        let (who, place) = rest.split_once('@').ok_or(TicketError::NotATicket)?;
        let (key, modifier) = who.split_once('.').ok_or(TicketError::NotATicket)?;
        let (addresses, home) = match place.split_once('/') {
            Some((addresses, home)) => (addresses, Some(parse_bare(home)?)),
            None => (place, None),
        };
        Self::new(parse_key(key)?, parse_modifier(modifier)?, parse_addresses(addresses)?, home)
    }
}

/// Who a backbone node is and where.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct BackboneTicket {
    /// The node's key.
    pub identity: IdentityKey,
    /// Host name, IPv4 address, or IPv6 address without its brackets.
    pub host: String,
    /// UDP port.
    pub port: u16,
}

impl BackboneTicket {
    /// A ticket for a backbone node.
    ///
    /// # Errors
    /// If the host is neither a name nor an IP address, or the port is zero.
    pub fn new(identity: IdentityKey, host: &str, port: u16) -> Result<Self, TicketError> {
        if !is_host(host) {
            return Err(TicketError::Host(host.chars().take(HOST_LEN_MAX).collect()));
        }
        if port == 0 {
            return Err(TicketError::Port("0".to_owned()));
        }
        Ok(Self { identity, host: host.to_owned(), port })
    }
}

impl fmt::Display for BackboneTicket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{BACKBONE_SCHEME}{}", Bare(self))
    }
}

impl FromStr for BackboneTicket {
    type Err = TicketError;

    fn from_str(text: &str) -> Result<Self, TicketError> {
        parse_bare(text.trim().strip_prefix(BACKBONE_SCHEME).ok_or(TicketError::NotABackboneTicket)?)
    }
}

/// Why a text is not a ticket.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TicketError {
    /// No agent's ticket.
    #[error("a ticket looks like pilot:KEY.MODIFIER@ADDRESS:PORT")]
    NotATicket,
    /// No backbone's ticket; a bare host says nothing about whom to trust there.
    #[error("a backbone ticket looks like pilot-backbone:KEY@HOST:PORT")]
    NotABackboneTicket,
    /// The part that should be an identity key.
    #[error("the key in the ticket is not 52 characters of base32")]
    Key,
    /// The part that should be a modifier.
    #[error("the modifier in the ticket is not a number")]
    Modifier,
    /// Key and modifier do not belong together.
    #[error("the key and the modifier in the ticket give no address: it was damaged")]
    Address,
    /// A part that should be a socket address.
    #[error("{0:?} in the ticket is not an address with a port")]
    SocketAddress(String),
    /// More addresses than a ticket may have.
    #[error("the ticket has more than {ADDRESSES_MAX} addresses")]
    TooManyAddresses,
    /// Neither an address nor a home.
    #[error("the ticket does not say where the agent is")]
    Nowhere,
    /// The host of a backbone.
    #[error("{0:?} in the ticket is not a host")]
    Host(String),
    /// The port of a backbone.
    #[error("{0:?} in the ticket is not a port")]
    Port(String),
}

/// A backbone ticket without its scheme.
struct Bare<'a>(&'a BackboneTicket);

impl fmt::Display for Bare<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let BackboneTicket { identity, host, port } = self.0;
        if host.contains(':') { write!(f, "{identity}@[{host}]:{port}") } else { write!(f, "{identity}@{host}:{port}") }
    }
}

fn parse_bare(text: &str) -> Result<BackboneTicket, TicketError> {
    let (key, place) = text.split_once('@').ok_or(TicketError::NotABackboneTicket)?;
    let (host, port) = place.rsplit_once(':').ok_or(TicketError::NotABackboneTicket)?;
    let host = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
    let port = port.parse().map_err(|_| TicketError::Port(port.to_owned()))?;
    BackboneTicket::new(parse_key(key)?, host, port)
}

fn parse_key(text: &str) -> Result<IdentityKey, TicketError> {
    text.parse().map_err(|_| TicketError::Key)
}

fn parse_modifier(text: &str) -> Result<u64, TicketError> {
    text.parse().map_err(|_| TicketError::Modifier)
}

fn parse_addresses(text: &str) -> Result<Vec<SocketAddr>, TicketError> {
    if text.is_empty() {
        return Ok(Vec::new());
    }
    text.split(',').map(|part| part.parse().map_err(|_| TicketError::SocketAddress(part.to_owned()))).collect()
}

fn is_host(text: &str) -> bool {
    let is_name = |text: &str| {
        text.len() <= HOST_LEN_MAX
            && text.split('.').all(|label| !label.is_empty())
            && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'.')
    };
    text.parse::<Ipv6Addr>().is_ok() || is_name(text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::identity::tests::{alice, bob};

    fn home() -> BackboneTicket {
        BackboneTicket::new(bob().key(), "backbone.example", 4000).expect("valid")
    }

    fn ticket(addresses: &[&str], home: Option<BackboneTicket>) -> Ticket {
        let alice = alice();
        let addresses = addresses.iter().map(|text| text.parse().expect("an address")).collect();
        Ticket::new(alice.key(), alice.modifier(), addresses, home).expect("valid")
    }

    #[test]
    fn tickets_survive_their_text() {
        for ticket in [
            ticket(&["192.0.2.1:4000"], None),
            ticket(&["192.0.2.1:4000", "[2001:db8::1]:4001"], Some(home())),
            ticket(&[], Some(home())),
        ] {
            assert_eq!(ticket.to_string().parse(), Ok(ticket));
        }
        let key = bob().key();
        for host in ["backbone.example", "192.0.2.7", "2001:db8::7"] {
            let ticket = BackboneTicket::new(key, host, 4000).expect("valid");
            assert_eq!(ticket.to_string().parse(), Ok(ticket));
        }
        assert_eq!(home().to_string(), format!("pilot-backbone:{key}@backbone.example:4000"));
    }

    #[test]
    fn surrounding_white_space_is_forgiven() {
        assert_eq!(format!(" {}\n", home()).parse(), Ok(home()));
    }

    #[test]
    fn a_bare_host_is_told_what_a_ticket_looks_like() {
        let error = "backbone.example:4000".parse::<BackboneTicket>().expect_err("no ticket");
        assert_eq!(error.to_string(), "a backbone ticket looks like pilot-backbone:KEY@HOST:PORT");
        assert_eq!(home().to_string().parse::<Ticket>(), Err(TicketError::NotATicket));
    }

    #[test]
    fn a_ticket_names_the_part_that_is_wrong() {
        let (alice, key) = (alice(), bob().key());
        let modifier = alice.modifier();
        let agent = |text: String| text.parse::<Ticket>().expect_err("damaged");
        assert_eq!(agent(format!("pilot:xyz.{modifier}@192.0.2.1:4000")), TicketError::Key);
        assert_eq!(agent(format!("pilot:{}.x@192.0.2.1:4000", alice.key())), TicketError::Modifier);
        assert_eq!(agent(format!("pilot:{key}.{modifier}@192.0.2.1:4000")), TicketError::Address);
        assert_eq!(agent(format!("pilot:{}.{modifier}@", alice.key())), TicketError::Nowhere);
        assert_eq!(
            agent(format!("pilot:{}.{modifier}@192.0.2.1", alice.key())),
            TicketError::SocketAddress("192.0.2.1".to_owned())
        );
        let many = vec!["192.0.2.1:4000"; ADDRESSES_MAX + 1].join(",");
        assert_eq!(agent(format!("pilot:{}.{modifier}@{many}", alice.key())), TicketError::TooManyAddresses);

        let backbone =
            |place: &str| format!("pilot-backbone:{key}@{place}").parse::<BackboneTicket>().expect_err("damaged");
        assert_eq!(backbone("host"), TicketError::NotABackboneTicket);
        assert_eq!(backbone("host:0"), TicketError::Port("0".to_owned()));
        assert_eq!(backbone("host:70000"), TicketError::Port("70000".to_owned()));
        assert_eq!(backbone("a b:4000"), TicketError::Host("a b".to_owned()));
        assert_eq!(backbone(":4000"), TicketError::Host(String::new()));
    }
}
