//! How a stream of bytes is cut on its way: Envoy may hand over a body in any pieces.

/// Where bytes are cut.
#[derive(Debug, Clone)]
pub enum Chunking {
    /// As they come.
    AsIs,
    /// One byte at a time.
    Bytes,
    /// At random places, the same for the same seed.
    Random(fastrand::Rng),
    /// Once, after this many bytes of the whole stream.
    SplitAt(usize),
}

impl Chunking {
    /// Random cuts from a seed.
    pub fn random(seed: u64) -> Self {
        Self::Random(fastrand::Rng::with_seed(seed))
    }

    /// Cuts `bytes`, which follow what was cut before.
    pub fn cut<'a>(&mut self, mut bytes: &'a [u8]) -> Vec<&'a [u8]> {
        let mut pieces = Vec::new();
        while !bytes.is_empty() {
            let length = match self {
                Self::AsIs => bytes.len(),
                Self::Bytes => 1,
                // Short pieces and long ones alike.
                Self::Random(random) => 1 << random.u32(0..16),
                Self::SplitAt(left) if *left > 0 => {
                    let length = (*left).min(bytes.len());
                    *left -= length;
                    length
                }
                Self::SplitAt(_) => bytes.len(),
            };
            let length = match self {
                Self::Random(random) => random.usize(1..=length),
                _ => length,
            };
            let (piece, rest) = bytes.split_at(length.min(bytes.len()));
            pieces.push(piece);
            bytes = rest;
        }
        pieces
    }
}
