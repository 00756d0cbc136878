//! Reaching who is away: what backends ask for and what channels tell, over both stores, to a real server of an application; and what
//! becomes of it when a notify service dies in the middle.

use std::collections::BTreeSet;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use switchboard_e2e::cluster::Cluster;
use switchboard_e2e::process::Process;
use switchboard_testkit::{PostgresServer, RedisServer, wait_until};

use crate::backend;
use crate::client::{Client, Event};
use crate::receiver::Receiver;
use crate::system::{API_KEY, SECRET};
use crate::tools;

/// What anything here takes at most, on a busy machine.
const DEADLINE: Duration = Duration::from_secs(30);

fn gateway() -> String {
    format!(
        "limits.connections_per_address = 0\nlimits.connect_rate = 0\napi.key = {API_KEY:?}\n[gateway.tokens]\nhmac_secret = {SECRET:?}\n"
    )
}

const NOTIFY: &str = r#"
[presence]
grace = "200ms"

[namespaces.dm]
allow_user_limited_channels = true
allow_publish_for_subscriber = true

[notify.namespaces.dm]

[notify.categories.message]
ways = ["webhook"]

[notify.categories.news]
ways = ["in_app"]
tell = "always"

[notify.categories.digested]
ways = ["webhook"]
digest_window = "1s"
digest_ways = ["webhook"]

[notify.categories.climbing]
ways = ["in_app"]
push_after = "1s"

[notify.providers]
allowed_networks = ["127.0.0.0/8"]
"#;

async fn call(gateway: &Process, method: &str, params: Value) -> Result<Value> {
    let answer = backend::call(gateway, method, &params).await?;
    ensure!(answer["error"].is_null(), "{method} {params}: {answer}");
    Ok(answer["result"].clone())
}

/// The code of the error that it is answered with, and its words.
async fn refused(gateway: &Process, method: &str, params: Value) -> Result<(u64, String)> {
    let answer = backend::call(gateway, method, &params).await?;
    let code = answer["error"]["code"].as_u64();
    let words = answer["error"]["message"].as_str().unwrap_or_default().to_owned();
    Ok((
        code.with_context(|| format!("{method} {params}: {answer}"))?,
        words,
    ))
}

async fn send(gateway: &Process, notification: Value) -> Result<String> {
    let sent = call(
        gateway,
        "notification_send",
        json!({ "notifications": [notification] }),
    )
    .await?;
    let id = sent["sent"][0]["id"].as_str().with_context(|| sent.to_string())?;
    Ok(id.to_owned())
}

async fn status(gateway: &Process, id: &str) -> Result<Value> {
    call(gateway, "notification_get", json!({ "id": id })).await
}

/// Waits until there is something.
async fn eventually<T>(mut look: impl AsyncFnMut() -> Option<T>) -> Result<T> {
    let mut found = None;
    wait_until(DEADLINE, async || {
        found = look().await;
        found.is_some()
    })
    .await?;
    found.context("nothing was found")
}

/// Waits until a notification has this status.
async fn becomes(gateway: &Process, id: &str, wanted: &str) -> Result<Value> {
    let found = eventually(async || {
        let told = status(gateway, id).await.ok()?;
        (told["status"] == wanted).then_some(told)
    });
    match found.await {
        Ok(found) => Ok(found),
        Err(_) => anyhow::bail!("not {wanted}: {}", status(gateway, id).await?),
    }
}

async fn hook(gateway: &Process, user: &str, receiver: &Receiver) -> Result<()> {
    let device = json!({ "id": "hook", "provider": "webhook", "subscription": { "url": receiver.url() } });
    let answer = call(
        gateway,
        "device_register",
        json!({ "user": user, "device": device }),
    )
    .await?;
    let secret = answer["secret"].as_str().unwrap_or_default();
    ensure!(secret.starts_with("whsec_"), "{answer}");
    Ok(())
}

async fn rpc(client: &mut Client, method: &str, data: Value) -> Result<Value> {
    let request = json!({ "method": method, "data": data });
    Ok(client.must("rpc", request).await?["data"].clone())
}

/// What users and backends can do, on whichever backends.
async fn scenario(gateway: &Process) -> Result<()> {
    let receiver = Receiver::start().await?;

    // What makes no sense is refused at once, and nothing of its request is sent.
    let of = |notification: Value| json!({ "notifications": [notification] });
    for (notification, word) in [
        (
            json!({"user": "bob", "category": "nonsense", "title": "x"}),
            "category",
        ),
        (json!({"user": "bob", "category": "general"}), "title"),
        (json!({"user": "", "category": "general", "title": "x"}), "user"),
        (
            json!({"user": "bob", "category": "general", "template": "unknown"}),
            "unknown",
        ),
        (
            json!({"user": "bob", "category": "general", "template": "mention"}),
            "sender",
        ),
        (
            json!({"user": "bob", "category": "general", "title": "x", "link": "http://a.example"}),
            "https",
        ),
        (
            json!({"user": "bob", "category": "general", "title": "x", "ways": ["smoke"]}),
            "way",
        ),
        (
            json!({"user": "bob", "category": "general", "title": "x", "body": "y".repeat(200_000)}),
            "bytes",
        ),
    ] {
        let (code, words) = refused(gateway, "notification_send", of(notification.clone())).await?;
        ensure!(
            code == 107 && words.contains(word),
            "{notification}: {code} {words}"
        );
    }
    for url in [
        "http://10.0.0.1/",
        "https://10.0.0.1/",
        "https://169.254.169.254/latest",
        "https://[::1]/",
        "https://0x7f000002.example:1/\u{0}",
        "ftp://127.0.0.1/",
        "https://user:word@example.org/",
        "nonsense",
    ] {
        let device = json!({ "id": "hook", "provider": "webhook", "subscription": { "url": url } });
        let refusal = refused(
            gateway,
            "device_register",
            json!({ "user": "bob", "device": device }),
        )
        .await?;
        let is_fine = refusal.0 == 107 || url.starts_with("https://[::1]");
        ensure!(is_fine, "{url}: {refusal:?}");
    }

    // A webhook, once by its key.
    hook(gateway, "bob", &receiver).await?;
    let hello = json!({
        "user": "bob", "category": "general", "title": "Hello", "body": "you", "ways": ["webhook"],
        "data": { "order": 7 }, "idempotency_key": "one"
    });
    let first = send(gateway, hello.clone()).await?;
    ensure!(send(gateway, hello).await? == first, "one key, one notification");
    let told = becomes(gateway, &first, "sent").await?;
    ensure!(
        told["deliveries"][0]["attempts"][0]["result"] == "accepted",
        "{told}"
    );
    let received = receiver.received();
    ensure!(received.len() == 1, "{received:?}");
    ensure!(received[0].body["data"]["title"] == "Hello", "{received:?}");
    ensure!(received[0].body["data"]["data"]["order"] == 7, "{received:?}");

    // A failing server is tried again.
    receiver.answer(503);
    let later = send(
        gateway,
        json!({"user": "bob", "category": "general", "title": "Later", "ways": ["webhook"]}),
    )
    .await?;
    let tried = eventually(async || {
        let told = status(gateway, &later).await.ok()?;
        let attempts = told["deliveries"][0]["attempts"].as_array()?.len();
        (attempts > 0 && told["status"] == "queued").then_some(())
    });
    tried.await.context("a 503 is no reason to try again")?;
    receiver.answer(204);
    becomes(gateway, &later, "sent").await?;

    // A template, in the user's language.
    for (language, title) in [("", "{{ name }} calls"), ("de", "{{ name }} ruft an")] {
        let template = json!({"name": "call", "language": language, "title": title, "body": "now", "required": ["name"]});
        call(gateway, "template_put", json!({ "template": template })).await?;
    }
    let preferences = json!({"language": "de-AT", "time_zone": "Europe/Vienna"});
    call(
        gateway,
        "notification_set_preferences",
        json!({"user": "bob", "preferences": preferences}),
    )
    .await?;
    let call_of = json!({"user": "bob", "category": "general", "template": "call", "variables": {"name": "Ann"}, "ways": ["webhook"]});
    becomes(gateway, &send(gateway, call_of).await?, "sent").await?;
    let titles: BTreeSet<String> = receiver
        .received()
        .iter()
        .filter_map(|one| one.body["data"]["title"].as_str().map(str::to_owned))
        .collect();
    ensure!(titles.contains("Ann ruft an"), "{titles:?}");

    // In the app: in the list, and at once where the user is connected.
    let mut bob = Client::of_user(gateway, "bob").await?.context("not let in")?;
    let news = send(
        gateway,
        json!({"user": "bob", "category": "news", "title": "News", "body": "of today"}),
    )
    .await?;
    let pushed = loop {
        if let Event::Push(push) = bob.event().await?
            && push["pub"]["tags"]["sb-notification"].is_string()
        {
            break push;
        }
    };
    ensure!(
        pushed["channel"] == "#bob" && pushed["pub"]["data"]["title"] == "News",
        "{pushed}"
    );
    becomes(gateway, &news, "sent").await?;
    let list = rpc(&mut bob, "notification.list", json!({})).await?;
    ensure!(
        list["entries"][0]["id"] == json!(news) && list["unread"] == 1 && list["unseen"] == 1,
        "{list}"
    );
    let counts = rpc(
        &mut bob,
        "notification.mark",
        json!({"ids": [news], "read": true}),
    )
    .await?;
    ensure!(counts["unread"].as_u64().unwrap_or(0) == 0, "{counts}");
    becomes(gateway, &news, "read").await?;

    // What was seen in the app is not pushed; what was not is, and there is no device for it.
    let climbing = send(
        gateway,
        json!({"user": "bob", "category": "climbing", "title": "Up"}),
    )
    .await?;
    let reason = |told: &Value, way: &str| {
        let deliveries = told["deliveries"].as_array().cloned().unwrap_or_default();
        let of_way = deliveries.into_iter().find(|one| one["way"] == way);
        of_way.map_or_else(String::new, |one| {
            one["reason"].as_str().unwrap_or_default().to_owned()
        })
    };
    let unseen = eventually(async || {
        let told = status(gateway, &climbing).await.ok()?;
        (reason(&told, "push") == "no device").then_some(())
    });
    unseen.await.context("nobody tried to push what was not seen")?;
    let climbing = send(
        gateway,
        json!({"user": "bob", "category": "climbing", "title": "Up again"}),
    )
    .await?;
    becomes(gateway, &climbing, "sent").await?;
    rpc(&mut bob, "notification.mark", json!({})).await?;
    let seen = eventually(async || {
        let told = status(gateway, &climbing).await.ok()?;
        (reason(&told, "push") == "seen").then_some(())
    });
    seen.await.context("what was seen was pushed")?;

    // Told together.
    let before = receiver.received().len();
    let mut together = Vec::new();
    for number in 0..3 {
        let one = json!({"user": "bob", "category": "digested", "title": format!("item {number}")});
        together.push(send(gateway, one).await?);
    }
    for id in &together {
        let told = becomes(gateway, id, "sent").await?;
        ensure!(reason(&told, "webhook").starts_with("in the digest"), "{told}");
    }
    let arrived = eventually(async || (receiver.received().len() > before).then_some(()));
    arrived.await.context("the digest did not come")?;
    let digest = receiver.received()[before].body.clone();
    ensure!(
        digest.to_string().contains("item 0") && digest.to_string().contains("item 2"),
        "{digest}"
    );

    // Quiet hours hold, a cancelled one does not come, a way that is off is not taken.
    let always = json!([{"from": "00:00", "to": "12:00"}, {"from": "12:00", "to": "00:00"}]);
    let preferences = json!({"quiet_hours": always, "categories": {"news": {"webhook": false}}});
    rpc(
        &mut bob,
        "notification.preferences.set",
        json!({ "preferences": preferences }),
    )
    .await?;
    let push = json!({"id": "phone", "provider": "fcm", "address": "a-token"});
    rpc(&mut bob, "device.register", json!({ "device": push })).await?;
    let quiet = send(
        gateway,
        json!({"user": "bob", "category": "general", "title": "Psst", "ways": ["push"]}),
    )
    .await?;
    let told = becomes(gateway, &quiet, "held").await?;
    ensure!(reason(&told, "push") == "quiet hours", "{told}");
    let cancelled = call(gateway, "notification_cancel", json!({ "ids": [quiet] })).await?;
    ensure!(cancelled["cancelled"] == 1, "{cancelled}");
    becomes(gateway, &quiet, "cancelled").await?;
    let off = send(
        gateway,
        json!({"user": "bob", "category": "news", "title": "Off", "ways": ["webhook"]}),
    )
    .await?;
    let told = becomes(gateway, &off, "suppressed").await?;
    ensure!(reason(&told, "webhook") == "preferences", "{told}");
    // Without a provider it is a dead letter, which an operator finds, and gives up.
    let urgent = json!({"user": "bob", "category": "general", "priority": "critical", "title": "Fire", "ways": ["push"]});
    let urgent = send(gateway, urgent).await?;
    let told = becomes(gateway, &urgent, "failed").await?;
    ensure!(reason(&told, "push").contains("fcm"), "{told}");
    let dead = call(gateway, "dead_letter_list", json!({ "user": "bob" })).await?;
    let delivery = dead["dead_letters"][0]["delivery"]["id"].clone();
    ensure!(dead["dead_letters"][0]["notification"] == json!(urgent), "{dead}");
    let dropped = call(gateway, "dead_letter_drop", json!({ "ids": [delivery] })).await?;
    ensure!(dropped["dropped"] == 1, "{dropped}");
    drop(bob);

    // A message of a conversation reaches who is away, and not who is here.
    hook(gateway, "carol", &receiver).await?;
    let mut alice = Client::of_user(gateway, "alice").await?.context("not let in")?;
    alice
        .must("subscribe", json!({"channel": "dm:#alice,carol"}))
        .await?;
    let said = |text: &str| json!({"channel": "dm:#alice,carol", "data": {"text": text}});
    let texts = || -> Vec<String> {
        let received = receiver.received();
        let of_messages = received
            .iter()
            .filter(|one| one.body["type"] == "notification.message");
        of_messages
            .filter_map(|one| one.body["data"]["body"].as_str().map(str::to_owned))
            .collect()
    };
    alice.must("publish", said("are you there?")).await?;
    let told = eventually(async || texts().contains(&"are you there?".to_owned()).then_some(()));
    told.await.context("who is away was not told")?;
    let mut carol = Client::of_user(gateway, "carol").await?.context("not let in")?;
    let here = eventually(async || {
        let answer = rpc(&mut carol, "presence.get", json!({"users": ["carol"]}))
            .await
            .ok()?;
        (answer["users"][0]["status"] == "online").then_some(())
    });
    here.await.context("carol is not seen to be here")?;
    alice.must("publish", said("now you are")).await?;
    drop(carol);
    let gone = eventually(async || {
        let answer = rpc(&mut alice, "presence.get", json!({"users": ["carol"]}))
            .await
            .ok()?;
        (answer["users"][0]["status"] == "offline").then_some(())
    });
    gone.await.context("carol is not seen to leave")?;
    alice.must("publish", said("gone again")).await?;
    let told = eventually(async || texts().contains(&"gone again".to_owned()).then_some(()));
    told.await.context("who is away again was not told")?;
    ensure!(texts() == ["are you there?", "gone again"], "{:?}", texts());

    // All that is known of a user goes.
    call(gateway, "user_forget_notifications", json!({ "user": "bob" })).await?;
    let devices = call(gateway, "device_list", json!({ "user": "bob" })).await?;
    ensure!(
        devices["devices"].as_array().is_none_or(Vec::is_empty),
        "{devices}"
    );
    ensure!(
        refused(gateway, "notification_get", json!({ "id": first }))
            .await?
            .0
            != 100
    );
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn notifications_on_embedded() -> Result<()> {
    let folder = tempfile::tempdir()?;
    std::fs::write(
        folder.path().join("switchboard.toml"),
        format!("[gateway]\n{}{NOTIFY}[notify]\nretry = \"100ms\"\n", gateway()),
    )?;
    let process = Process::start("switchboard", folder.path(), &["--config", "switchboard.toml"]).await?;
    scenario(&process).await?;
    let status = process.terminate().await?;
    ensure!(status.success(), "{status}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn notifications_are_asked_for_by_backends_that_have_the_key() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let port = std::net::TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
    let address = format!("127.0.0.1:{port}");
    let config = format!(
        "[gateway]\n{}{NOTIFY}[notify.grpc]\nenabled = true\nlisten = {address:?}\nkey = {API_KEY:?}\n",
        gateway()
    );
    std::fs::write(folder.path().join("switchboard.toml"), config)?;
    let process = Process::start("switchboard", folder.path(), &["--config", "switchboard.toml"]).await?;
    let environment = [
        ("SWITCHBOARD_NOTIFICATIONS", address.as_str()),
        ("SWITCHBOARD_API_KEY", API_KEY),
    ];
    tools::python("notifications_test", &environment).await?;
    ensure!(process.terminate().await?.success(), "it does not end well");
    Ok(())
}

fn stored(database: &PostgresServer, redis: &RedisServer) -> String {
    let url = database.url();
    format!(
        "[router]\nreaders = [\"persistence\", \"notify\"]\n[persistence]\nstore = \"postgres\"\n[persistence.postgres]\nurl = {url:?}\n\
         [notify]\nstore = \"postgres\"\nretry = \"100ms\"\nlease = \"40s\"\n[notify.postgres]\nurl = {url:?}\n\
         [registry]\nbackend = \"redis\"\n[registry.redis]\nurls = [{:?}]\n",
        redis.url()
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn notifications_on_a_cluster_whose_notify_services_die() -> Result<()> {
    let redis = RedisServer::start().await?;
    let database = PostgresServer::start().await?;
    let more = format!("{NOTIFY}{}", stored(&database, &redis));
    let cluster = Cluster::start_as(&gateway(), &more).await?;
    let notify = "switchboard-notify-svc";
    let mut others = cluster
        .join_all(&[
            "switchboard-persistence-svc",
            "switchboard-presence-svc",
            notify,
            notify,
        ])
        .await?;
    let gateway = &cluster.gateways[0];
    scenario(gateway).await?;

    // One dies in the middle of its work: nothing is lost, and no more is sent twice than it had in its hands.
    let receiver = Receiver::start().await?;
    for user in 0..10 {
        hook(gateway, &format!("user{user}"), &receiver).await?;
    }
    const SENT: usize = 2_000;
    let mut sent = BTreeSet::new();
    for batch in 0..SENT / 500 {
        let notifications: Vec<Value> = (0..500)
            .map(|number| {
                json!({"user": format!("user{}", number % 10), "category": "general", "title": format!("{batch}/{number}"),
                       "ways": ["webhook"]})
            })
            .collect();
        let answer = call(
            gateway,
            "notification_send",
            json!({ "notifications": notifications }),
        )
        .await?;
        for one in answer["sent"].as_array().context("no answer")? {
            sent.insert(one["id"].as_str().unwrap_or_default().to_owned());
        }
        if batch == 1 {
            let first = others.remove(2);
            first.kill()?;
        }
    }
    ensure!(sent.len() == SENT);
    let arrived = || -> BTreeSet<String> {
        let received = receiver.received();
        received
            .iter()
            .filter_map(|one| one.body["data"]["id"].as_str().map(str::to_owned))
            .collect()
    };
    let all = wait_until(Duration::from_secs(120), async || arrived().len() == SENT);
    if all.await.is_err() {
        anyhow::bail!("{} of {SENT} arrived", arrived().len());
    }
    ensure!(arrived() == sent, "others than those sent");
    let twice = receiver.times().into_values().filter(|times| *times > 1).count();
    // As many as one process sends at a time.
    ensure!(twice <= 256, "{twice} were sent twice");
    cluster.stop_with(others).await
}
