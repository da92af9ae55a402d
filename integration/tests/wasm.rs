//! The scenarios over the built module.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    clippy::as_conversions,
    missing_docs
)]

use std::cell::RefCell;
use std::rc::Rc;

use integration::suite::{FAR, NEAR, play_all, play_all_exactly, play_split_everywhere};
use integration::wasm_connection::{self, WasmConnection};
use integration::wasm_end::WasmEnd;
use integration::wasm_host::Vm;

/// Connections of one pair of VMs, as in an Envoy whose workers live long.
fn ends() -> impl FnMut() -> (WasmEnd, WasmEnd) {
    let start = |configuration| Rc::new(RefCell::new(Vm::start(configuration).expect("a VM")));
    let (near, far) = (start(NEAR), start(FAR));
    move || WasmEnd::connect(&near, &far).expect("living VMs")
}

/// The same for the network filter, whose handshake is among the bytes that are cut.
fn connections() -> impl FnMut() -> (WasmConnection, WasmConnection) {
    let start = |configuration| Rc::new(RefCell::new(Vm::start(configuration).expect("a VM")));
    let (near, far) = (start(wasm_connection::NEAR), start(wasm_connection::FAR));
    move || WasmConnection::connect(&near, &far).expect("living VMs")
}

#[test]
fn every_scenario_passes() {
    play_all(ends());
}

#[test]
fn every_scenario_is_exact() {
    play_all_exactly(ends());
}

#[test]
fn small_scenarios_pass_wherever_bytes_are_cut() {
    play_split_everywhere(7, ends());
}

#[test]
fn every_scenario_passes_the_network_filter() {
    play_all(connections());
}

#[test]
fn every_scenario_is_exact_through_the_network_filter() {
    play_all_exactly(connections());
}

#[test]
fn small_scenarios_pass_the_network_filter_wherever_bytes_are_cut() {
    play_split_everywhere(7, connections());
}
