//! A stand-in for Envoy's Wasm host: loads the built module into wasmtime and calls it as Envoy
//! does, one plugin in one VM with any number of HTTP streams or of connections.

mod abi;
mod calls;
mod connections;
mod module;

use std::collections::HashMap;
use std::time::Duration;

use wasmtime::{Instance, Linker, Store, WasmParams, WasmResults};

pub use calls::{HttpCall, SharedData};
use module::module;
pub use module::module_path;

/// The clock of each VM at its start.
const START: Duration = Duration::from_secs(3_600);

/// Names in lower case, in order, repeated ones apart.
pub type HeaderMap = Vec<(Vec<u8>, Vec<u8>)>;

/// What the module logged.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogLine {
    /// 0 trace, 1 debug, 2 info, 3 warn, 4 error, 5 critical.
    pub level: u32,
    /// The context that it was logged for.
    pub context: u32,
    /// As Envoy would print it.
    pub message: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum MetricKind {
    Counter,
    Gauge,
    Histogram,
}

#[derive(Debug, Clone)]
struct Metric {
    name: String,
    kind: MetricKind,
    value: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    None,
    RequestHeaders,
    RequestBody,
    ResponseHeaders,
    ResponseBody,
    DownstreamData,
    UpstreamData,
}

/// What a host call asks for and Envoy does once the call into the VM has returned.
#[derive(Debug)]
enum Action {
    LocalResponse {
        context: u32,
        status: u32,
        details: String,
        body: Vec<u8>,
        extra: HeaderMap,
    },
    Reset {
        context: u32,
    },
    Continue {
        context: u32,
    },
}

#[derive(Debug, Default)]
struct Stream {
    request_headers: Option<HeaderMap>,
    response_headers: Option<HeaderMap>,
    /// Of the callback that runs.
    body: Vec<u8>,
    /// What a connection's client has sent and the module left where it was.
    held: Vec<u8>,
    is_connection: bool,
    local_response_sent: bool,
    local_response: Option<LocalResponse>,
    /// Its headers wait for `proxy_continue_stream`.
    waits: bool,
    continued: bool,
    reset: bool,
    filter_state: HashMap<Vec<u8>, Vec<u8>>,
}

/// An answer that the module gave in the place of the upstream's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LocalResponse {
    /// After the encoder filters, the module among them, have seen it.
    pub headers: HeaderMap,
    /// Response code details.
    pub details: String,
    /// The body.
    pub body: Vec<u8>,
}

impl LocalResponse {
    /// The value of `:status`.
    pub fn status(&self) -> u16 {
        let value = field(&self.headers, ":status").expect("a status");
        String::from_utf8_lossy(value).parse().expect("a number")
    }
}

/// The first field of this name.
pub fn field<'a>(map: &'a HeaderMap, name: &str) -> Option<&'a [u8]> {
    map.iter()
        .find(|field| field.0 == name.as_bytes())
        .map(|field| field.1.as_slice())
}

/// A header map from text.
pub fn header_map(fields: &[(&str, &str)]) -> HeaderMap {
    fields
        .iter()
        .map(|(name, value)| (name.as_bytes().to_vec(), value.as_bytes().to_vec()))
        .collect()
}

/// What the imported functions work on.
pub struct Host {
    root: u32,
    /// Envoy implements neither resets nor local responses in the upstream filter chain of tcp_proxy,
    /// where a near end runs: it logs a bug, and the stream hangs.
    upstream: bool,
    context: u32,
    effective_context: Option<u32>,
    phase: Phase,
    vm_configuration: Vec<u8>,
    plugin_configuration: Vec<u8>,
    properties: HashMap<Vec<u8>, Vec<u8>>,
    streams: HashMap<u32, Stream>,
    calls: calls::Calls,
    shared: SharedData,
    after_call: Vec<Action>,
    tick_period: Option<Duration>,
    next_tick: Duration,
    now: Duration,
    random: fastrand::Rng,
    log_level: u32,
    logs: Vec<LogLine>,
    metrics: Vec<Metric>,
    faults: Vec<String>,
}

/// Why a VM didn't come up.
#[derive(Debug)]
pub struct StartError {
    /// Which call failed.
    pub stage: &'static str,
    /// What was logged till then.
    pub logs: Vec<LogLine>,
}

/// The module is dead: every stream of this VM is lost, as in Envoy with FAIL_CLOSED.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Trap(pub String);

/// A VM with one plugin.
pub struct Vm {
    store: Store<Host>,
    instance: Instance,
    next_context: u32,
    dead: Option<Trap>,
}

/// What a headers callback left.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Headers {
    /// They go on, perhaps changed.
    Continue(HeaderMap),
    /// They wait for `proxy_continue_stream`.
    Paused,
    /// The module answered itself.
    Answered(LocalResponse),
    /// The module reset the stream.
    Reset,
}

/// What a body callback left.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Body {
    /// These bytes go on.
    Continue(Vec<u8>),
    /// These bytes go on, and then the module has the stream reset.
    Reset(Vec<u8>),
    /// Nothing goes on: the filter waits. What it left in the buffer.
    Paused(Vec<u8>),
}

impl Body {
    /// The bytes that are sent on; a stream that is reset sends none.
    pub fn into_bytes(self) -> Vec<u8> {
        match self {
            Self::Continue(bytes) => bytes,
            Self::Reset(_) | Self::Paused(_) => Vec::new(),
        }
    }
}

impl Vm {
    /// Starts a VM as Envoy does: module initialisation, root context, `on_vm_start`,
    /// `on_configure` with the plugin's configuration.
    ///
    /// # Errors
    /// One of the callbacks refused.
    pub fn start(configuration: &str) -> Result<Self, StartError> {
        Self::start_sharing(configuration, &SharedData::default())
    }

    /// The same, for one of several VMs with the same `vm_id`.
    ///
    /// # Errors
    /// One of the callbacks refused.
    pub fn start_sharing(configuration: &str, shared: &SharedData) -> Result<Self, StartError> {
        let module = module();
        let engine = module.engine();
        let mut linker = Linker::new(engine);
        abi::define(&mut linker).expect("definable functions");
        linker
            .define_unknown_imports_as_traps(module)
            .expect("definable traps");
        let mut store = Store::new(
            engine,
            Host {
                root: 1,
                upstream: configuration.contains("near") && !configuration.contains("network"),
                context: 0,
                effective_context: None,
                phase: Phase::None,
                vm_configuration: Vec::new(),
                plugin_configuration: configuration.as_bytes().to_vec(),
                properties: HashMap::new(),
                streams: HashMap::new(),
                calls: calls::Calls::default(),
                shared: shared.clone(),
                after_call: Vec::new(),
                tick_period: None,
                next_tick: Duration::ZERO,
                now: START,
                random: fastrand::Rng::with_seed(7),
                log_level: 0,
                logs: Vec::new(),
                metrics: Vec::new(),
                faults: Vec::new(),
            },
        );
        let instance = linker
            .instantiate(&mut store, module)
            .expect("a module that can be instantiated");
        assert!(
            module
                .exports()
                .any(|export| export.name() == "proxy_abi_version_0_2_1"),
            "the module is of another ABI version"
        );
        let mut vm = Self {
            store,
            instance,
            next_context: 2,
            dead: None,
        };
        let refused = |vm: &mut Self, stage| StartError {
            stage,
            logs: std::mem::take(&mut vm.store.data_mut().logs),
        };
        let start = if vm.exports("_initialize") {
            "_initialize"
        } else {
            "_start"
        };
        if vm.call::<(), ()>(start, 0, Phase::None, ()).is_err() {
            return Err(refused(&mut vm, "_initialize"));
        }
        let root = vm.store.data().root;
        if vm
            .call::<_, ()>("proxy_on_context_create", root, Phase::None, (root, 0))
            .is_err()
        {
            return Err(refused(&mut vm, "proxy_on_context_create"));
        }
        if vm.call::<_, u32>("proxy_on_vm_start", root, Phase::None, (root, 0)) != Ok(1) {
            return Err(refused(&mut vm, "proxy_on_vm_start"));
        }
        let size = configuration.len() as u32;
        if vm.call::<_, u32>("proxy_on_configure", root, Phase::None, (root, size)) != Ok(1) {
            return Err(refused(&mut vm, "proxy_on_configure"));
        }
        Ok(vm)
    }

    fn exports(&mut self, name: &str) -> bool {
        self.instance.get_func(&mut self.store, name).is_some()
    }

    /// One call into the VM, and what was deferred till after it.
    fn call<P: WasmParams, R: WasmResults + Default>(
        &mut self,
        name: &str,
        context: u32,
        phase: Phase,
        parameters: P,
    ) -> Result<R, Trap> {
        if let Some(trap) = &self.dead {
            return Err(trap.clone());
        }
        // What isn't exported isn't called, as in Envoy.
        if !self.exports(name) {
            return Ok(R::default());
        }
        let function = self
            .instance
            .get_typed_func::<P, R>(&mut self.store, name)
            .unwrap_or_else(|error| panic!("{name}: {error}"));
        let host = self.store.data_mut();
        host.context = context;
        host.effective_context = None;
        host.phase = phase;
        let result = function.call(&mut self.store, parameters);
        let host = self.store.data_mut();
        host.phase = Phase::None;
        host.effective_context = None;
        match result {
            Ok(result) => {
                self.after_call();
                Ok(result)
            }
            Err(error) => {
                let trap = Trap(format!("{name}: {error:?}"));
                self.dead = Some(trap.clone());
                Err(trap)
            }
        }
    }

    fn after_call(&mut self) {
        for action in std::mem::take(&mut self.store.data_mut().after_call) {
            match action {
                Action::Reset { context } => {
                    if let Some(stream) = self.store.data_mut().streams.get_mut(&context) {
                        stream.reset = true;
                    }
                }
                Action::Continue { context } => {
                    if let Some(stream) = self.store.data_mut().streams.get_mut(&context) {
                        stream.continued = true;
                        stream.waits = false;
                    }
                }
                Action::LocalResponse {
                    context,
                    status,
                    details,
                    body,
                    extra,
                } => self.local_response(context, status, details, body, extra),
            }
        }
    }

    /// Sends a local reply through the encoder filters, the module among them, as Envoy's connection
    /// manager does.
    fn local_response(
        &mut self,
        context: u32,
        status: u32,
        details: String,
        body: Vec<u8>,
        extra: HeaderMap,
    ) {
        let mut headers = header_map(&[(":status", &status.to_string())]);
        if !body.is_empty() {
            headers.extend(header_map(&[
                ("content-length", &body.len().to_string()),
                ("content-type", "text/plain"),
            ]));
        }
        headers.extend(extra);
        let end = body.is_empty();
        let headers = match self.response_headers(context, headers.clone(), end) {
            Ok(Headers::Continue(headers)) => headers,
            Ok(_) | Err(_) => headers,
        };
        let body = if end {
            body
        } else {
            match self.response_body(context, &body, true) {
                Ok(Body::Continue(body)) => body,
                Ok(_) | Err(_) => Vec::new(),
            }
        };
        if let Some(stream) = self.store.data_mut().streams.get_mut(&context) {
            stream.local_response = Some(LocalResponse {
                headers,
                details,
                body,
            });
        }
    }

    /// Opens an HTTP stream; gives its context.
    ///
    /// # Errors
    /// The VM is dead.
    pub fn open_stream(&mut self) -> Result<u32, Trap> {
        let context = self.next_context;
        self.next_context += 1;
        let host = self.store.data_mut();
        host.streams.insert(context, Stream::default());
        let root = host.root;
        self.call::<_, ()>("proxy_on_context_create", context, Phase::None, (context, root))?;
        Ok(context)
    }

    /// A stream or a connection.
    fn stream(&mut self, context: u32) -> &mut Stream {
        self.store
            .data_mut()
            .streams
            .get_mut(&context)
            .expect("an open stream")
    }

    /// Headers of the request reach the module.
    ///
    /// # Errors
    /// The VM is dead.
    pub fn request_headers(&mut self, context: u32, headers: HeaderMap, end: bool) -> Result<Headers, Trap> {
        let count = headers.len() as u32;
        self.stream(context).request_headers = Some(headers);
        let action: u32 = self.call(
            "proxy_on_request_headers",
            context,
            Phase::RequestHeaders,
            (context, count, u32::from(end)),
        )?;
        let stream = self.stream(context);
        let headers = stream.request_headers.clone().expect("the request's headers");
        Ok(Self::headers(stream, action, headers))
    }

    /// Headers of the response reach the module.
    ///
    /// # Errors
    /// The VM is dead.
    pub fn response_headers(&mut self, context: u32, headers: HeaderMap, end: bool) -> Result<Headers, Trap> {
        let count = headers.len() as u32;
        self.stream(context).response_headers = Some(headers);
        let action: u32 = self.call(
            "proxy_on_response_headers",
            context,
            Phase::ResponseHeaders,
            (context, count, u32::from(end)),
        )?;
        let stream = self.stream(context);
        let headers = stream.response_headers.clone().expect("the response's headers");
        Ok(Self::headers(stream, action, headers))
    }

    fn headers(stream: &mut Stream, action: u32, headers: HeaderMap) -> Headers {
        if stream.reset {
            Headers::Reset
        } else if let Some(response) = stream.local_response.take() {
            Headers::Answered(response)
        } else if action == 0 || std::mem::take(&mut stream.continued) {
            Headers::Continue(headers)
        } else {
            stream.waits = true;
            Headers::Paused
        }
    }

    /// A piece of the request's body reaches the module.
    ///
    /// # Errors
    /// The VM is dead.
    pub fn request_body(&mut self, context: u32, bytes: &[u8], end: bool) -> Result<Body, Trap> {
        self.body("proxy_on_request_body", Phase::RequestBody, context, bytes, end)
    }

    /// A piece of the response's body reaches the module.
    ///
    /// # Errors
    /// The VM is dead.
    pub fn response_body(&mut self, context: u32, bytes: &[u8], end: bool) -> Result<Body, Trap> {
        self.body("proxy_on_response_body", Phase::ResponseBody, context, bytes, end)
    }

    fn body(
        &mut self,
        name: &str,
        phase: Phase,
        context: u32,
        bytes: &[u8],
        end: bool,
    ) -> Result<Body, Trap> {
        let mut body = std::mem::take(&mut self.stream(context).body);
        body.clear();
        body.extend_from_slice(bytes);
        self.stream(context).body = body;
        let size = bytes.len() as u32;
        let action: u32 = self.call(name, context, phase, (context, size, u32::from(end)))?;
        let stream = self.stream(context);
        let bytes = std::mem::take(&mut stream.body);
        Ok(if stream.reset {
            Body::Reset(bytes)
        } else if action == 0 || std::mem::take(&mut stream.continued) {
            Body::Continue(bytes)
        } else {
            Body::Paused(bytes)
        })
    }

    /// Whether the module has had this stream reset.
    pub fn is_reset(&mut self, context: u32) -> bool {
        self.stream(context).reset
    }

    /// The end of a stream, whatever ended it: access log, done, delete.
    ///
    /// # Errors
    /// The VM is dead.
    pub fn close_stream(&mut self, context: u32) -> Result<(), Trap> {
        self.call::<_, ()>("proxy_on_log", context, Phase::None, context)?;
        self.call::<_, u32>("proxy_on_done", context, Phase::None, context)?;
        self.delete_stream(context)
    }

    /// The same where the host may call nothing but delete: `capability_restriction_config` of near-adaptive.yaml.
    ///
    /// # Errors
    /// The VM is dead.
    pub fn delete_stream(&mut self, context: u32) -> Result<(), Trap> {
        self.call::<_, ()>("proxy_on_delete", context, Phase::None, context)?;
        self.store.data_mut().streams.remove(&context);
        Ok(())
    }

    /// The end of the plugin, as when it gets a new configuration.
    ///
    /// # Errors
    /// The VM is dead.
    pub fn delete_plugin(&mut self) -> Result<(), Trap> {
        let root = self.store.data().root;
        self.call::<_, u32>("proxy_on_done", root, Phase::None, root)?;
        self.call::<_, ()>("proxy_on_delete", root, Phase::None, root)
    }

    /// Lets time pass; ticks that fall due run in order.
    ///
    /// # Errors
    /// The VM is dead.
    pub fn advance(&mut self, time: Duration) -> Result<(), Trap> {
        let until = self.store.data().now + time;
        while let Some(period) = self.store.data().tick_period {
            let host = self.store.data_mut();
            if host.next_tick > until {
                break;
            }
            host.now = host.next_tick;
            host.next_tick += period;
            let root = host.root;
            self.call::<_, ()>("proxy_on_tick", root, Phase::None, root)?;
        }
        self.store.data_mut().now = until;
        Ok(())
    }

    /// How long it has run, by its clock.
    pub fn age(&self) -> Duration {
        self.store.data().now - START
    }

    /// The value of a counter or gauge, without its prefix `wasmcustom.`; `None` if it wasn't defined.
    pub fn metric(&self, name: &str) -> Option<u64> {
        self.store
            .data()
            .metrics
            .iter()
            .find(|metric| metric.name == name)
            .map(|metric| metric.value)
    }

    /// All metrics by name.
    pub fn metrics(&self) -> Vec<(String, u64)> {
        self.store
            .data()
            .metrics
            .iter()
            .map(|metric| (metric.name.clone(), metric.value))
            .collect()
    }

    /// What the module logged so far.
    pub fn logs(&self) -> &[LogLine] {
        &self.store.data().logs
    }

    /// Whether it logged a line of this level (`proxy_log`'s number) that contains this text.
    pub fn has_logged(&self, level: u32, text: &str) -> bool {
        self.logs()
            .iter()
            .any(|line| line.level == level && line.message.contains(text))
    }

    /// Faults in the use of the host that Envoy wouldn't report.
    pub fn faults(&self) -> &[String] {
        &self.store.data().faults
    }

    /// Whether the module asked for ticks.
    pub fn tick_period(&self) -> Option<Duration> {
        self.store.data().tick_period
    }

    /// Bytes of the VM's linear memory.
    pub fn memory_bytes(&mut self) -> usize {
        self.instance
            .get_memory(&mut self.store, "memory")
            .expect("a memory")
            .data_size(&self.store)
    }
}
