//! What a connection manager asks of the host, besides what a converter does: calls to clusters, data
//! that VMs share, filter state.

use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::Rc;

use wasmtime::{Linker, Result};

use super::abi::{Call, deserialize, give, read, status::*, write_u32};
use super::{HeaderMap, Host, LocalResponse, Phase, Trap, Vm, header_map};

/// What all VMs of one `vm_id` share: values with their versions, which begin with 1.
#[derive(Debug, Clone, Default)]
pub struct SharedData(Rc<RefCell<Versions>>);

type Versions = HashMap<Vec<u8>, (Vec<u8>, u32)>;

/// A request that the module sent to a cluster.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HttpCall {
    /// Names the call in [`Vm::answer_call`].
    pub token: u32,
    /// Where to.
    pub cluster: String,
    /// Its headers.
    pub headers: HeaderMap,
    /// Milliseconds.
    pub timeout: u32,
    context: u32,
}

/// The calls of a VM.
#[derive(Debug, Default)]
pub(super) struct Calls {
    last_token: u32,
    under_way: Vec<HttpCall>,
    /// What no further call is taken with, as by Envoy of a cluster whose circuit breaker is full.
    full: bool,
    /// Properties can't be set, as where a list of capabilities lacks that.
    refuses_properties: bool,
    /// Headers of the response whose callback runs.
    pub(super) response: Option<HeaderMap>,
}

impl Vm {
    /// The calls that nobody has answered yet.
    pub fn calls(&self) -> &[HttpCall] {
        &self.store.data().calls.under_way
    }

    /// Whether calls are refused.
    pub fn refuse_calls(&mut self, full: bool) {
        self.store.data_mut().calls.full = full;
    }

    /// Has `proxy_set_property` fail.
    pub fn refuse_properties(&mut self) {
        self.store.data_mut().calls.refuses_properties = true;
    }

    /// Answers a call; Envoy answers with 503 where it can't connect, and with 504 after the time-out.
    ///
    /// # Errors
    /// The VM is dead.
    pub fn answer_call(&mut self, token: u32, status: u16) -> std::result::Result<(), Trap> {
        let calls = &mut self.store.data_mut().calls;
        let place = calls.under_way.iter().position(|call| call.token == token);
        let call = calls.under_way.remove(place.expect("a call under way"));
        calls.response = Some(header_map(&[(":status", &status.to_string())]));
        let answered = self.call::<_, ()>(
            "proxy_on_http_call_response",
            call.context,
            Phase::None,
            (call.context, token, 1, 0, 0),
        );
        self.store.data_mut().calls.response = None;
        answered
    }

    /// Sets what Envoy says of the stream whose callback comes next.
    pub fn set_property(&mut self, path: &[&str], value: &[u8]) {
        self.store
            .data_mut()
            .properties
            .insert(path.join("\0").into_bytes(), value.to_vec());
    }

    /// Filter state that the module has set for a stream.
    pub fn filter_state(&self, context: u32, name: &str) -> Option<&[u8]> {
        let stream = self.store.data().streams.get(&context)?;
        stream.filter_state.get(name.as_bytes()).map(Vec::as_slice)
    }

    /// The headers of a request that waited and goes on now.
    pub fn take_continued(&mut self, context: u32) -> Option<HeaderMap> {
        let stream = self.stream(context);
        std::mem::take(&mut stream.continued).then(|| stream.request_headers.clone().expect("headers"))
    }

    /// What a request that waited was answered by the filter.
    pub fn take_answer(&mut self, context: u32) -> Option<LocalResponse> {
        self.stream(context).local_response.take()
    }
}

#[allow(clippy::too_many_arguments, reason = "the ABI has them")]
fn http_call(
    mut call: Call<'_>,
    cluster: u32,
    cluster_size: u32,
    headers: u32,
    headers_size: u32,
    _body: u32,
    _body_size: u32,
    _trailers: u32,
    _trailers_size: u32,
    timeout: u32,
    token_at: u32,
) -> Result<u32> {
    let cluster = String::from_utf8_lossy(&read(&mut call, cluster, cluster_size)?).into_owned();
    let headers = read(&mut call, headers, headers_size)?;
    // Envoy wants these three.
    let Some(headers) = deserialize(&headers).filter(|map| {
        [":method", ":path", ":authority"]
            .iter()
            .all(|name| super::field(map, name).is_some())
    }) else {
        return Ok(BAD_ARGUMENT);
    };
    let host = call.data_mut();
    if host.calls.full {
        return Ok(INTERNAL_FAILURE);
    }
    let context = host.current();
    host.calls.last_token += 1;
    let token = host.calls.last_token;
    host.calls.under_way.push(HttpCall {
        token,
        cluster,
        headers,
        timeout,
        context,
    });
    write_u32(&mut call, token_at, token)?;
    Ok(OK)
}

/// Defines the functions.
pub(super) fn define(linker: &mut Linker<Host>) -> Result<()> {
    linker.func_wrap("env", "proxy_http_call", http_call)?;
    linker.func_wrap(
        "env",
        "proxy_get_shared_data",
        |mut call: Call<'_>,
         key: u32,
         length: u32,
         pointer: u32,
         size: u32,
         version_at: u32|
         -> Result<u32> {
            let key = read(&mut call, key, length)?;
            let found = call.data().shared.0.borrow().get(&key).cloned();
            let Some((value, version)) = found else {
                return Ok(NOT_FOUND);
            };
            write_u32(&mut call, version_at, version)?;
            give(&mut call, &value, pointer, size)
        },
    )?;
    linker.func_wrap(
        "env",
        "proxy_set_shared_data",
        |mut call: Call<'_>, key: u32, length: u32, value: u32, size: u32, version: u32| -> Result<u32> {
            let key = read(&mut call, key, length)?;
            let value = read(&mut call, value, size)?;
            let mut shared = call.data().shared.0.borrow_mut();
            let entry = shared.entry(key).or_default();
            // A version is compared only with one that is there.
            if version != 0 && entry.1 != 0 && entry.1 != version {
                return Ok(CAS_MISMATCH);
            }
            *entry = (value, entry.1 + 1);
            Ok(OK)
        },
    )?;
    linker.func_wrap(
        "env",
        "proxy_set_property",
        |mut call: Call<'_>, path: u32, length: u32, value: u32, size: u32| -> Result<u32> {
            let path = read(&mut call, path, length)?;
            let value = read(&mut call, value, size)?;
            let host = call.data_mut();
            if host.calls.refuses_properties {
                return Ok(INTERNAL_FAILURE);
            }
            let context = host.current();
            let Some(stream) = host.streams.get_mut(&context) else {
                return Ok(NOT_FOUND);
            };
            stream.filter_state.insert(path, value);
            Ok(OK)
        },
    )?;
    Ok(())
}
