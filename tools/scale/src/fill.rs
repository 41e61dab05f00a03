//! Writes a store as uploads would leave it: packs of real records, and the rows that point to them.
//!
//! What is not real is the chunks' length, 64 bytes, so that millions of them fit on a disk. A pack is sealed at as many
//! records as one of 64 MiB would have with chunks of 64 KiB that compress to 40 KiB.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use cairn::chunk::pack::{Claims, ClaimsError, Location, NewRecord, PackOptions, PackSet};
use cairn::chunk::pool::BufferPool;
use cairn::clock::Clock;
use cairn::ids::{ChunkId, DataId, IdSource, PackId, SegmentId};
use cairn::kv::rocks::RocksKv;
use cairn::kv::{Durability, Kv, Mutation};
use cairn::limits::{BUFFER_POOL_BYTES, WINDOW_CHUNKS_MAX};
use cairn::meta::chunk::{ChunkRow, Place};
use cairn::meta::data::{DataRow, DataState};
use cairn::meta::domain::{DomainRow, DomainSecret};
use cairn::meta::key::{self, PackStatKind, UsageKind, UsageScope};
use cairn::meta::pack::PackRow;
use cairn::meta::record::UnknownFields;
use cairn::meta::segment::{SegmentEntry, SegmentRow};
use cairn::meta::tree::{Target, TreeEntry, TreeRow};
use prometheus::Registry;

use crate::content::{CHUNK_BYTES, DOMAIN, DOMAIN_KEY, chunk};
use crate::{Failure, Fill, open, options};

/// Segments of one object, whose rows are one commit: 1,800 of the 2,048 effects that one may have.
const SEGMENTS: usize = 7;
const OBJECT_CHUNKS: usize = SEGMENTS * WINDOW_CHUNKS_MAX;
/// Two appends of an object's records.
const PACK_BYTES: u64 = 300 << 10;
/// Chunks between two lines that tell how far it is.
const TELL_EVERY: u64 = 500_000;

/// Every pack that is there was sealed or is torn: nothing is asked.
struct Nothing;

impl Claims for Nothing {
    fn live_bytes(&self, _pack: PackId) -> Result<u64, ClaimsError> {
        Ok(0)
    }

    fn claimed(&self, _pack: PackId, places: &[(ChunkId, u32)]) -> Result<Vec<Option<u32>>, ClaimsError> {
        Ok(vec![None; places.len()])
    }
}

struct Filler {
    kv: RocksKv,
    packs: PackSet,
    ids: Arc<IdSource>,
    clock: Clock,
    segment_key: [u8; 32],
    known_packs: HashSet<PackId>,
    effects: u64,
}

pub async fn run(arguments: &Fill) -> Result<String, Failure> {
    std::fs::create_dir_all(&arguments.data)?;
    let clock = Clock::system();
    let ids = Arc::new(IdSource::new(clock.clone()));
    let pack_options = PackOptions {
        pack_bytes: PACK_BYTES,
        ..PackOptions::default()
    };
    let packs = PackSet::open(
        &arguments.data.join("packs"),
        pack_options,
        Arc::clone(&ids),
        BufferPool::new(BUFFER_POOL_BYTES),
        &Registry::new(),
        &Nothing,
    )?;
    let mut filler = Filler {
        kv: open(options(&arguments.data)).await?,
        packs,
        ids,
        clock,
        segment_key: blake3::derive_key("cairn 2026-11 segment names", &DOMAIN_KEY),
        known_packs: HashSet::new(),
        effects: 0,
    };
    filler.add_domain().await?;
    let (start, end) = (Instant::now(), arguments.first + arguments.chunks);
    let mut next = arguments.first;
    while next < end {
        let told = next / TELL_EVERY;
        filler.add_object(next).await?;
        next += OBJECT_CHUNKS as u64;
        if next / TELL_EVERY > told {
            eprintln!("{next} chunks after {:.0} s", start.elapsed().as_secs_f64());
        }
    }
    // By the log's order, what is synced last makes all before it durable.
    filler.add_domain().await?;
    let seconds = start.elapsed().as_secs_f64();
    let chunks = next - arguments.first;
    let report = serde_json::json!({"chunks": chunks, "effects": filler.effects, "seconds": seconds});
    if arguments.hold {
        println!("{report}");
        loop {
            tokio::time::sleep(Duration::from_secs(60)).await;
        }
    }
    filler.kv.shutdown().await;
    Ok(report.to_string())
}

impl Filler {
    async fn add_domain(&self) -> Result<(), Failure> {
        let row = DomainRow {
            secret: DomainSecret::Clear(DOMAIN_KEY),
            created: self.clock.now(),
            unknown: UnknownFields::default(),
        };
        let mut mutation = Mutation::new();
        mutation.put(key::domain(DOMAIN), row.encode());
        self.kv.commit(mutation).await?;
        Ok(())
    }

    /// Writes the chunks from `first` on as one object's data.
    async fn add_object(&mut self, first: u64) -> Result<(), Failure> {
        let chunks: Vec<(ChunkId, Bytes)> = (first..first + OBJECT_CHUNKS as u64).map(chunk).collect();
        let record = |(id, raw): &(ChunkId, Bytes)| NewRecord {
            domain: DOMAIN,
            id: *id,
            raw: raw.clone(),
            encoded: None,
            written_at: self.packs.written_at(),
            envelope: None,
        };
        let locations = self.packs.append(chunks.iter().map(record).collect()).await?;
        let placed: Vec<(ChunkId, Place)> = chunks
            .iter()
            .map(|(id, _)| *id)
            .zip(locations.iter().map(place))
            .collect();
        let mut mutation = Mutation {
            durability: Durability::Deferred,
            ..Mutation::default()
        };
        self.add_packs(&mut mutation, &locations);
        let data = self.ids.data_id();
        for (number, placed) in placed.chunks(WINDOW_CHUNKS_MAX).enumerate() {
            self.add_segment(
                &mut mutation,
                data,
                (number * WINDOW_CHUNKS_MAX * CHUNK_BYTES) as u64,
                placed,
            );
        }
        let row = DataRow {
            state: DataState::Live,
            domain: DOMAIN,
            profile: 1,
            depth: 1,
            size: (OBJECT_CHUNKS * CHUNK_BYTES) as u64,
            boot: [0; 16],
            created: self.clock.now(),
            owner: Bytes::new(),
            unknown: UnknownFields::default(),
        };
        mutation.put(key::data(data), row.encode());
        self.effects += mutation.effects.len() as u64;
        self.kv.commit(mutation).await?;
        Ok(())
    }

    /// The counters, and the rows of packs that are new.
    fn add_packs(&mut self, mutation: &mut Mutation, locations: &[Location]) {
        let mut live: BTreeMap<PackId, i64> = BTreeMap::new();
        for location in locations {
            *live.entry(location.pack).or_default() += i64::from(location.stored_len);
        }
        let usage = |kind| key::usage(UsageScope::Store, kind, 0);
        mutation.add(usage(UsageKind::UniqueBytes), (locations.len() * CHUNK_BYTES) as i64);
        mutation.add(usage(UsageKind::StoredBytes), live.values().sum());
        for (pack, bytes) in live {
            mutation.add(key::pack_stat(pack, PackStatKind::Live), bytes);
            if self.known_packs.insert(pack) {
                mutation.put(key::pack(pack), PackRow::local(self.clock.now()).encode());
            }
        }
    }

    /// A segment of `chunks`, which begins at `start` of the data, with its references and its tree row.
    fn add_segment(&self, mutation: &mut Mutation, data: DataId, start: u64, chunks: &[(ChunkId, Place)]) {
        let names = chunks.iter().map(|(id, place)| (Some(*id), place.raw_len));
        let segment: SegmentId = SegmentRow::name(&self.segment_key, names);
        for (id, place) in chunks {
            mutation.put(key::chunk(id), ChunkRow::new(*place, false).encode());
            mutation.put(key::chunk_ref(id, &segment), Bytes::new());
        }
        let entry = |(id, place): &(ChunkId, Place)| SegmentEntry::Chunk { id: *id, place: *place };
        let row = SegmentRow {
            domain: DOMAIN,
            entries: chunks.iter().map(entry).collect(),
            unknown: UnknownFields::default(),
        };
        let length = row.raw_len();
        mutation.put(key::segment(&segment), row.encode());
        mutation.put(key::segment_ref(&segment, data, start + length), Bytes::new());
        let tree = TreeRow {
            start,
            entries: vec![TreeEntry {
                target: Target::Segment(segment),
                offset: 0,
                length,
                part_number: 0,
                unknown: UnknownFields::default(),
            }],
            unknown: UnknownFields::default(),
        };
        mutation.put(key::tree(data, start + length), tree.encode());
    }
}

fn place(location: &Location) -> Place {
    Place {
        pack: location.pack,
        offset: location.offset,
        stored_len: location.stored_len,
        raw_len: location.raw_len,
        codec: location.codec as u8,
    }
}
