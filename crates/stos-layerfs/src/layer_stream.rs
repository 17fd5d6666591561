// SPDX-License-Identifier: Apache-2.0 OR MIT
//! What a layer is written from: its buffers, and behind them those of the blob that they came out of, so that both are hashed at once.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use crossbeam_channel::select;

use crate::pipe::{DEPTH, PipeReader};
use crate::two_hashers::TwoHashers;

/// The buffers of a layer, in order. Each is hashed after its reader is done with it, and with it one of the blob, where one has been
/// inflated by then.
pub(crate) struct LayerStream {
    layer: PipeReader,
    blob: Blob,
    /// What the reader has in hand.
    current: Option<Vec<u8>>,
    /// Buffers of the blob that wait for one of the layer to be hashed with.
    held: VecDeque<Vec<u8>>,
    proof: Proof,
}

/// Where the bytes of the blob are.
enum Blob {
    /// They are those of the layer.
    Same,
    /// They come when they have been inflated.
    Inflated(PipeReader),
    /// All have come.
    Over,
}

/// What all of a blob and all of its layer hash to.
pub(crate) struct Hashes {
    pub(crate) blob: [u8; 32],
    /// Right only if the layer was read to its end.
    pub(crate) layer: [u8; 32],
    /// How long both took.
    pub(crate) time: Duration,
}

impl LayerStream {
    /// Reads a blob that is not compressed.
    pub(crate) fn plain(layer: PipeReader) -> Self {
        Self::new(layer, Blob::Same)
    }

    /// Reads a layer, and the buffers of its blob that have been inflated.
    pub(crate) fn inflated(layer: PipeReader, blob: PipeReader) -> Self {
        Self::new(layer, Blob::Inflated(blob))
    }

    fn new(layer: PipeReader, blob: Blob) -> Self {
        Self { layer, blob, current: None, held: VecDeque::with_capacity(DEPTH), proof: Proof::default() }
    }

    /// Lends the layer's next buffer; `None` at the end.
    pub(crate) fn next_buffer(&mut self) -> Option<&[u8]> {
        self.finish_current();
        self.current = self.receive();
        self.current.as_deref()
    }

    /// Reads the layer to its end.
    pub(crate) fn skip_rest(&mut self) {
        while self.next_buffer().is_some() {}
    }

    /// Hashes what is still to come of the blob, whether or not the layer was read to its end.
    pub(crate) fn finish(mut self) -> Hashes {
        self.finish_current();
        if let Blob::Same = self.blob {
            self.skip_rest();
            return self.proof.finish(|[_, layer]| [layer, layer]);
        }
        let Self { layer, blob, held, mut proof, .. } = self;
        // Whoever inflates learns that nobody reads.
        drop(layer);
        for buffer in held {
            proof.hash([&buffer, &[]]);
        }
        if let Blob::Inflated(blob) = blob {
            while let Some(buffer) = blob.next_buffer() {
                proof.hash([&buffer, &[]]);
                blob.give_back(buffer);
            }
        }
        proof.finish(|hashes| hashes)
    }

    fn receive(&mut self) -> Option<Vec<u8>> {
        while let Blob::Inflated(blob) = &self.blob {
            // Waits for both: where much of a blob inflates to nothing, whoever inflates must not wait for room.
            let of_blob = select! {
                recv(self.layer.full()) -> of_layer => return of_layer.ok(),
                recv(blob.full()) -> of_blob => of_blob,
            };
            match of_blob {
                Ok(buffer) => self.hold(buffer),
                Err(_) => self.blob = Blob::Over,
            }
        }
        self.layer.next_buffer()
    }

    /// Hashes the buffer that the reader is done with, and lets it be used again.
    fn finish_current(&mut self) {
        let Some(buffer) = self.current.take() else { return };
        let of_blob = self.held.pop_front();
        self.proof.hash([of_blob.as_deref().unwrap_or_default(), &buffer]);
        self.layer.give_back(buffer);
        self.give_back_of_blob(of_blob);
    }

    /// Keeps a buffer of the blob till one of the layer comes; not too many.
    fn hold(&mut self, buffer: Vec<u8>) {
        if self.held.len() == DEPTH {
            let oldest = self.held.pop_front();
            self.proof.hash([oldest.as_deref().unwrap_or_default(), &[]]);
            self.give_back_of_blob(oldest);
        }
        self.held.push_back(buffer);
    }

    fn give_back_of_blob(&self, buffer: Option<Vec<u8>>) {
        if let (Blob::Inflated(blob), Some(buffer)) = (&self.blob, buffer) {
            blob.give_back(buffer);
        }
    }
}

/// What has been hashed of a blob and its layer.
#[derive(Default)]
struct Proof {
    hashers: TwoHashers,
    time: Duration,
}

impl Proof {
    /// Takes a piece of the blob and one of the layer.
    fn hash(&mut self, pieces: [&[u8]; 2]) {
        let started = Instant::now();
        self.hashers.update(pieces);
        self.time += started.elapsed();
    }

    fn finish(self, of_which: impl FnOnce([[u8; 32]; 2]) -> [[u8; 32]; 2]) -> Hashes {
        let [blob, layer] = of_which(self.hashers.finish());
        Hashes { blob, layer, time: self.time }
    }
}

#[cfg(test)]
mod tests {
    use sha2::{Digest, Sha256};

    use super::*;
    use crate::pipe::{self, PipeWriter};

    fn digest(pieces: &[Vec<u8>]) -> [u8; 32] {
        Sha256::digest(pieces.concat()).into()
    }

    fn pieces(count: u8) -> Vec<Vec<u8>> {
        (0..count).map(|number| vec![number; if number == 3 { 1000 } else { 4096 }]).collect()
    }

    fn send_all(to: PipeWriter, pieces: &[Vec<u8>]) -> usize {
        pieces.iter().take_while(|piece| to.send((*piece).clone())).count()
    }

    /// Streams as many buffers of a blob and of its layer, of which `read` are read; the layer begins when `first` of the blob are inflated.
    fn stream(of_blob: u8, of_layer: u8, first: usize, read: usize) {
        let (blob, layer) = (pieces(of_blob), pieces(of_layer));
        let (to, from, spent) = pipe::relay();
        let (layer_to, layer_from) = pipe::pipe();
        let mut stream = LayerStream::inflated(layer_from, spent);
        std::thread::scope(|scope| {
            scope.spawn(|| assert_eq!(send_all(to, &blob), blob.len()));
            let inflater = scope.spawn(|| {
                for _ in 0..first {
                    from.give_back(from.next_buffer().unwrap());
                }
                let sent = send_all(layer_to, &layer);
                from.give_back_all();
                sent
            });
            for expected in layer.iter().take(read) {
                assert!(stream.next_buffer() == Some(expected));
            }
            if read > layer.len() {
                assert!(stream.next_buffer().is_none());
            }
            let hashes = stream.finish();
            assert_eq!(hashes.blob, digest(&blob), "{of_blob} {of_layer} {first} {read}");
            if read >= layer.len() {
                assert_eq!(hashes.layer, digest(&layer), "{of_blob} {of_layer} {first} {read}");
            } else {
                assert!(inflater.join().unwrap() <= read + DEPTH, "the inflater learns that nobody reads");
            }
        });
    }

    #[test]
    fn both_are_hashed_whatever_comes_first() {
        for (of_blob, of_layer, first) in
            [(0, 0, 0), (5, 13, 0), (5, 13, 2), (13, 5, 0), (13, 5, 6), (40, 1, 30), (40, 0, 40), (1, 40, 1)]
        {
            stream(of_blob, of_layer, first, usize::from(of_layer));
            stream(of_blob, of_layer, first, usize::from(of_layer) + 1);
        }
    }

    #[test]
    fn the_blob_is_hashed_to_its_end_where_the_layer_is_not() {
        for (first, read) in [(0, 0), (0, 3), (9, 1), (20, 0)] {
            stream(20, 30, first, read);
        }
    }

    #[test]
    fn a_plain_blob_is_its_layer() {
        for read in [0, 4, 9, 12] {
            let layer = pieces(9);
            let (to, from) = pipe::pipe();
            let mut stream = LayerStream::plain(from);
            std::thread::scope(|scope| {
                scope.spawn(|| send_all(to, &layer));
                for _ in 0..read {
                    stream.next_buffer();
                }
                let hashes = stream.finish();
                assert_eq!([hashes.blob, hashes.layer], [digest(&layer); 2], "{read}");
            });
        }
    }
}
