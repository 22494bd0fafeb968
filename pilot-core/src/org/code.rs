//! Codes: an invite that a person reads aloud to a person at the other end (spec/org.md §6).
//!
//! ```text
//! alice-laptop/K7QM-2XPA      who has made it, a number (K), thirty secret bits (7QM2XP), and a check symbol (A)
//! ```
//!
//! So few bits would be guessed at leisure if anything that follows from them left the two agents. They go into a key exchange
//! ([`cpace`](crate::crypto::cpace)) that is bound to both tunnel identities: whoever is in between, or at the wrong end, has made one guess. [`Asker`] is the side
//! that joins, [`OpenCode`] the side that has made the code; both are pure, and the issuer keeps nothing between the two calls but its count
//! of tries.

use std::fmt;
use std::str::FromStr;

use minicbor::bytes::ByteArray;
use minicbor::{Decode, Encode};
use zeroize::{ZeroizeOnDrop, Zeroizing};

use super::invite::{INVITE_ID_LEN, INVITE_SECRET_LEN};
use crate::crypto::cpace::{CONFIRMATION_LEN, Exchange, Inputs, SCALAR_SEED_LEN, SHARE_LEN, Share, lv_cat};
use crate::crypto::{self, hkdf};
use crate::id::IdentityKey;

/// Codes that one agent has open: each has a number of its own, which is one symbol.
pub const CODES_MAX: usize = ALPHABET.len();
/// Runs of the key exchange for one code. Each is one guess, and there are 2^30 words.
pub const CODE_TRIES_MAX: usize = 3;
/// Symbols of a word that only the two people know.
pub const WORD_SECRET_LEN: usize = 6;
/// Bytes of the seed from which the issuer takes what a code needs besides its word.
pub const CODE_SEED_LEN: usize = 32;

/// Symbols that people do not confuse (Crockford's base 32).
const ALPHABET: &[u8; 32] = b"0123456789ABCDEFGHJKMNPQRSTVWXYZ";
/// The number, the secret and the check symbol.
const WORD_LEN: usize = WORD_SECRET_LEN + 2;
const GROUP_LEN: usize = 4;
/// Longest text that can be a code: a ticket with all its addresses, and a word.
const CODE_LEN_MAX: usize = 2_048;
const CONTEXT: &[u8] = b"pilot/1 code";
const JOINER: &[u8] = b"joiner";
const ISSUER: &[u8] = b"issuer";

/// What is read aloud.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Code {
    /// Who has made it: whatever leads to an agent. It is not trusted for more.
    pub issuer: String,
    /// The rest.
    pub word: Word,
}

/// The eight symbols behind the issuer, by their values.
#[derive(Clone, PartialEq, Eq, Encode, Decode, ZeroizeOnDrop)]
pub struct Word(#[cbor(n(0), with = "minicbor::bytes")] [u8; WORD_LEN]);

/// Why a text is no code.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum CodeError {
    /// Something else.
    #[error("a code looks like NAME/XXXX-XXXX")]
    NotACode,
    /// A symbol is missing or another than was read out.
    #[error("the code was mistyped: its symbols do not fit together")]
    Mistyped,
}

/// The other side has another word, or is bound to other tunnels.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the code is wrong or used up")]
pub struct WrongCode;

/// The two ends of the tunnel, as it has proved them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ends {
    /// Who wants to join.
    pub joiner: IdentityKey,
    /// Who has made the code.
    pub issuer: IdentityKey,
}

/// One side's share of the key exchange, or the tag that confirms it.
pub type Block = [u8; SHARE_LEN];

/// What the issuer answers to a share.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Answer {
    /// Its own.
    pub share: Block,
    /// Shows that it has the code.
    pub tag: Block,
}

/// The side that joins, during one run.
pub struct Asker {
    word: Word,
    channel: Vec<u8>,
    exchange: Exchange,
}

/// A code as its issuer keeps it.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct OpenCode {
    #[n(0)]
    word: Word,
    #[cbor(n(1), with = "minicbor::bytes")]
    seed: [u8; CODE_SEED_LEN],
    /// The invite that it leads to, and ends with.
    #[cbor(n(2), with = "minicbor::bytes")]
    invite: [u8; INVITE_ID_LEN],
    /// Runs that nobody has finished, each by the joiner and its share.
    #[n(3)]
    tries: Vec<ByteArray<32>>,
}

impl Word {
    /// A word of that number, which only its lowest five bits count of, as of each byte of entropy.
    pub fn new(number: u8, entropy: &[u8; WORD_SECRET_LEN]) -> Self {
        let mut word = Self([0; WORD_LEN]);
        word.0[0] = symbol(number);
        for (place, byte) in word.0[1..].iter_mut().zip(entropy) {
            *place = symbol(*byte);
        }
        word.0[WORD_LEN - 1] = check_symbol(&word.0[..WORD_LEN - 1]);
        word
    }

    /// Names the code at its issuer.
    pub fn number(&self) -> u8 {
        self.0[0]
    }
}

fn symbol(byte: u8) -> u8 {
    byte % CODES_MAX as u8
}

/// The Luhn mod N algorithm with N = 32: one symbol mistyped is always told, two neighbours swapped nearly always.
fn check_symbol(symbols: &[u8]) -> u8 {
    let n = CODES_MAX as u8;
    let sum: u8 = symbols.iter().rev().zip([2, 1].iter().cycle()).fold(0, |sum, (symbol, factor)| {
        let addend = symbol * factor;
        (sum + addend / n + addend % n) % n
    });
    (n - sum) % n
}

impl fmt::Display for Word {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text: Zeroizing<Vec<u8>> =
            Zeroizing::new(self.0.iter().map(|symbol| ALPHABET[usize::from(*symbol)]).collect());
        let (one, other) = text.split_at(GROUP_LEN);
        write!(f, "{}-{}", String::from_utf8_lossy(one), String::from_utf8_lossy(other))
    }
}

impl fmt::Debug for Word {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Word").field("number", &self.number()).finish_non_exhaustive()
    }
}

impl FromStr for Word {
    type Err = CodeError;

    /// Reads what a person has typed: in either case, grouped or not, with the letters that look like digits taken for those.
    fn from_str(text: &str) -> Result<Self, CodeError> {
        let typed = text.bytes().filter(|byte| !matches!(byte, b'-' | b' '));
        let values = typed.map(value).collect::<Option<Vec<_>>>().map(Zeroizing::new).ok_or(CodeError::Mistyped)?;
        let symbols = <[u8; WORD_LEN]>::try_from(&values[..]).map_err(|_| CodeError::Mistyped)?;
        let word = Self(symbols);
        if check_symbol(&symbols[..WORD_LEN - 1]) == symbols[WORD_LEN - 1] {
            Ok(word)
        } else {
            Err(CodeError::Mistyped)
        }
    }
}

fn value(typed: u8) -> Option<u8> {
    let meant = match typed.to_ascii_uppercase() {
        b'O' => b'0',
        b'I' | b'L' => b'1',
        symbol => symbol,
    };
    ALPHABET.iter().position(|symbol| *symbol == meant).and_then(|position| u8::try_from(position).ok())
}

impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.issuer, self.word)
    }
}

impl FromStr for Code {
    type Err = CodeError;

    fn from_str(text: &str) -> Result<Self, CodeError> {
        let parts = text.trim().rsplit_once('/').filter(|_| text.len() <= CODE_LEN_MAX);
        let (issuer, word) = parts.filter(|(issuer, _)| !issuer.is_empty()).ok_or(CodeError::NotACode)?;
        Ok(Self { issuer: issuer.to_owned(), word: word.parse()? })
    }
}

impl Ends {
    fn channel(&self) -> Vec<u8> {
        lv_cat(&[CONTEXT, &self.joiner.0, &self.issuer.0])
    }
}

/// What both sides put into the exchange. No name of the run goes in: the tunnel's ends and fresh shares tell one from another.
fn inputs<'a>(word: &'a Word, channel: &'a [u8]) -> Inputs<'a> {
    Inputs { secret: &word.0, channel, session: &[] }
}

impl Asker {
    /// Begins a run with fresh entropy.
    pub fn new(word: &Word, ends: &Ends, seed: &[u8; SCALAR_SEED_LEN]) -> Self {
        let channel = ends.channel();
        let exchange = Exchange::new(&inputs(word, &channel), seed);
        Self { word: word.clone(), channel, exchange }
    }

    /// What the issuer gets first.
    pub fn share(&self) -> Block {
        *self.exchange.share()
    }

    /// What the issuer gets then, if it has shown that it has the code.
    ///
    /// # Errors
    /// [`WrongCode`] if it has not: it learns nothing more.
    pub fn confirm(&self, answer: &Answer) -> Result<Block, WrongCode> {
        let shares =
            [Share { point: self.exchange.share(), data: JOINER }, Share { point: &answer.share, data: ISSUER }];
        let inputs = inputs(&self.word, &self.channel);
        let key = self.exchange.agree(&inputs, &answer.share, shares).map_err(|_| WrongCode)?;
        if key.is_confirmed(shares[1], &answer.tag) { Ok(key.confirm(shares[0])) } else { Err(WrongCode) }
    }
}

impl OpenCode {
    /// A new code for an invite.
    pub fn new(word: Word, seed: [u8; CODE_SEED_LEN], invite: [u8; INVITE_ID_LEN]) -> Self {
        Self { word, seed, invite, tries: Vec::new() }
    }

    /// Names it among the codes of its issuer.
    pub fn number(&self) -> u8 {
        self.word.number()
    }

    /// The invite that it leads to.
    pub fn invite(&self) -> &[u8; INVITE_ID_LEN] {
        &self.invite
    }

    /// The secret of that invite.
    pub fn invite_secret(&self) -> Zeroizing<[u8; INVITE_SECRET_LEN]> {
        let [secret] = hkdf(&self.seed, &self.invite, b"pilot/1 code invite");
        let (secret, _) = secret.split_first_chunk().expect("a block is longer");
        Zeroizing::new(*secret)
    }

    /// Runs that are left.
    pub fn tries_left(&self) -> usize {
        CODE_TRIES_MAX.saturating_sub(self.tries.len())
    }

    /// Answers a joiner's share. It counts as a try, unless it is the same again: a lost answer costs none. The count is on disk before the
    /// answer leaves.
    ///
    /// # Errors
    /// [`WrongCode`] if there have been enough, or the share is none.
    pub fn answer(&mut self, ends: &Ends, share: &Block) -> Result<Answer, WrongCode> {
        let number_of_run = ByteArray::from(run(ends, share));
        if !self.tries.contains(&number_of_run) {
            if self.tries_left() == 0 {
                return Err(WrongCode);
            }
            self.tries.push(number_of_run);
        }
        self.tags(ends, share).map(|(answer, _)| answer)
    }

    /// Whether the joiner, too, has the code; if so the run was no wrong guess, and does not count.
    ///
    /// # Errors
    /// [`WrongCode`] if it has not, or its share was never answered.
    pub fn finish(&mut self, ends: &Ends, share: &Block, tag: &Block) -> Result<(), WrongCode> {
        let number_of_run = ByteArray::from(run(ends, share));
        let place = self.tries.iter().position(|known| *known == number_of_run).ok_or(WrongCode)?;
        let (_, expected) = self.tags(ends, share)?;
        if !crypto::equal(&expected, tag) {
            return Err(WrongCode);
        }
        self.tries.remove(place);
        Ok(())
    }

    /// Our answer to a share, and the tag that is due for it. The scalar follows from the seed and the run, so that nothing has to be kept
    /// between the calls, and another run has another one.
    fn tags(&self, ends: &Ends, share: &Block) -> Result<(Answer, [u8; CONFIRMATION_LEN]), WrongCode> {
        let blocks: [_; 2] = hkdf(&self.seed, &run(ends, share), b"pilot/1 code share");
        let mut seed = Zeroizing::new([0; SCALAR_SEED_LEN]);
        for (half, block) in seed.chunks_mut(SCALAR_SEED_LEN / 2).zip(&blocks) {
            half.copy_from_slice(&**block);
        }
        let channel = ends.channel();
        let inputs = inputs(&self.word, &channel);
        let exchange = Exchange::new(&inputs, &seed);
        let shares = [Share { point: share, data: JOINER }, Share { point: exchange.share(), data: ISSUER }];
        let key = exchange.agree(&inputs, share, shares).map_err(|_| WrongCode)?;
        Ok((Answer { share: *exchange.share(), tag: key.confirm(shares[1]) }, key.confirm(shares[0])))
    }
}

/// Names a run: the same only for the same share in the same tunnel.
fn run(ends: &Ends, share: &Block) -> [u8; 32] {
    crypto::sha256(&[&ends.channel(), share])
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use proptest::prelude::*;

    use super::*;
    use crate::vectors::cases;

    const ENDS: Ends = Ends { joiner: IdentityKey([1; 32]), issuer: IdentityKey([2; 32]) };

    fn word() -> Word {
        Word::new(7, &[1, 2, 3, 4, 5, 6])
    }

    fn open() -> OpenCode {
        OpenCode::new(word(), [9; CODE_SEED_LEN], [3; INVITE_ID_LEN])
    }

    fn asker(word: &Word, seed: u8) -> Asker {
        Asker::new(word, &ENDS, &[seed; SCALAR_SEED_LEN])
    }

    #[test]
    fn two_with_the_same_word_confirm_it_to_each_other() {
        let (mut code, asker) = (open(), asker(&word(), 1));
        let answer = code.answer(&ENDS, &asker.share()).unwrap();
        let tag = asker.confirm(&answer).unwrap();
        assert_eq!(code.finish(&ENDS, &asker.share(), &tag), Ok(()));
        assert_eq!(code.tries_left(), CODE_TRIES_MAX, "it was no wrong guess");
        assert_eq!(code.finish(&ENDS, &asker.share(), &tag), Err(WrongCode), "once is enough");
    }

    #[test]
    fn a_run_is_that_of_the_vectors() {
        let vectors = cases(include_str!("../../../spec/vectors/code.txt"));
        let case = &vectors[0];
        let word: Word = case.text("word").parse().unwrap();
        let ends = Ends { joiner: IdentityKey(case.array("joiner")), issuer: IdentityKey(case.array("issuer")) };
        let asker = Asker::new(&word, &ends, &case.array("joiner_seed"));
        assert_eq!(asker.share(), case.array("joiner_share"));
        let answer = Answer { share: case.array("issuer_share"), tag: case.array("issuer_tag") };
        assert_eq!(asker.confirm(&answer), Ok(case.array("joiner_tag")));
        let mut code = OpenCode::new(word, [9; CODE_SEED_LEN], [3; INVITE_ID_LEN]);
        assert_eq!(code.answer(&ends, &asker.share()), Ok(answer), "the seed is the issuer's own affair");
    }

    #[test]
    fn a_wrong_word_is_one_guess_and_the_fourth_is_not_answered() {
        let mut code = open();
        for guess in 0..3 {
            let asker = asker(&Word::new(7, &[guess; WORD_SECRET_LEN]), guess + 1);
            let answer = code.answer(&ENDS, &asker.share()).unwrap();
            assert_eq!(code.answer(&ENDS, &asker.share()), Ok(answer), "the same again is no other guess");
            assert_eq!(asker.confirm(&answer), Err(WrongCode));
            for tag in [[0; 32], answer.tag] {
                assert_eq!(code.finish(&ENDS, &asker.share(), &tag), Err(WrongCode));
            }
        }
        assert_eq!(code.tries_left(), 0);
        assert_eq!(code.answer(&ENDS, &asker(&word(), 4).share()), Err(WrongCode), "also with the right one");
    }

    #[test]
    fn a_relay_in_the_middle_fits_neither_end() {
        let middle = IdentityKey([8; 32]);
        let (mut code, asker) = (open(), Asker::new(&word(), &Ends { issuer: middle, ..ENDS }, &[1; 64]));
        let answer = code.answer(&Ends { joiner: middle, ..ENDS }, &asker.share()).unwrap();
        assert_eq!(asker.confirm(&answer), Err(WrongCode));
    }

    #[test]
    fn a_share_that_nobody_has_answered_finishes_nothing() {
        let (mut code, asker) = (open(), asker(&word(), 1));
        let answer = open().answer(&ENDS, &asker.share()).unwrap();
        let tag = asker.confirm(&answer).unwrap();
        assert_eq!(code.finish(&ENDS, &asker.share(), &tag), Err(WrongCode));
        let bad = code.answer(&ENDS, &[0xff; 32]);
        assert_eq!(bad, Err(WrongCode), "no point at all");
    }

    #[test]
    fn a_code_is_read_as_people_type_it() {
        let code = Code { issuer: "alice-laptop".into(), word: word() };
        let text = code.to_string();
        assert_eq!(text, "alice-laptop/7123-456H");
        for typed in [&text, "  alice-laptop/7123456h\n", "alice-laptop/7l23 456H", "alice-laptop/71 23-45-6h"] {
            assert_eq!(typed.parse::<Code>().as_ref(), Ok(&code), "{typed}");
        }
        let by_ticket = "pilot:key.1@127.0.0.1:9/key@host:1/7123-456H".parse::<Code>().unwrap();
        assert_eq!(by_ticket.issuer, "pilot:key.1@127.0.0.1:9/key@host:1");
        for (typed, error) in [
            ("7123-456H", CodeError::NotACode),
            ("/7123-456H", CodeError::NotACode),
            ("alice-laptop/7123-456", CodeError::Mistyped),
            ("alice-laptop/7123-4567", CodeError::Mistyped),
            ("alice-laptop/7132-456H", CodeError::Mistyped),
            ("alice-laptop/7123-456U", CodeError::Mistyped),
            ("alice-laptop/", CodeError::Mistyped),
            ("alice-laptop/7123-456Hé", CodeError::Mistyped),
        ] {
            assert_eq!(typed.parse::<Code>(), Err(error), "{typed}");
        }
        assert!(!format!("{code:?}").contains("2, 3"), "the secret is in no log");
    }

    proptest! {
        #[test]
        fn every_symbol_that_is_mistyped_is_told(number in 0..32_u8, entropy: [u8; 6], place in 0..8_usize, other in 1..32_u8) {
            let mut word = Word::new(number, &entropy);
            prop_assert_eq!(&word.to_string().parse::<Word>().unwrap(), &word);
            word.0[place] = (word.0[place] + other) % 32;
            prop_assert_eq!(word.to_string().parse::<Word>(), Err(CodeError::Mistyped));
        }
    }
}
