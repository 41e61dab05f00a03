//! Answers that the server makes itself, and what it adds to the errors of the S3 side.

use bytes::Bytes;
use http::header::{CONNECTION, CONTENT_LENGTH, CONTENT_TYPE, RETRY_AFTER};
use http::{HeaderValue, Response, StatusCode};

/// An error of the server's own, in S3's vocabulary
/// (<https://docs.aws.amazon.com/AmazonS3/latest/API/ErrorResponses.html>).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    SlowDown,
    RequestTimeout,
    NoSuchPage,
    Internal,
}

impl Refusal {
    pub fn status(self) -> StatusCode {
        match self {
            Self::SlowDown => StatusCode::SERVICE_UNAVAILABLE,
            Self::RequestTimeout => StatusCode::BAD_REQUEST,
            Self::NoSuchPage => StatusCode::NOT_FOUND,
            Self::Internal => StatusCode::INTERNAL_SERVER_ERROR,
        }
    }

    fn code_and_message(self) -> (&'static str, &'static str) {
        match self {
            Self::SlowDown => (
                "SlowDown",
                "Too many requests are in progress. Reduce your request rate and try again.",
            ),
            Self::RequestTimeout => (
                "RequestTimeout",
                "Your socket connection to the server was not read from or written to within the timeout period.",
            ),
            Self::NoSuchPage => ("NoSuchKey", "Nothing is served under /-/ on this port."),
            Self::Internal => ("InternalError", "We encountered an internal error. Please try again."),
        }
    }

    pub fn document(self) -> String {
        let (code, message) = self.code_and_message();
        format!(
            "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<Error><Code>{code}</Code><Message>{message}</Message></Error>"
        )
    }

    /// The answer without its body, which the caller adds.
    pub fn head(self) -> Response<()> {
        let mut response = Response::new(());
        *response.status_mut() = self.status();
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/xml"));
        if self == Self::SlowDown {
            headers.insert(RETRY_AFTER, HeaderValue::from_static("1"));
        }
        if self == Self::RequestTimeout {
            headers.insert(CONNECTION, HeaderValue::from_static("close"));
        }
        response
    }

    /// A whole HTTP/1.1 answer for a connection that gets no server.
    pub fn raw(self) -> Vec<u8> {
        let body = self.document();
        let status = self.status();
        let reason = status.canonical_reason().unwrap_or_default();
        format!(
            "HTTP/1.1 {} {reason}\r\nContent-Type: application/xml\r\nContent-Length: {}\r\nRetry-After: 1\r\n\
             Connection: close\r\nServer: Cairn\r\n\r\n{body}",
            status.as_u16(),
            body.len()
        )
        .into_bytes()
    }
}

/// Adds `Resource`, `RequestId` and `HostId` to an error document, those that it does not have. Anything that is not an
/// error document is left as it is.
pub fn complete_error(document: &Bytes, resource: &str, request_id: &str, host_id: &str) -> Bytes {
    const END: &[u8] = b"</Error>";
    let Some(end) = document
        .len()
        .checked_sub(END.len())
        .filter(|end| document.get(*end..) == Some(END))
    else {
        return document.clone();
    };
    let Some(text) = document.get(..end).and_then(|text| std::str::from_utf8(text).ok()) else {
        return document.clone();
    };
    let mut out = String::with_capacity(document.len() + resource.len() + 128);
    out.push_str(text);
    for (name, value) in [("Resource", resource), ("RequestId", request_id), ("HostId", host_id)] {
        if !text.contains(&format!("<{name}>")) {
            out.push_str(&format!("<{name}>"));
            push_escaped(&mut out, value);
            out.push_str(&format!("</{name}>"));
        }
    }
    out.push_str("</Error>");
    Bytes::from(out)
}

/// Whether an answer is an XML document by its headers.
pub fn is_xml(headers: &http::HeaderMap) -> bool {
    headers
        .get(CONTENT_TYPE)
        .and_then(|kind| kind.to_str().ok())
        .is_some_and(|kind| kind.contains("/xml"))
}

pub fn set_length(headers: &mut http::HeaderMap, bytes: usize) {
    headers.insert(CONTENT_LENGTH, HeaderValue::from(bytes));
}

fn push_escaped(out: &mut String, text: &str) {
    for character in text.chars() {
        match character {
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '&' => out.push_str("&amp;"),
            '"' => out.push_str("&quot;"),
            other => out.push(other),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_get_what_they_lack() {
        let done = complete_error(&Bytes::from(Refusal::SlowDown.document()), "/b/a&b", "ID", "HOST");
        let text = std::str::from_utf8(&done).unwrap();
        assert!(
            text.ends_with("<Resource>/b/a&amp;b</Resource><RequestId>ID</RequestId><HostId>HOST</HostId></Error>")
        );
        assert_eq!(complete_error(&done, "/", "OTHER", "OTHER"), done);
        let page = Bytes::from_static(b"<html></html>");
        assert_eq!(complete_error(&page, "/", "ID", "HOST"), page);
    }
}
