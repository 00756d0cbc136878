use base64::engine::general_purpose::URL_SAFE_NO_PAD;

use super::*;
use crate::testing::Browser;

fn bytes(text: &str) -> Vec<u8> {
    URL_SAFE_NO_PAD.decode(text).unwrap()
}

// RFC 8291, section 5 and appendix A.
const PLAIN: &str = "When I grow up, I want to be a watermelon";
const OURS: &str = "yfWPiYE-n46HLnH0KqZOF1fJJU3MYrct3AELtAQ-oRw";
const THEIRS: &str = "q1dXpw3UpT5VOmu_cf_v6ih07Aems3njxI-JWgLcM94";
const P256DH: &str =
    "BCVxsr7N_eNgVRqvHtD0zTZsEc6-VV-JvLexhqUzORcxaOzi6-AYWXvTBHm4bjyPjs7Vd8pZGH6SRpkNtoIAiw4";
const AUTH: &str = "BTBZMqHH6r4Tts7J_aSIgg";
const SALT: &str = "DGv6ra1nlYgDCS1FRnbzlw";
const BODY: &str = concat!(
    "DGv6ra1nlYgDCS1FRnbzlwAAEABBBP4z9KsN6nGRTbVYI_c7VJSPQTBtkgcy27mlmlMoZIIgDll6e3vCYLocInmYWAmS6TlzAC8w",
    "EqKK6PBru3jl7A_yl95bQpu6cVPTpK4Mqgkf1CXztLVBSt2Ks3oZwbuwXPXLWyouBWLVWGNWQexSgSxsj_Qulcy4a-fN",
);

#[test]
fn the_example_of_the_rfc_comes_out_byte_for_byte() {
    let key = PrivateKey::from_private_key(&ECDH_P256, &bytes(OURS)).unwrap();
    let sealing = Sealing::with(key, bytes(SALT).try_into().unwrap());
    let to = Subscription::read(P256DH, AUTH).unwrap();
    let body = sealing.seal_with(&to, PLAIN.as_bytes(), 0).unwrap();
    assert_eq!(URL_SAFE_NO_PAD.encode(&body), BODY);
}

#[test]
fn the_browser_of_the_tests_reads_the_example_of_the_rfc() {
    let browser = Browser::with(
        PrivateKey::from_private_key(&ECDH_P256, &bytes(THEIRS)).unwrap(),
        bytes(AUTH).try_into().unwrap(),
    );
    assert_eq!(browser.p256dh(), P256DH);
    assert_eq!(browser.read(&bytes(BODY)), (PLAIN.as_bytes().to_vec(), 0));
}

#[test]
fn every_length_up_to_the_largest_is_padded_and_readable() {
    let browser = Browser::new();
    let to = Subscription::read(&browser.p256dh(), &browser.auth()).unwrap();
    for (length, padded) in [
        (0, 0),
        (1, 256),
        (255, 256),
        (256, 256),
        (257, 512),
        (3840, 3840),
        (3841, LARGEST),
        (LARGEST, LARGEST),
    ] {
        let plain = vec![b'x'; length];
        let body = Sealing::new().unwrap().seal(&to, &plain).unwrap();
        assert!(body.len() <= 4096);
        assert_eq!(body.len(), 86 + padded + 17, "{length}");
        let (read, padding) = browser.read(&body);
        assert_eq!((read.len(), read.len() + padding), (length, padded));
        assert_eq!(read, plain);
    }
    let error = Sealing::new()
        .unwrap()
        .seal(&to, &vec![b'x'; LARGEST + 1])
        .unwrap_err();
    assert!(matches!(error, SendError::Refused { .. }), "{error}");
}

#[test]
fn nothing_is_used_for_two_messages() {
    let browser = Browser::new();
    let to = Subscription::read(&browser.p256dh(), &browser.auth()).unwrap();
    let seal = || Sealing::new().unwrap().seal(&to, b"same").unwrap();
    let (one, other) = (seal(), seal());
    assert_ne!(one[..16], other[..16], "salt");
    assert_ne!(one[21..86], other[21..86], "key");
    assert_ne!(one[86..], other[86..]);
}

#[test]
fn keys_that_are_none_are_refused_and_it_is_said_which() {
    let refused = |p256dh: &str, auth: &str| match Subscription::read(p256dh, auth) {
        Err(SendError::Refused { reason }) => reason,
        Err(error) => panic!("{error}"),
        Ok(_) => panic!("{p256dh} {auth}"),
    };
    let point = bytes(P256DH);
    let encode = |bytes: &[u8]| URL_SAFE_NO_PAD.encode(bytes);
    let mut compressed = point[..33].to_vec();
    compressed[0] = 2 + (point[64] & 1);
    let mut hybrid = point.clone();
    hybrid[0] = 6 + (point[64] & 1);
    for bad in [
        String::new(),
        "!".to_owned(),
        encode(&point[..64]),
        encode(&[&point[..], &[0]].concat()),
        encode(&point[1..]),
        encode(&compressed),
        encode(&hybrid),
    ] {
        let reason = refused(&bad, AUTH);
        assert!(reason.starts_with("p256dh is not 65 bytes"), "{bad}: {reason}");
    }
    let mut beside = point.clone();
    beside[64] ^= 1;
    let mut zero = vec![0; 65];
    zero[0] = 4;
    for bad in [beside, zero] {
        let reason = refused(&encode(&bad), AUTH);
        assert_eq!(reason, "p256dh is not on the curve P-256");
    }
    for bad in [String::new(), "!".to_owned(), encode(&[0; 15]), encode(&[0; 17])] {
        let reason = refused(P256DH, &bad);
        assert!(reason.starts_with("auth is not 16 bytes"), "{bad}: {reason}");
    }
    assert!(
        Subscription::read(P256DH, &format!("{AUTH}==")).is_ok(),
        "padding does no harm"
    );
    assert!(
        Subscription::read(&format!("{P256DH}="), AUTH).is_ok(),
        "padding does no harm"
    );
}
