//! What field names and values are made of, on both sides: a list that one end lets through is one that the other end takes.

/// Whether it is a token in lower case, as field names are (RFC 9110 §5.1, RFC 9113 §8.2.1).
pub(crate) fn is_name(name: &[u8]) -> bool {
    /// By byte: every byte of every field's name is looked up.
    const ALLOWED: [bool; 256] = {
        let mut allowed = [false; 256];
        let mut byte = 0_u8;
        while byte < 128 {
            #[expect(clippy::indexing_slicing, clippy::as_conversions, reason = "not at run time")]
            {
                allowed[byte as usize] = is_token_byte(byte) && !byte.is_ascii_uppercase();
            }
            byte = byte.saturating_add(1);
        }
        allowed
    };
    let allowed = |byte: &u8| ALLOWED.get(usize::from(*byte)).copied().unwrap_or_default();
    !name.is_empty() && name.iter().all(allowed)
}

/// Whether it is a token (RFC 9110 §5.6.2).
pub(crate) fn is_token(text: &[u8]) -> bool {
    !text.is_empty() && text.iter().all(|byte| is_token_byte(*byte))
}

const fn is_token_byte(byte: u8) -> bool {
    matches!(byte, b'0'..=b'9' | b'a'..=b'z' | b'A'..=b'Z' | b'-' | b'_' | b'.' | b'!' | b'#'..=b'\''
        | b'*' | b'+' | b'^' | b'`' | b'|' | b'~')
}

/// Whether it is free of NUL, CR and LF (RFC 9113 §8.2.1). White space at the ends passes, as it does in Envoy.
pub(crate) fn is_value(value: &[u8]) -> bool {
    // One comparison for each byte of nearly all values.
    let suspicious = value.iter().fold(false, |any, byte| any | (*byte <= b'\r'));
    !suspicious || !value.iter().any(|byte| matches!(byte, b'\0' | b'\r' | b'\n'))
}

/// Fields that say where a message goes and how it is cut (RFC 9110 §7, RFC 9112 §6): not for a configuration to set.
pub(crate) const FRAMING_FIELDS: [&str; 5] = [
    "host",
    "upgrade",
    "connection",
    "content-length",
    "transfer-encoding",
];
