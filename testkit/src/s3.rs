//! A server that speaks S3: moto, which keeps all in memory. What it holds is gone with a restart.

use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::program::{Program, find, free_port};

/// How long a server may take until it serves, on a machine busy with other tests.
const READY: Duration = Duration::from_secs(60);

/// Other processes take ports too: how often new ones are tried.
const TRIES: usize = 5;

const VARIABLE: &str = "SWITCHBOARD_MOTO_SERVER";

/// Who the server thinks makes users and keys. Its signature is not looked at before [`S3Server::keys`] says that they are.
const ANYBODY: &str = "Authorization: AWS4-HMAC-SHA256 Credential=x/20260101/us-east-1/iam/aws4_request, SignedHeaders=host, \
     Signature=x\r\nContent-Type: application/x-www-form-urlencoded\r\n";

/// What such a user may do.
const EVERYTHING: &str = "%7B%22Version%22%3A%222012-10-17%22%2C%22Statement%22%3A%5B%7B%22Effect%22%3A%22Allow%22%2C\
                          %22Action%22%3A%22s3%3A*%22%2C%22Resource%22%3A%22*%22%7D%5D%7D";

/// One server. Killed when dropped.
#[derive(Debug)]
pub struct S3Server {
    program: Program,
    port: u16,
    // Dropped after the program.
    _folder: TempDir,
}

/// The id of an access key, and its secret.
#[derive(Debug, Clone)]
pub struct S3Keys {
    /// The id.
    pub access: String,
    /// The secret.
    pub secret: String,
}

impl S3Server {
    /// Starts an empty server, which takes all keys for good ones, and waits until it answers.
    ///
    /// # Errors
    /// Where the program is missing, and how to get it; else what the server printed.
    pub async fn start() -> Result<Self> {
        let mut failure = None;
        for _ in 0..TRIES {
            let folder = tempfile::tempdir().context("no temporary folder")?;
            let mut server = Self {
                program: Program::new("moto-server", folder.path().join("output")),
                port: free_port()?,
                _folder: folder,
            };
            match server.run().await {
                Ok(()) => return Ok(server),
                Err(error) => failure = Some(error),
            }
        }
        Err(failure.unwrap_or_else(|| anyhow::anyhow!("moto-server was never started")))
    }

    async fn run(&mut self) -> Result<()> {
        let mut command = Command::new(find("moto-server", VARIABLE)?);
        command.args(["-H", "127.0.0.1", "-p"]).arg(self.port.to_string());
        self.program.spawn(&mut command)?;
        let port = self.port;
        self.program
            .ready(READY, async || {
                ask(port, "GET", "/moto-api/data.json", "", "").await.is_ok()
            })
            .await
    }

    /// Where clients connect.
    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// The port of that.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Makes a bucket.
    ///
    /// # Errors
    /// What the server answers.
    pub async fn make_bucket(&self, name: &str) -> Result<()> {
        ask(self.port, "PUT", &format!("/{name}"), "", "").await?;
        Ok(())
    }

    /// Makes keys. From then on the server looks at keys, signatures and rights.
    ///
    /// # Errors
    /// What the server answers.
    pub async fn keys(&self) -> Result<S3Keys> {
        let iam = async |form: &str| ask(self.port, "POST", "/", ANYBODY, form).await;
        iam("Action=CreateUser&Version=2010-05-08&UserName=switchboard").await?;
        iam(&format!(
            "Action=PutUserPolicy&Version=2010-05-08&UserName=switchboard&PolicyName=all&PolicyDocument={EVERYTHING}"
        ))
        .await?;
        let made = iam("Action=CreateAccessKey&Version=2010-05-08&UserName=switchboard").await?;
        let of = |tag: &str| {
            let (_, rest) = made.split_once(&format!("<{tag}>"))?;
            let (text, _) = rest.split_once('<')?;
            Some(text.to_owned())
        };
        let keys = S3Keys {
            access: of("AccessKeyId").with_context(|| made.clone())?,
            secret: of("SecretAccessKey").with_context(|| made.clone())?,
        };
        ask(self.port, "POST", "/moto-api/reset-auth", "", "0").await?;
        Ok(keys)
    }

    /// Ends it at once (SIGKILL), and all that it holds with it.
    ///
    /// # Errors
    /// If the operating system refuses.
    pub fn kill(&mut self) -> Result<()> {
        self.program.kill()
    }

    /// Starts it again, empty, on the same port. Waits until it answers.
    ///
    /// # Errors
    /// As [`S3Server::start`].
    pub async fn restart(&mut self) -> Result<()> {
        self.program.kill()?;
        self.run().await
    }

    /// Stops it in its tracks (SIGSTOP), as a paused machine would.
    ///
    /// # Errors
    /// If it does not run.
    pub fn pause(&self) -> Result<()> {
        self.program.signal("STOP")
    }

    /// Lets it go on after [`S3Server::pause`].
    ///
    /// # Errors
    /// If it does not run.
    pub fn resume(&self) -> Result<()> {
        self.program.signal("CONT")
    }
}

/// A request, and the body that it is answered with where that is a good one.
async fn ask(port: u16, method: &str, path: &str, headers: &str, body: &str) -> Result<String> {
    let asked = async {
        let mut stream = TcpStream::connect(("127.0.0.1", port)).await?;
        let length = body.len();
        let request = format!(
            "{method} {path} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nConnection: close\r\n{headers}Content-Length: {length}\r\n\r\n{body}"
        );
        stream.write_all(request.as_bytes()).await?;
        let mut answer = Vec::new();
        stream.take(1 << 20).read_to_end(&mut answer).await?;
        std::io::Result::Ok(answer)
    };
    let answer = tokio::time::timeout(READY, asked).await.context("no answer")??;
    let answer = String::from_utf8_lossy(&answer).into_owned();
    let status = answer.split_whitespace().nth(1).unwrap_or_default();
    ensure!(status.starts_with('2'), "{method} {path}: {answer}");
    Ok(answer)
}
