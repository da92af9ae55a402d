//! Items of RFC 8949: appendix A (examples) and appendix F (not well-formed), inside of messages that are
//! skipped, and the integers where messages hold some.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    clippy::as_conversions,
    missing_docs
)]

mod cbor;
mod hex;

use cbor::{Owned, decode_all, decode_pieces};
use hex::hex;
use wsferry::Error;
use wsferry::cbor::Decoder;
use wsferry::config::Limits;

fn decoder() -> Decoder {
    Decoder::new(&Limits::default())
}

/// `[64, item]`, which is skipped, and `[7]` after it.
fn skipped(item: &[u8]) -> Vec<u8> {
    [&[0x82, 0x18, 64], item, &[0x81, 7]].concat()
}

/// At once and byte by byte.
fn decode(bytes: &[u8]) -> Result<Vec<Owned>, Error> {
    let at_once = decode_all(&mut decoder(), bytes);
    let pieces: Vec<&[u8]> = bytes.chunks(1).collect();
    assert_eq!(decode_pieces(&mut decoder(), &pieces), at_once, "{bytes:02x?}");
    at_once
}

#[test]
fn examples_of_appendix_a_are_skipped_whole() {
    let examples = "
        00 01 0a 17 1818 1819 1864 1903e8 1a000f4240 1b000000e8d4a51000 1bffffffffffffffff
        c249010000000000000000 3bffffffffffffffff c349010000000000000000 20 29 3863 3903e7
        f90000 f98000 f93c00 fb3ff199999999999a f93e00 f97bff fa47c35000 fa7f7fffff
        fb7e37e43c8800759c f90001 f90400 f9c400 fbc010666666666666 f97c00 f97e00 f9fc00
        fa7f800000 fa7fc00000 faff800000 fb7ff0000000000000 fb7ff8000000000000 fbfff0000000000000
        f4 f5 f6 f7 f0 f820 f8ff
        c074323031332d30332d32315432303a30343a30305a c11a514b67b0 c1fb41d452d9ec200000
        d74401020304 d818456449455446 d82076687474703a2f2f7777772e6578616d706c652e636f6d
        40 4401020304 60 6161 6449455446 62225c 62c3bc 63e6b0b4 64f0908591
        80 83010203 8301820203820405
        98190102030405060708090a0b0c0d0e0f101112131415161718181819
        a0 a201020304 a26161016162820203 826161a161626163
        a56161614161626142616361436164614461656145";
    let examples: Vec<&str> = examples.split_whitespace().collect();
    assert_eq!(examples.len(), 71);
    for example in examples {
        let bytes = hex(example);
        // ciborium agrees that they are well-formed; it has no simple values of its own.
        let read = ciborium::from_reader::<ciborium::Value, _>(&bytes[..]);
        assert!(
            read.is_ok() || ["f7", "f0", "f820", "f8ff"].contains(&example),
            "{example}"
        );
        assert_eq!(decode(&skipped(&bytes)), Ok(vec![Owned::Ack]), "{example}");
    }
}

#[test]
fn indefinite_examples_of_appendix_a_are_refused() {
    for example in [
        "5f42010243030405ff",
        "7f657374726561646d696e67ff",
        "9fff",
        "9f018202039f0405ffff",
        "9f01820203820405ff",
        "83018202039f0405ff",
        "83019f0203ff820405",
        "9f0102030405060708090a0b0c0d0e0f101112131415161718181819ff",
        "bf61610161629f0203ffff",
        "826161bf61626163ff",
        "bf6346756ef563416d7421ff",
    ] {
        assert_eq!(
            decode(&skipped(&hex(example))),
            Err(Error::CborMalformed),
            "{example}"
        );
        // In place of a message.
        assert!(decode(&hex(example)).is_err(), "{example}");
    }
}

#[test]
fn ill_formed_examples_of_appendix_f_are_refused() {
    let ends_too_early = "
        18 19 1a 1b 1901 1a0102 1b01020304050607 38 58 78 98 9a01ff00 b8 d8 f8 f900 fa0000 fb000000
        41 61 5affffffff00 5bffffffffffffffff010203 7affffffff00 7b7fffffffffffffff010203
        81 818181818181818181 8200 a1 a20102 a100 a2000000 c0";
    let malformed = "
        1c 1d 1e 3c 3d 3e 5c 5d 5e 7c 7d 7e 9c 9d 9e bc bd be dc dd de fc fd fe
        f800 f801 f818 f81f ff 81ff 8200ff a1ff a1ff00 a100ff a20000ff 9f81ff
        1f 3f df 5f00ff 5f4100 7f4100 bf00ff 9f 9f0102";
    for example in ends_too_early.split_whitespace() {
        let bytes = [&[0x82, 0x18, 64], &hex(example)[..]].concat();
        assert_eq!(decode(&bytes), Err(Error::CborMalformed), "{example}");
    }
    for example in malformed.split_whitespace() {
        assert_eq!(
            decode(&skipped(&hex(example))),
            Err(Error::CborMalformed),
            "{example}"
        );
    }
}

#[test]
fn integers_in_any_size() {
    // [5, stream, bytes] with each argument in all sizes that hold it; a decoder takes them all.
    let sizes = |major: u8, value: u64| -> Vec<Vec<u8>> {
        let mut heads = vec![[&[major | 27][..], &value.to_be_bytes()].concat()];
        if let Ok(value) = u32::try_from(value) {
            heads.push([&[major | 26][..], &value.to_be_bytes()].concat());
        }
        if let Ok(value) = u16::try_from(value) {
            heads.push([&[major | 25][..], &value.to_be_bytes()].concat());
        }
        if let Ok(value) = u8::try_from(value) {
            heads.push(vec![major | 24, value]);
            if value < 24 {
                heads.push(vec![major | value]);
            }
        }
        heads
    };
    for stream in [0, 23, 24, 255, 256, 65_535] {
        for credit in [1, 23, 24, 255, 256, 65_535, 65_536, (1 << 31) - 1] {
            for array in sizes(0x80, 3) {
                for kind in sizes(0, 5) {
                    for stream_head in sizes(0, stream) {
                        let credit_head = &sizes(0, credit)[0];
                        let bytes = [&array[..], &kind, &stream_head, credit_head].concat();
                        assert_eq!(
                            decode(&bytes),
                            Ok(vec![Owned::Credit {
                                stream: Some(stream as u32),
                                bytes: credit as u32
                            }])
                        );
                    }
                }
            }
        }
    }
    // The longest opening that data can have.
    let data = [
        &sizes(0x80, 4)[0][..],
        &sizes(0, 2)[0],
        &sizes(0, 3)[0],
        &[0xf5],
        &sizes(0x40, 2)[0],
        b"ok",
    ]
    .concat();
    for at in 0..data.len() {
        let pieces = [&data[..at], &data[at..]];
        let received = decode_pieces(&mut decoder(), &pieces).unwrap();
        assert_eq!(
            Owned::joined(received),
            [Owned::Data {
                stream: 3,
                end: true,
                payload: b"ok".to_vec()
            }]
        );
    }
}

/// Its bits may be those of `true`.
#[test]
fn a_float_is_no_boolean() {
    for float in ["f90015", "fa00000015", "fb0000000000000015"] {
        for (front, back) in [("840200", "4161"), ("850100", "18c880")] {
            let bytes = hex(&format!("{front}{float}{back}"));
            assert_eq!(decode(&bytes), Err(Error::MessageForm), "{front} {float}");
        }
    }
}

#[test]
fn depth_is_limited_to_four() {
    let nested = |open: &[u8], levels: usize, innermost: &[u8]| {
        let mut bytes = vec![0x82, 0x18, 64];
        for _ in 0..levels {
            bytes.extend_from_slice(open);
        }
        bytes.extend_from_slice(innermost);
        bytes
    };
    for (open, innermost) in [
        (&[0x81][..], &[0][..]),
        (&[0xa1, 0], &[0]),
        (&[0xc1], &[0]),
        (&[0x81], &[0x60]),
    ] {
        // The message's own array is the first level.
        assert_eq!(decode(&nested(open, 3, innermost)), Ok(vec![]));
        assert_eq!(
            decode(&nested(open, 4, innermost)),
            Err(Error::CborMalformed),
            "{open:?}"
        );
    }
    for empty in [0x80, 0xa0] {
        assert_eq!(decode(&nested(&[0x81], 2, &[empty])), Ok(vec![]));
        assert_eq!(decode(&nested(&[0x81], 3, &[empty])), Err(Error::CborMalformed));
    }
    assert_eq!(decode(&nested(&[0x81], 100_000, &[])), Err(Error::CborMalformed));
}

#[test]
fn lengths_beyond_any_message_are_refused_at_once() {
    let limit = Limits::default().max_message_bytes as u64;
    for major in [0x40_u8, 0x60, 0x80, 0xa0] {
        for length in [
            limit + 1,
            1 << 31,
            (1 << 32) - 1,
            1 << 32,
            (1 << 32) + 1,
            1 << 63,
            u64::MAX,
        ] {
            // In a skipped message, in data, in place of fields and of a path.
            for front in ["821840", "840200f5", "830300", "880000f500006141"] {
                let bytes = [&hex(front)[..], &[major | 27], &length.to_be_bytes()].concat();
                let mut input = &bytes[..];
                let mut decoder = decoder();
                let result = decoder.next(&mut input).map(|message| message.is_some());
                let wrong_kind = front == "840200f5" && major != 0x40;
                let expected = if wrong_kind {
                    Error::MessageForm
                } else {
                    Error::CborMalformed
                };
                assert_eq!(result, Err(expected), "{front} {major:x} {length:x}");
            }
        }
    }
}
