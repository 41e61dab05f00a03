//! Ships the commit log behind the packs that it needs.

use std::collections::VecDeque;

use bytes::Bytes;
use parking_lot::Mutex;

use super::DELTA_BYTES;
use super::names::{Digest, Id, SegmentName};
use super::packs::Inventory;
use super::points::Point;
use super::task::{Backup, Interrupted};
use crate::ids::Sequence;
use crate::kv::log::Position;
use crate::kv::{Kv, Mutation};

/// Moments that are remembered while nothing is shipped: an hour of them, then fewer.
const MARKS_MAX: usize = 4096;

/// How far the log was durable at a time.
#[derive(Clone, Copy, Debug)]
pub struct Mark {
    offset: u64,
    point: Point,
}

/// The moments that may become points, oldest first.
#[derive(Default)]
pub struct Marks(Mutex<VecDeque<Mark>>);

impl Marks {
    fn push(&self, mark: Mark) {
        let mut marks = self.0.lock();
        if marks
            .back()
            .is_some_and(|last| last.point.sequence >= mark.point.sequence)
        {
            return;
        }
        if marks.len() >= MARKS_MAX {
            // Every other one goes: a restore can still go to any time, less finely.
            let mut index = 0;
            marks.retain(|_| {
                index += 1;
                index % 2 == 0
            });
        }
        marks.push_back(mark);
    }

    fn take(&self) -> VecDeque<Mark> {
        std::mem::take(&mut *self.0.lock())
    }

    pub fn clear(&self) {
        self.0.lock().clear();
    }
}

/// A stretch of history that goes on without a gap.
pub struct Run {
    pub id: Id,
    /// Up to here the log has arrived.
    pub position: Position,
    /// Of the first commit that a restore can end at: what is before may need packs that never arrived.
    pub points_from: Sequence,
    /// Log offset from which on the last checkpoint needs the log; `None`: there is no checkpoint yet.
    pub checkpoint_offset: Option<u64>,
}

impl Backup {
    /// Remembers how far the log is durable now.
    pub(super) fn sample(&self) {
        let durable = self.sources.tail.durable();
        let now = self.sources.clock.now();
        self.marks.push(Mark {
            offset: durable.offset,
            point: Point {
                sequence: durable.sequence,
                time: now,
            },
        });
        self.progress
            .sampled(now, durable.sequence, self.sources.tail.held_bytes());
    }

    /// Ships once: first what the packs have, then the log as far as it was durable before that was read.
    pub(super) async fn pass(&self, run: &mut Run, inventory: &mut Inventory) -> Result<(), Interrupted> {
        self.sample();
        let mut marks = self.marks.take();
        marks.retain(|mark| mark.point.sequence > run.position.sequence);
        if marks.is_empty() {
            let reached = self.progress.run_point().map(|point| point.sequence);
            if reached.is_none_or(|reached| reached < run.position.sequence) {
                // What was shipped last is no point: an empty commit makes one, even if nobody else commits.
                // If it fails, as on a full disk, the next pass commits one.
                drop(self.sources.kv.commit(Mutation::new()).await);
            }
            return Ok(());
        }
        let shipment = self.ship_packs(inventory).await?;
        if !shipment.is_sound {
            // A deletion is committed before it is done: from this commit on nobody needs what is gone.
            run.points_from = self.sources.tail.durable().sequence;
        }
        for mark in marks {
            self.ship_log(run, mark).await?;
        }
        Ok(())
    }

    /// Ships the log up to `mark`.
    async fn ship_log(&self, run: &mut Run, mark: Mark) -> Result<(), Interrupted> {
        while run.position.sequence < mark.point.sequence {
            let (tail, from) = (self.sources.tail.clone(), run.position);
            let read = move || {
                let stretch = tail.read(from, mark.offset, DELTA_BYTES)?;
                Ok::<_, Interrupted>(stretch.map(|stretch| (Digest::of(&stretch.bytes), stretch)))
            };
            let read = tokio::task::spawn_blocking(read)
                .await
                .map_err(|_| Interrupted::Stopped)?;
            let (digest, stretch) = read?.ok_or(Interrupted::NoLog)?;
            let end = stretch.end;
            let is_point = end.sequence == mark.point.sequence && end.sequence >= run.points_from;
            let name = |salt| {
                let name = SegmentName {
                    run: run.id,
                    start: stretch.start,
                    end: end.offset,
                    sequence: end.sequence,
                    time: mark.point.time,
                    is_point,
                    salt,
                    digest,
                };
                name.to_string()
            };
            self.vault.put(name, Bytes::from(stretch.bytes)).await?;
            run.position = end;
            self.sources.tail.hold_from(end.offset);
            if is_point {
                self.progress.reached(mark.point);
            }
        }
        Ok(())
    }
}
