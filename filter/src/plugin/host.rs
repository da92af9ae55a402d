//! The host functions that this filter uses, and nothing around them: the only place that calls out
//! of the sandbox (proxy-wasm ABI 0.2.1, WASI preview 1).
//!
//! A status that isn't 0 is an error value, where the SDK's wrappers panic on one that they don't expect.

#![allow(unsafe_code)]

use std::fmt;
use std::time::Duration;

use proxy_wasm::hostcalls;

use crate::message::Fields;
use crate::time::Time;

/// How many streams or connections one callback ends, or has go on, at most. Envoy does each once the callback is over and calls
/// back into the VM for it, and the next one from there: about a thousand exhaust V8's stack.
pub(super) const MOST_AT_ONCE: usize = 256;

/// What a host function answered instead of 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Status(u32);

impl Status {
    const NOT_FOUND: u32 = 1;
    pub(super) const BAD_ARGUMENT: Self = Self(2);
    const PARSE_FAILURE: Self = Self(4);
    const CAS_MISMATCH: u32 = 8;
    pub(super) const INTERNAL_FAILURE: Self = Self(10);
    pub(super) const UNIMPLEMENTED: Self = Self(12);

    fn check(code: u32) -> Result<(), Self> {
        match code {
            0 => Ok(()),
            code => Err(Self(code)),
        }
    }
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the host answered {}", self.0)
    }
}

/// A buffer of the host.
#[derive(Debug, Clone, Copy)]
pub(super) enum Buffer {
    RequestBody,
    ResponseBody,
    DownstreamData,
    UpstreamData,
    PluginConfiguration,
}

impl Buffer {
    const fn encode(self) -> u32 {
        match self {
            Self::RequestBody => 0,
            Self::ResponseBody => 1,
            Self::DownstreamData => 2,
            Self::UpstreamData => 3,
            Self::PluginConfiguration => 7,
        }
    }
}

/// What a context is of Envoy's.
#[derive(Debug, Clone, Copy)]
pub(super) enum StreamKind {
    /// An HTTP stream.
    Http,
    /// A connection.
    Connection,
}

impl StreamKind {
    const fn encode(self) -> u32 {
        match self {
            Self::Http => 0,
            Self::Connection => 2,
        }
    }
}

/// A header map of the host.
#[derive(Debug, Clone, Copy)]
pub(super) enum Map {
    Request,
    Response,
    CallResponse,
}

impl Map {
    const fn encode(self) -> u32 {
        match self {
            Self::Request => 0,
            Self::Response => 2,
            Self::CallResponse => 6,
        }
    }
}

/// What a metric counts.
#[derive(Debug, Clone, Copy)]
pub(super) enum MetricKind {
    Counter,
    Gauge,
    Histogram,
}

impl MetricKind {
    const fn encode(self) -> u32 {
        match self {
            Self::Counter => 0,
            Self::Gauge => 1,
            Self::Histogram => 2,
        }
    }
}

#[link(wasm_import_module = "env")]
unsafe extern "C" {
    fn proxy_set_tick_period_milliseconds(period: u32) -> u32;
    fn proxy_set_effective_context(context_id: u32) -> u32;
    fn proxy_close_stream(stream: u32) -> u32;
    fn proxy_get_buffer_bytes(
        buffer: u32,
        start: usize,
        max_size: usize,
        data: *mut *mut u8,
        size: *mut usize,
    ) -> u32;
    fn proxy_set_buffer_bytes(
        buffer: u32,
        start: usize,
        size: usize,
        data: *const u8,
        data_size: usize,
    ) -> u32;
    fn proxy_get_header_map_pairs(map: u32, data: *mut *mut u8, size: *mut usize) -> u32;
    fn proxy_replace_header_map_value(
        map: u32,
        name: *const u8,
        name_size: usize,
        value: *const u8,
        value_size: usize,
    ) -> u32;
    fn proxy_remove_header_map_value(map: u32, name: *const u8, name_size: usize) -> u32;
    fn proxy_get_property(path: *const u8, path_size: usize, data: *mut *mut u8, size: *mut usize) -> u32;
    fn proxy_send_local_response(
        status: u32,
        details: *const u8,
        details_size: usize,
        body: *const u8,
        body_size: usize,
        headers: *const u8,
        headers_size: usize,
        grpc_status: i32,
    ) -> u32;
    fn proxy_define_metric(kind: u32, name: *const u8, name_size: usize, id: *mut u32) -> u32;
    fn proxy_increment_metric(id: u32, offset: i64) -> u32;
    fn proxy_record_metric(id: u32, value: u64) -> u32;
    fn proxy_get_header_map_value(
        map: u32,
        name: *const u8,
        name_size: usize,
        data: *mut *mut u8,
        size: *mut usize,
    ) -> u32;
    fn proxy_set_property(path: *const u8, path_size: usize, value: *const u8, value_size: usize) -> u32;
    fn proxy_continue_stream(stream: u32) -> u32;
    fn proxy_get_shared_data(
        key: *const u8,
        key_size: usize,
        data: *mut *mut u8,
        size: *mut usize,
        version: *mut u32,
    ) -> u32;
    fn proxy_set_shared_data(
        key: *const u8,
        key_size: usize,
        value: *const u8,
        value_size: usize,
        version: u32,
    ) -> u32;
}

#[link(wasm_import_module = "wasi_snapshot_preview1")]
unsafe extern "C" {
    fn random_get(buffer: *mut u8, size: usize) -> u32;
    fn clock_time_get(clock: u32, precision: u64, time: *mut u64) -> u32;
}

/// Bytes that the host has put into memory of this VM, which it got from `proxy_on_memory_allocate`.
///
/// # Safety
/// `data` is null or an allocation of `size` bytes without alignment, and nobody else's.
unsafe fn take_allocated(data: *mut u8, size: usize) -> Vec<u8> {
    if data.is_null() {
        Vec::new()
    } else {
        // SAFETY: the caller's promise.
        unsafe { Vec::from_raw_parts(data, size, size) }
    }
}

/// Calls a host function that answers with bytes; not found is `None`.
fn bytes_of(call: impl FnOnce(*mut *mut u8, *mut usize) -> u32) -> Result<Option<Vec<u8>>, Status> {
    let mut data = std::ptr::null_mut();
    let mut size = 0;
    match call(&raw mut data, &raw mut size) {
        // SAFETY: the host allocates with `proxy_on_memory_allocate` and gives the memory away.
        0 => Ok(Some(unsafe { take_allocated(data, size) })),
        Status::NOT_FOUND => Ok(None),
        code => Err(Status(code)),
    }
}

// SAFETY of all calls below: pointers and lengths are those of slices that live for the call, and
// results go to locals.

/// The time by the clock that nobody sets, the same in all VMs of a process. Envoy's configuration may withhold it.
pub(super) fn clock() -> Result<Time, Status> {
    const MONOTONIC: u32 = 1;
    let mut nanoseconds = 0;
    Status::check(unsafe { clock_time_get(MONOTONIC, 1, &raw mut nanoseconds) })?;
    Ok(Time(nanoseconds / 1_000_000))
}

/// The same for a plugin, which isn't configured without a clock.
pub(super) fn now() -> Time {
    clock().unwrap_or_default()
}

/// Asks for `on_tick` of this root context, or of the one of this stream, every so many milliseconds.
pub(super) fn set_tick_period(milliseconds: u32) -> Result<(), Status> {
    Status::check(unsafe { proxy_set_tick_period_milliseconds(milliseconds) })
}

/// Makes the calls that follow, until the end of this callback, calls of another context.
pub(super) fn set_effective_context(context_id: u32) -> Result<(), Status> {
    Status::check(unsafe { proxy_set_effective_context(context_id) })
}

/// Ends what the effective context is. An HTTP stream ends once this callback has returned, and what the callback
/// itself has written is lost with it; not for the upstream filter chain of tcp_proxy. A connection ends when all has
/// been sent that was written before.
pub(super) fn close_stream(kind: StreamKind) -> Result<(), Status> {
    Status::check(unsafe { proxy_close_stream(kind.encode()) })
}

/// The first `size` bytes of a buffer.
pub(super) fn buffer(buffer: Buffer, size: usize) -> Result<Vec<u8>, Status> {
    let bytes =
        bytes_of(|data, length| unsafe { proxy_get_buffer_bytes(buffer.encode(), 0, size, data, length) })?;
    Ok(bytes.unwrap_or_default())
}

/// Replaces all of a buffer.
pub(super) fn replace_buffer(buffer: Buffer, bytes: &[u8]) -> Result<(), Status> {
    Status::check(unsafe {
        proxy_set_buffer_bytes(buffer.encode(), 0, usize::MAX, bytes.as_ptr(), bytes.len())
    })
}

/// Every line of a header map, pseudo-header fields included. One value alone can't be had safely:
/// for a repeated field the host gives the first line and keeps silent about the others.
pub(super) fn headers(map: Map) -> Result<Fields, Status> {
    let bytes = bytes_of(|data, size| unsafe { proxy_get_header_map_pairs(map.encode(), data, size) })?;
    parse_pairs(&bytes.unwrap_or_default()).ok_or(Status::PARSE_FAILURE)
}

/// Sets a field to one line.
pub(super) fn replace_header(map: Map, name: &str, value: &str) -> Result<(), Status> {
    Status::check(unsafe {
        proxy_replace_header_map_value(
            map.encode(),
            name.as_ptr(),
            name.len(),
            value.as_ptr(),
            value.len(),
        )
    })
}

/// Removes all lines of a field, if there are any.
pub(super) fn remove_header(map: Map, name: &str) -> Result<(), Status> {
    match unsafe { proxy_remove_header_map_value(map.encode(), name.as_ptr(), name.len()) } {
        Status::NOT_FOUND => Ok(()),
        code => Status::check(code),
    }
}

/// A property of Envoy's, by its path.
pub(super) fn property(path: &[&str]) -> Result<Option<Vec<u8>>, Status> {
    let path = path.join("\0");
    bytes_of(|data, size| unsafe { proxy_get_property(path.as_ptr(), path.len(), data, size) })
}

/// Answers the request of this context once this callback has returned; the request goes no further
/// if the callback returns `Action::Pause`. `details` is for `%RESPONSE_CODE_DETAILS%`.
pub(super) fn send_local_response(
    status: u16,
    details: &str,
    fields: &[(&str, &str)],
    body: &str,
) -> Result<(), Status> {
    const NO_GRPC_STATUS: i32 = -1;
    let headers = encode_pairs(fields).ok_or(Status::PARSE_FAILURE)?;
    Status::check(unsafe {
        proxy_send_local_response(
            u32::from(status),
            details.as_ptr(),
            details.len(),
            body.as_ptr(),
            body.len(),
            headers.as_ptr(),
            headers.len(),
            NO_GRPC_STATUS,
        )
    })
}

/// The identifier of the metric of this name, which is made if there is none.
pub(super) fn define_metric(kind: MetricKind, name: &str) -> Result<u32, Status> {
    let mut id = 0;
    Status::check(unsafe { proxy_define_metric(kind.encode(), name.as_ptr(), name.len(), &raw mut id) })?;
    Ok(id)
}

/// Adds to a metric; only to a gauge less than zero.
pub(super) fn increment_metric(id: u32, offset: i64) -> Result<(), Status> {
    Status::check(unsafe { proxy_increment_metric(id, offset) })
}

/// Adds a sample to a histogram.
pub(super) fn record_metric(id: u32, value: u64) -> Result<(), Status> {
    Status::check(unsafe { proxy_record_metric(id, value) })
}

/// The first line of a field: enough for pseudo-header fields, of which there is one.
pub(super) fn header(map: Map, name: &str) -> Result<Option<Vec<u8>>, Status> {
    bytes_of(|data, size| unsafe {
        proxy_get_header_map_value(map.encode(), name.as_ptr(), name.len(), data, size)
    })
}

/// Sets filter state of the stream, `wasm.NAME`, for access logs and the like.
pub(super) fn set_property(name: &str, value: &[u8]) -> Result<(), Status> {
    Status::check(unsafe { proxy_set_property(name.as_ptr(), name.len(), value.as_ptr(), value.len()) })
}

/// Lets the request of the effective context go on, once this callback has returned.
pub(super) fn continue_request() -> Result<(), Status> {
    const REQUEST: u32 = 0;
    Status::check(unsafe { proxy_continue_stream(REQUEST) })
}

/// Sends a request without body to a cluster, for the effective context, which gets the response. The
/// result names the call. Through the SDK, which hands out responses to calls that it knows of.
///
/// # Errors
/// [`Status::BAD_ARGUMENT`] where there is no such cluster, [`Status::INTERNAL_FAILURE`] where it takes no request now.
pub(super) fn http_call(cluster: &str, headers: &[(&str, &str)], timeout_ms: u32) -> Result<u32, Status> {
    let timeout = Duration::from_millis(u64::from(timeout_ms));
    hostcalls::dispatch_http_call(cluster, headers.to_vec(), None, Vec::new(), timeout).map_err(|status| {
        match status {
            proxy_wasm::types::Status::BadArgument => Status::BAD_ARGUMENT,
            _ => Status::INTERNAL_FAILURE,
        }
    })
}

/// What all threads' plugins with this VM's `vm_id` share under a key, and its version; empty and
/// version 0 where there is nothing.
pub(super) fn shared_data(key: &str) -> Result<(Vec<u8>, u32), Status> {
    let mut version = 0;
    let bytes = bytes_of(|data, size| unsafe {
        proxy_get_shared_data(key.as_ptr(), key.len(), data, size, &raw mut version)
    })?;
    Ok((bytes.unwrap_or_default(), version))
}

/// Shares a value, unless somebody has shared another one since that version was read (0: whatever
/// there is). Whether it was.
pub(super) fn set_shared_data(key: &str, value: &[u8], version: u32) -> Result<bool, Status> {
    let code =
        unsafe { proxy_set_shared_data(key.as_ptr(), key.len(), value.as_ptr(), value.len(), version) };
    match code {
        Status::CAS_MISMATCH => Ok(false),
        code => Status::check(code).map(|()| true),
    }
}

/// Fills a buffer with unpredictable bytes.
pub(super) fn random(bytes: &mut [u8]) -> Result<(), Status> {
    Status::check(unsafe { random_get(bytes.as_mut_ptr(), bytes.len()) })
}

/// Header pairs as the ABI has them, all integers of 32 bits, little endian: how many; for each the
/// lengths of name and value; for each the name, 0, the value, 0.
fn parse_pairs(bytes: &[u8]) -> Option<Fields> {
    let mut fields = Fields::new();
    if bytes.is_empty() {
        return Some(fields);
    }
    let (count, rest) = take_length(bytes)?;
    let (mut lengths, mut rest) = rest.split_at_checked(count.checked_mul(8)?)?;
    while !lengths.is_empty() {
        let (name, after) = take_length(lengths)?;
        let (value, after) = take_length(after)?;
        lengths = after;
        let (name, after) = rest.split_at_checked(name)?;
        let (_, after) = after.split_first()?;
        let (value, after) = after.split_at_checked(value)?;
        let (_, after) = after.split_first()?;
        rest = after;
        fields.push(name, value, false);
    }
    Some(fields)
}

fn take_length(bytes: &[u8]) -> Option<(usize, &[u8])> {
    let (length, rest) = bytes.split_first_chunk::<4>()?;
    Some((usize::try_from(u32::from_le_bytes(*length)).ok()?, rest))
}

fn encode_pairs(fields: &[(&str, &str)]) -> Option<Vec<u8>> {
    let mut bytes = Vec::new();
    bytes.extend(u32::try_from(fields.len()).ok()?.to_le_bytes());
    for (name, value) in fields {
        bytes.extend(u32::try_from(name.len()).ok()?.to_le_bytes());
        bytes.extend(u32::try_from(value.len()).ok()?.to_le_bytes());
    }
    for text in fields.iter().flat_map(|(name, value)| [name, value]) {
        bytes.extend(text.as_bytes());
        bytes.push(0);
    }
    Some(bytes)
}
