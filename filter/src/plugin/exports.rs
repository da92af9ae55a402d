//! What Envoy calls (proxy-wasm ABI 0.2.1), and which context each call is for.
//!
//! Our own and not the SDK's, for three reasons: the SDK panics where a host call leads back into the
//! VM, on an unknown identifier and on an unexpected status, and a panic is every connection of a
//! worker; whatever its traits could call is imported, twenty host functions that nobody here wants;
//! and with all that it is a fifth of the module. What is used of the ABI fits on this page.

#![allow(unsafe_code)]

use std::alloc::Layout;
use std::cell::RefCell;
use std::rc::Rc;

use super::host::{self, Level};
use super::root;

/// What becomes of a stream after a callback.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Action {
    /// It goes on.
    Continue,
    /// It stops here: the request has been answered, or is to be reset.
    Pause,
}

impl Action {
    const fn encode(self) -> u32 {
        match self {
            Self::Continue => 0,
            Self::Pause => 1,
        }
    }
}

/// What a plugin does once it is configured: one for each plugin and thread.
pub(super) trait Plugin {
    /// The timer that was asked for with [`host::set_tick_period`].
    fn tick(&self);

    /// The response to a call of [`host::http_call`], or its failure, which has no headers.
    fn http_call_response(&self, _token: u32, _has_headers: bool) {}

    /// A stream of this plugin begins.
    fn stream(&self, context_id: u32) -> Box<dyn Stream>;
}

/// An HTTP stream that passes the filter. `size` is in bytes and of the whole buffer.
pub(super) trait Stream {
    fn request_headers(&mut self, end_of_stream: bool) -> Action;
    fn request_body(&mut self, size: usize, end_of_stream: bool) -> Action;
    fn request_trailers(&mut self) -> Action;
    fn response_headers(&mut self, end_of_stream: bool) -> Action;
    fn response_body(&mut self, size: usize, end_of_stream: bool) -> Action;
    fn response_trailers(&mut self) -> Action;

    /// The stream is over.
    fn done(&mut self);
}

/// Contexts by identifier. Envoy hands identifiers out in ascending order, so new ones go to the end.
struct Table<Context> {
    entries: Vec<(u32, Option<Context>)>,
}

impl<Context> Table<Context> {
    const fn new() -> Self {
        Self { entries: Vec::new() }
    }

    fn get_mut(&mut self, id: u32) -> Option<&mut Option<Context>> {
        let found = self.entries.binary_search_by_key(&id, |entry| entry.0).ok()?;
        self.entries.get_mut(found).map(|entry| &mut entry.1)
    }

    fn insert(&mut self, id: u32, context: Option<Context>) {
        match self.entries.binary_search_by_key(&id, |entry| entry.0) {
            Ok(found) => {
                if let Some(entry) = self.entries.get_mut(found) {
                    entry.1 = context;
                }
            }
            // `place` is at most the length, so this doesn't panic.
            Err(place) => self.entries.insert(place, (id, context)),
        }
    }

    fn remove(&mut self, id: u32) -> Option<Context> {
        let found = self.entries.binary_search_by_key(&id, |entry| entry.0).ok()?;
        self.entries.remove(found).1
    }
}

struct Contexts {
    /// `None`: not configured.
    roots: Table<Rc<dyn Plugin>>,
    /// `None`: in a callback.
    streams: Table<Box<dyn Stream>>,
}

thread_local! {
    static CONTEXTS: RefCell<Contexts> = const {
        RefCell::new(Contexts {
            roots: Table::new(),
            streams: Table::new(),
        })
    };
}

/// Never borrowed while a context is called, so this succeeds even if the host comes back meanwhile.
fn contexts<T>(work: impl FnOnce(&mut Contexts) -> T) -> Option<T> {
    CONTEXTS.with(|contexts| {
        contexts
            .try_borrow_mut()
            .ok()
            .map(|mut contexts| work(&mut contexts))
    })
}

fn plugin(root_id: u32) -> Option<Rc<dyn Plugin>> {
    contexts(|contexts| contexts.roots.get_mut(root_id).and_then(|plugin| plugin.clone())).flatten()
}

/// Calls a stream that is taken out meanwhile. One that isn't there can't say what to do: nothing of
/// it passes.
fn with_stream(context_id: u32, call: impl FnOnce(&mut dyn Stream) -> Action) -> u32 {
    let taken = contexts(|contexts| contexts.streams.get_mut(context_id).and_then(Option::take));
    let Some(mut stream) = taken.flatten() else {
        host::log(Level::Error, &format!("#{context_id}: no such stream"));
        return Action::Pause.encode();
    };
    let action = call(stream.as_mut());
    contexts(|contexts| {
        if let Some(slot) = contexts.streams.get_mut(context_id) {
            *slot = Some(stream);
        }
    });
    action.encode()
}

/// Names the version; never called.
#[unsafe(no_mangle)]
extern "C" fn proxy_abi_version_0_2_1() {}

#[unsafe(no_mangle)]
extern "C" fn _initialize() {
    // A panic is a defect that the lints should have kept out. What it says is all that is left of it.
    std::panic::set_hook(Box::new(|panic| {
        host::log(Level::Critical, &panic.to_string());
    }));
}

/// Memory for what the host gives; [`host::take_allocated`] takes it over. Null if there is none.
#[unsafe(no_mangle)]
extern "C" fn proxy_on_memory_allocate(size: usize) -> *mut u8 {
    match Layout::array::<u8>(size) {
        // SAFETY: the layout isn't of size 0.
        Ok(layout) if size > 0 => unsafe { std::alloc::alloc(layout) },
        _ => std::ptr::null_mut(),
    }
}

#[unsafe(no_mangle)]
extern "C" fn proxy_on_context_create(context_id: u32, root_id: u32) {
    if root_id == 0 {
        contexts(|contexts| contexts.roots.insert(context_id, None));
        return;
    }
    let stream = match plugin(root_id) {
        Some(plugin) => plugin.stream(context_id),
        None => Box::new(root::Unconfigured),
    };
    contexts(|contexts| contexts.streams.insert(context_id, Some(stream)));
}

/// There is no configuration of the VM, only of its plugins.
#[unsafe(no_mangle)]
extern "C" fn proxy_on_vm_start(_root_id: u32, _size: usize) -> u32 {
    1
}

/// 0 has Envoy refuse the configuration.
#[unsafe(no_mangle)]
extern "C" fn proxy_on_configure(root_id: u32, size: usize) -> u32 {
    match root::configure(size) {
        Ok(plugin) => {
            contexts(|contexts| contexts.roots.insert(root_id, Some(plugin)));
            1
        }
        Err(reason) => {
            host::log(Level::Error, &reason);
            0
        }
    }
}

#[unsafe(no_mangle)]
extern "C" fn proxy_on_tick(root_id: u32) {
    if let Some(plugin) = plugin(root_id) {
        plugin.tick();
    }
}

/// Only plugins make calls, not their streams.
#[unsafe(no_mangle)]
extern "C" fn proxy_on_http_call_response(
    root_id: u32,
    token: u32,
    headers: u32,
    _body_size: usize,
    _trailers: u32,
) {
    if let Some(plugin) = plugin(root_id) {
        plugin.http_call_response(token, headers > 0);
    }
}

#[unsafe(no_mangle)]
extern "C" fn proxy_on_request_headers(context_id: u32, _count: usize, end_of_stream: u32) -> u32 {
    with_stream(context_id, |stream| stream.request_headers(end_of_stream != 0))
}

#[unsafe(no_mangle)]
extern "C" fn proxy_on_request_body(context_id: u32, size: usize, end_of_stream: u32) -> u32 {
    with_stream(context_id, |stream| stream.request_body(size, end_of_stream != 0))
}

#[unsafe(no_mangle)]
extern "C" fn proxy_on_request_trailers(context_id: u32, _count: usize) -> u32 {
    with_stream(context_id, |stream| stream.request_trailers())
}

#[unsafe(no_mangle)]
extern "C" fn proxy_on_response_headers(context_id: u32, _count: usize, end_of_stream: u32) -> u32 {
    with_stream(context_id, |stream| stream.response_headers(end_of_stream != 0))
}

#[unsafe(no_mangle)]
extern "C" fn proxy_on_response_body(context_id: u32, size: usize, end_of_stream: u32) -> u32 {
    with_stream(context_id, |stream| {
        stream.response_body(size, end_of_stream != 0)
    })
}

#[unsafe(no_mangle)]
extern "C" fn proxy_on_response_trailers(context_id: u32, _count: usize) -> u32 {
    with_stream(context_id, |stream| stream.response_trailers())
}

/// 1: nothing is left to be done, the context may be deleted.
#[unsafe(no_mangle)]
extern "C" fn proxy_on_done(context_id: u32) -> u32 {
    let is_stream = contexts(|contexts| contexts.streams.get_mut(context_id).is_some());
    if is_stream == Some(true) {
        with_stream(context_id, |stream| {
            stream.done();
            Action::Continue
        });
    }
    1
}

#[unsafe(no_mangle)]
extern "C" fn proxy_on_delete(context_id: u32) {
    // Dropped outside, where the contexts aren't borrowed.
    let gone = contexts(|contexts| {
        (
            contexts.streams.remove(context_id),
            contexts.roots.remove(context_id),
        )
    });
    drop(gone);
}
