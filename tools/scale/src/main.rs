//! Makes a store of millions of chunks, and looks chunks up in it. `tools/scale/measure` drives it.

use std::error::Error;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use cairn::kv::rocks::{RocksKv, RocksOptions};
use clap::{Parser, Subcommand};
use prometheus::Registry;

mod content;
mod fill;
mod lookup;

/// That of the gateway, so that its memory is measured as it would be there.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

type Failure = Box<dyn Error + Send + Sync>;

#[derive(Parser)]
#[command(about = "Makes a store of millions of chunks, and looks chunks up in it")]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Writes chunks, packs and all rows that belong to them.
    Fill(Fill),
    /// Opens the metadata store and times lookups.
    Lookup(Lookup),
}

#[derive(clap::Args)]
struct Fill {
    /// A gateway's data directory.
    #[arg(long)]
    data: PathBuf,
    /// Chunks to write; rounded up to whole objects of 896.
    #[arg(long)]
    chunks: u64,
    /// Number of the first one: how many there are already.
    #[arg(long, default_value_t = 0)]
    first: u64,
    /// Does not close the store at the end: says so and waits to be killed.
    #[arg(long)]
    hold: bool,
}

#[derive(clap::Args)]
struct Lookup {
    /// A gateway's data directory.
    #[arg(long)]
    data: PathBuf,
    /// Chunks that are there.
    #[arg(long)]
    chunks: u64,
    /// Lookups of each kind.
    #[arg(long, default_value_t = 0)]
    count: u64,
    /// Lookups that are made before the ones that are timed.
    #[arg(long, default_value_t = 0)]
    warm: u64,
    /// Bytes for what was read; default: as shipped.
    #[arg(long)]
    block_cache: Option<usize>,
}

fn options(data: &Path) -> RocksOptions {
    RocksOptions {
        dir: data.to_path_buf(),
        ..RocksOptions::default()
    }
}

async fn open(options: RocksOptions) -> Result<RocksKv, Failure> {
    Ok(RocksKv::open(options, &Registry::new()).await?)
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let done = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(Failure::from)
        .and_then(|runtime| {
            runtime.block_on(async {
                match arguments.command {
                    Command::Fill(fill) => fill::run(&fill).await,
                    Command::Lookup(lookup) => lookup::run(&lookup).await,
                }
            })
        });
    match done {
        Ok(report) => {
            println!("{report}");
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("scale: {error}");
            ExitCode::FAILURE
        }
    }
}
