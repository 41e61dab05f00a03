//! One fault at one event, and what must hold afterwards.

use super::request::{Ask, Kind};
use super::site::{Answer, Site};
use super::{Job, Pass};
use crate::control::{Fault, Fired, page};
use crate::{Failure, Result};
use std::time::{Duration, Instant};

/// A killed process is gone at once, unless the machine is very busy.
const DEATH_TIMEOUT: Duration = Duration::from_secs(60);

pub struct Case {
    pub pass: Pass,
    pub at: u64,
}

/// What was seen of a case.
#[derive(Default)]
pub struct Seen {
    pub fired: Option<Fired>,
    pub answer: Option<Answer>,
    /// Whether a start came up.
    pub started: Option<bool>,
    /// Events that counted up to the answer, and until all was quiet.
    pub to_answer: u64,
    pub in_all: u64,
    at: u64,
}

impl Seen {
    /// The event and what came of it, for the table. Kills have one outcome only.
    pub fn outcome(&self, fault: Fault, error: Option<String>) -> Option<(String, String)> {
        let fired = self.fired.as_ref().filter(|_| !is_kill(fault))?;
        let outcome = match (&self.answer, self.started, error) {
            (_, _, Some(_)) => "failure".to_owned(),
            (Some(Answer::Done), _, _) if self.at > self.to_answer => "success, before it".to_owned(),
            (Some(Answer::Done), _, _) => "success".to_owned(),
            (Some(Answer::Refused(status)), _, _) => status.to_string(),
            (Some(Answer::Gone), _, _) => "connection closed".to_owned(),
            (None, Some(true), _) => "started".to_owned(),
            (None, _, _) => "did not start".to_owned(),
        };
        Some((fired.to_string(), outcome))
    }

    /// Whether the fault befell content that the answer rests upon.
    pub fn is_about_content(&self) -> bool {
        self.at <= self.to_answer && self.fired.as_ref().is_some_and(Fired::is_poisonous)
    }
}

fn is_kill(fault: Fault) -> bool {
    matches!(fault.action, page::KILL_BEFORE | page::KILL_AFTER | page::KILL_HALFWAY)
}

impl Case {
    pub async fn run(&self, site: &mut Site) -> std::result::Result<Seen, (Seen, Failure)> {
        let mut seen = Seen {
            at: self.at,
            ..Seen::default()
        };
        let done = match self.pass.job {
            Job::Request(kind) => self.request(site, kind, &mut seen).await,
            Job::Start => self.start(site, &mut seen).await,
            Job::FirstStart => self.first_start(site, &mut seen).await,
        };
        let disarmed = site.control.disarm();
        match done.and(disarmed) {
            Ok(()) => Ok(seen),
            Err(error) => Err((seen, error)),
        }
    }

    async fn request(&self, site: &mut Site, kind: Kind, seen: &mut Seen) -> Result<()> {
        if !site.is_running() {
            site.fill().await?;
            restart(site).await?;
        }
        let ask = site.prepare(kind).await?;
        site.control.quiet().await?;
        site.control.arm(self.pass.fault, self.at)?;
        let answer = site.ask(&ask).await?;
        seen.to_answer = site.control.count()?;
        site.control.quiet().await?;
        seen.in_all = site.control.count()?;
        seen.fired = site.control.fired()?;
        site.control.disarm()?;
        let is_done = matches!(answer, Answer::Done);
        seen.answer = Some(answer);
        let Some(fired) = seen.fired.clone() else {
            if self.at == 1 {
                return Err("no event counted: is this the recorder of these sources?".into());
            }
            if !is_done {
                return Err(format!("answered with {:?} though nothing failed", seen.answer).into());
            }
            return after_death(site, &ask, is_done, kind).await;
        };
        if is_kill(self.pass.fault) {
            wait_for_death(site).await?;
            return after_death(site, &ask, is_done, kind).await;
        }
        // The collector works behind the answer.
        let may_succeed = self.at > seen.to_answer;
        self.after_failure(site, &ask, is_done, may_succeed, &fired).await?;
        restart(site).await?;
        site.verify().await
    }

    /// The gateway lives, and an operation of its has failed.
    async fn after_failure(
        &self,
        site: &mut Site,
        ask: &Ask,
        is_done: bool,
        may_succeed: bool,
        fired: &Fired,
    ) -> Result<()> {
        let action = self.pass.fault.action;
        if site.is_gone()? {
            return Err("the gateway ended".into());
        }
        if action == page::SHORTEN && !is_done {
            return Err("a short write failed the request".into());
        }
        // What a directory loses is not simulated; the request's packs are written before its answer. A collected pack's
        // name may stay.
        let is_for_good = action == page::FAIL_ON && fired.path.ends_with(".pack");
        if is_done && !may_succeed && (fired.keeps_name() || is_for_good) {
            return Err("answered with success".into());
        }
        let poisons = fired.is_poisonous() && action != page::SHORTEN && self.pass.fault.errno != 0;
        let is_ready = site.is_ready().await?;
        if poisons && fired.is_log() && is_ready {
            return Err("ready after the commit log failed".into());
        }
        if is_ready {
            site.look(&ask.effect, is_done).await?;
            site.probe().await?;
        } else {
            site.probe_refusal().await?;
        }
        let afterwards = site.control.afterwards()?;
        if poisons && afterwards > 0 {
            return Err(format!("the failed file was written or synced {afterwards} more times").into());
        }
        if !is_ready {
            restart(site).await?;
            site.look(&ask.effect, is_done).await?;
            site.probe().await?;
        }
        Ok(())
    }

    async fn start(&self, site: &mut Site, seen: &mut Seen) -> Result<()> {
        // Each start from the same directory, so that its events are the same.
        if !site.restore()? {
            site.fill().await?;
            site.probe().await?;
            site.kill().await?;
            site.save()?;
        }
        self.start_under_fault(site, seen).await?;
        site.start().await?;
        site.verify().await?;
        site.probe().await?;
        site.kill().await
    }

    async fn first_start(&self, site: &mut Site, seen: &mut Seen) -> Result<()> {
        self.start_under_fault(site, seen).await?;
        site.fill().await?;
        site.probe().await?;
        site.verify().await
    }

    /// Leaves no gateway.
    async fn start_under_fault(&self, site: &mut Site, seen: &mut Seen) -> Result<()> {
        site.control.arm(self.pass.fault, self.at)?;
        let started = site.try_start().await?;
        (seen.to_answer, seen.in_all) = (site.control.count()?, site.control.count()?);
        seen.fired = site.control.fired()?;
        site.control.disarm()?;
        seen.started = Some(started);
        if started && self.at == 1 && seen.fired.is_none() {
            return Err("no event counted: is this the recorder of these sources?".into());
        }
        if !started && seen.fired.is_none() {
            return Err("did not start though nothing failed".into());
        }
        site.kill().await
    }
}

async fn restart(site: &mut Site) -> Result<()> {
    site.kill().await?;
    site.start().await
}

async fn wait_for_death(site: &mut Site) -> Result<()> {
    let begun = Instant::now();
    while !site.is_gone()? {
        if begun.elapsed() > DEATH_TIMEOUT {
            return Err("the gateway outlived SIGKILL".into());
        }
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    Ok(())
}

/// Nothing failed but the process: all that it acknowledged is there, and it goes on.
async fn after_death(site: &mut Site, ask: &Ask, is_done: bool, kind: Kind) -> Result<()> {
    restart(site).await?;
    site.look(&ask.effect, is_done).await?;
    site.probe().await?;
    if kind.wants_no_open_pack() {
        restart(site).await?;
    }
    Ok(())
}
