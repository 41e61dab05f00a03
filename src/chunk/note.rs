//! The note in a chunk's row that its record does not read back: the next upload of the same bytes stores them anew.

use crate::chunk::error::ReadError;
use crate::chunk::index;
use crate::chunk::store::ChunkStore;
use crate::ids::ChunkId;
use crate::kv::{CommitError, Mutation};
use crate::meta::chunk::ChunkRow;
use crate::meta::key;

impl ChunkStore {
    /// Notes it, unless the row has changed since it was read.
    pub(super) async fn note_damage(&self, id: &ChunkId, known: index::Known<ChunkRow>) -> Result<(), ReadError> {
        self.note_damage_in(Mutation::deferred(), id, known).await
    }

    /// The same, if the guards of `mutation` hold.
    pub(super) async fn note_damage_in(
        &self,
        mut mutation: Mutation,
        id: &ChunkId,
        known: index::Known<ChunkRow>,
    ) -> Result<(), ReadError> {
        if known.row.damaged {
            return Ok(());
        }
        self.metrics.damaged_chunks.inc();
        mutation.unchanged(key::chunk(id), Some(known.version));
        mutation.put(
            key::chunk(id),
            ChunkRow {
                damaged: true,
                ..known.row
            }
            .encode(),
        );
        match self.kv.commit(mutation).await {
            // The note is a help, not a promise: the next read makes it again.
            Ok(_) | Err(CommitError::Conflict { .. } | CommitError::Unavailable(_) | CommitError::Unknown(_)) => Ok(()),
            Err(error @ CommitError::Refused(_)) => Err(ReadError::Meta(error.into())),
        }
    }
}
