//! The functions that a proxy-wasm module imports (ABI 0.2.1), as Envoy implements them.
//!
//! What Envoy does is said where it isn't obvious: the module is tested against this host before it
//! meets the real one.

use wasmtime::{Caller, Error, Linker, Result};

use super::{Action, HeaderMap, Host, LogLine, Metric, MetricKind, Phase};

/// Results of host functions (proxy-wasm's `WasmResult`).
pub mod status {
    /// Done.
    pub const OK: u32 = 0;
    /// No such thing.
    pub const NOT_FOUND: u32 = 1;
    /// Not now, or not like this.
    pub const BAD_ARGUMENT: u32 = 2;
    /// Somebody else was quicker.
    pub const CAS_MISMATCH: u32 = 8;
    /// The host can't do it.
    pub const INTERNAL_FAILURE: u32 = 10;
}
use status::*;

/// What WASI preview 1 calls the clock that nobody sets, and the answer to any other.
const MONOTONIC: u32 = 1;
const ENOTSUP: u32 = 58;

pub(super) type Call<'a> = Caller<'a, Host>;

fn memory(call: &mut Call<'_>) -> Result<wasmtime::Memory> {
    call.get_export("memory")
        .and_then(wasmtime::Extern::into_memory)
        .ok_or_else(|| Error::msg("the module exports no memory"))
}

pub(super) fn read(call: &mut Call<'_>, at: u32, length: u32) -> Result<Vec<u8>> {
    let memory = memory(call)?;
    let data = memory.data(&call);
    data.get(at as usize..(at as usize) + (length as usize))
        .map(<[u8]>::to_vec)
        .ok_or_else(|| Error::msg("a pointer outside the memory"))
}

fn write(call: &mut Call<'_>, at: u32, bytes: &[u8]) -> Result<()> {
    memory(call)?
        .write(call, at as usize, bytes)
        .map_err(|_| Error::msg("a pointer outside the memory"))
}

pub(super) fn write_u32(call: &mut Call<'_>, at: u32, value: u32) -> Result<()> {
    write(call, at, &value.to_le_bytes())
}

/// Gives `bytes` to the module: in memory that it allocates, and that becomes its own.
pub(super) fn give(call: &mut Call<'_>, bytes: &[u8], at_pointer: u32, at_size: u32) -> Result<u32> {
    let pointer = if bytes.is_empty() {
        0
    } else {
        let allocate = call
            .get_export("proxy_on_memory_allocate")
            .or_else(|| call.get_export("malloc"))
            .and_then(wasmtime::Extern::into_func)
            .ok_or_else(|| Error::msg("the module exports no allocator"))?
            .typed::<u32, u32>(&call)?;
        let pointer = allocate.call(&mut *call, bytes.len() as u32)?;
        write(call, pointer, bytes)?;
        pointer
    };
    write_u32(call, at_pointer, pointer)?;
    write_u32(call, at_size, bytes.len() as u32)?;
    Ok(OK)
}

/// Defines all functions.
pub fn define(linker: &mut Linker<Host>) -> Result<()> {
    define_logging_and_time(linker)?;
    define_buffers(linker)?;
    define_header_maps(linker)?;
    define_streams(linker)?;
    define_metrics(linker)?;
    super::calls::define(linker)
}

fn define_logging_and_time(linker: &mut Linker<Host>) -> Result<()> {
    linker.func_wrap(
        "env",
        "proxy_log",
        |mut call: Call<'_>, level: u32, at: u32, length: u32| -> Result<u32> {
            let message = String::from_utf8_lossy(&read(&mut call, at, length)?).into_owned();
            let host = call.data_mut();
            let context = host.current();
            host.logs.push(LogLine {
                level,
                context,
                message,
            });
            Ok(OK)
        },
    )?;
    linker.func_wrap(
        "env",
        "proxy_get_log_level",
        |mut call: Call<'_>, at: u32| -> Result<u32> {
            let level = call.data().log_level;
            write_u32(&mut call, at, level)?;
            Ok(OK)
        },
    )?;
    linker.func_wrap(
        "env",
        "proxy_set_tick_period_milliseconds",
        |mut call: Call<'_>, milliseconds: u32| -> u32 {
            let host = call.data_mut();
            let period = std::time::Duration::from_millis(u64::from(milliseconds));
            host.tick_period = (milliseconds > 0).then_some(period);
            // Envoy starts the timer anew.
            host.next_tick = host.now + period;
            OK
        },
    )?;
    linker.func_wrap(
        "wasi_snapshot_preview1",
        "clock_time_get",
        |mut call: Call<'_>, clock: u32, _precision: u64, at: u32| -> Result<u32> {
            // The time of day is no module's business.
            if clock != MONOTONIC {
                return Ok(ENOTSUP);
            }
            let now = call.data().now.as_nanos() as u64;
            write(&mut call, at, &now.to_le_bytes())?;
            Ok(0)
        },
    )?;
    linker.func_wrap(
        "wasi_snapshot_preview1",
        "random_get",
        |mut call: Call<'_>, at: u32, length: u32| -> Result<u32> {
            let mut bytes = vec![0; length as usize];
            call.data_mut().random.fill(&mut bytes);
            write(&mut call, at, &bytes)?;
            Ok(0)
        },
    )?;
    Ok(())
}

fn define_buffers(linker: &mut Linker<Host>) -> Result<()> {
    linker.func_wrap(
        "env",
        "proxy_get_buffer_bytes",
        |mut call: Call<'_>, kind: u32, start: u32, length: u32, pointer: u32, size: u32| -> Result<u32> {
            let Some(buffer) = call.data_mut().buffer(kind) else {
                return Ok(NOT_FOUND);
            };
            let Some(end) = start.checked_add(length) else {
                return Ok(BAD_ARGUMENT);
            };
            // Envoy gives what is there and doesn't overread.
            let end = (end as usize).min(buffer.len());
            let bytes = buffer.get(start as usize..end).unwrap_or_default().to_vec();
            give(&mut call, &bytes, pointer, size)
        },
    )?;
    linker.func_wrap(
        "env",
        "proxy_set_buffer_bytes",
        |mut call: Call<'_>, kind: u32, start: u32, length: u32, at: u32, size: u32| -> Result<u32> {
            let bytes = read(&mut call, at, size)?;
            if kind > 3 {
                return Ok(BAD_ARGUMENT);
            }
            let Some(buffer) = call.data_mut().buffer(kind) else {
                // Envoy says OK and loses the bytes; no module may count on that.
                return Ok(BAD_ARGUMENT);
            };
            let (start, length) = (start as usize, length as usize);
            // Envoy's Buffer::copyFrom: drain and prepend at the start, append at the end.
            if start == 0 {
                buffer.drain(..length.min(buffer.len()));
                buffer.splice(..0, bytes);
            } else if start >= buffer.len() {
                buffer.extend_from_slice(&bytes);
            } else {
                return Ok(BAD_ARGUMENT);
            }
            Ok(OK)
        },
    )?;
    Ok(())
}

fn serialize(map: &HeaderMap) -> Vec<u8> {
    let mut bytes = (map.len() as u32).to_le_bytes().to_vec();
    for (name, value) in map {
        bytes.extend_from_slice(&(name.len() as u32).to_le_bytes());
        bytes.extend_from_slice(&(value.len() as u32).to_le_bytes());
    }
    for (name, value) in map {
        bytes.extend_from_slice(name);
        bytes.push(0);
        bytes.extend_from_slice(value);
        bytes.push(0);
    }
    bytes
}

pub(super) fn deserialize(bytes: &[u8]) -> Option<HeaderMap> {
    let u32_at = |at: usize| -> Option<usize> {
        let bytes: [u8; 4] = bytes.get(at..at + 4)?.try_into().ok()?;
        Some(u32::from_le_bytes(bytes) as usize)
    };
    if bytes.is_empty() {
        return Some(HeaderMap::new());
    }
    let count = u32_at(0)?;
    let mut at = 4 + 8 * count;
    let mut map = HeaderMap::new();
    for pair in 0..count {
        let (name, value) = (u32_at(4 + 8 * pair)?, u32_at(8 + 8 * pair)?);
        let name_bytes = bytes.get(at..at + name)?;
        at += name + 1;
        let value_bytes = bytes.get(at..at + value)?;
        at += value + 1;
        map.push((name_bytes.to_ascii_lowercase(), value_bytes.to_vec()));
    }
    Some(map)
}

fn define_header_maps(linker: &mut Linker<Host>) -> Result<()> {
    linker.func_wrap(
        "env",
        "proxy_get_header_map_pairs",
        |mut call: Call<'_>, kind: u32, pointer: u32, size: u32| -> Result<u32> {
            let Some(map) = call.data_mut().header_map(kind) else {
                return Ok(BAD_ARGUMENT);
            };
            let bytes = serialize(map);
            give(&mut call, &bytes, pointer, size)
        },
    )?;
    linker.func_wrap(
        "env",
        "proxy_set_header_map_pairs",
        |mut call: Call<'_>, kind: u32, at: u32, length: u32| -> Result<u32> {
            let bytes = read(&mut call, at, length)?;
            let Some(pairs) = deserialize(&bytes) else {
                return Ok(BAD_ARGUMENT);
            };
            let Some(map) = call.data_mut().writable_header_map(kind) else {
                return Ok(BAD_ARGUMENT);
            };
            *map = pairs;
            Ok(OK)
        },
    )?;
    linker.func_wrap(
        "env",
        "proxy_get_header_map_value",
        |mut call: Call<'_>, kind: u32, at: u32, length: u32, pointer: u32, size: u32| -> Result<u32> {
            let name = read(&mut call, at, length)?.to_ascii_lowercase();
            let Some(map) = call.data_mut().header_map(kind) else {
                return Ok(BAD_ARGUMENT);
            };
            // Envoy gives the first of several.
            let Some(value) = map
                .iter()
                .find(|field| field.0 == name)
                .map(|field| field.1.clone())
            else {
                return Ok(NOT_FOUND);
            };
            give(&mut call, &value, pointer, size)
        },
    )?;
    linker.func_wrap(
        "env",
        "proxy_add_header_map_value",
        |mut call: Call<'_>,
         kind: u32,
         name: u32,
         name_size: u32,
         value: u32,
         value_size: u32|
         -> Result<u32> {
            let name = read(&mut call, name, name_size)?.to_ascii_lowercase();
            let value = read(&mut call, value, value_size)?;
            let Some(map) = call.data_mut().writable_header_map(kind) else {
                return Ok(BAD_ARGUMENT);
            };
            map.push((name, value));
            Ok(OK)
        },
    )?;
    linker.func_wrap(
        "env",
        "proxy_replace_header_map_value",
        |mut call: Call<'_>,
         kind: u32,
         name: u32,
         name_size: u32,
         value: u32,
         value_size: u32|
         -> Result<u32> {
            let name = read(&mut call, name, name_size)?.to_ascii_lowercase();
            let value = read(&mut call, value, value_size)?;
            let Some(map) = call.data_mut().writable_header_map(kind) else {
                return Ok(BAD_ARGUMENT);
            };
            match map.iter().position(|field| field.0 == name) {
                Some(first) => {
                    let mut index = 0;
                    map.retain(|field| {
                        index += 1;
                        field.0 != name || index == first + 1
                    });
                    map[first].1 = value;
                }
                None => map.push((name, value)),
            }
            Ok(OK)
        },
    )?;
    linker.func_wrap(
        "env",
        "proxy_remove_header_map_value",
        |mut call: Call<'_>, kind: u32, name: u32, name_size: u32| -> Result<u32> {
            let name = read(&mut call, name, name_size)?.to_ascii_lowercase();
            let Some(map) = call.data_mut().writable_header_map(kind) else {
                return Ok(BAD_ARGUMENT);
            };
            map.retain(|field| field.0 != name);
            Ok(OK)
        },
    )?;
    Ok(())
}

#[allow(clippy::too_many_arguments, reason = "the ABI has them")]
fn send_local_response(
    mut call: Call<'_>,
    code: u32,
    details: u32,
    details_size: u32,
    body: u32,
    body_size: u32,
    headers: u32,
    headers_size: u32,
    _grpc_status: i32,
) -> Result<u32> {
    let details = read(&mut call, details, details_size)?;
    let body = read(&mut call, body, body_size)?;
    let headers = read(&mut call, headers, headers_size)?;
    let Some(extra) = deserialize(&headers) else {
        return Ok(BAD_ARGUMENT);
    };
    let host = call.data_mut();
    let context = host.current();
    if host.upstream {
        host.faults
            .push("a local response in an upstream filter".to_owned());
        return Ok(OK);
    }
    let Some(stream) = host.streams.get_mut(&context) else {
        return Ok(INTERNAL_FAILURE);
    };
    // Envoy holds back the second of two.
    if stream.local_response_sent {
        return Ok(BAD_ARGUMENT);
    }
    stream.local_response_sent = true;
    host.after_call.push(Action::LocalResponse {
        context,
        status: code,
        details: String::from_utf8_lossy(&details).into_owned(),
        body,
        extra,
    });
    Ok(OK)
}

fn define_streams(linker: &mut Linker<Host>) -> Result<()> {
    linker.func_wrap("env", "proxy_send_local_response", send_local_response)?;
    linker.func_wrap(
        "env",
        "proxy_close_stream",
        |mut call: Call<'_>, kind: u32| -> u32 {
            let host = call.data_mut();
            let context = host.current();
            // 0 and 1 are the two directions of an HTTP stream; both reset it. 2 and 3 are those of a connection.
            let Some(stream) = host.streams.get(&context) else {
                return BAD_ARGUMENT;
            };
            if kind > 3 || stream.is_connection != (kind > 1) {
                return BAD_ARGUMENT;
            }
            if host.upstream {
                host.faults.push("a reset in an upstream filter".to_owned());
            } else {
                host.after_call.push(Action::Reset { context });
            }
            OK
        },
    )?;
    linker.func_wrap(
        "env",
        "proxy_continue_stream",
        |mut call: Call<'_>, kind: u32| -> u32 {
            let host = call.data_mut();
            let context = host.current();
            if kind > 1 || !host.streams.contains_key(&context) {
                return BAD_ARGUMENT;
            }
            host.after_call.push(Action::Continue { context });
            OK
        },
    )?;
    linker.func_wrap(
        "env",
        "proxy_set_effective_context",
        |mut call: Call<'_>, context: u32| -> u32 {
            let host = call.data_mut();
            if context != host.root && !host.streams.contains_key(&context) {
                return BAD_ARGUMENT;
            }
            host.effective_context = Some(context);
            OK
        },
    )?;
    linker.func_wrap(
        "env",
        "proxy_get_property",
        |mut call: Call<'_>, at: u32, length: u32, pointer: u32, size: u32| -> Result<u32> {
            let path = read(&mut call, at, length)?;
            match call.data().properties.get(&path).cloned() {
                Some(value) => give(&mut call, &value, pointer, size),
                None => Ok(NOT_FOUND),
            }
        },
    )?;
    linker.func_wrap("env", "proxy_done", || -> u32 { OK })?;
    Ok(())
}

fn define_metrics(linker: &mut Linker<Host>) -> Result<()> {
    linker.func_wrap(
        "env",
        "proxy_define_metric",
        |mut call: Call<'_>, kind: u32, at: u32, length: u32, id_at: u32| -> Result<u32> {
            let name = String::from_utf8_lossy(&read(&mut call, at, length)?).into_owned();
            let kind = match kind {
                0 => MetricKind::Counter,
                1 => MetricKind::Gauge,
                2 => MetricKind::Histogram,
                _ => return Ok(BAD_ARGUMENT),
            };
            // Envoy gives a new id for the same statistic.
            let metrics = &mut call.data_mut().metrics;
            let id = match metrics.iter().position(|metric| metric.name == name) {
                Some(id) => id,
                None => {
                    metrics.push(Metric { name, kind, value: 0 });
                    metrics.len() - 1
                }
            };
            write_u32(&mut call, id_at, id as u32)?;
            Ok(OK)
        },
    )?;
    linker.func_wrap(
        "env",
        "proxy_increment_metric",
        |mut call: Call<'_>, id: u32, offset: i64| -> u32 {
            let Some(metric) = call.data_mut().metrics.get_mut(id as usize) else {
                return NOT_FOUND;
            };
            match metric.kind {
                // Counters only grow.
                MetricKind::Counter if offset < 0 => return BAD_ARGUMENT,
                MetricKind::Counter => metric.value += offset as u64,
                MetricKind::Gauge => {
                    // An underflow in Envoy wraps; here it is a fault of the module.
                    let Some(value) = metric.value.checked_add_signed(offset) else {
                        call.data_mut().faults.push("a gauge went below 0".to_owned());
                        return BAD_ARGUMENT;
                    };
                    metric.value = value;
                }
                MetricKind::Histogram => return BAD_ARGUMENT,
            }
            OK
        },
    )?;
    linker.func_wrap(
        "env",
        "proxy_record_metric",
        |mut call: Call<'_>, id: u32, value: u64| -> u32 {
            let Some(metric) = call.data_mut().metrics.get_mut(id as usize) else {
                return NOT_FOUND;
            };
            match metric.kind {
                // So Envoy does: recording adds to a counter.
                MetricKind::Counter => metric.value += value,
                MetricKind::Gauge | MetricKind::Histogram => metric.value = value,
            }
            OK
        },
    )?;
    linker.func_wrap(
        "env",
        "proxy_get_metric",
        |mut call: Call<'_>, id: u32, at: u32| -> Result<u32> {
            let Some(value) = call.data().metrics.get(id as usize).map(|metric| metric.value) else {
                return Ok(NOT_FOUND);
            };
            write(&mut call, at, &value.to_le_bytes())?;
            Ok(OK)
        },
    )?;
    Ok(())
}

impl Host {
    pub(super) fn current(&self) -> u32 {
        self.effective_context.unwrap_or(self.context)
    }

    /// Which callback of the current context runs. Another context's are never running.
    fn phase(&self) -> Phase {
        if self.current() == self.context {
            self.phase
        } else {
            Phase::None
        }
    }

    fn buffer(&mut self, kind: u32) -> Option<&mut Vec<u8>> {
        let (phase, current) = (self.phase(), self.current());
        match kind {
            0 if phase == Phase::RequestBody => Some(&mut self.streams.get_mut(&current)?.body),
            1 if phase == Phase::ResponseBody => Some(&mut self.streams.get_mut(&current)?.body),
            2 if phase == Phase::DownstreamData => Some(&mut self.streams.get_mut(&current)?.body),
            3 if phase == Phase::UpstreamData => Some(&mut self.streams.get_mut(&current)?.body),
            6 => Some(&mut self.vm_configuration),
            7 => Some(&mut self.plugin_configuration),
            _ => None,
        }
    }

    /// Readable as long as the stream lives.
    fn header_map(&mut self, kind: u32) -> Option<&mut HeaderMap> {
        if kind == 6 {
            return self.calls.response.as_mut();
        }
        let stream = self.streams.get_mut(&self.current())?;
        match kind {
            0 => stream.request_headers.as_mut(),
            2 => stream.response_headers.as_mut(),
            _ => None,
        }
    }

    /// Writable only in the callback that brings it; a request's also while it waits.
    fn writable_header_map(&mut self, kind: u32) -> Option<&mut HeaderMap> {
        let waits = self
            .streams
            .get(&self.current())
            .is_some_and(|stream| stream.waits);
        match (kind, self.phase()) {
            (0, Phase::RequestHeaders) | (2, Phase::ResponseHeaders) => self.header_map(kind),
            (0, _) if waits => self.header_map(kind),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn maps_survive_serialisation() {
        let map: HeaderMap = vec![
            (b"name".to_vec(), b"value".to_vec()),
            (b"empty".to_vec(), b"".to_vec()),
        ];
        assert_eq!(deserialize(&serialize(&map)), Some(map));
    }
}
