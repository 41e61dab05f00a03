//! ListObjectsV2, page after page.

use memchr::memmem;

use crate::sign::{Extra, encode_query};
use crate::worker::{Moved, OpError, Worker, between};

/// Where a worker stands in the listing.
#[derive(Default)]
pub struct Cursor {
    token: String,
    pages: u64,
}

impl Worker {
    /// One page of up to 1,000 keys; the next call goes on behind it.
    pub(crate) async fn list(&mut self) -> Result<Moved, OpError> {
        let load = &self.plan.load;
        self.path.clear();
        self.path.push('/');
        self.path.push_str(&load.bucket);
        let mut query = String::new();
        let fields = [
            ("continuation-token", self.cursor.token.as_str()),
            ("delimiter", &load.delimiter),
            ("list-type", "2"),
            ("max-keys", "1000"),
            ("prefix", &load.prefix),
            ("start-after", &load.start_after),
        ];
        for (field, value) in fields.into_iter().filter(|(_, value)| !value.is_empty()) {
            if !query.is_empty() {
                query.push('&');
            }
            query.push_str(field);
            query.push('=');
            query.push_str(&encode_query(value));
        }
        let answer = self.plain("GET", &query, Extra::None).await?;
        self.expect(&answer, 200)?;
        let keys = memmem::find_iter(&self.text, b"<Contents>").count();
        let prefixes = memmem::find_iter(&self.text, b"<CommonPrefixes>").count();
        let found = (keys + prefixes) as u64;
        self.advance(found)?;
        Ok(Moved {
            bytes: answer.body_bytes,
            keys: found,
        })
    }

    fn advance(&mut self, found: u64) -> Result<(), OpError> {
        let text = String::from_utf8_lossy(&self.text);
        let token = between(&text, "<NextContinuationToken>", "</NextContinuationToken>").unwrap_or_default();
        let truncated = text.contains("<IsTruncated>true");
        if truncated == token.is_empty() {
            return Err(OpError::Wrong("IsTruncated and NextContinuationToken disagree"));
        }
        if truncated && found == 0 {
            return Err(OpError::Wrong("an empty page is not the last"));
        }
        self.cursor.pages += 1;
        if !truncated || self.plan.load.pages.is_some_and(|pages| self.cursor.pages >= pages) {
            self.cursor = Cursor::default();
        } else {
            self.cursor.token = token.replace("&amp;", "&");
        }
        Ok(())
    }
}
