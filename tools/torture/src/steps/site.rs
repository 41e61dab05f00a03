//! A gateway on a directory of its own, what it was asked, and what it must hold.

use super::request::{Ask, Effect, SIDE_BUCKET};
use crate::Result;
use crate::client::{Access, Client, element, elements, refused};
use crate::content::Content;
use crate::control::Control;
use crate::flip::copy_directory;
use crate::history::{Clock, History, Mark, Upload};
use crate::http::Response;
use crate::kill::create_bucket;
use crate::server::{Launch, NotReady, Recording, Server};
use crate::verify::{Finding, check_key, verify};
use crate::workload::BUCKET;
use fastrand::Rng;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicU64;

/// The key that every request changes.
pub const TARGET: &str = "target";
/// Written after each fault: a row alone, and a pack.
const PROBES: [(&str, usize); 2] = [("probe/small", 3_000), ("probe/large", 100_000)];
/// There from the beginning, and never touched.
const WITNESSES: [(&str, usize); 4] = [
    ("witness/empty", 0),
    ("witness/small", 4_000),
    ("witness/large", 200_000),
    ("witness/larger", 1_500_000),
];
/// Writes of zeros prepare space, RocksDB's own notes matter to nobody.
const SKIP: &str = "zeros:*.spare;all:*/db/LOG*";
/// Ports are found free before they are taken, and another may be faster.
const STARTS_MAX: usize = 3;

pub struct Site {
    launch: Launch,
    pub data: PathBuf,
    pub control: Control,
    server: Option<Server>,
    pub client: Client,
    pub history: History,
    pub clock: Clock,
    pub rng: Rng,
    saved: Option<(PathBuf, History)>,
}

/// What came back of a request.
#[derive(Debug)]
pub enum Answer {
    Done,
    /// With this status, or a failure in its text.
    Refused(u16),
    /// The connection broke.
    Gone,
}

fn borrowed(pairs: &[(String, String)]) -> Vec<(&str, &str)> {
    pairs
        .iter()
        .map(|(name, value)| (name.as_str(), value.as_str()))
        .collect()
}

impl Site {
    /// A directory below `work` without a gateway.
    pub fn new(launch: &Launch, work: &Path, seed: u64) -> Result<Self> {
        std::fs::create_dir(work)?;
        let data = work.join("data");
        std::fs::create_dir(&data)?;
        Ok(Self {
            launch: launch.clone(),
            control: Control::create(&work.join("control"))?,
            data,
            server: None,
            client: Client::new(&Access {
                address: SocketAddr::from((Ipv4Addr::LOCALHOST, 0)),
                access_key: String::new(),
                secret_key: String::new(),
            }),
            history: History::default(),
            clock: Clock::Count(AtomicU64::new(1)),
            rng: Rng::with_seed(seed),
            saved: None,
        })
    }

    /// Starts the gateway for the first time, with objects that must outlive everything.
    pub async fn fill(&mut self) -> Result<()> {
        self.start().await?;
        let access = self.server.as_ref().ok_or("no gateway")?.access.clone();
        create_bucket(&access).await?;
        for (key, bytes) in WITNESSES {
            let content = Content::one(self.rng.u64(..), bytes);
            self.done(Ask::put(key, content)).await?;
        }
        Ok(())
    }

    pub async fn start(&mut self) -> Result<()> {
        let recording = Recording::Control {
            page: self.control.path.clone(),
            skip: SKIP,
        };
        for _ in 1..STARTS_MAX {
            match self.start_once(&recording).await {
                Err(error) if error.to_string().to_lowercase().contains("in use") => {}
                done => return done,
            }
        }
        self.start_once(&recording).await
    }

    async fn start_once(&mut self, recording: &Recording) -> Result<()> {
        let server = Server::start(&self.launch, &self.data, Some(recording)).await?;
        self.client = Client::new(&server.access);
        self.server = Some(server);
        Ok(())
    }

    /// Starts under an armed fault: whether it came up.
    pub async fn try_start(&mut self) -> Result<bool> {
        match self.start().await {
            Ok(()) => Ok(true),
            Err(error) if error.downcast_ref::<NotReady>().is_some_and(|refusal| refusal.exited) => Ok(false),
            Err(error) => Err(error),
        }
    }

    pub async fn kill(&mut self) -> Result<()> {
        match self.server.take() {
            Some(server) => server.kill().await,
            None => Ok(()),
        }
    }

    /// Keeps the directory as it is, without a gateway.
    pub fn save(&mut self) -> Result<()> {
        let copy = self.data.with_extension("saved");
        copy_directory(&self.data, &copy)?;
        self.saved = Some((copy, self.history.clone()));
        Ok(())
    }

    /// Goes back to what was kept. `false` when nothing was.
    pub fn restore(&mut self) -> Result<bool> {
        let Some((copy, history)) = &self.saved else {
            return Ok(false);
        };
        std::fs::remove_dir_all(&self.data)?;
        copy_directory(copy, &self.data)?;
        self.history = history.clone();
        Ok(true)
    }

    pub fn is_gone(&mut self) -> Result<bool> {
        self.server.as_mut().map_or(Ok(true), Server::is_gone)
    }

    pub fn is_running(&self) -> bool {
        self.server.is_some()
    }

    pub async fn is_ready(&self) -> Result<bool> {
        self.server.as_ref().ok_or("no gateway")?.is_ready(&self.launch).await
    }

    pub fn upload(&self) -> Result<&Upload> {
        Ok(self.history.uploads.first().ok_or("no upload is open")?)
    }

    async fn send(&mut self, ask: &Ask) -> Result<Response> {
        let (query, headers) = (borrowed(&ask.query), borrowed(&ask.headers));
        self.client
            .send(ask.method, &ask.path, &query, &headers, &ask.body)
            .await
    }

    /// Sends a request that may fail, but not by the client's fault.
    pub async fn ask(&mut self, ask: &Ask) -> Result<Answer> {
        self.begin(ask);
        match self.send(ask).await {
            Err(error) if error.to_string().contains("no answer") => Err(error),
            Err(_) => Ok(Answer::Gone),
            Ok(response) if response.status < 300 && self.acknowledge(ask, &response) => Ok(Answer::Done),
            Ok(response) if response.status < 300 || response.status >= 500 => Ok(Answer::Refused(response.status)),
            Ok(response) => Err(refused(&format!("{} {}", ask.method, ask.path), &response).into()),
        }
    }

    /// Sends a request that must succeed.
    pub async fn done(&mut self, ask: Ask) -> Result<()> {
        self.begin(&ask);
        let response = self.send(&ask).await?;
        if response.status < 300 && self.acknowledge(&ask, &response) {
            return Ok(());
        }
        Err(refused(&format!("{} {}", ask.method, ask.path), &response).into())
    }

    pub async fn remove_target(&mut self) -> Result<()> {
        if self.history.changes.contains_key(TARGET) {
            self.done(Ask::delete(TARGET)).await?;
        }
        Ok(())
    }

    /// Demands that writes of each way of storing succeed.
    pub async fn probe(&mut self) -> Result<()> {
        for (key, bytes) in PROBES {
            let content = Content::one(self.rng.u64(..), bytes);
            let probe = self.done(Ask::put(key, content)).await;
            probe.map_err(|error| format!("another write after the fault: {error}"))?;
        }
        Ok(())
    }

    /// Demands that no write succeeds and that every witness reads back.
    pub async fn probe_refusal(&mut self) -> Result<()> {
        for (key, bytes) in PROBES {
            let content = Content::one(self.rng.u64(..), bytes);
            if matches!(self.ask(&Ask::put(key, content)).await?, Answer::Done) {
                return Err("a write succeeded though the gateway says that it takes none".into());
            }
        }
        for (key, _) in WITNESSES {
            match check_key(&mut self.client, key, &self.history.allowed(key, Mark::MAX)).await {
                Finding::Sound(_) => {}
                Finding::Told(text) | Finding::Wrong(text) => return Err(text.into()),
            }
        }
        Ok(())
    }

    /// Reads everything and takes it for certain; the counters must equal a recount.
    pub async fn verify(&mut self) -> Result<()> {
        let server = self.server.as_ref().ok_or("no gateway")?;
        let states = verify(&server.access, std::slice::from_ref(&self.history), Mark::MAX).await?;
        if !self.launch.no_recount {
            server.recount().await?;
        }
        for (key, state) in states.into_iter().flatten() {
            self.history.settle(&key, state);
        }
        Ok(())
    }

    /// Demands that the request happened wholly or not at all, and wholly if it was acknowledged; then clears what it left.
    pub async fn look(&mut self, effect: &Effect, is_acknowledged: bool) -> Result<()> {
        self.verify().await?;
        match effect {
            Effect::Keys(_) => {}
            Effect::Upload => self.look_at_created(is_acknowledged).await?,
            Effect::Part(_) => self.look_at_part().await?,
            Effect::Complete(_) => self.look_at_completed().await?,
            Effect::Abort => self.look_at_aborted(is_acknowledged).await?,
            Effect::Bucket(makes) => self.look_at_bucket(*makes, is_acknowledged).await?,
        }
        self.history.uploads.clear();
        Ok(())
    }

    async fn listed_uploads(&mut self) -> Result<Vec<String>> {
        let response = self
            .client
            .send("GET", &format!("/{BUCKET}"), &[("uploads", "")], &[], &[])
            .await?;
        let text = response.text();
        let found = elements(&text, "Upload")
            .into_iter()
            .filter_map(|one| element(one, "UploadId"));
        Ok(found.collect())
    }

    /// The numbers of an upload's parts; `None` when it is not there.
    async fn listed_parts(&mut self, id: &str) -> Result<Option<usize>> {
        let path = format!("/{BUCKET}/{TARGET}");
        let response = self.client.send("GET", &path, &[("uploadId", id)], &[], &[]).await?;
        match (response.status, element(&response.text(), "Code").as_deref()) {
            (200, _) => Ok(Some(elements(&response.text(), "Part").len())),
            (404, Some("NoSuchUpload")) => Ok(None),
            _ => Err(refused("listing the parts of an upload", &response).into()),
        }
    }

    async fn look_at_created(&mut self, is_acknowledged: bool) -> Result<()> {
        let listed = self.listed_uploads().await?;
        if listed.len() > 1 || is_acknowledged && listed.is_empty() {
            return Err(format!("uploads {listed:?} after one was created").into());
        }
        for id in listed {
            if self.listed_parts(&id).await? != Some(0) {
                return Err("an upload is listed but cannot be used".into());
            }
            self.done(Ask::abort(TARGET, &id)).await?;
        }
        self.no_upload_is_left().await
    }

    async fn no_upload_is_left(&mut self) -> Result<()> {
        match self.listed_uploads().await? {
            left if left.is_empty() => Ok(()),
            left => Err(format!("uploads {left:?} are left").into()),
        }
    }

    /// `verify` has compared the part with what it may be; its bytes show once it is an object.
    async fn look_at_part(&mut self) -> Result<()> {
        let upload = self.upload()?.clone();
        if self.listed_parts(&upload.id).await? == Some(0) {
            self.done(Ask::abort(TARGET, &upload.id)).await?;
        } else {
            let parts: Vec<_> = upload.parts.iter().collect();
            self.done(Ask::complete(&upload, &parts)).await?;
        }
        self.verify().await?;
        self.no_upload_is_left().await
    }

    async fn look_at_completed(&mut self) -> Result<()> {
        let upload = self.upload()?.clone();
        let is_there = !matches!(self.history.certain(TARGET), Some(None));
        let open = self.listed_parts(&upload.id).await?;
        match (is_there, open) {
            (true, None) => {}
            (false, Some(count)) if count == upload.parts.len() => {
                let parts: Vec<_> = upload.parts.iter().collect();
                self.done(Ask::complete(&upload, &parts)).await?;
                self.verify().await?;
            }
            _ => {
                return Err(
                    format!("half a completion: object there: {is_there}, parts of the upload: {open:?}").into(),
                );
            }
        }
        self.no_upload_is_left().await
    }

    async fn look_at_aborted(&mut self, is_acknowledged: bool) -> Result<()> {
        let upload = self.upload()?.clone();
        match self.listed_parts(&upload.id).await? {
            None => {}
            Some(count) if !is_acknowledged && count == upload.parts.len() => {
                self.done(Ask::abort(TARGET, &upload.id)).await?;
            }
            found => return Err(format!("half an abort: {found:?} of {} parts", upload.parts.len()).into()),
        }
        self.no_upload_is_left().await
    }

    async fn look_at_bucket(&mut self, makes: bool, is_acknowledged: bool) -> Result<()> {
        let path = format!("/{SIDE_BUCKET}");
        let response = self.client.send("HEAD", &path, &[], &[], &[]).await?;
        let is_there = match response.status {
            200 => true,
            404 => false,
            _ => return Err(refused("HEAD of a bucket", &response).into()),
        };
        if is_acknowledged && is_there != makes {
            return Err(format!("a bucket is there: {is_there}, though the opposite was acknowledged").into());
        }
        if !is_there {
            self.done(Ask::bucket(true)).await?;
        }
        let object = format!("{path}/object");
        for (method, status) in [("PUT", 200), ("GET", 200), ("DELETE", 204)] {
            let response = self.client.send(method, &object, &[], &[], &[]).await?;
            if response.status != status {
                return Err(refused(&format!("{method} of an object in the bucket"), &response).into());
            }
        }
        self.done(Ask::bucket(false)).await
    }
}
