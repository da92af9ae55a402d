//! Masking (RFC 6455 §5.3).

/// Source of masking keys: fresh and unpredictable for each frame (RFC 6455 §5.3). Only a near end
/// asks for any.
pub trait MaskKeys {
    /// The next key.
    fn next_key(&mut self) -> [u8; 4];
}

/// Masks or unmasks in place and returns the key for the bytes that follow these: the same one, turned
/// so that it begins where this piece ended.
pub fn apply_mask(payload: &mut [u8], key: [u8; 4]) -> [u8; 4] {
    let [a, b, c, d] = key;
    let wide = u64::from_ne_bytes([a, b, c, d, a, b, c, d]);
    // Whole lanes of a constant key: the compiler makes vector instructions of it.
    let (lanes, rest) = payload.as_chunks_mut::<8>();
    for lane in lanes {
        *lane = (u64::from_ne_bytes(*lane) ^ wide).to_ne_bytes();
    }
    rest.iter_mut()
        .zip(wide.to_ne_bytes())
        .for_each(|(byte, key)| *byte ^= key);
    match rest.len() & 3 {
        0 => key,
        1 => [b, c, d, a],
        2 => [c, d, a, b],
        _ => [d, a, b, c],
    }
}
