//! Which errors say that something is lost, rather than that it cannot be had now.

use cairn::chunk::pack::ReadError as PackError;
use cairn::chunk::{MetaError, ReadError, WriteError};
use cairn::object::StoreError;

pub fn tells_loss(error: &StoreError) -> bool {
    match error {
        StoreError::Malformed(_) => true,
        StoreError::Meta(error) | StoreError::Write(WriteError::Meta(error)) => is_malformed(error),
        StoreError::Data(ReadError::Damaged { .. }) => true,
        StoreError::Data(ReadError::Meta(error)) => is_malformed(error),
        StoreError::Data(ReadError::Pack(error)) => matches!(
            **error,
            PackError::Damaged { .. } | PackError::WrongChunk { .. } | PackError::NotFound(_)
        ),
        _ => false,
    }
}

fn is_malformed(error: &MetaError) -> bool {
    matches!(error, MetaError::Malformed(_))
}
