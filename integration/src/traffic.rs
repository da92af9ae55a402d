//! Random HTTP/2 traffic over a pair, with the `h2` crate on both sides: many streams at once, small
//! windows, slow readers, resets from both sides, a GOAWAY in the middle. Whatever was sent must be
//! what arrived, up to where a reset cut it off.

use std::cell::RefCell;
use std::collections::HashMap;
use std::future::poll_fn;
use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use h2::{Reason, RecvStream, SendStream};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode};
use tokio::time::sleep;

use crate::end::End;
use crate::pair::{Joint, Pair, join};
use crate::play::{run, send};

/// Everything that happens on one connection.
#[derive(Debug, Clone)]
pub struct Plan {
    /// What the client announces.
    pub client: Windows,
    /// What the server announces.
    pub server: Windows,
    /// MAX_CONCURRENT_STREAMS of the server.
    pub max_streams: Option<u32>,
    /// The exchanges.
    pub exchanges: Vec<Exchange>,
    /// When the server shuts down gracefully, milliseconds.
    pub goaway_at: Option<u64>,
    /// When the client and the server send PINGs, milliseconds.
    pub pings: Vec<u64>,
}

/// Sizes that an endpoint announces, bytes.
#[derive(Debug, Clone, Copy)]
pub struct Windows {
    /// Of a stream.
    pub stream: u32,
    /// Of the connection.
    pub connection: u32,
    /// Of a frame.
    pub frame: u32,
    /// Of the HPACK table.
    pub table: u32,
}

/// One exchange.
#[derive(Debug, Clone)]
pub struct Exchange {
    /// When it begins, milliseconds.
    pub at: u64,
    /// Method.
    pub method: String,
    /// Path and query.
    pub path: String,
    /// What the client sends.
    pub request: Message,
    /// Interim statuses.
    pub interim: Vec<u16>,
    /// Final status.
    pub status: u16,
    /// What the origin sends.
    pub response: Message,
    /// Whether the response waits for the request's end.
    pub after_request: bool,
    /// Who resets, when (milliseconds after its side began), with which code.
    pub reset: Option<(bool, u64, u32)>,
}

/// One direction of an exchange.
#[derive(Debug, Clone)]
pub struct Message {
    /// Fields: name, value, sensitive.
    pub fields: Vec<(String, Vec<u8>, bool)>,
    /// Sizes of the body's pieces, and the pause before each, milliseconds. `None`: no body.
    pub body: Option<Vec<(usize, u64)>>,
    /// Trailers; only with a body.
    pub trailers: Option<Vec<(String, Vec<u8>, bool)>>,
    /// How long its receiver waits between reads, milliseconds.
    pub read_pause: u64,
}

impl Message {
    fn bytes(&self, seed: usize) -> Vec<u8> {
        let length = self.body.iter().flatten().map(|piece| piece.0).sum();
        let mut bytes = vec![0; length];
        fastrand::Rng::with_seed(seed as u64).fill(&mut bytes);
        bytes
    }
}

/// How a direction ended for its receiver.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Ending {
    Complete,
    Reset(u32),
    /// The connection refuses the stream: never processed.
    Refused,
}

#[derive(Debug, Clone)]
struct Received {
    head: Option<(u16, HeaderMap)>,
    body: Vec<u8>,
    trailers: Option<HeaderMap>,
    ending: Ending,
}

/// What the origin saw, by the number of the exchange.
type Seen = Rc<RefCell<HashMap<usize, Received>>>;

fn header_map(fields: &[(String, Vec<u8>, bool)]) -> HeaderMap {
    let mut map = HeaderMap::new();
    for (name, value, sensitive) in fields {
        let mut value = HeaderValue::from_bytes(value).expect("a field value");
        value.set_sensitive(*sensitive);
        map.append(
            HeaderName::from_bytes(name.as_bytes()).expect("a field name"),
            value,
        );
    }
    map
}

fn ending(error: &h2::Error) -> Ending {
    match error.reason() {
        _ if error.is_go_away() => Ending::Refused,
        Some(reason) => Ending::Reset(reason.into()),
        None => Ending::Refused,
    }
}

async fn send_message(
    stream: &mut SendStream<Bytes>,
    message: &Message,
    bytes: &[u8],
) -> Result<(), h2::Error> {
    let mut rest = bytes;
    let pieces = message.body.as_deref().unwrap_or_default();
    for (index, (length, pause)) in pieces.iter().enumerate() {
        sleep(Duration::from_millis(*pause)).await;
        let (piece, after) = rest.split_at(*length);
        let last = index + 1 == pieces.len() && message.trailers.is_none();
        send(stream, piece, last).await?;
        rest = after;
    }
    match &message.trailers {
        Some(trailers) => stream.send_trailers(header_map(trailers)),
        None if pieces.is_empty() => stream.send_data(Bytes::new(), true),
        None => Ok(()),
    }
}

async fn receive(stream: &mut RecvStream, pause: u64, received: &mut Received) {
    loop {
        match stream.data().await {
            Some(Ok(data)) => {
                received.body.extend_from_slice(&data);
                sleep(Duration::from_millis(pause)).await;
                let _ = stream.flow_control().release_capacity(data.len());
            }
            Some(Err(error)) => {
                received.ending = ending(&error);
                return;
            }
            None => break,
        }
    }
    match stream.trailers().await {
        Ok(trailers) => {
            received.trailers = trailers;
            received.ending = Ending::Complete;
        }
        Err(error) => received.ending = ending(&error),
    }
}

fn nothing() -> Received {
    Received {
        head: None,
        body: Vec::new(),
        trailers: None,
        ending: Ending::Refused,
    }
}

async fn client(number: usize, exchange: Exchange, requests: h2::client::SendRequest<Bytes>) -> Received {
    sleep(Duration::from_millis(exchange.at)).await;
    let mut received = nothing();
    let Ok(mut requests) = requests.ready().await else {
        return received;
    };
    let mut request = Request::new(());
    *request.method_mut() = Method::from_bytes(exchange.method.as_bytes()).expect("a method");
    *request.uri_mut() = format!("http://app.example{}", exchange.path)
        .parse()
        .expect("a path");
    *request.headers_mut() = header_map(&exchange.request.fields);
    request
        .headers_mut()
        .insert("x-exchange", HeaderValue::from(number));
    let bare = exchange.request.body.is_none();
    let Ok((mut response, mut stream)) = requests.send_request(request, bare) else {
        return received;
    };
    drop(requests);
    let bytes = exchange.request.bytes(number);
    let work = async {
        let sending = async {
            if !bare {
                // That it fails shows in the response, too.
                let _ = send_message(&mut stream, &exchange.request, &bytes).await;
            }
        };
        let receiving = async {
            for status in &exchange.interim {
                match poll_fn(|context| response.poll_informational(context)).await {
                    Some(Ok(head)) => assert_eq!(head.status().as_u16(), *status, "interim response"),
                    Some(Err(_)) | None => break,
                }
            }
            match (&mut response).await {
                Ok(response) => {
                    let (head, mut body) = response.into_parts();
                    received.head = Some((head.status.as_u16(), head.headers));
                    receive(&mut body, exchange.response.read_pause, &mut received).await;
                }
                Err(error) => received.ending = ending(&error),
            }
        };
        tokio::join!(sending, receiving);
    };
    match exchange.reset {
        Some((true, after, code)) => {
            let done = tokio::select! {
                () = work => true,
                () = sleep(Duration::from_millis(after)) => false,
            };
            if !done {
                stream.send_reset(Reason::from(code));
                received.ending = Ending::Reset(code);
            }
        }
        _ => work.await,
    }
    received
}

async fn origin(
    exchange: Exchange,
    number: usize,
    request: Request<RecvStream>,
    mut respond: h2::server::SendResponse<Bytes>,
    seen: Seen,
) {
    let (mut head, mut body) = request.into_parts();
    assert_eq!(head.method.as_str(), exchange.method);
    let path = head.uri.path_and_query().expect("a path").as_str();
    assert_eq!(path, exchange.path);
    head.headers.remove("x-exchange");
    assert_eq!(
        head.headers,
        header_map(&exchange.request.fields),
        "request fields"
    );
    let mut received = nothing();
    received.head = Some((0, head.headers));
    let bytes = exchange.response.bytes(number + 1_000_000);
    let (ended, mut at_end) = tokio::sync::watch::channel(false);
    let work = async {
        let receiving = async {
            receive(&mut body, exchange.request.read_pause, &mut received).await;
            let _ = ended.send(true);
        };
        let responding = async {
            for status in &exchange.interim {
                let mut head = Response::new(());
                *head.status_mut() = StatusCode::from_u16(*status).expect("a status");
                if respond.send_informational(head).is_err() {
                    return;
                }
            }
            if exchange.after_request {
                let _ = at_end.wait_for(|ended| *ended).await;
            }
            let mut head = Response::new(());
            *head.status_mut() = StatusCode::from_u16(exchange.status).expect("a status");
            *head.headers_mut() = header_map(&exchange.response.fields);
            let bare = exchange.response.body.is_none();
            let Ok(mut stream) = respond.send_response(head, bare) else {
                return;
            };
            if !bare {
                let _ = send_message(&mut stream, &exchange.response, &bytes).await;
            }
        };
        tokio::join!(receiving, responding);
    };
    match exchange.reset {
        Some((false, after, code)) => {
            let done = tokio::select! {
                () = work => true,
                () = sleep(Duration::from_millis(after)) => false,
            };
            if !done {
                respond.send_reset(Reason::from(code));
                received.ending = Ending::Reset(code);
            }
        }
        _ => work.await,
    }
    let before = seen.borrow_mut().insert(number, received);
    assert!(before.is_none(), "a request that arrived twice");
}

/// Sends PINGs at their times; each must be answered, unless the connection may go away meanwhile.
async fn send_pings(mut pings: h2::PingPong, plan: Rc<Plan>) {
    for at in &plan.pings {
        sleep(Duration::from_millis(*at)).await;
        let pong = pings.ping(h2::Ping::opaque()).await;
        assert!(
            pong.is_ok() || plan.goaway_at.is_some(),
            "a PING without an answer: {pong:?}"
        );
    }
}

/// Tells through `answered` that all its PINGs are.
async fn serve(
    plan: Rc<Plan>,
    io: tokio::io::DuplexStream,
    seen: Seen,
    answered: tokio::sync::oneshot::Sender<()>,
) {
    let mut builder = h2::server::Builder::new();
    builder
        .initial_window_size(plan.server.stream)
        .initial_connection_window_size(plan.server.connection)
        .max_frame_size(plan.server.frame)
        .header_table_size(plan.server.table)
        .max_header_list_size(128 * 1024)
        .max_concurrent_reset_streams(10_000)
        .max_pending_accept_reset_streams(10_000)
        .max_local_error_reset_streams(None)
        .data_frame_budget(usize::MAX);
    if let Some(max) = plan.max_streams {
        builder.max_concurrent_streams(max);
    }
    let mut connection = builder.handshake::<_, Bytes>(io).await.expect("a server");
    let pings = send_pings(connection.ping_pong().expect("pings"), Rc::clone(&plan));
    let pinging = tokio::task::spawn_local(async move {
        pings.await;
        let _ = answered.send(());
    });
    let goaway = sleep(Duration::from_millis(
        plan.goaway_at.unwrap_or(u64::from(u32::MAX)),
    ));
    tokio::pin!(goaway);
    let mut shut_down = plan.goaway_at.is_none();
    let mut origins = tokio::task::JoinSet::new();
    loop {
        tokio::select! {
            accepted = connection.accept() => {
                let Some(Ok((request, respond))) = accepted else { break };
                let number: usize = request.headers()["x-exchange"].to_str().expect("text").parse().expect("a number");
                let exchange = plan.exchanges[number].clone();
                origins.spawn_local(origin(exchange, number, request, respond, Rc::clone(&seen)));
            }
            () = &mut goaway, if !shut_down => {
                shut_down = true;
                connection.graceful_shutdown();
            }
        }
    }
    while let Some(origin) = origins.join_next().await {
        origin.expect("an origin that doesn't panic");
    }
    pinging.abort();
}

/// Runs a plan over two ends and checks it.
///
/// # Panics
/// Something was lost, changed or made up, or nothing moves any more.
pub fn check(plan: &Plan, near: impl End + 'static, far: impl End + 'static, joint: &Joint) -> Pair {
    let plan = Rc::new(plan.clone());
    run(async {
        let (client_io, server_io, pair) = join(near, far, joint);
        let seen = Seen::default();
        let (answered, all_answered) = tokio::sync::oneshot::channel();
        let server = serve(Rc::clone(&plan), server_io, Rc::clone(&seen), answered);
        let server = tokio::task::spawn_local(server);
        let (requests, mut connection) = h2::client::Builder::new()
            .initial_window_size(plan.client.stream)
            .initial_connection_window_size(plan.client.connection)
            .max_frame_size(plan.client.frame)
            .header_table_size(plan.client.table)
            .max_header_list_size(128 * 1024)
            .max_concurrent_reset_streams(10_000)
            .max_local_error_reset_streams(None)
            .data_frame_budget(usize::MAX)
            .enable_push(false)
            .handshake::<_, Bytes>(client_io)
            .await
            .expect("a client");
        let pings = send_pings(connection.ping_pong().expect("pings"), Rc::clone(&plan));
        let connection = tokio::task::spawn_local(connection);
        let pinging = tokio::task::spawn_local(pings);
        let clients: Vec<_> = plan
            .exchanges
            .iter()
            .cloned()
            .enumerate()
            .map(|(number, exchange)| tokio::task::spawn_local(client(number, exchange, requests.clone())))
            .collect();
        let mut outcomes = Vec::new();
        for client in clients {
            outcomes.push(client.await.expect("a client that doesn't panic"));
        }
        if plan.goaway_at.is_none() {
            pinging.await.expect("answers to the client's PINGs");
            all_answered.await.expect("answers to the server's PINGs");
        }
        drop(requests);
        let _ = connection.await.expect("a connection that doesn't panic");
        server.await.expect("a server that doesn't panic");
        for (number, outcome) in outcomes.iter().enumerate() {
            compare(&plan, number, outcome, seen.borrow().get(&number));
        }
        pair
    })
}

fn compare(plan: &Plan, number: usize, client: &Received, origin: Option<&Received>) {
    let exchange = &plan.exchanges[number];
    let text = format!(
        "exchange {number}: {exchange:?}\nclient {:?}, origin {:?}",
        client.ending,
        origin.map(|origin| &origin.ending)
    );
    let Some(origin) = origin else {
        // Never processed: by GOAWAY, or since the client took it back first.
        let taken_back = exchange.reset.is_some_and(|reset| reset.0);
        assert!(
            plan.goaway_at.is_some() || taken_back,
            "a request is lost: {text}"
        );
        assert_ne!(client.ending, Ending::Complete, "a response from nowhere: {text}");
        return;
    };
    direction(&exchange.request, number, origin, &text);
    if let Some((status, fields)) = &client.head {
        assert_eq!(*status, exchange.status, "{text}");
        assert_eq!(*fields, header_map(&exchange.response.fields), "{text}");
    }
    direction(&exchange.response, number + 1_000_000, client, &text);
    match exchange.reset {
        None => {
            assert_eq!(origin.ending, Ending::Complete, "{text}");
            assert_eq!(client.ending, Ending::Complete, "{text}");
        }
        Some((_, _, code)) => {
            for ending in [&origin.ending, &client.ending] {
                assert!(
                    [Ending::Complete, Ending::Reset(code)].contains(ending),
                    "another ending than the reset's: {text}"
                );
            }
        }
    }
}

fn direction(sent: &Message, seed: usize, received: &Received, text: &str) {
    let bytes = sent.bytes(seed);
    if received.ending == Ending::Complete {
        assert!(
            received.body == bytes,
            "another body ({} of {} bytes): {text}",
            received.body.len(),
            bytes.len()
        );
        let trailers = sent.trailers.as_deref().map(header_map);
        assert_eq!(received.trailers, trailers, "{text}");
    } else {
        assert!(
            bytes.starts_with(&received.body),
            "bytes that weren't sent: {text}"
        );
    }
}
