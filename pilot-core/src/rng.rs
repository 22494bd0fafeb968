//! The seeded generator of every random byte (spec/handshake.md §8).
//!
//! A node has one seed; its parts take labelled children, so that a new draw in one part moves nothing in another, and a run of the
//! simulator is repeated by its seed. Bytes that go on the wire come from [`Rng::public`], keys from [`Rng::secret`]: two separate
//! generators, so that what an observer collects says nothing about a key even if the cipher of the first were to break.
//!
//! Both work by fast key erasure: each draw replaces the key first, so that a memory image taken later does not give away earlier
//! output. The driver mixes operating-system entropy in with [`Rng::reseed`] at start, every active minute and on resume.

use chacha20::ChaCha20Rng;
use chacha20::rand_core::{Rng as _, SeedableRng};
use zeroize::Zeroizing;

use crate::crypto::{Secret, X25519Key, hkdf};

/// A seeded generator with labelled children.
pub struct Rng {
    public: Secret,
    secret: Secret,
    children: Secret,
    /// The next ephemeral key, where there was time to make it ahead.
    ephemeral: Option<X25519Key>,
}

impl Rng {
    /// A generator whose whole output follows from `seed`.
    pub fn new(seed: [u8; 32]) -> Self {
        let seed = Zeroizing::new(seed);
        let [public, secret, children] = hkdf(b"pilot/1 rng", &*seed, b"root");
        Self { public, secret, children, ephemeral: None }
    }

    /// The child of this name. It follows from the seed and the name alone, not from what was drawn before: one name, one child.
    pub fn child(&self, label: &str) -> Self {
        let [public, secret, children] = hkdf(&*self.children, label.as_bytes(), b"child");
        Self { public, secret, children, ephemeral: None }
    }

    /// Fills `out` with bytes that others will see: indexes, tunnel ids, challenges.
    pub fn public(&mut self, out: &mut [u8]) {
        draw(&mut self.public, out);
    }

    /// Fills `out` with bytes that nobody may see: ephemeral and transport keys.
    pub fn secret(&mut self, out: &mut [u8]) {
        draw(&mut self.secret, out);
    }

    /// `N` bytes as by [`Rng::public`].
    pub fn array<const N: usize>(&mut self) -> [u8; N] {
        let mut out = [0; N];
        self.public(&mut out);
        out
    }

    /// Thirty-two bytes as by [`Rng::secret`].
    pub fn secret_key(&mut self) -> Secret {
        let mut out = Zeroizing::new([0; 32]);
        self.secret(&mut *out);
        out
    }

    /// A key for one handshake.
    pub fn ephemeral(&mut self) -> X25519Key {
        self.make_ahead();
        self.ephemeral.take().expect("made if there was none")
    }

    /// Makes the key that [`Rng::ephemeral`] gives next, if there is none: for when nobody waits.
    pub fn make_ahead(&mut self) {
        if self.ephemeral.is_none() {
            self.ephemeral = Some(X25519Key::new(&self.secret_key()));
        }
    }

    /// Mixes fresh entropy into all that this generator, and children made from now on, will give. It cannot make output weaker. A key that was
    /// made ahead is forgotten: a copy of this process may have it too.
    pub fn reseed(&mut self, entropy: &[u8]) {
        self.ephemeral = None;
        for key in [&mut self.public, &mut self.secret, &mut self.children] {
            let [mixed] = hkdf(&**key, entropy, b"reseed");
            *key = mixed;
        }
    }
}

/// Replaces `key` with the first bytes of its stream and gives out the bytes that follow.
fn draw(key: &mut Secret, out: &mut [u8]) {
    let mut stream = ChaCha20Rng::from_seed(**key);
    stream.fill_bytes(&mut **key);
    stream.fill_bytes(out);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_repeats_its_output() {
        let (mut a, mut b) = (Rng::new([1; 32]), Rng::new([1; 32]));
        assert_eq!(a.array::<40>(), b.array::<40>());
        assert_eq!(a.secret_key(), b.secret_key());
        assert_ne!(a.array::<8>(), a.array::<8>());
        assert_ne!(Rng::new([2; 32]).array::<8>(), Rng::new([1; 32]).array::<8>());
    }

    #[test]
    fn public_and_secret_bytes_are_independent() {
        let mut drawn = Rng::new([1; 32]);
        drawn.array::<64>();
        assert_eq!(drawn.secret_key(), Rng::new([1; 32]).secret_key());
        assert_ne!(*drawn.secret_key(), Rng::new([1; 32]).array::<32>());
    }

    #[test]
    fn a_child_depends_on_its_name_and_not_on_draws() {
        let mut parent = Rng::new([1; 32]);
        let mut before = parent.child("handshake");
        parent.array::<8>();
        assert_eq!(before.array::<8>(), parent.child("handshake").array());
        assert_ne!(parent.child("handshake").array::<8>(), parent.child("paths").array());
    }

    #[test]
    fn a_draw_erases_the_key_it_came_from() {
        let mut key = Zeroizing::new([5; 32]);
        draw(&mut key, &mut [0; 16]);
        assert_ne!(*key, [5; 32]);
    }

    #[test]
    fn a_key_that_was_made_ahead_is_the_one_that_is_made_when_it_is_needed_and_goes_with_a_reseed() {
        let (mut plain, mut ahead) = (Rng::new([1; 32]), Rng::new([1; 32]));
        ahead.make_ahead();
        let first = *plain.ephemeral().public();
        assert_eq!(*ahead.ephemeral().public(), first);
        plain.make_ahead();
        ahead.make_ahead();
        ahead.reseed(b"entropy");
        assert_ne!(plain.ephemeral().public(), ahead.ephemeral().public());
        assert_ne!(*plain.ephemeral().public(), first, "a key serves once");
    }

    #[test]
    fn entropy_changes_what_follows() {
        let (mut plain, mut reseeded) = (Rng::new([1; 32]), Rng::new([1; 32]));
        reseeded.reseed(b"entropy");
        assert_ne!(plain.array::<8>(), reseeded.array());
        assert_ne!(plain.secret_key(), reseeded.secret_key());
        assert_ne!(plain.child("x").array::<8>(), reseeded.child("x").array());
    }
}
