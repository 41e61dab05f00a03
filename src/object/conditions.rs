//! Preconditions: RFC 9110's order for reads, S3's outcomes for writes.

use crate::clock::Timestamp;
use crate::object::types::{ETag, ReadConditions, WriteConditions};
use crate::object::{DeleteError, GetError, PlaceError};

/// What the conditions of a read compare with.
#[derive(Clone, Copy)]
pub struct Current {
    pub size: u64,
    pub etag: ETag,
    pub modified: Timestamp,
}

/// Decides in the order of RFC 9110, 13.2.2: If-Match before If-Unmodified-Since, which it replaces; then
/// If-None-Match before If-Modified-Since, which it replaces.
pub fn check_read(conditions: &ReadConditions, current: Current) -> Result<(), GetError> {
    let modified = current.modified.unix_secs();
    match (&conditions.if_match, conditions.if_unmodified_since) {
        (Some(tags), _) if !tags.matches(&current.etag) => return Err(GetError::PreconditionFailed("If-Match")),
        (None, Some(since)) if modified > since.unix_secs() => {
            return Err(GetError::PreconditionFailed("If-Unmodified-Since"));
        }
        _ => {}
    }
    let unmodified = match (&conditions.if_none_match, conditions.if_modified_since) {
        (Some(tags), _) => tags.matches(&current.etag),
        (None, Some(since)) => modified <= since.unix_secs(),
        (None, None) => false,
    };
    if unmodified {
        return Err(GetError::NotModified {
            etag: current.etag,
            last_modified: current.modified,
        });
    }
    Ok(())
}

/// The same for the source of a copy, where "not modified" is a failure too.
pub fn check_source(conditions: &ReadConditions, current: Current) -> Result<(), &'static str> {
    match check_read(conditions, current) {
        Err(GetError::PreconditionFailed(header)) => Err(header),
        Err(_) if conditions.if_none_match.is_some() => Err("If-None-Match"),
        Err(_) => Err("If-Modified-Since"),
        Ok(()) => Ok(()),
    }
}

/// Decides a write over `current`, the row that the commit then guards.
pub fn check_write(conditions: &WriteConditions, current: Option<Current>) -> Result<(), PlaceError> {
    match (&conditions.if_match, current) {
        (Some(_), None) => return Err(PlaceError::NoSuchKey),
        (Some(tags), Some(current)) if !tags.matches(&current.etag) => {
            return Err(PlaceError::PreconditionFailed("If-Match"));
        }
        _ => {}
    }
    match (&conditions.if_none_match, current) {
        (Some(tags), Some(current)) if tags.matches(&current.etag) => {
            Err(PlaceError::PreconditionFailed("If-None-Match"))
        }
        _ => Ok(()),
    }
}

/// Decides a delete. An absent key is deleted already, whatever the conditions say.
pub fn check_delete(conditions: &WriteConditions, current: Current) -> Result<(), DeleteError> {
    let tag_differs = conditions
        .if_match
        .as_ref()
        .is_some_and(|tags| !tags.matches(&current.etag));
    let size_differs = conditions.if_match_size.is_some_and(|size| size != current.size);
    let time = conditions.if_match_last_modified;
    let time_differs = time.is_some_and(|time| time.unix_secs() != current.modified.unix_secs());
    match (tag_differs, time_differs, size_differs) {
        (true, _, _) => Err(DeleteError::PreconditionFailed("If-Match")),
        (_, true, _) => Err(DeleteError::PreconditionFailed("x-amz-if-match-last-modified-time")),
        (_, _, true) => Err(DeleteError::PreconditionFailed("x-amz-if-match-size")),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::object::types::ETagCondition;

    const NOW: Current = Current {
        size: 3,
        etag: ETag { md5: [7; 16], parts: 0 },
        modified: Timestamp::from_unix_ms(10_500),
    };

    fn tags(matching: bool) -> Option<ETagCondition> {
        Some(ETagCondition::OneOf(vec![
            "x".into(),
            if matching { NOW.etag.to_string() } else { "y".into() },
        ]))
    }

    #[test]
    fn reads_follow_the_order_of_the_rfc() {
        let at = |ms| Some(Timestamp::from_unix_ms(ms));
        let all = |conditions: ReadConditions| check_read(&conditions, NOW);
        // A matching If-Match overrules If-Unmodified-Since; an If-None-Match that differs overrules If-Modified-Since.
        assert!(
            all(ReadConditions {
                if_match: tags(true),
                if_unmodified_since: at(0),
                ..Default::default()
            })
            .is_ok()
        );
        assert!(
            all(ReadConditions {
                if_none_match: tags(false),
                if_modified_since: at(99_000),
                ..Default::default()
            })
            .is_ok()
        );
        assert!(matches!(
            all(ReadConditions {
                if_match: tags(false),
                if_none_match: tags(true),
                ..Default::default()
            }),
            Err(GetError::PreconditionFailed("If-Match"))
        ));
        assert!(matches!(
            all(ReadConditions {
                if_unmodified_since: at(9_999),
                ..Default::default()
            }),
            Err(GetError::PreconditionFailed(_))
        ));
        // Whole seconds: the object of 10.5 s was not modified since 10 s.
        assert!(matches!(
            all(ReadConditions {
                if_modified_since: at(10_000),
                ..Default::default()
            }),
            Err(GetError::NotModified { .. })
        ));
        assert!(matches!(
            all(ReadConditions {
                if_none_match: Some(ETagCondition::Any),
                ..Default::default()
            }),
            Err(GetError::NotModified { .. })
        ));
    }

    #[test]
    fn writes_have_the_outcomes_of_s3() {
        let if_match = WriteConditions {
            if_match: tags(true),
            ..Default::default()
        };
        assert!(check_write(&if_match, Some(NOW)).is_ok());
        assert!(matches!(check_write(&if_match, None), Err(PlaceError::NoSuchKey)));
        let create = WriteConditions {
            if_none_match: Some(ETagCondition::Any),
            ..Default::default()
        };
        assert!(check_write(&create, None).is_ok());
        assert!(matches!(
            check_write(&create, Some(NOW)),
            Err(PlaceError::PreconditionFailed("If-None-Match"))
        ));
        let sized = WriteConditions {
            if_match_size: Some(4),
            ..Default::default()
        };
        assert!(matches!(
            check_delete(&sized, NOW),
            Err(DeleteError::PreconditionFailed(_))
        ));
    }
}
