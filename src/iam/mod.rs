//! Who may do what: identities with their keys, and the one place that turns a request into a [`Grant`].

mod authorize;
mod identity;

pub use authorize::{AccessDenied, Action, Grant, authorize};
pub use identity::{AccessKey, Identities, IdentitiesError, Identity, ROOT_CANONICAL_ID, ROOT_NAME, Secret};
