//! A real HTTP/2 library on both ends: all that either says passes through a reader and a writer.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    clippy::as_conversions,
    missing_docs
)]

use std::collections::BTreeMap;
use std::future::poll_fn;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use h2::ext::Protocol;
use h2::server::SendResponse;
use h2::{Reason, RecvStream, SendStream, client, server};
use http::{HeaderMap, HeaderValue, Method, Request, Response};
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, ReadHalf, WriteHalf, duplex};
use tokio::sync::mpsc::{self, UnboundedReceiver, UnboundedSender};
use wsferry::config::Limits;
use wsferry::http2::{Event, Reader, Sender, Writer};
use wsferry::message::{Message, Settings};

/// How often each kind of event passed.
type Counts = Arc<Mutex<BTreeMap<&'static str, usize>>>;

/// Both directions of a connection, as the converters of both ends have them.
struct Relay {
    readers: [Reader; 2],
    writers: [Writer; 2],
    counts: Counts,
}

const CLIENT: usize = 0;
const SERVER: usize = 1;

impl Relay {
    fn new(counts: Counts) -> Self {
        Self {
            readers: [Sender::Client, Sender::Server].map(|sender| Reader::new(sender, &Limits::default())),
            writers: [Sender::Client, Sender::Server].map(Writer::new),
            counts,
        }
    }

    /// Turns `bytes` of one end into what goes to the other.
    fn pass(&mut self, from: usize, bytes: &[u8]) -> Vec<u8> {
        let mut on = Vec::new();
        let mut input = bytes;
        let other = 1 - from;
        while let Some(event) = self.readers[from].next(&mut input).expect("what h2 writes") {
            let mut counts = self.counts.lock().unwrap();
            *counts.entry(name(&event)).or_default() += 1;
            match event {
                Event::Message(Message::Settings(settings)) => {
                    self.writers[other].apply_settings(settings);
                    let of_one_hop = [Settings::HEADER_TABLE_SIZE, Settings::MAX_FRAME_SIZE];
                    let mut end_to_end = Settings::new();
                    for (id, value) in settings.iter().filter(|(id, _)| !of_one_hop.contains(id)) {
                        end_to_end.set(id, value);
                    }
                    self.writers[from].message(&Message::Settings(&end_to_end), &mut on);
                }
                Event::Message(message @ Message::Request { head, .. }) => {
                    // h2 sends what is sensitive as never indexed, and forgets it where it receives.
                    for field in head.fields.iter() {
                        assert_eq!(field.sensitive, field.name == b"authorization");
                    }
                    self.writers[from].message(&message, &mut on);
                }
                Event::Message(message) => self.writers[from].message(&message, &mut on),
                Event::Ping(opaque) => self.writers[from].ping(opaque, &mut on),
                Event::PingAck(opaque) => self.writers[from].ping_ack(opaque, &mut on),
                Event::Padding { .. } => panic!("h2 pads nothing"),
                Event::Malformed { stream, error } => panic!("{stream:?}: {error}"),
            }
        }
        assert!(input.is_empty());
        on
    }

    /// Until both ends have closed. Writing waits for nothing, as an end that can't write may not read.
    async fn run(self, ends: [DuplexStream; 2]) {
        let relay = Arc::new(Mutex::new(self));
        let (to_client, for_client) = mpsc::unbounded_channel();
        let (to_server, for_server) = mpsc::unbounded_channel();
        let [client, server] = ends.map(tokio::io::split);
        tokio::join!(
            Self::pump(&relay, CLIENT, client.0, to_server),
            Self::pump(&relay, SERVER, server.0, to_client),
            write(for_client, client.1),
            write(for_server, server.1),
        );
    }

    /// Reads pieces of ever other sizes.
    async fn pump(
        relay: &Mutex<Self>,
        from: usize,
        mut end: ReadHalf<DuplexStream>,
        to_other: UnboundedSender<Vec<u8>>,
    ) {
        let mut bytes = [0; 20_011];
        let mut size = 1;
        loop {
            size = size * 7_919 % bytes.len();
            let count = end.read(&mut bytes[..size]).await.unwrap();
            let on = relay.lock().unwrap().pass(from, &bytes[..count]);
            // An end that has gone takes nothing more.
            let _ = to_other.send(on);
            if count == 0 {
                return;
            }
        }
    }
}

async fn write(mut pieces: UnboundedReceiver<Vec<u8>>, mut end: WriteHalf<DuplexStream>) {
    while let Some(piece) = pieces.recv().await {
        let _ = end.write_all(&piece).await;
    }
    let _ = end.shutdown().await;
}

fn name(event: &Event<'_>) -> &'static str {
    match event {
        Event::Ping(_) => "ping",
        Event::PingAck(_) => "ping ack",
        Event::Padding { .. } => "padding",
        Event::Malformed { .. } => "malformed",
        Event::Message(message) => match message {
            Message::Request { .. } => "request",
            Message::Response { .. } => "response",
            Message::Data { .. } => "data",
            Message::Trailers { .. } => "trailers",
            Message::Reset { .. } => "reset",
            Message::Credit { .. } => "credit",
            Message::Settings(_) => "settings",
            Message::Ack => "ack",
            Message::Goaway { .. } => "goaway",
            Message::Raw(_) => "raw",
        },
    }
}

async fn send_body(stream: &mut SendStream<Bytes>, mut body: Bytes, trailers: Option<HeaderMap>) {
    while !body.is_empty() {
        stream.reserve_capacity(body.len());
        let room = poll_fn(|cx| stream.poll_capacity(cx)).await.unwrap().unwrap();
        let piece = body.split_to(room.min(body.len()));
        stream.send_data(piece, false).unwrap();
    }
    match trailers {
        Some(trailers) => stream.send_trailers(trailers).unwrap(),
        None => stream.send_data(Bytes::new(), true).unwrap(),
    }
}

async fn receive_body(stream: &mut RecvStream) -> Result<(Vec<u8>, Option<HeaderMap>), h2::Error> {
    let mut body = Vec::new();
    while let Some(piece) = stream.data().await {
        let piece = piece?;
        stream.flow_control().release_capacity(piece.len())?;
        body.extend_from_slice(&piece);
    }
    Ok((body, stream.trailers().await?))
}

/// Answers by the first part of the path, with the request's fields and body.
async fn answer(
    request: Request<RecvStream>,
    mut respond: SendResponse<Bytes>,
    resets: UnboundedSender<Reason>,
) {
    let (head, mut body) = request.into_parts();
    let mut response = Response::builder().status(200).body(()).unwrap();
    *response.headers_mut() = head.headers.clone();
    let saw = format!("{} {}", head.method, head.uri);
    response
        .headers_mut()
        .insert("x-saw", HeaderValue::from_str(&saw).unwrap());
    match head.uri.path().split('/').nth(1).unwrap_or_default() {
        "empty" => {
            *response.status_mut() = http::StatusCode::NO_CONTENT;
            respond.send_response(response, true).unwrap();
        }
        "hint" => {
            let hint = Response::builder()
                .status(103)
                .header("link", "</a>")
                .body(())
                .unwrap();
            respond.send_informational(hint).unwrap();
            respond.send_response(response, true).unwrap();
        }
        "refuse" => respond.send_reset(Reason::REFUSED_STREAM),
        "cancelled" => {
            respond.send_response(response, false).unwrap();
            let error = receive_body(&mut body).await.unwrap_err();
            resets.send(error.reason().unwrap()).unwrap();
        }
        "tunnel" => {
            assert_eq!(head.extensions.get::<Protocol>().unwrap().as_str(), "websocket");
            echo(response, respond, body).await;
        }
        _ => echo(response, respond, body).await,
    }
}

/// Sends back each piece as it comes, then the trailers.
async fn echo(response: Response<()>, mut respond: SendResponse<Bytes>, mut body: RecvStream) {
    let mut stream = respond.send_response(response, false).unwrap();
    while let Some(piece) = body.data().await {
        let mut piece = piece.unwrap();
        body.flow_control().release_capacity(piece.len()).unwrap();
        while !piece.is_empty() {
            stream.reserve_capacity(piece.len());
            let room = poll_fn(|cx| stream.poll_capacity(cx)).await.unwrap().unwrap();
            stream
                .send_data(piece.split_to(room.min(piece.len())), false)
                .unwrap();
        }
    }
    match body.trailers().await.unwrap() {
        Some(trailers) => stream.send_trailers(trailers).unwrap(),
        None => stream.send_data(Bytes::new(), true).unwrap(),
    }
}

async fn serve(io: DuplexStream, builder: server::Builder, resets: UnboundedSender<Reason>) {
    let mut connection = builder.handshake::<_, Bytes>(io).await.unwrap();
    while let Some(request) = connection.accept().await {
        let (request, respond) = request.expect("a connection without errors");
        if request.uri().path() == "/last" {
            connection.graceful_shutdown();
        }
        tokio::spawn(answer(request, respond, resets.clone()));
    }
}

/// A request of the `index`th kind.
fn request(index: usize) -> (Request<()>, Bytes, Option<HeaderMap>) {
    let kind = match index % 8 {
        0 => "empty",
        1 => "hint",
        2 => "refuse",
        3 => "cancelled",
        _ => "echo",
    };
    let uri = format!(
        "https://host-{}.example/{kind}/{index}?q=%20{}",
        index % 3,
        index % 5
    );
    let method = [Method::GET, Method::POST, Method::from_bytes(b"X-ODD").unwrap()][index % 3].clone();
    let mut request = Request::builder().method(method).uri(uri);
    for (name, value) in [
        ("x-same", "always".to_owned()),
        ("x-few", format!("value {}", index % 4)),
        ("x-ever-new", format!("{:032x}", index * 0x1234_5678)),
        ("cookie", format!("a={}", index % 2)),
        ("cookie", "b=2".to_owned()),
        ("x-empty", String::new()),
    ] {
        request = request.header(name, value);
    }
    if index % 16 == 7 {
        request = request.header("x-large", "l".repeat(60_000));
    }
    let mut secret = HeaderValue::from_static("Bearer secret");
    secret.set_sensitive(true);
    let bytes = HeaderValue::from_bytes(&[0x80, 0xff, b'\t', b'~']).unwrap();
    let request = request
        .header("authorization", secret)
        .header("x-bytes", bytes)
        .body(())
        .unwrap();
    let length = [0, 1, 1_000, 16_384, 100_000][index / 8 % 5];
    let body: Vec<u8> = (0..length).map(|place| (place * 31 + index) as u8).collect();
    let trailers = (index % 2 == 1).then(|| {
        let mut trailers = HeaderMap::new();
        trailers.insert("grpc-status", HeaderValue::from(index));
        trailers
    });
    (request, Bytes::from(body), trailers)
}

async fn exchange(client: client::SendRequest<Bytes>, index: usize) {
    let mut client = client.ready().await.unwrap();
    let (request, body, trailers) = request(index);
    let mut fields = request.headers().clone();
    let saw = format!("{} {}", request.method(), request.uri());
    fields.insert("x-saw", HeaderValue::from_str(&saw).unwrap());
    let kind = request.uri().path().split('/').nth(1).unwrap().to_owned();
    let bodiless = matches!(kind.as_str(), "empty" | "hint" | "refuse");
    let (mut response, mut stream) = client.send_request(request, bodiless).unwrap();
    match kind.as_str() {
        "empty" => {
            let response = response.await.unwrap();
            assert_eq!(response.status(), 204);
            assert_eq!(*response.headers(), fields);
            assert!(response.body().is_end_stream());
        }
        "hint" => {
            let hint = poll_fn(|cx| response.poll_informational(cx))
                .await
                .unwrap()
                .unwrap();
            assert_eq!(
                (hint.status().as_u16(), &hint.headers()["link"]),
                (103, &HeaderValue::from_static("</a>"))
            );
            assert_eq!(*response.await.unwrap().headers(), fields);
        }
        "refuse" => {
            let error = response.await.unwrap_err();
            assert!(
                error.is_remote() && error.reason() == Some(Reason::REFUSED_STREAM),
                "{error}"
            );
        }
        "cancelled" => {
            response.await.unwrap();
            stream.send_reset(Reason::CANCEL);
        }
        _ => {
            // Both at once: the answer comes while the body goes.
            let receive = async {
                let response = response.await.unwrap();
                assert_eq!(*response.headers(), fields);
                receive_body(&mut response.into_body()).await.unwrap()
            };
            let send = send_body(&mut stream, body.clone(), trailers.clone());
            let (received, ()) = tokio::join!(receive, send);
            assert_eq!(received.0, body);
            assert_eq!(received.1, trailers);
        }
    }
}

async fn tunnel(client: client::SendRequest<Bytes>) {
    let mut client = client.ready().await.unwrap();
    assert!(client.is_extended_connect_protocol_enabled());
    let mut request = Request::builder()
        .method(Method::CONNECT)
        .uri("https://host.example/tunnel/chat")
        .body(())
        .unwrap();
    request
        .extensions_mut()
        .insert(Protocol::from_static("websocket"));
    let (response, mut stream) = client.send_request(request, false).unwrap();
    let mut back = response.await.unwrap().into_body();
    for word in ["both", "ways", "at once"] {
        stream.send_data(Bytes::from(word), false).unwrap();
        assert_eq!(back.data().await.unwrap().unwrap(), word);
        back.flow_control().release_capacity(word.len()).unwrap();
    }
    stream.send_data(Bytes::new(), true).unwrap();
    assert_eq!(receive_body(&mut back).await.unwrap(), (vec![], None));
}

const EXCHANGES: usize = 160;

async fn converse(client_builder: client::Builder, server_builder: server::Builder) {
    let counts = Counts::default();
    let (client_end, near) = duplex(40_000);
    let (far, server_end) = duplex(40_000);
    let relay = tokio::spawn(Relay::new(Arc::clone(&counts)).run([near, far]));
    let (resets, mut reset) = mpsc::unbounded_channel();
    let server = tokio::spawn(serve(server_end, server_builder, resets));
    let (requests, mut connection) = client_builder.handshake::<_, Bytes>(client_end).await.unwrap();
    let mut pings = connection.ping_pong().unwrap();
    let connection = tokio::spawn(connection);

    exchange(requests.clone(), 0).await;
    pings.ping(h2::Ping::opaque()).await.unwrap();
    tunnel(requests.clone()).await;
    let exchanges: Vec<_> = (1..EXCHANGES)
        .map(|index| tokio::spawn(exchange(requests.clone(), index)))
        .collect();
    for exchange in exchanges {
        exchange.await.unwrap();
    }
    for _ in 0..EXCHANGES / 8 {
        assert_eq!(reset.recv().await, Some(Reason::CANCEL));
    }
    let last = Request::builder()
        .uri("https://host.example/last")
        .body(())
        .unwrap();
    let (response, _) = requests
        .clone()
        .ready()
        .await
        .unwrap()
        .send_request(last, true)
        .unwrap();
    assert_eq!(response.await.unwrap().status(), 200);
    drop(requests);
    connection.await.unwrap().expect("a clean end");
    server.await.unwrap();
    relay.await.unwrap();

    let counts = counts.lock().unwrap();
    assert_eq!(counts["request"], EXCHANGES + 2);
    assert!(counts["reset"] >= EXCHANGES / 4, "{counts:?}");
    for kind in [
        "ping", "ping ack", "response", "data", "trailers", "credit", "settings", "ack", "goaway",
    ] {
        assert!(counts.contains_key(kind), "{kind} in {counts:?}");
    }
}

/// A lost byte shows as a wait for it.
async fn in_time(conversation: impl Future<Output = ()>) {
    let limit = std::time::Duration::from_secs(120);
    tokio::time::timeout(limit, conversation)
        .await
        .expect("nobody waits for ever");
}

#[tokio::test]
async fn h2_talks_to_h2() {
    let mut server = server::Builder::new();
    server.enable_connect_protocol();
    in_time(converse(client::Builder::new(), server)).await;
}

/// Tables, frames and windows of sizes that none has by default.
#[tokio::test]
async fn h2_talks_to_h2_with_other_settings() {
    let mut client = client::Builder::new();
    client
        .header_table_size(0)
        .max_frame_size(1 << 20)
        .initial_window_size(1 << 20)
        .initial_connection_window_size(1 << 20)
        .enable_push(false);
    let mut server = server::Builder::new();
    server
        .enable_connect_protocol()
        .max_frame_size(30_000)
        .initial_window_size(1_000)
        .max_concurrent_streams(20);
    in_time(converse(client, server)).await;
}
