//! SIGKILL at random moments, restart, and a look at everything that was acknowledged.

use crate::Result;
use crate::client::{Access, Client, refused};
use crate::history::{Clock, History, Mark};
use crate::server::{Launch, Server};
use crate::verify::verify;
use crate::workload::{BUCKET, Ending, Running, Scale, WRITERS};
use fastrand::Rng;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

#[derive(clap::Args)]
pub struct KillOptions {
    #[command(flatten)]
    pub launch: Launch,
    /// How often the gateway is killed.
    #[arg(long, default_value_t = 5)]
    pub kills: u64,
    /// Where the moments, sizes and bodies come from; drawn and printed when not given.
    #[arg(long)]
    pub seed: Option<u64>,
    /// Directory for the data; must not exist. Kept on failure.
    #[arg(long)]
    pub work: PathBuf,
}

pub async fn create_bucket(access: &Access) -> Result<()> {
    let response = Client::new(access)
        .send("PUT", &format!("/{BUCKET}"), &[], &[], &[])
        .await?;
    if response.status == 200 {
        Ok(())
    } else {
        Err(refused("creating the bucket", &response).into())
    }
}

/// Runs the workload for a time; then `end` ends the gateway.
pub struct Round<'a> {
    pub scale: Scale,
    pub clock: &'a Arc<Clock>,
    pub seed: u64,
    pub duration: Duration,
}

impl Round<'_> {
    /// The histories after the round and the number of acknowledged requests. With `killed` the gateway is killed under the load, else the load
    /// ends first and the gateway is left running in the answer.
    pub async fn run(
        &self,
        server: Server,
        histories: Vec<History>,
        killed: bool,
    ) -> Result<(Vec<History>, u64, Option<Server>)> {
        let ending = Ending::default();
        let running = Running::start(&server.access, histories, self.scale, self.clock, &ending, self.seed);
        tokio::time::sleep(self.duration).await;
        ending.store(true, Ordering::SeqCst);
        if killed {
            server.kill().await?;
            let (histories, done) = running.join().await?;
            return Ok((histories, done, None));
        }
        let (histories, done) = running.join().await?;
        Ok((histories, done, Some(server)))
    }
}

pub async fn run(options: &KillOptions) -> Result<()> {
    let seed = options.seed.unwrap_or_else(|| fastrand::u64(0..1_000_000));
    println!("kill mode: {} kills, --seed {seed}", options.kills);
    let mut rng = Rng::with_seed(seed);
    std::fs::create_dir(&options.work)?;
    let data = std::fs::canonicalize(&options.work)?.join("data");
    std::fs::create_dir(&data)?;
    let clock = Arc::new(Clock::Count(AtomicU64::new(1)));
    let mut histories = vec![History::default(); WRITERS];
    let mut server = Server::start(&options.launch, &data, None).await?;
    create_bucket(&server.access).await?;
    for kill in 1..=options.kills {
        let duration = Duration::from_millis(rng.u64(200..3000));
        let round = Round {
            scale: Scale::Full,
            clock: &clock,
            seed: rng.u64(..),
            duration,
        };
        let outcome = async {
            let (mut after, done, _) = round.run(server, histories, true).await?;
            let server = Server::start(&options.launch, &data, None).await?;
            let states = verify(&server.access, &after, Mark::MAX).await?;
            for (history, found) in after.iter_mut().zip(states) {
                found.into_iter().for_each(|(key, state)| history.settle(&key, state));
                history.uploads.retain(|upload| upload.ending.is_none());
            }
            if !options.launch.no_recount {
                server.recount().await?;
            }
            Ok::<_, crate::Failure>((server, after, done))
        };
        let (next, after, done) = outcome.await.map_err(|error| {
            format!(
                "kill {kill} of {}, seed {seed}, data kept in {}:\n{error}",
                options.kills,
                data.display()
            )
        })?;
        println!("kill {kill}: after {duration:?} and {done} acknowledged requests: all sound");
        (server, histories) = (next, after);
    }
    server.stop().await?;
    std::fs::remove_dir_all(&options.work)?;
    Ok(())
}
