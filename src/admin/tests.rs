use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Notify;

use super::{
    Admin, Backend, BackupStatus, CheckLine, CheckReport, GcReport, GcResumed, KeysReport, MigrateReport, Recount,
    RotationReport, ScrubReport, UsageReport,
};
use crate::object::{CheckProgress, Progress, Stage};

/// A store whose check ends when the test says so.
#[derive(Default)]
struct Slow {
    end: Notify,
    running: AtomicUsize,
}

struct Running<'a>(&'a AtomicUsize);

impl Drop for Running<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

#[async_trait]
impl Backend for Slow {
    fn health(&self) -> Result<(), String> {
        Ok(())
    }

    fn degraded(&self) -> Option<String> {
        None
    }

    async fn usage(&self) -> Result<UsageReport, String> {
        Err("not asked for".to_owned())
    }

    async fn recount(&self) -> Result<Recount, String> {
        Err("not asked for".to_owned())
    }

    async fn check(&self, read_data: bool, progress: &CheckProgress) -> Result<CheckReport, String> {
        self.running.fetch_add(1, Ordering::SeqCst);
        let _running = Running(&self.running);
        progress.begin(Stage::Data, 10);
        progress.add(4);
        self.end.notified().await;
        Ok(CheckReport {
            read_data,
            sound: true,
            ..CheckReport::default()
        })
    }

    async fn scrub(&self) -> Result<ScrubReport, String> {
        Err("not asked for".to_owned())
    }

    fn backup(&self) -> BackupStatus {
        BackupStatus::default()
    }

    async fn gc(&self) -> Result<GcReport, String> {
        Err("not asked for".to_owned())
    }

    async fn resume_gc(&self) -> Result<GcResumed, String> {
        Err("not asked for".to_owned())
    }

    async fn migration(&self) -> Result<MigrateReport, String> {
        Err("not asked for".to_owned())
    }

    async fn migrate(&self, _: bool) -> Result<MigrateReport, String> {
        Err("not asked for".to_owned())
    }

    async fn keys(&self) -> Result<KeysReport, String> {
        Err("not asked for".to_owned())
    }

    async fn rotate_key(&self) -> Result<RotationReport, String> {
        Err("not asked for".to_owned())
    }

    async fn refresh_metrics(&self) {}
}

async fn ask(address: std::net::SocketAddr) -> BufReader<TcpStream> {
    let mut stream = TcpStream::connect(address).await.unwrap();
    let request = b"GET /v1/check?read_data HTTP/1.0\r\n\r\n";
    stream.write_all(request).await.unwrap();
    BufReader::new(stream)
}

async fn head(answer: &mut BufReader<TcpStream>) -> String {
    let mut head = String::new();
    while !head.ends_with("\r\n\r\n") {
        assert!(answer.read_line(&mut head).await.unwrap() > 0, "{head}");
    }
    head
}

async fn line(answer: &mut BufReader<TcpStream>) -> CheckLine {
    let mut line = String::new();
    answer.read_line(&mut line).await.unwrap();
    serde_json::from_str(&line).unwrap()
}

/// A check says how far it is while it runs; there is one at a time; who goes away ends it.
#[tokio::test]
async fn a_check_is_streamed_and_ends_with_its_client() {
    let slow = Arc::new(Slow::default());
    let admin = Admin::new(Arc::clone(&slow) as _, prometheus::Registry::new()).unwrap();
    let socket = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = socket.local_addr().unwrap();
    let serving = tokio::spawn(admin.accept(socket));

    let mut first = ask(address).await;
    assert!(head(&mut first).await.contains("application/x-ndjson"));
    let progress = Progress {
        stage: Stage::Data,
        done: 4,
        total: 10,
    };
    assert_eq!(line(&mut first).await, CheckLine::Progress(progress));
    let mut second = ask(address).await;
    let refused = head(&mut second).await;
    assert!(refused.starts_with("HTTP/1.0 409"), "{refused}");
    let mut why = String::new();
    second.read_to_string(&mut why).await.unwrap();
    assert!(why.contains("a check is under way already"), "{why}");
    assert_eq!(slow.running.load(Ordering::SeqCst), 1);

    drop(first);
    let gone = async {
        while slow.running.load(Ordering::SeqCst) > 0 {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), gone)
        .await
        .expect("the check goes on without a client");

    let mut third = ask(address).await;
    head(&mut third).await;
    line(&mut third).await;
    slow.end.notify_one();
    let report = loop {
        match line(&mut third).await {
            CheckLine::Progress(_) => {}
            CheckLine::Report(report) => break report,
            CheckLine::Error(error) => panic!("{error}"),
        }
    };
    assert!(report.sound && report.read_data);
    serving.abort();
}
