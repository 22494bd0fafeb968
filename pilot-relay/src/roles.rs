//! What a backbone node does: any of three roles, which can run apart (spec/backbone.md §1).

use std::fmt;

/// The roles of one node. By default it has all of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Roles {
    /// Tells who asks the address that it is seen at.
    pub stun: bool,
    /// Opens circuits and forwards what they carry.
    pub relay: bool,
    /// Keeps registrations and answers look-ups.
    pub directory: bool,
}

impl Roles {
    /// Every role.
    pub const ALL: Self = Self { stun: true, relay: true, directory: true };
    /// No role: a start to add some to.
    pub const NONE: Self = Self { stun: false, relay: false, directory: false };

    /// Those that the node has, by name.
    pub fn names(self) -> impl Iterator<Item = &'static str> {
        let named = [(self.stun, "stun"), (self.relay, "relay"), (self.directory, "directory")];
        named.into_iter().filter_map(|(has, name)| has.then_some(name))
    }
}

impl Default for Roles {
    fn default() -> Self {
        Self::ALL
    }
}

/// As it stands in a status and in a refusal: `stun, relay`.
impl fmt::Display for Roles {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<_> = self.names().collect();
        f.write_str(if names.is_empty() { "none" } else { "" })?;
        f.write_str(&names.join(", "))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn roles_are_listed_in_one_order() {
        assert_eq!(Roles::ALL.to_string(), "stun, relay, directory");
        assert_eq!(Roles { directory: true, ..Roles::NONE }.to_string(), "directory");
        assert_eq!(Roles::NONE.to_string(), "none");
    }
}
