//! The connections of one worker: opened when needed, used in turn, replaced when broken.

use std::time::Instant;

use crate::body::Content;
use crate::http::{Answer, Connection, HttpError, Peer};
use crate::sign::{Hex, Signer, push};

/// Signed chunks of 64 KiB, as the AWS SDKs send them.
const CHUNK_BYTES: usize = 64 << 10;
/// Bytes a write call.
const PIECE_BYTES: usize = 256 << 10;

#[derive(Default)]
struct Slot {
    connection: Option<Connection>,
    answered: u64,
}

pub struct Link {
    peer: Peer,
    slots: Vec<Slot>,
    turn: usize,
    body_bytes: u64,
    pub reconnects: u64,
    /// When the operation's first byte left.
    pub begun: Option<Instant>,
    /// The text of a refusal.
    pub refusal: Vec<u8>,
}

/// A part of an object's contents to be sent.
#[derive(Clone, Copy)]
pub struct Bytes {
    pub object: u64,
    pub offset: u64,
    pub length: u64,
}

pub enum Payload<'a> {
    /// Everything is in the head's buffer already.
    None,
    Plain(Bytes),
    Chunked(Bytes, &'a mut Signer, Hex),
}

impl Link {
    pub fn new(peer: &Peer, connections: usize, body_bytes: u64) -> Self {
        let mut slots = Vec::new();
        slots.resize_with(connections.max(1), Slot::default);
        let (refusal, begun) = (Vec::new(), None);
        Self {
            peer: peer.clone(),
            slots,
            turn: 0,
            body_bytes,
            reconnects: 0,
            begun,
            refusal,
        }
    }

    pub async fn open_all(&mut self) -> Result<(), HttpError> {
        for slot in &mut self.slots {
            slot.connection = Some(Connection::open(&self.peer, self.body_bytes).await?);
        }
        Ok(())
    }

    pub fn rotate(&mut self) {
        self.turn = (self.turn + 1) % self.slots.len().max(1);
    }

    /// The connection in use is of no more use.
    pub fn drop_current(&mut self) {
        if let Some(slot) = self.slots.get_mut(self.turn) {
            slot.connection = None;
            self.reconnects += 1;
        }
    }

    /// Requests answered by connection.
    pub fn answered(&self) -> impl Iterator<Item = u64> {
        self.slots.iter().map(|slot| slot.answered)
    }

    pub fn reset_counts(&mut self) {
        self.slots.iter_mut().for_each(|slot| slot.answered = 0);
        self.reconnects = 0;
    }

    /// Sends `out`, then the payload (through `out`, which is reused), and reads the answer.
    pub async fn exchange(
        &mut self,
        out: &mut Vec<u8>,
        payload: Payload<'_>,
        content: &Content,
        has_body: bool,
        mut sink: impl FnMut(&[u8]),
    ) -> Result<Answer, HttpError> {
        let slot = self.slots.get_mut(self.turn).ok_or(HttpError::Closed)?;
        if slot.connection.as_ref().is_none_or(|connection| connection.broken) {
            slot.connection = Some(Connection::open(&self.peer, self.body_bytes).await?);
        }
        let connection = slot.connection.as_mut().ok_or(HttpError::Closed)?;
        let refusal = &mut self.refusal;
        refusal.clear();
        self.begun.get_or_insert_with(Instant::now);
        let sent = match payload {
            Payload::None => connection.send(out).await,
            Payload::Plain(bytes) => send_plain(connection, out, content, bytes).await,
            Payload::Chunked(bytes, signer, seed) => send_chunked(connection, out, content, bytes, signer, seed).await,
        };
        let received = connection
            .receive(has_body, |status, piece| {
                if status < 300 {
                    sink(piece)
                } else {
                    refusal.extend_from_slice(piece)
                }
            })
            .await;
        connection.broken |= sent.is_err();
        match (received, sent) {
            (Ok(answer), _) => {
                slot.answered += 1;
                Ok(answer)
            }
            (Err(_), Err(error)) | (Err(error), Ok(())) => Err(error),
        }
    }
}

async fn send_plain(to: &mut Connection, out: &mut Vec<u8>, content: &Content, bytes: Bytes) -> Result<(), HttpError> {
    let mut done = 0;
    while done < bytes.length {
        let take = (bytes.length - done).min(PIECE_BYTES as u64);
        content.append(bytes.object, bytes.offset + done, take as usize, out);
        to.send(out).await?;
        out.clear();
        done += take;
    }
    Ok(())
}

async fn send_chunked(
    to: &mut Connection,
    out: &mut Vec<u8>,
    content: &Content,
    bytes: Bytes,
    signer: &mut Signer,
    seed: Hex,
) -> Result<(), HttpError> {
    let mut previous = seed;
    let mut done = 0;
    loop {
        let take = (bytes.length - done).min(CHUNK_BYTES as u64) as usize;
        push(out, &[format!("{take:x}").as_bytes(), b";chunk-signature="]);
        let signature_at = out.len();
        push(out, &[&previous, b"\r\n"]);
        let data_at = out.len();
        content.append(bytes.object, bytes.offset + done, take, out);
        previous = signer.chunk(&previous, out.get(data_at..).unwrap_or_default());
        let place = out.get_mut(signature_at..).unwrap_or_default();
        place.iter_mut().zip(previous).for_each(|(to, from)| *to = from);
        push(out, &[b"\r\n"]);
        done += take as u64;
        if take == 0 || out.len() >= PIECE_BYTES {
            to.send(out).await?;
            out.clear();
        }
        if take == 0 {
            return Ok(());
        }
    }
}

/// The length of `length` bytes once they are framed as signed chunks.
pub fn chunked_length(length: u64) -> u64 {
    let framing = |size: u64| format!("{size:x}").len() as u64 + ";chunk-signature=".len() as u64 + 64 + 4;
    let (full, rest) = (length / CHUNK_BYTES as u64, length % CHUNK_BYTES as u64);
    let rest_framing = if rest > 0 { framing(rest) } else { 0 };
    length + full * framing(CHUNK_BYTES as u64) + rest_framing + framing(0)
}
