//! Configurations that cannot work are refused, with what to do.

use super::*;

#[test]
fn faults_name_key_and_remedy() {
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str, text: &str| {
        let path = folder.path().join(name);
        std::fs::write(&path, text).unwrap();
        path.display().to_string()
    };
    let pair = aws_lc_rs::signature::Ed25519KeyPair::generate().unwrap();
    let private = file(
        "private.pem",
        &pem("PRIVATE KEY", pair.to_pkcs8v1().unwrap().as_ref()),
    );
    let garbage = file("garbage.pem", "no key");
    for (keys, words) in [
        ("jwks_url = \"http://id.example.com/keys\"".to_owned(), "https://"),
        ("jwks_url = \"keys\"".to_owned(), "not a URL"),
        ("jwks_url = \"file:///keys\"".to_owned(), "https://"),
        (format!("public_keys = [{private:?}]"), "is a secret"),
        (format!("public_keys = [{garbage:?}]"), "is not a public"),
        ("public_keys = [\"/nowhere.pem\"]".to_owned(), "cannot read"),
        ("hmac_secret_previous = \"x\"".to_owned(), "without hmac_secret"),
        ("anonymous = \"all\"".to_owned(), "anonymous"),
        (
            "jwks_url = \"https://id.example.com\"\njwks_timeout = \"4s\"".to_owned(),
            "answer_timeout",
        ),
        ("jwks_refresh = \"2d\"".to_owned(), "jwks_keep"),
        (
            "[gateway.tokens.subscription]\nissuer = \"us\"".to_owned(),
            "no key of their own",
        ),
    ] {
        let faults = config(&format!("[gateway.tokens]\n{keys}")).unwrap_err();
        assert!(
            faults.contains("gateway.tokens") && faults.contains(words),
            "{keys}: {faults}"
        );
    }
    for keys in [
        "jwks_url = \"https://id.example.com/keys\"",
        "jwks_url = \"http://127.0.0.1:9/keys\"",
        "jwks_url = \"http://[::1]:9/keys\"",
        "jwks_url = \"http://localhost/keys\"",
    ] {
        assert!(config(&format!("[gateway.tokens]\n{keys}")).is_ok(), "{keys}");
    }
}

#[test]
fn only_a_secret_signs() {
    let mut config = config("").unwrap();
    let request = TokenRequest {
        user: "alice",
        channel: None,
        ttl: Duration::from_secs(60),
        info: None,
        admin: false,
    };
    assert!(matches!(
        config.issue(request),
        Err(IssueError::NoSecret("gateway.tokens"))
    ));
    config.for_this_machine();
    assert!(config.issue(request).is_ok());
    let wrong = TokenRequest {
        info: Some("{"),
        ..request
    };
    assert!(matches!(config.issue(wrong), Err(IssueError::Info(_))));
}
