//! What the writer writes, the reader reads: random messages, cut anywhere.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    clippy::as_conversions,
    missing_docs
)]

mod http2_support;

use http2_support::messages::{direction, written};
use http2_support::{Owned, read};
use proptest::collection::vec;
use proptest::prelude::*;
use wsferry::config::Limits;
use wsferry::http2::Reader;

/// What the writer leaves out: an empty piece that ends nothing.
fn is_nothing(event: &Owned) -> bool {
    matches!(event, Owned::Data { end: false, payload, .. } if payload.is_empty())
}

fn expected(events: &[Owned]) -> Vec<Owned> {
    let mut all = vec![Owned::Settings(vec![])];
    all.extend(events.iter().filter(|event| !is_nothing(event)).cloned());
    Owned::joined(all)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn what_is_written_is_read((sender, events) in direction(), table in any::<u32>()) {
        let bytes = written(sender, &events, table);
        let (read, error) = read(&mut Reader::new(sender, &Limits::default()), &bytes);
        prop_assert_eq!(error, None);
        prop_assert_eq!(Owned::joined(read), expected(&events));
    }

    #[test]
    fn cuts_make_no_difference(
        (sender, events) in direction(),
        sizes in vec(prop_oneof![1_usize..12, 1_usize..5_000], 1..40),
    ) {
        let bytes = written(sender, &events, 4_096);
        let mut reader = Reader::new(sender, &Limits::default());
        let mut all = Vec::new();
        let mut rest = bytes.as_slice();
        for size in sizes.iter().cycle() {
            let (chunk, after) = rest.split_at((*size).min(rest.len()));
            let (events, error) = read(&mut reader, chunk);
            prop_assert_eq!(error, None);
            all.extend(events);
            rest = after;
            if rest.is_empty() {
                break;
            }
        }
        prop_assert_eq!(Owned::joined(all), expected(&events));
    }
}
