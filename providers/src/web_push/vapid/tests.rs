use jsonwebtoken::{DecodingKey, Validation};
use serde_json::Value;

use super::*;

fn secret(text: &str) -> SecretString {
    SecretString::from(text.to_owned())
}

#[test]
fn a_pair_has_the_form_of_browsers_and_is_read_again() {
    let keys = VapidKeys::generate().unwrap();
    let public = URL_SAFE_NO_PAD.decode(keys.public()).unwrap();
    assert_eq!((public.len(), public[0]), (65, 4));
    let private = keys.private().expose_secret();
    assert_eq!(URL_SAFE_NO_PAD.decode(private).unwrap().len(), 32);
    let again = VapidKeys::read(keys.private(), Some(keys.public())).unwrap();
    assert_eq!(again.public(), keys.public());
    assert_eq!(again.private().expose_secret(), private);
    assert_eq!(
        VapidKeys::read(keys.private(), None).unwrap().public(),
        keys.public()
    );
    assert_ne!(VapidKeys::generate().unwrap().public(), keys.public());
}

#[test]
fn a_pair_of_another_program_is_read() {
    // The application server's keys of RFC 8291, appendix A.
    let keys = VapidKeys::read(&secret("yfWPiYE-n46HLnH0KqZOF1fJJU3MYrct3AELtAQ-oRw"), None).unwrap();
    assert_eq!(
        keys.public(),
        "BP4z9KsN6nGRTbVYI_c7VJSPQTBtkgcy27mlmlMoZIIgDll6e3vCYLocInmYWAmS6TlzAC8wEqKK6PBru3jl7A8"
    );
}

#[test]
fn what_is_no_pair_is_refused() {
    let order = "_____wAAAAD__________7zm-q2nF56E87nKwvxjJVE";
    for bad in [
        "",
        "!",
        "yfWPiYE-n46HLnH0KqZOF1fJJU3MYrct3AELtAQ-oQ",
        "yfWPiYE-n46HLnH0KqZOF1fJJU3MYrct3AELtAQ-oRwA",
        "yfWPiYE-n46HLnH0KqZOF1fJJU3MYrct3AELtAQ-oRw=",
        "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA",
        order,
    ] {
        let error = VapidKeys::read(&secret(bad), None).unwrap_err();
        assert_eq!(error, VapidError::Private, "{bad}");
    }
    let (one, other) = (VapidKeys::generate().unwrap(), VapidKeys::generate().unwrap());
    let error = VapidKeys::read(one.private(), Some(other.public())).unwrap_err();
    assert_eq!(error, VapidError::Public);
}

#[test]
fn debug_shows_no_secret() {
    let keys = VapidKeys::generate().unwrap();
    let shown = format!("{keys:?}");
    assert!(shown.contains(keys.public()));
    assert!(!shown.contains(keys.private().expose_secret()));
}

#[test]
fn a_signature_is_checked_by_the_public_half_alone() {
    let keys = VapidKeys::generate().unwrap();
    let exp = crate::push::unix_now() + 3600;
    let header = keys
        .sign("https://push.example.net", exp, "mailto:ops@example.org")
        .unwrap();
    let (token, key) = header
        .expose_secret()
        .strip_prefix("vapid t=")
        .and_then(|rest| rest.split_once(", k="))
        .unwrap();
    assert_eq!(key, keys.public());
    let mut validation = Validation::new(Algorithm::ES256);
    validation.set_audience(&["https://push.example.net"]);
    let decode = |keys: &VapidKeys| {
        let point = URL_SAFE_NO_PAD.decode(keys.public()).unwrap();
        jsonwebtoken::decode::<Value>(token, &DecodingKey::from_ec_der(&point), &validation)
    };
    let decoded = decode(&keys).unwrap();
    assert_eq!(decoded.header.typ.as_deref(), Some("JWT"));
    assert_eq!(decoded.claims["sub"], "mailto:ops@example.org");
    assert_eq!(decoded.claims["exp"].as_u64(), Some(exp));
    assert!(decode(&VapidKeys::generate().unwrap()).is_err());
}
