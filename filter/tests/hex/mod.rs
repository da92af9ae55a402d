//! Hexadecimal texts.

use data_encoding::HEXLOWER_PERMISSIVE;

/// Bytes from hexadecimal, with white space anywhere.
pub fn hex(text: &str) -> Vec<u8> {
    let digits: String = text.split_whitespace().collect();
    HEXLOWER_PERMISSIVE.decode(digits.as_bytes()).expect(text)
}
