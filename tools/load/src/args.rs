//! The command line.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueEnum};

#[derive(Parser)]
#[command(
    name = "load",
    about = "Load generator for S3 servers",
    args_conflicts_with_subcommands = true
)]
pub struct Cli {
    #[command(subcommand)]
    pub command: Option<Command>,
    #[command(flatten)]
    pub load: Option<Load>,
}

#[derive(Subcommand)]
pub enum Command {
    /// Measure the machine: one-core MD5, SHA-256, memcpy, and synced 4 KiB writes in a directory.
    Limits {
        #[arg(long)]
        dir: PathBuf,
        #[arg(long)]
        json: Option<PathBuf>,
    },
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub enum Op {
    Put,
    Get,
    #[value(alias = "stat")]
    Head,
    List,
    Delete,
    Multipart,
    /// 60 % get, 25 % put, 10 % head, 5 % list.
    Mixed,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub enum Payload {
    /// One hash over the whole body: the default below 64 KiB.
    Signed,
    /// aws-chunked, every 64 KiB signed: the default from 64 KiB.
    Chunked,
    Unsigned,
}

#[derive(Args, Clone)]
pub struct Load {
    #[arg(long)]
    pub endpoint: String,
    #[arg(long)]
    pub access_key: String,
    #[arg(long)]
    pub secret_key: String,
    #[arg(long, value_enum)]
    pub op: Op,
    /// Of an object; for multipart, of the whole.
    #[arg(long, default_value = "4KiB", value_parser = parse_size)]
    pub size: u64,
    #[arg(long, default_value_t = 16)]
    pub concurrency: usize,
    #[arg(long, default_value = "10s", value_parser = parse_duration)]
    pub duration: Duration,
    #[arg(long, default_value = "2s", value_parser = parse_duration)]
    pub warmup: Duration,
    /// A second endpoint, measured in alternation with the first.
    #[arg(long)]
    pub against: Option<String>,
    #[arg(long)]
    pub against_access_key: Option<String>,
    #[arg(long)]
    pub against_secret_key: Option<String>,
    /// Length of a turn with --against.
    #[arg(long, default_value = "1s", value_parser = parse_duration)]
    pub slice: Duration,
    #[arg(long)]
    pub json: Option<PathBuf>,
    #[arg(long, default_value = "load")]
    pub bucket: String,
    #[arg(long, default_value = "us-east-1")]
    pub region: String,
    /// Objects made beforehand for get, head, list, delete and mixed; for put the ring of keys (default: ever new).
    #[arg(long)]
    pub keys: Option<u64>,
    /// Prefix of every key of this run; objects made beforehand lie under it.
    #[arg(long, default_value = "o/")]
    pub key_prefix: String,
    /// Keys spread over nested folders (100 a folder) instead of one flat row.
    #[arg(long)]
    pub deep: bool,
    /// The objects are there already, from an earlier run with the same keys and size.
    #[arg(long)]
    pub no_fill: bool,
    /// Make the objects and end.
    #[arg(long)]
    pub fill_only: bool,
    #[arg(long)]
    pub compressible: bool,
    /// Part of the bodies that repeat one of 64 earlier bodies, 0 to 1.
    #[arg(long, default_value_t = 0.0)]
    pub duplicate_ratio: f64,
    #[arg(long, value_enum)]
    pub payload: Option<Payload>,
    /// Part of a multipart upload.
    #[arg(long, default_value = "8MiB", value_parser = parse_size)]
    pub part_size: u64,
    /// Parts are copied by the server from one object of the part size.
    #[arg(long)]
    pub part_copy: bool,
    /// End after this many operations.
    #[arg(long)]
    pub count: Option<u64>,
    #[arg(long)]
    pub server_pid: Option<u32>,
    #[arg(long)]
    pub against_pid: Option<u32>,
    /// Take any certificate of an https endpoint.
    #[arg(long)]
    pub tls_insecure: bool,
    /// Keep this many connections open, each used in turn by the workers.
    #[arg(long, default_value_t = 0)]
    pub connections: usize,
    /// list: only keys with this prefix.
    #[arg(long, default_value = "")]
    pub prefix: String,
    #[arg(long, default_value = "")]
    pub delimiter: String,
    #[arg(long, default_value = "")]
    pub start_after: String,
    /// list: begin anew after this many pages (default: at the end of the listing).
    #[arg(long)]
    pub pages: Option<u64>,
    #[arg(long, default_value_t = 1)]
    pub threads: usize,
}

fn parse_size(text: &str) -> Result<u64, String> {
    let digits = text.trim_end_matches(|c: char| !c.is_ascii_digit());
    let unit = match text.get(digits.len()..).unwrap_or_default() {
        "" | "B" => 1,
        "KiB" | "K" => 1 << 10,
        "MiB" | "M" => 1 << 20,
        "GiB" | "G" => 1 << 30,
        other => return Err(format!("unknown unit '{other}': use B, KiB, MiB or GiB")),
    };
    digits.parse::<u64>().map(|n| n * unit).map_err(|e| e.to_string())
}

fn parse_duration(text: &str) -> Result<Duration, String> {
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let unit_s = match text.get(digits.len()..).unwrap_or_default() {
        "ms" => 0.001,
        "" | "s" => 1.0,
        "m" => 60.0,
        other => return Err(format!("unknown unit '{other}': use ms, s or m")),
    };
    let number = digits.parse::<f64>().map_err(|e| e.to_string())?;
    Duration::try_from_secs_f64(number * unit_s).map_err(|e| e.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_and_durations() {
        assert_eq!(parse_size("4KiB"), Ok(4096));
        assert_eq!(parse_size("0"), Ok(0));
        assert!(parse_size("4kb").is_err());
        assert_eq!(parse_duration("1500ms"), Ok(Duration::from_millis(1500)));
        assert_eq!(parse_duration("2m"), Ok(Duration::from_secs(120)));
    }
}
