//! Starts, watches and ends the gateway.

use crate::Result;
use crate::client::Access;
use crate::http::{Connection, Request};
use std::fs::File;
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};
use tokio::process::{Child, Command};

/// The gateway's directory below the one that is recorded, so that the names above it are recorded too.
pub const STORE: &str = "made/store";

const ACCESS_KEY: &str = "torturetorture";
const SECRET_KEY: &str = "torture-secret-torture-secret";

/// How to start the gateway; shared by every mode.
#[derive(Clone, Debug, clap::Args)]
pub struct Launch {
    /// The gateway's binary.
    #[arg(long, default_value = "bin/cairn")]
    pub binary: PathBuf,
    /// Its arguments, split at spaces; {data}, a directory that it makes itself, {listen} and {admin} are filled in.
    #[arg(long, default_value = "serve --data {data} --listen {listen} --admin-listen {admin}")]
    pub arguments: String,
    /// More environment, NAME=VALUE; may be repeated.
    #[arg(long)]
    pub env: Vec<String>,
    /// Path that answers 200 once the gateway is ready; asked of the admin listener.
    #[arg(long, default_value = "/health/ready")]
    pub ready_path: String,
    /// Ask the S3 listener for readiness instead.
    #[arg(long)]
    pub ready_on_s3: bool,
    /// Longest time from the start to readiness, in seconds.
    #[arg(long, default_value_t = 60)]
    pub ready_seconds: u64,
    /// The recorder.
    #[arg(long, default_value = "target/release/libsynctrace.so")]
    pub recorder: PathBuf,
    /// Do not ask for a recount of the counters: for servers that have none.
    #[arg(long)]
    pub no_recount: bool,
    /// Give the gateway its root key pair; else it makes one, which must outlive what the test does to it.
    #[arg(long)]
    pub given_keys: bool,
}

/// What the recorder does.
#[derive(Clone, Debug)]
pub enum Recording {
    /// Writes a log, and leaves out some syncs.
    Log { log: PathBuf, drop: String },
    /// Makes events fail as this page says, but for those that it is to skip.
    Control { page: PathBuf, skip: &'static str },
}

pub struct Server {
    child: Child,
    pub access: Access,
    admin: SocketAddr,
    output: PathBuf,
}

/// A start that did not end in readiness.
#[derive(Debug)]
pub struct NotReady {
    /// The process ended by itself.
    pub exited: bool,
    /// What it said.
    pub output: String,
}

impl std::fmt::Display for NotReady {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let what = if self.exited {
            "exited before it was ready"
        } else {
            "was not ready in time"
        };
        write!(formatter, "the gateway {what}; its output ends:\n{}", self.output)
    }
}

impl std::error::Error for NotReady {}

/// Addresses that were free a moment ago.
fn free_addresses() -> Result<(SocketAddr, SocketAddr)> {
    let one = TcpListener::bind("127.0.0.1:0")?;
    let two = TcpListener::bind("127.0.0.1:0")?;
    Ok((one.local_addr()?, two.local_addr()?))
}

impl Server {
    /// Starts the gateway on `data` and waits until it is ready. Its output goes to `data` + `.output`.
    pub async fn start(launch: &Launch, data: &Path, recording: Option<&Recording>) -> Result<Self> {
        let (listen, admin) = free_addresses()?;
        let output = data.with_extension("output");
        let sink = File::options().create(true).append(true).open(&output)?;
        let mut command = Command::new(std::fs::canonicalize(&launch.binary)?);
        for argument in launch.arguments.split_whitespace() {
            let argument = argument.replace("{data}", &data.join(STORE).to_string_lossy());
            command.arg(
                argument
                    .replace("{listen}", &listen.to_string())
                    .replace("{admin}", &admin.to_string()),
            );
        }
        if launch.given_keys {
            command
                // The file that holds room back would take up memory where that is the disk; `full-disk` tests it.
                .env("CAIRN_STORAGE_RESERVE", "0B")
                .env("CAIRN_ROOT_ACCESS_KEY", ACCESS_KEY)
                .env("CAIRN_ROOT_SECRET_KEY", SECRET_KEY);
        }
        for pair in &launch.env {
            let (name, value) = pair.split_once('=').ok_or("--env takes NAME=VALUE")?;
            command.env(name, value);
        }
        if let Some(recording) = recording {
            command.env("LD_PRELOAD", std::fs::canonicalize(&launch.recorder)?);
            command.env("SYNCTRACE_DIR", data);
            match recording {
                Recording::Log { log, drop } => command.env("SYNCTRACE_LOG", log).env("SYNCTRACE_DROP", drop),
                Recording::Control { page, skip } => command.env("SYNCTRACE_CONTROL", page).env("SYNCTRACE_SKIP", skip),
            };
        }
        command
            .stdin(Stdio::null())
            .stdout(sink.try_clone()?)
            .stderr(sink)
            .kill_on_drop(true);
        let access = Access {
            address: listen,
            access_key: ACCESS_KEY.into(),
            secret_key: SECRET_KEY.into(),
        };
        let mut server = Self {
            child: command.spawn()?,
            access,
            admin,
            output,
        };
        server.wait_ready(launch).await?;
        if !launch.given_keys {
            (server.access.access_key, server.access.secret_key) = root_key(&data.join(STORE).join("root-key"))?;
        }
        Ok(server)
    }

    async fn wait_ready(&mut self, launch: &Launch) -> Result<()> {
        let deadline = Instant::now() + Duration::from_secs(launch.ready_seconds);
        let address = if launch.ready_on_s3 {
            self.access.address
        } else {
            self.admin
        };
        loop {
            let exited = self.child.try_wait()?.is_some();
            if exited || Instant::now() > deadline {
                return Err(NotReady {
                    exited,
                    output: self.last_output(),
                }
                .into());
            }
            if get(address, &launch.ready_path)
                .await
                .is_ok_and(|(status, _)| status == 200)
            {
                return Ok(());
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    pub fn last_output(&self) -> String {
        let text = std::fs::read(&self.output).unwrap_or_default();
        let from = text.len().saturating_sub(3000);
        String::from_utf8_lossy(text.get(from..).unwrap_or_default()).into_owned()
    }

    pub async fn kill(mut self) -> Result<()> {
        if !self.is_gone()? {
            self.child.kill().await?;
        }
        Ok(())
    }

    pub fn is_gone(&mut self) -> Result<bool> {
        Ok(self.child.try_wait()?.is_some())
    }

    /// Whether it says that it takes requests of every kind.
    pub async fn is_ready(&self, launch: &Launch) -> Result<bool> {
        Ok(get(self.admin, &launch.ready_path).await?.0 == 200)
    }

    /// Ends it as an operator would, and demands success.
    pub async fn stop(mut self) -> Result<()> {
        let pid = self.child.id().ok_or("the gateway is gone already")?;
        Command::new("kill").args(["-TERM", &pid.to_string()]).status().await?;
        let status = tokio::time::timeout(Duration::from_secs(60), self.child.wait()).await;
        let status = status.map_err(|_| "the gateway did not end within 60 s of SIGTERM")??;
        if !status.success() {
            return Err(format!("the gateway ended with {status} on SIGTERM:\n{}", self.last_output()).into());
        }
        Ok(())
    }

    /// Whether the gateway says that packs are damaged: on its health page, or by its counter.
    pub async fn tells_damage(&self) -> Result<bool> {
        let (_, health) = get(self.admin, "/health/ready").await?;
        let (_, metrics) = get(self.admin, "/metrics").await?;
        let metrics = String::from_utf8_lossy(&metrics).into_owned();
        let count = |line: &str| {
            line.strip_prefix("cairn_pack_damaged_total ")
                .is_some_and(|count| count != "0")
        };
        Ok(String::from_utf8_lossy(&health).contains("degraded") || metrics.lines().any(count))
    }

    /// What `cairn check` says through the running gateway.
    pub async fn check(&self, launch: &Launch, data: &Path) -> Result<Checked> {
        check(launch, data, self.admin).await
    }

    /// Demands that the counters equal a recount.
    pub async fn recount(&self) -> Result<()> {
        let (status, body) = get(self.admin, "/v1/recount").await?;
        let text = String::from_utf8_lossy(&body).into_owned();
        let answer: serde_json::Value =
            serde_json::from_str(&text).map_err(|_| format!("/v1/recount answered {status}: {text}"))?;
        match answer.get("differences").and_then(|found| found.as_array()) {
            Some(differences) if status == 200 && differences.is_empty() => Ok(()),
            _ => Err(format!("the counters differ from a recount ({status}): {text}").into()),
        }
    }
}

/// The answer of `cairn check --read-data --json`.
pub struct Checked {
    /// 0: sound, 1: not sound, 2: it could not be checked.
    pub code: i32,
    pub report: serde_json::Value,
    /// What it said beside the report.
    pub complaint: String,
}

/// Checks the store in `data`: by itself, or through the gateway that serves it and listens on `admin`.
pub async fn check(launch: &Launch, data: &Path, admin: SocketAddr) -> Result<Checked> {
    let mut command = Command::new(std::fs::canonicalize(&launch.binary)?);
    command
        .args(["check", "--read-data", "--json", "--data"])
        .arg(data.join(STORE));
    command.args(["--admin-listen", &admin.to_string()]);
    for pair in &launch.env {
        let (name, value) = pair.split_once('=').ok_or("--env takes NAME=VALUE")?;
        command.env(name, value);
    }
    if launch.given_keys {
        command
            .env("CAIRN_STORAGE_RESERVE", "0B")
            .env("CAIRN_ROOT_ACCESS_KEY", ACCESS_KEY)
            .env("CAIRN_ROOT_SECRET_KEY", SECRET_KEY);
    }
    let output = command.kill_on_drop(true).output().await?;
    Ok(Checked {
        code: output.status.code().ok_or("cairn check was killed")?,
        report: serde_json::from_slice(&output.stdout).unwrap_or_default(),
        complaint: String::from_utf8_lossy(&output.stderr).into_owned(),
    })
}

/// The pair of names and values that the gateway's own file holds.
fn root_key(path: &Path) -> Result<(String, String)> {
    let file = std::fs::read_to_string(path)?;
    let value = |name: &str| {
        let mut lines = file.lines().filter_map(|line| line.split_once(" = "));
        let found = lines.find(|(found, _)| *found == name);
        found.map(|(_, value)| value.trim_matches('"').to_owned())
    };
    let pair = value("access_key").zip(value("secret_key"));
    Ok(pair.ok_or("root-key holds no key pair")?)
}

async fn get(address: SocketAddr, target: &str) -> Result<(u16, Vec<u8>)> {
    let headers = vec![("host".to_owned(), address.to_string())];
    let response = Connection::new(address)
        .send(&Request {
            method: "GET",
            target,
            headers,
            body: &[],
        })
        .await?;
    Ok((response.status, response.body))
}
