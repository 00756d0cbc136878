//! A notification as an e-mail, to a real SMTP server, with a link that unsubscribes; and a text message with Twilio's report on it.

use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use switchboard::{Config, Switchboard};
use switchboard_testkit::wait_until;
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader, Lines};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};

use crate::system::API_KEY;

const DEADLINE: Duration = Duration::from_secs(20);

/// aiosmtpd, as the tests of providers run it.
struct SmtpServer {
    port: u64,
    asks: ChildStdin,
    answers: Lines<BufReader<ChildStdout>>,
    _child: Child,
}

impl SmtpServer {
    async fn start() -> Result<Self> {
        let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
        let libraries = root.join(".tools/python");
        ensure!(
            libraries.exists(),
            "{} is missing: run ./test once",
            libraries.display()
        );
        let mut child = Command::new("python3")
            .env("PYTHONPATH", libraries)
            .arg("-B")
            .arg(root.join("providers/src/smtp/server.py"))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()?;
        let mut asks = child.stdin.take().context("no input")?;
        let mut answers = BufReader::new(child.stdout.take().context("no output")?).lines();
        let settings =
            json!({"tls": "none", "username": null, "password": "", "without": [], "most": 1_000_000});
        asks.write_all(format!("{settings}\n").as_bytes()).await?;
        let started = answers.next_line().await?.context("it ended")?;
        let started: Value = serde_json::from_str(&started)?;
        Ok(Self {
            port: started["port"].as_u64().with_context(|| started.to_string())?,
            asks,
            answers,
            _child: child,
        })
    }

    /// Mails that came since it was asked last, as a mail client reads them.
    async fn mails(&mut self) -> Result<Vec<Value>> {
        self.asks.write_all(b"{}\n").await?;
        let said: Value = serde_json::from_str(&self.answers.next_line().await?.context("it ended")?)?;
        Ok(said["mails"].as_array().cloned().unwrap_or_default())
    }
}

struct Server {
    system: Switchboard,
    client: reqwest::Client,
}

impl Server {
    async fn call(&self, method: &str, params: Value) -> Result<Value> {
        let url = self.system.api_url().context("no API")?;
        let response = self
            .client
            .post(format!("{url}/{method}"))
            .header("X-API-Key", API_KEY)
            .body(params.to_string())
            .send()
            .await?;
        let answer: Value = serde_json::from_str(&response.text().await?)?;
        ensure!(answer["error"].is_null(), "{method}: {answer}");
        Ok(answer["result"].clone())
    }

    async fn send(&self, notification: Value) -> Result<String> {
        let sent = self
            .call("notification_send", json!({ "notifications": [notification] }))
            .await?;
        Ok(sent["sent"][0]["id"]
            .as_str()
            .with_context(|| sent.to_string())?
            .to_owned())
    }

    async fn becomes(&self, id: &str, wanted: &str) -> Result<Value> {
        let mut told = Value::Null;
        let waited = wait_until(DEADLINE, async || {
            told = self
                .call("notification_get", json!({ "id": id }))
                .await
                .unwrap_or_default();
            told["status"] == wanted
        });
        waited.await.with_context(|| format!("not {wanted}"))?;
        Ok(told)
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_mail_has_a_link_that_unsubscribes() -> Result<()> {
    let mut smtp = SmtpServer::start().await?;
    let folder = tempfile::tempdir()?;
    let text = format!(
        "[admin]\nlisten = \"127.0.0.1:0\"\n[bus.embedded]\npath = {:?}\n[gateway]\ninsecure = true\nlisten = \"127.0.0.1:0\"\n\
         drain_spread = \"100ms\"\napi.listen = \"127.0.0.1:0\"\napi.key = {API_KEY:?}\n\
         [notify]\nlisten = \"127.0.0.1:0\"\nurl = \"https://notify.example.org\"\nsecret = \"thirty-two characters at the least\"\n\
         [notify.smtp]\nhost = \"127.0.0.1\"\nport = {}\nsecurity = \"none\"\nfrom = \"news@example.org\"\nfrom_name = \"Example\"\n\
         [notify.categories.news]\nways = [\"email\"]\n",
        folder.path().join("log"),
        smtp.port
    );
    let server = Server {
        system: Switchboard::start(Config::from_toml(&text)?).await?,
        client: reqwest::Client::new(),
    };
    server.system.ready().await;
    let device = json!({"id": "mail", "provider": "email", "address": "bob@example.net"});
    server
        .call("device_register", json!({"user": "bob", "device": device}))
        .await?;
    let template = json!({"name": "weekly", "language": "", "title": "Grüße, {{ name }}", "body": "Hello {{ name }}", "html": "<p>Hello {{ name }}</p>"});
    server
        .call("template_put", json!({ "template": template }))
        .await?;
    let weekly =
        json!({"user": "bob", "category": "news", "template": "weekly", "variables": {"name": "<Bob>"}});
    let id = server.send(weekly.clone()).await?;
    server.becomes(&id, "sent").await?;

    let mails = smtp.mails().await?;
    ensure!(mails.len() == 1, "{mails:?}");
    let mail = &mails[0];
    let header = |name: &str| -> String {
        let headers = mail["headers"].as_array().cloned().unwrap_or_default();
        let found = headers.into_iter().find(|one| one[0] == name);
        found.map_or_else(String::new, |one| one[1].as_str().unwrap_or_default().to_owned())
    };
    ensure!(header("Subject") == "Grüße, <Bob>", "{mail}");
    ensure!(
        mail["to"] == json!(["bob@example.net"]) && mail["from"] == json!(["Example", "news@example.org"]),
        "{mail}"
    );
    ensure!(mail["parts"].to_string().contains("&lt;Bob&gt;"), "{mail}");
    ensure!(
        header("List-Unsubscribe-Post") == "List-Unsubscribe=One-Click",
        "{mail}"
    );

    // As a mail program does it: one POST, without signing in.
    let link = header("List-Unsubscribe");
    let link = link.trim_matches(['<', '>']);
    let path = link
        .strip_prefix("https://notify.example.org")
        .with_context(|| link.to_owned())?;
    let listener = server.system.notify_public().context("nothing listens")?;
    let here = format!("http://{listener}{path}");
    let opened = server.client.get(&here).send().await?;
    ensure!(opened.status() == 200, "{}", opened.status());
    let again = server.send(weekly.clone()).await?;
    server
        .becomes(&again, "sent")
        .await
        .context("who only opens the link goes on to be told")?;
    let forged = format!("{}AAAA", here.get(..here.len() - 4).unwrap_or_default());
    ensure!(server.client.post(&forged).send().await?.status() == 404);
    let posted = server
        .client
        .post(&here)
        .body("List-Unsubscribe=One-Click")
        .send()
        .await?;
    ensure!(posted.status() == 200, "{}", posted.status());
    let after = server.send(weekly).await?;
    let told = server.becomes(&after, "suppressed").await?;
    ensure!(told["deliveries"][0]["reason"] == "preferences", "{told}");
    ensure!(smtp.mails().await?.len() == 1, "a mail came after all");
    server.system.stop().await;
    Ok(())
}
