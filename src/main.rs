//! The `cairn` program.

use std::process::ExitCode;

/// Frees and reuses the many short-lived buffers of a request faster than the system's allocator.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    cairn::cli::run(cairn::config::arguments())
}
