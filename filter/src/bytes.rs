//! Comparing and taking bytes.

/// Whether these are the same bytes. What `==` calls looks at one byte after the other in a module for wasm32; this looks at
/// many at a time, and therefore at all of them.
#[inline(never)]
pub(crate) fn equal(a: &[u8], b: &[u8]) -> bool {
    if a.len() != b.len() {
        return false;
    }
    let ((a_words, a_rest), (b_words, b_rest)) = (a.as_chunks::<8>(), b.as_chunks::<8>());
    let words = a_words.iter().zip(b_words).fold(0, |all, (a, b)| {
        all | (u64::from_ne_bytes(*a) ^ u64::from_ne_bytes(*b))
    });
    let rest = a_rest.iter().zip(b_rest).fold(0, |all, (a, b)| all | (a ^ b));
    words == 0 && rest == 0
}

/// Takes up to `most` bytes from the front of `input`.
pub(crate) fn take<'a>(input: &mut &'a [u8], most: usize) -> &'a [u8] {
    let (taken, rest) = input.split_at_checked(most).unwrap_or((input, &[]));
    *input = rest;
    taken
}
