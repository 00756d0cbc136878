//! What a session makes of what links say, without a socket.

use futures_util::FutureExt as _;

use super::*;

const LIMITS: Limits = Limits {
    outgoing: 64 * 1024,
    channels: 4,
    system_messages: false,
};

fn session() -> Arc<SessionHandle> {
    SessionHandle::new(1, std::net::Ipv4Addr::LOCALHOST.into(), Encoding::Json, LIMITS)
}

fn client(or_error: bool) -> By {
    By::Client {
        or_error,
        is_durable: true,
        hears_joins: false,
    }
}

fn room() -> ChannelName {
    ChannelName::parse("room", 255).unwrap()
}

fn sent(session: &SessionHandle) -> Vec<String> {
    std::iter::from_fn(|| session.outgoing.take(0))
        .map(|frame| match frame {
            Frame::Text(text) => text.to_string(),
            Frame::Binary(bytes) => panic!("{bytes:?}"),
        })
        .collect()
}

fn not_recovered() -> SubscribeResult {
    SubscribeResult {
        was_recovering: true,
        ..SubscribeResult::default()
    }
}

#[test]
fn l5_a_lost_subscription_of_the_client_ends_with_2500_and_may_be_had_again() {
    let session = session();
    session.subscriptions.begin(&room(), 2, client(false)).unwrap();
    assert!(session.subscribed(&room(), 2, SubscribeResult::default(), PayloadKind::Json));
    sent(&session);
    session.lost(&room());
    session.lost(&room());
    let sent = sent(&session);
    assert_eq!(sent.len(), 1, "told once: {sent:?}");
    assert!(
        sent[0].starts_with(r#"{"push":{"channel":"room","unsubscribe":{"code":2500,"#),
        "{sent:?}"
    );
    assert_eq!(session.outgoing.closing(), None);
    let again = session.subscriptions.begin(&room(), 3, client(false));
    assert_eq!(again, Ok(()));
}

#[test]
fn l5_a_lost_subscription_of_the_servers_ends_the_connection_with_3010() {
    let session = session();
    session
        .subscriptions
        .begin(&room(), 1, By::Server { is_durable: true })
        .unwrap();
    assert!(session.subscribed(&room(), 1, SubscribeResult::default(), PayloadKind::Json));
    session.lost(&room());
    assert_eq!(sent(&session), Vec::<String>::new());
    assert_eq!(
        session.outgoing.closing(),
        Some(DisconnectCode::InsufficientState)
    );
    assert_eq!(DisconnectCode::InsufficientState.code(), 3010);
}

#[test]
fn r5_nothing_is_promised_of_a_subscription_of_the_servers_that_is_not_stored() {
    let session = session();
    session.connecting.begin(1);
    let by = By::Server { is_durable: false };
    session.subscriptions.begin(&room(), 1, by).unwrap();
    let result = SubscribeResult {
        offset: 7,
        recoverable: true,
        positioned: true,
        was_recovering: true,
        recovered: true,
        ..SubscribeResult::default()
    };
    assert!(session.subscribed(&room(), 1, result, PayloadKind::Json));
    let finished = futures_util::FutureExt::now_or_never(session.connecting.finished());
    let (results, _) = finished.unwrap().unwrap();
    assert_eq!(
        results.into_values().collect::<Vec<_>>(),
        [SubscribeResult::default()]
    );
}

#[test]
fn r5_whoever_wants_an_error_for_what_is_lost_is_not_subscribed() {
    let session = session();
    let by = client(true);
    session.subscriptions.begin(&room(), 2, by).unwrap();
    assert!(
        !session.subscribed(&room(), 2, not_recovered(), PayloadKind::Json),
        "the link keeps it not"
    );
    let error = r#"{"id":2,"error":{"code":112,"message":"unrecoverable position"}}"#;
    assert_eq!(sent(&session), [error]);
    // It may be had again, and is kept where nothing was lost, or nothing was asked for.
    for (id, result) in [
        (3, SubscribeResult::default()),
        (
            4,
            SubscribeResult {
                recovered: true,
                ..not_recovered()
            },
        ),
    ] {
        session.subscriptions.begin(&room(), id, by).unwrap();
        assert!(session.subscribed(&room(), id, result, PayloadKind::Json));
        assert_eq!(sent(&session).len(), 1);
        session.subscriptions.give_up("room");
    }
}

#[test]
fn p4_what_was_given_up_meanwhile_is_answered_once_and_not_kept() {
    let session = session();
    let by = client(false);
    session.subscriptions.begin(&room(), 2, by).unwrap();
    session.subscriptions.give_up("room");
    session.subscriptions.begin(&room(), 4, by).unwrap();
    assert!(!session.subscribed(&room(), 2, SubscribeResult::default(), PayloadKind::Json));
    assert!(session.subscribed(&room(), 4, SubscribeResult::default(), PayloadKind::Json));
    assert_eq!(
        sent(&session),
        [r#"{"id":2,"subscribe":{}}"#, r#"{"id":4,"subscribe":{}}"#]
    );
}

#[tokio::test]
async fn connect_waits_for_all_of_the_servers_subscriptions_or_fails_with_the_first() {
    let other = ChannelName::parse("other", 255).unwrap();
    for fails in [false, true] {
        let session = session();
        session.outgoing.hold();
        session.connecting.begin(2);
        for channel in [&room(), &other] {
            session
                .subscriptions
                .begin(channel, 1, By::Server { is_durable: true })
                .unwrap();
        }
        let mut finished = std::pin::pin!(session.connecting.finished());
        assert!(futures_util::poll!(finished.as_mut()).is_pending());
        assert!(session.subscribed(&room(), 1, SubscribeResult::default(), PayloadKind::Json));
        assert!(
            futures_util::poll!(finished.as_mut()).is_pending(),
            "one is missing"
        );
        if fails {
            session.not_subscribed(&other, 1, ErrorCode::Internal);
            let finished = finished.as_mut().now_or_never();
            assert_eq!(finished, Some(Err(ErrorCode::Internal)));
        } else {
            assert!(session.subscribed(&other, 1, SubscribeResult::default(), PayloadKind::Json));
            let channels: Vec<String> = finished
                .as_mut()
                .now_or_never()
                .unwrap()
                .unwrap()
                .0
                .into_keys()
                .collect();
            assert_eq!(channels, ["other", "room"]);
        }
        assert_eq!(sent(&session), Vec::<String>::new(), "the connect reply tells it");
    }
}
