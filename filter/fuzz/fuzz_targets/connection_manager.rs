#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| wsferry_fuzz::connection_manager(data));
