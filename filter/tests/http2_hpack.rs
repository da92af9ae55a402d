//! HPACK against the examples of RFC 7541 appendix C, and at its edges.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    clippy::as_conversions,
    missing_docs
)]

mod hex;

use hex::hex;
use wsferry::Error;
use wsferry::http2::hpack::{Decoder, DynamicTable, Encoder, STATIC, integer, static_name};
use wsferry::message::Field;

type Owned = (String, String, bool);

fn decode(decoder: &mut Decoder, block: &[u8]) -> Result<Vec<Owned>, Error> {
    let mut fields = Vec::new();
    decoder.decode(block, |field| {
        let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
        fields.push((text(field.name), text(field.value), field.sensitive));
    })?;
    Ok(fields)
}

fn table(table: &DynamicTable) -> Vec<(String, String)> {
    (0..table.len())
        .map(|position| {
            let (name, value) = table.get(position).unwrap();
            (
                String::from_utf8(name.to_vec()).unwrap(),
                String::from_utf8(value.to_vec()).unwrap(),
            )
        })
        .collect()
}

fn pairs(list: &[(&str, &str)]) -> Vec<(String, String)> {
    list.iter()
        .map(|(n, v)| ((*n).to_owned(), (*v).to_owned()))
        .collect()
}

/// What an appendix C example says: the block, its fields, the table after it and the table's size.
struct Example<'a> {
    block: &'a str,
    fields: &'a [(&'a str, &'a str)],
    table: &'a [(&'a str, &'a str)],
    size: usize,
}

fn check(decoder: &mut Decoder, examples: &[Example<'_>]) {
    for example in examples {
        let fields = decode(decoder, &hex(example.block)).unwrap();
        let fields: Vec<_> = fields.into_iter().map(|(n, v, _)| (n, v)).collect();
        assert_eq!(fields, pairs(example.fields), "{}", example.block);
        assert_eq!(
            table(decoder.table()),
            pairs(example.table),
            "table after {}",
            example.block
        );
        assert_eq!(
            decoder.table().size(),
            example.size,
            "size after {}",
            example.block
        );
    }
}

#[test]
fn c1_integers() {
    for (pattern, mask, value, bytes) in [
        (0x00, 0x1f, 10, "0a"),
        (0x00, 0x1f, 1337, "1f9a0a"),
        (0x00, 0xff, 42, "2a"),
        (0x80, 0x7f, 126, "fe"),
        (0x80, 0x7f, 127, "ff00"),
        (0x20, 0x1f, 4096, "3fe11f"),
    ] {
        let mut out = Vec::new();
        integer::encode(pattern, mask, value, &mut out);
        assert_eq!(out, hex(bytes), "{value}");
        let mut input = out.as_slice();
        assert_eq!(integer::decode(mask, &mut input), Ok(value));
        assert!(input.is_empty());
    }
    for bad in ["", "1f", "1f80", "1f8080808001", "1fffffffffff"] {
        assert_eq!(
            integer::decode(0x1f, &mut hex(bad).as_slice()),
            Err(Error::Hpack),
            "{bad}"
        );
    }
    let largest = (1 << 28) - 1 + 0x1f;
    assert_eq!(
        integer::decode(0x1f, &mut hex("1fffffff7f").as_slice()),
        Ok(largest)
    );
}

#[test]
fn c2_field_lines() {
    for (block, name, value, sensitive, entered) in [
        (
            "400a 6375 7374 6f6d 2d6b 6579 0d63 7573 746f 6d2d 6865 6164 6572",
            "custom-key",
            "custom-header",
            false,
            true,
        ),
        (
            "040c 2f73 616d 706c 652f 7061 7468",
            ":path",
            "/sample/path",
            false,
            false,
        ),
        (
            "1008 7061 7373 776f 7264 0673 6563 7265 74",
            "password",
            "secret",
            true,
            false,
        ),
        ("82", ":method", "GET", false, false),
    ] {
        let mut decoder = Decoder::new();
        let fields = decode(&mut decoder, &hex(block)).unwrap();
        assert_eq!(fields, [(name.to_owned(), value.to_owned(), sensitive)]);
        let expected = if entered { pairs(&[(name, value)]) } else { vec![] };
        assert_eq!(table(decoder.table()), expected);

        // The encoder makes the same of the field; it enters what it sees for the second time.
        let mut encoder = Encoder::new();
        let field = Field {
            name: name.as_bytes(),
            value: value.as_bytes(),
            sensitive,
        };
        let mut out = Vec::new();
        if entered {
            encoder.field(field, &mut out);
            out.clear();
        }
        encoder.field(field, &mut out);
        assert_eq!(out, hex(block));
        assert_eq!(table(encoder.table()), expected);
    }
    let mut decoder = Decoder::new();
    decode(
        &mut decoder,
        &hex("400a 6375 7374 6f6d 2d6b 6579 0d63 7573 746f 6d2d 6865 6164 6572"),
    )
    .unwrap();
    assert_eq!(decoder.table().size(), 55);
}

const REQUEST_1: &[(&str, &str)] = &[
    (":method", "GET"),
    (":scheme", "http"),
    (":path", "/"),
    (":authority", "www.example.com"),
];
const REQUEST_2: &[(&str, &str)] = &[
    (":method", "GET"),
    (":scheme", "http"),
    (":path", "/"),
    (":authority", "www.example.com"),
    ("cache-control", "no-cache"),
];
const REQUEST_3: &[(&str, &str)] = &[
    (":method", "GET"),
    (":scheme", "https"),
    (":path", "/index.html"),
    (":authority", "www.example.com"),
    ("custom-key", "custom-value"),
];

fn requests(blocks: [&str; 3]) {
    let example = |index: usize, fields, table, size| Example {
        block: blocks[index],
        fields,
        table,
        size,
    };
    check(
        &mut Decoder::new(),
        &[
            example(0, REQUEST_1, &[(":authority", "www.example.com")], 57),
            example(
                1,
                REQUEST_2,
                &[("cache-control", "no-cache"), (":authority", "www.example.com")],
                110,
            ),
            example(
                2,
                REQUEST_3,
                &[
                    ("custom-key", "custom-value"),
                    ("cache-control", "no-cache"),
                    (":authority", "www.example.com"),
                ],
                164,
            ),
        ],
    );
}

#[test]
fn c3_requests_without_huffman() {
    requests([
        "8286 8441 0f77 7777 2e65 7861 6d70 6c65 2e63 6f6d",
        "8286 84be 5808 6e6f 2d63 6163 6865",
        "8287 85bf 400a 6375 7374 6f6d 2d6b 6579 0c63 7573 746f 6d2d 7661 6c75 65",
    ]);
}

#[test]
fn c4_requests_with_huffman() {
    requests([
        "8286 8441 8cf1 e3c2 e5f2 3a6b a0ab 90f4 ff",
        "8286 84be 5886 a8eb 1064 9cbf",
        "8287 85bf 4088 25a8 49e9 5ba9 7d7f 8925 a849 e95b b8e8 b4bf",
    ]);
}

const DATE_1: (&str, &str) = ("date", "Mon, 21 Oct 2013 20:13:21 GMT");
const DATE_2: (&str, &str) = ("date", "Mon, 21 Oct 2013 20:13:22 GMT");
const LOCATION: (&str, &str) = ("location", "https://www.example.com");
const PRIVATE: (&str, &str) = ("cache-control", "private");
const COOKIE: (&str, &str) = (
    "set-cookie",
    "foo=ASDJKHQKBZXOQWEOPIUAXQWEOIU; max-age=3600; version=1",
);

fn responses(blocks: [&str; 3]) {
    check(
        &mut Decoder::with_table(256),
        &[
            Example {
                block: blocks[0],
                fields: &[(":status", "302"), PRIVATE, DATE_1, LOCATION],
                table: &[LOCATION, DATE_1, PRIVATE, (":status", "302")],
                size: 222,
            },
            Example {
                block: blocks[1],
                fields: &[(":status", "307"), PRIVATE, DATE_1, LOCATION],
                table: &[(":status", "307"), LOCATION, DATE_1, PRIVATE],
                size: 222,
            },
            Example {
                block: blocks[2],
                fields: &[
                    (":status", "200"),
                    PRIVATE,
                    DATE_2,
                    LOCATION,
                    ("content-encoding", "gzip"),
                    COOKIE,
                ],
                table: &[COOKIE, ("content-encoding", "gzip"), DATE_2],
                size: 215,
            },
        ],
    );
}

#[test]
fn c5_responses_without_huffman() {
    responses([
        "4803 3330 3258 0770 7269 7661 7465 611d 4d6f 6e2c 2032 3120 4f63 7420 3230 3133
         2032 303a 3133 3a32 3120 474d 546e 1768 7474 7073 3a2f 2f77 7777 2e65 7861 6d70
         6c65 2e63 6f6d",
        "4803 3330 37c1 c0bf",
        "88c1 611d 4d6f 6e2c 2032 3120 4f63 7420 3230 3133 2032 303a 3133 3a32 3220 474d
         54c0 5a04 677a 6970 7738 666f 6f3d 4153 444a 4b48 514b 425a 584f 5157 454f 5049
         5541 5851 5745 4f49 553b 206d 6178 2d61 6765 3d33 3630 303b 2076 6572 7369 6f6e
         3d31",
    ]);
}

#[test]
fn c6_responses_with_huffman() {
    responses([
        "4882 6402 5885 aec3 771a 4b61 96d0 7abe 9410 54d4 44a8 2005 9504 0b81 66e0 82a6
         2d1b ff6e 919d 29ad 1718 63c7 8f0b 97c8 e9ae 82ae 43d3",
        "4883 640e ffc1 c0bf",
        "88c1 6196 d07a be94 1054 d444 a820 0595 040b 8166 e084 a62d 1bff c05a 839b d9ab
         77ad 94e7 821d d7f2 e6c7 b335 dfdf cd5b 3960 d5af 2708 7f36 72c1 ab27 0fb5 291f
         9587 3160 65c0 03ed 4ee5 b106 3d50 07",
    ]);
}

#[test]
fn names_of_the_static_table_are_found() {
    for (name, _) in STATIC {
        let first = STATIC.iter().position(|entry| entry.0 == name).unwrap() + 1;
        assert_eq!(static_name(name).map(usize::from), Some(first));
    }
    assert_eq!(static_name(b"x-request-id"), None);
    let mut encoder = Encoder::new();
    for (index, (name, value)) in (1_u8..).zip(STATIC) {
        let mut out = Vec::new();
        let field = Field {
            name,
            value,
            sensitive: false,
        };
        encoder.field(field, &mut out);
        assert_eq!(out, [0x80 | index]);
    }
}

fn literal(name: &str, value: &str) -> Vec<u8> {
    let mut block = vec![0x40];
    for text in [name, value] {
        integer::encode(0, 0x7f, text.len(), &mut block);
        block.extend_from_slice(text.as_bytes());
    }
    block
}

#[test]
fn the_oldest_entries_are_evicted() {
    // Each entry counts for 32 + 2 bytes: three fit into 110.
    let mut decoder = Decoder::with_table(110);
    for (name, value) in [("a", "1"), ("b", "2"), ("c", "3"), ("d", "4")] {
        decode(&mut decoder, &literal(name, value)).unwrap();
    }
    assert_eq!(
        table(decoder.table()),
        pairs(&[("d", "4"), ("c", "3"), ("b", "2")])
    );
    assert_eq!(decoder.table().size(), 102);

    // Named as the entry that it pushes out (§4.4).
    let block = hex("7f01 0335 3535");
    assert_eq!(
        decode(&mut decoder, &block).unwrap(),
        [("b".into(), "555".into(), false)]
    );
    assert_eq!(
        table(decoder.table()),
        pairs(&[("b", "555"), ("d", "4"), ("c", "3")])
    );
    assert_eq!(decode(&mut decoder, &hex("c1")), Err(Error::Hpack));

    // As large as the table.
    decode(&mut decoder, &literal("e", &"x".repeat(77))).unwrap();
    assert_eq!((decoder.table().len(), decoder.table().size()), (1, 110));
    // Too large an entry empties the table and is no error.
    let large = "x".repeat(110);
    assert_eq!(
        decode(&mut decoder, &literal("e", &large)).unwrap(),
        [("e".into(), large, false)]
    );
    assert!(decoder.table().is_empty());
    assert_eq!(decoder.table().size(), 0);
    // Nor with the name of an entry.
    decode(&mut decoder, &literal("e", "1")).unwrap();
    assert!(!decoder.table().is_empty());
    let block = [&[0x7e, 110][..], &[b'x'; 110]].concat();
    assert_eq!(decode(&mut decoder, &block).unwrap()[0].0, "e");
    assert!(decoder.table().is_empty());
}

#[test]
fn many_insertions_leave_the_right_entries() {
    let mut decoder = Decoder::new();
    let mut model: Vec<(String, String)> = Vec::new();
    for round in 0..5_000_usize {
        let pair = (format!("name-{}", round % 7), "v".repeat(round * 31 % 400));
        let mut block = literal(&pair.0, &pair.1);
        if let Some(position) = model.iter().rposition(|entry| entry.0 == pair.0) {
            block.clear();
            integer::encode(0x40, 0x3f, 62 + position, &mut block);
            integer::encode(0, 0x7f, pair.1.len(), &mut block);
            block.extend_from_slice(pair.1.as_bytes());
        }
        assert_eq!(
            decode(&mut decoder, &block).unwrap(),
            [(pair.0.clone(), pair.1.clone(), false)]
        );
        model.insert(0, pair);
        let mut size = 0;
        model.retain(|(name, value)| {
            size += name.len() + value.len() + 32;
            size <= 4096
        });
        assert_eq!(decoder.table().len(), model.len());
        assert_eq!(
            table(decoder.table()).last(),
            model.last(),
            "oldest after {round}"
        );
    }
    assert_eq!(table(decoder.table()), model);
}

#[test]
fn size_updates_are_obeyed_and_checked() {
    let mut decoder = Decoder::new();
    decode(&mut decoder, &literal("a", "1")).unwrap();
    decode(&mut decoder, &literal("b", "2")).unwrap();
    // 40 bytes: one entry stays.
    assert_eq!(
        decode(&mut decoder, &hex("3f09 be")).unwrap(),
        [("b".into(), "2".into(), false)]
    );
    assert_eq!(decoder.table().len(), 1);
    // To nothing and back to all.
    decode(&mut decoder, &hex("20 3fe11f")).unwrap();
    assert!(decoder.table().is_empty());
    assert_eq!(decoder.table().max_size(), 4096);
    // Above what was announced; and after a field line.
    assert_eq!(decode(&mut decoder, &hex("3fe21f")), Err(Error::Hpack));
    assert_eq!(decode(&mut Decoder::new(), &hex("82 20")), Err(Error::Hpack));
}

#[test]
fn broken_blocks_are_errors() {
    for bad in [
        "80",             // index 0
        "be",             // an empty dynamic table
        "7e 00",          // a name from there
        "40",             // cut off before the name
        "40 01",          // in the name
        "40 01 61",       // before the value
        "40 01 61 05 62", // in the value
        "00 ff",          // in a length
        "00 01 61 81 ff", // Huffman padding of a byte
    ] {
        assert_eq!(decode(&mut Decoder::new(), &hex(bad)), Err(Error::Hpack), "{bad}");
    }
}

fn encode(encoder: &mut Encoder, fields: &[(&str, &str)]) -> Vec<u8> {
    let mut block = Vec::new();
    encoder.begin(&mut block);
    for (name, value) in fields {
        let field = Field {
            name: name.as_bytes(),
            value: value.as_bytes(),
            sensitive: false,
        };
        encoder.field(field, &mut block);
    }
    block
}

#[test]
fn the_encoder_tells_of_a_changed_table() {
    let fields = [("x-a", "1"), ("x-b", "2")];
    let mut encoder = Encoder::new();
    let mut decoder = Decoder::new();
    let mut last = Vec::new();
    for _ in 0..3 {
        last = encode(&mut encoder, &fields);
        decode(&mut decoder, &last).unwrap();
    }
    assert_eq!(last, hex("bf be"), "both are indexed in the end");
    assert_eq!(encoder.table().len(), 2);

    // Smaller: told once, at the beginning of the next block.
    encoder.set_max_table_size(40);
    let block = encode(&mut encoder, &fields);
    assert_eq!(block[..2], hex("3f09"));
    assert_eq!(decode(&mut decoder, &block).unwrap().len(), 2);
    assert_eq!(encoder.table().size(), decoder.table().size());
    assert_ne!(encode(&mut encoder, &fields)[..2], hex("3f09"));

    // None and back between two blocks: the smallest first (§4.2).
    let mut decoder = Decoder::new();
    let mut encoder = Encoder::new();
    for _ in 0..2 {
        decode(&mut decoder, &encode(&mut encoder, &fields)).unwrap();
    }
    encoder.set_max_table_size(0);
    encoder.set_max_table_size(1 << 20);
    let block = encode(&mut encoder, &fields);
    assert_eq!(block[..4], hex("20 3fe11f"));
    decode(&mut decoder, &block).unwrap();
    assert_eq!(table(encoder.table()), table(decoder.table()));

    // More than is used of it: nothing changes.
    encoder.set_max_table_size(65_536);
    assert_eq!(encode(&mut encoder, &[(":method", "GET")]), hex("82"));

    // No table: nothing is entered, ever.
    encoder.set_max_table_size(0);
    for _ in 0..3 {
        encode(&mut encoder, &fields);
    }
    assert!(encoder.table().is_empty());
}

#[test]
fn secrets_enter_no_table() {
    let mut encoder = Encoder::new();
    let mut decoder = Decoder::new();
    for (name, value) in [
        ("authorization", "Bearer x"),
        ("x-key", "k"),
        ("accept-encoding", "gzip, deflate"),
    ] {
        for _ in 0..3 {
            let mut block = Vec::new();
            let field = Field {
                name: name.as_bytes(),
                value: value.as_bytes(),
                sensitive: true,
            };
            encoder.field(field, &mut block);
            assert_eq!(block[0] & 0xf0, 0x10);
            let decoded = decode(&mut decoder, &block).unwrap();
            assert_eq!(decoded, [(name.into(), value.into(), true)]);
        }
    }
    assert!(encoder.table().is_empty() && decoder.table().is_empty());
}

#[test]
fn both_tables_stay_the_same_over_many_blocks() {
    let mut encoder = Encoder::new();
    let mut decoder = Decoder::new();
    let mut indexed = 0;
    for round in 0..2_000_usize {
        if round % 250 == 249 {
            encoder.set_max_table_size(round * 7 % 5_000);
        }
        let values = [round % 3, round % 17, round % 201, round];
        let fields: Vec<(String, String)> = values
            .iter()
            .enumerate()
            .map(|(index, value)| (format!("x-{index}"), "v".repeat(value % 90) + &value.to_string()))
            .collect();
        let borrowed: Vec<_> = fields.iter().map(|(n, v)| (n.as_str(), v.as_str())).collect();
        let block = encode(&mut encoder, &borrowed);
        indexed += usize::from(block.len() < 150);
        let decoded = decode(&mut decoder, &block).unwrap();
        assert_eq!(
            decoded.into_iter().map(|(n, v, _)| (n, v)).collect::<Vec<_>>(),
            fields
        );
        assert_eq!(table(encoder.table()), table(decoder.table()));
    }
    assert!(indexed > 500, "the table is of use: {indexed}");
}

/// 4,096 bytes (RFC 9113 section 6.5.2).
#[test]
fn both_tables_stay_the_same_when_that_of_the_default_size_is_full() {
    let (mut encoder, mut decoder) = (Encoder::new(), Decoder::new());
    for number in 0..200 {
        let value = format!("{number:03}");
        for _ in 0..3 {
            let block = encode(&mut encoder, &[("x", &value)]);
            decode(&mut decoder, &block).unwrap();
        }
        assert_eq!(table(encoder.table()), table(decoder.table()));
    }
    // 36 bytes for each.
    assert_eq!(encoder.table().size(), 4096 / 36 * 36);
}

#[test]
fn the_encoder_refers_to_entries_far_back() {
    let (mut encoder, mut decoder) = (Encoder::new(), Decoder::new());
    let values: Vec<_> = (100..200).map(|number| number.to_string()).collect();
    let twice = values.iter().flat_map(|value| [value, value]);
    let mut far_back = 0;
    for value in twice.chain(&values) {
        let block = encode(&mut encoder, &[("x", value)]);
        let field = ("x".to_owned(), value.clone(), false);
        assert_eq!(decode(&mut decoder, &block).unwrap(), [field]);
        // Indexes from 127 on take a second byte.
        far_back += usize::from(block[0] == 0xff);
    }
    assert!(far_back > 10, "{far_back}");
}

#[test]
fn fields_larger_than_the_table_or_512_bytes_enter_none() {
    let entered = |table: usize, length: usize| {
        let mut encoder = Encoder::new();
        encoder.set_max_table_size(table);
        let value = "x".repeat(length - 1);
        for field in [("a", "1"), ("a", "1"), ("b", &value), ("b", &value)] {
            encode(&mut encoder, &[field]);
        }
        encoder.table().get(0).unwrap().0 == b"b"
    };
    assert!(entered(100, 100 - 32));
    assert!(!entered(100, 101 - 32));
    assert!(entered(4096, 512));
    assert!(!entered(4096, 513));
}

/// These have the same hash in the encoder, so only comparing them tells them apart.
#[test]
fn fields_that_are_hashed_alike_are_told_apart() {
    for (one, other) in [
        (("x-name", "8640"), ("x-name", "620954")),
        (("x-12129", "value"), ("x-19262", "value")),
    ] {
        let (mut encoder, mut decoder) = (Encoder::new(), Decoder::new());
        for (name, value) in [one, one, other, one, other, other] {
            let block = encode(&mut encoder, &[(name, value)]);
            let field = (name.to_owned(), value.to_owned(), false);
            assert_eq!(decode(&mut decoder, &block).unwrap(), [field]);
        }
    }
}

/// Letters whose Huffman codes are their places in this row, in five bits (RFC 7541 appendix B).
const FIVE_BITS: &[u8; 10] = b"012aceiost";

/// Appends an `authorization` that is never indexed, Huffman coded; for texts of [`FIVE_BITS`], in groups of eight.
fn coded_literal(text: &[u8], out: &mut Vec<u8>) {
    assert!(text.len().is_multiple_of(8));
    out.extend([0x1f, 23 - 15]);
    integer::encode(0x80, 0x7f, text.len() / 8 * 5, out);
    for group in text.chunks(8) {
        let bits = group.iter().fold(0_u64, |bits, letter| {
            let code = FIVE_BITS.iter().position(|other| other == letter).unwrap();
            bits << 5 | code as u64
        });
        out.extend(&bits.to_be_bytes()[3..]);
    }
}

#[test]
fn long_strings_that_come_again_stay_what_they_are() {
    let mut state = 1_u32;
    let mut random = |below: usize| {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 8) as usize % below
    };
    // Each with another one of the same length that differs in one letter, wherever that is.
    let mut texts = Vec::new();
    for _ in 0..60 {
        let groups = 1 + random(if texts.len() % 4 == 0 { 700 } else { 60 });
        let text: Vec<u8> = (0..groups * 8).map(|_| FIVE_BITS[random(9)]).collect();
        for _ in 0..3 {
            let mut other = text.clone();
            other[random(text.len())] = b't';
            texts.push(other);
        }
        texts.push(text);
    }
    let mut decoder = Decoder::new();
    for _ in 0..1_500 {
        let mut block = Vec::new();
        let sent: Vec<_> = (0..3).map(|_| &texts[random(texts.len())]).collect();
        sent.iter().for_each(|text| coded_literal(text, &mut block));
        let received = decode(&mut decoder, &block).unwrap();
        for (field, text) in received.iter().zip(&sent) {
            assert_eq!(field.1.as_bytes(), **text);
            assert!(field.2);
        }
        assert_eq!(received.len(), sent.len());
    }
}

#[test]
fn a_long_string_that_is_none_is_refused_each_time() {
    let mut block = Vec::new();
    coded_literal(&[b'a'; 160], &mut block);
    let mut broken = block.clone();
    // EOS, thirty bits of ones, in the middle.
    broken[50..60].fill(0xff);
    let mut decoder = Decoder::new();
    for _ in 0..3 {
        assert_eq!(decode(&mut decoder, &broken), Err(Error::Hpack));
        assert_eq!(decode(&mut decoder, &block).unwrap()[0].1.as_bytes(), [b'a'; 160]);
    }
}
