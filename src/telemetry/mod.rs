//! What the process tells about itself: log lines, and metrics of the HTTP side and of the process.

mod http;
mod log;
mod operation;
mod process;

pub use self::http::{HttpMetrics, Rejection};
pub use self::log::{LogGuard, LogMetrics, in_request, init};
pub use self::operation::{Operation, Target};
pub use self::process::ProcessMetrics;
