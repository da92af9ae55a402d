//! Bad input to the native converter, the same table as for the built module in `wasm_plugin.rs` and
//! `wasm_network_filter.rs`.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    clippy::as_conversions,
    missing_docs
)]

use integration::bad_input::{all, run};
use integration::end::{Closed, End, NativeEnd};
use integration::suite::{FAR, NEAR};

#[test]
fn bad_input_closes_the_websocket() {
    for case in all() {
        println!("{}", case.name);
        let mut end = NativeEnd::new(if case.near { NEAR } else { FAR });
        run(&case, &mut end);
        let closed = Closed {
            code: case.close,
            label: Some(case.label.clone()),
        };
        assert_eq!(end.closed(), Some(closed), "{}", case.name);
        assert!(end.finished(), "{}", case.name);
    }
}
