//! Who in this process uses which data now: uploads that build it, readers, and the tick that unwinds it.
//!
//! Sessions decide only when building data may be thrown away and when a reader is waited out. That nothing live is
//! lost rests on the guards of the commits.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::Notify;

use crate::ids::DataId;

#[derive(Default)]
struct State {
    building: HashSet<DataId>,
    readers: HashMap<DataId, usize>,
    unwinding: HashSet<DataId>,
    uploads: usize,
    reads: usize,
}

/// The process's sessions.
#[derive(Default)]
pub(super) struct Sessions {
    state: Mutex<State>,
    /// Told when there may be garbage; a hint only.
    pub garbage: Notify,
}

impl Sessions {
    pub fn build(self: &Arc<Self>, data: DataId) -> Session {
        self.state.lock().building.insert(data);
        Session {
            data,
            sessions: Arc::clone(self),
            forgotten: false,
        }
    }

    /// `None`: the data is being unwound.
    pub fn read(self: &Arc<Self>, data: DataId) -> Option<ReadPin> {
        let mut state = self.state.lock();
        if state.unwinding.contains(&data) {
            return None;
        }
        *state.readers.entry(data).or_default() += 1;
        state.reads += 1;
        Some(ReadPin {
            data,
            sessions: Arc::clone(self),
        })
    }

    /// Readers that come later are turned away until the guard drops. `None`: somebody reads or builds the data.
    pub fn unwind(self: &Arc<Self>, data: DataId) -> Option<Unwinding> {
        let mut state = self.state.lock();
        if state.readers.contains_key(&data) || state.building.contains(&data) || !state.unwinding.insert(data) {
            return None;
        }
        Some(Unwinding {
            data,
            sessions: Arc::clone(self),
        })
    }

    /// Whether this process builds the data, or does not know whether it was published.
    pub fn builds(&self, data: DataId) -> bool {
        self.state.lock().building.contains(&data)
    }

    /// Counts an upload in until the guard drops.
    pub fn upload(self: &Arc<Self>) -> ActiveUpload {
        self.state.lock().uploads += 1;
        ActiveUpload(Arc::clone(self))
    }

    /// Streams that are being read.
    pub fn reads(&self) -> usize {
        self.state.lock().reads
    }

    pub fn uploads(&self) -> usize {
        self.state.lock().uploads
    }
}

/// Holds building data. Dropped without [`Session::settle`] the data is garbage.
pub(super) struct Session {
    data: DataId,
    sessions: Arc<Sessions>,
    forgotten: bool,
}

impl Session {
    /// The data is published: nobody needs to look after it.
    pub fn settle(mut self) {
        self.forgotten = true;
        self.sessions.state.lock().building.remove(&self.data);
    }

    /// Nobody knows whether it is published: it is left alone until the next start, which will see.
    pub fn leave(&mut self) {
        self.forgotten = true;
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        if !self.forgotten {
            self.sessions.state.lock().building.remove(&self.data);
            self.sessions.garbage.notify_one();
        }
    }
}

/// Keeps data from being unwound while it is read.
pub(super) struct ReadPin {
    data: DataId,
    sessions: Arc<Sessions>,
}

impl Drop for ReadPin {
    fn drop(&mut self) {
        let mut state = self.sessions.state.lock();
        state.reads -= 1;
        if let Some(count) = state.readers.get_mut(&self.data) {
            *count -= 1;
            if *count == 0 {
                state.readers.remove(&self.data);
            }
        }
    }
}

pub(super) struct Unwinding {
    data: DataId,
    sessions: Arc<Sessions>,
}

impl Drop for Unwinding {
    fn drop(&mut self) {
        self.sessions.state.lock().unwinding.remove(&self.data);
    }
}

pub(super) struct ActiveUpload(Arc<Sessions>);

impl Drop for ActiveUpload {
    fn drop(&mut self) {
        self.0.state.lock().uploads -= 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn readers_and_unwinding_exclude_each_other() {
        let (sessions, data) = (Arc::new(Sessions::default()), DataId([1; 16]));
        let (first, second) = (sessions.read(data).unwrap(), sessions.read(data).unwrap());
        drop(first);
        assert!(sessions.unwind(data).is_none());
        drop(second);
        let unwinding = sessions.unwind(data).unwrap();
        assert!(sessions.read(data).is_none() && sessions.unwind(data).is_none());
        drop(unwinding);
        assert!(sessions.read(data).is_some());
    }

    #[test]
    fn data_of_unknown_outcome_is_left_alone() {
        let (sessions, data) = (Arc::new(Sessions::default()), DataId([1; 16]));
        let mut session = sessions.build(data);
        assert!(sessions.unwind(data).is_none());
        session.leave();
        drop(session);
        assert!(sessions.unwind(data).is_none());
        drop(sessions.build(data));
        assert!(sessions.unwind(data).is_some());
    }
}
