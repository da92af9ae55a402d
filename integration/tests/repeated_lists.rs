//! Header lists that come again, in between others, while the tables of both sides change: what a converter keeps of the
//! last list must never be taken for another one. The lists that arrive are decoded by another HPACK implementation.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    clippy::as_conversions,
    missing_docs
)]

use fastrand::Rng;
use integration::end::{End, NativeEnd};
use integration::raw::{Codec, Fields, Frame, frame, settings};
use integration::suite::{FAR, NEAR};
use wsferry::cbor::Decoder;
use wsferry::config::Limits;
use wsferry::http2::hpack::Encoder;
use wsferry::message::{Field, Message};

const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;
const HEADERS: u8 = 1;

/// What a client and a server say, each with an encoder of its own.
struct Tunnel {
    client: Codec,
    server: Codec,
    near: NativeEnd,
    far: NativeEnd,
    requests: Encoder,
    responses: Encoder,
    /// Bytes on the WebSocket since they were last taken.
    crossed: usize,
}

impl Tunnel {
    fn new() -> Self {
        let mut tunnel = Self {
            client: Codec::client(),
            server: Codec::server(),
            near: NativeEnd::new(NEAR),
            far: NativeEnd::new(FAR),
            requests: Encoder::new(),
            responses: Encoder::new(),
            crossed: 0,
        };
        tunnel.pass();
        tunnel
    }

    /// Carries what both codecs have to say until they are silent.
    fn pass(&mut self) {
        loop {
            let sent = std::mem::take(&mut self.client.output);
            let answered = std::mem::take(&mut self.server.output);
            if sent.is_empty() && answered.is_empty() {
                return;
            }
            let (mut websocket, mut http2) = (Vec::new(), Vec::new());
            self.near.http2_input(&sent, &mut websocket);
            self.far.websocket_input(&websocket, &mut http2);
            self.server.input(&http2);
            self.crossed += websocket.len();
            let (mut websocket, mut http2) = (Vec::new(), Vec::new());
            self.far.http2_input(&answered, &mut websocket);
            self.near.websocket_input(&websocket, &mut http2);
            self.client.input(&http2);
            self.crossed += websocket.len();
            assert_eq!((self.near.closed(), self.far.closed()), (None, None));
        }
    }

    /// The header lists that a codec has got since it was last asked.
    fn arrived(codec: &mut Codec) -> Vec<(u32, Fields)> {
        let lists = codec.received.drain(..).filter_map(|frame| match frame {
            Frame::Headers { stream, fields, .. } => Some((stream, fields)),
            _ => None,
        });
        lists.collect()
    }

    /// Sends a request and its response, with or without trailers, and checks what arrives.
    fn exchange(&mut self, stream: u32, request: &Fields, response: &Fields, trailers: Option<&Fields>) {
        let block = encode(&mut self.requests, request);
        self.client
            .output
            .extend(frame(HEADERS, END_HEADERS | END_STREAM, stream, &block));
        self.pass();
        let requests = Self::arrived(&mut self.server);
        let [(there, arrived)] = requests.as_slice() else {
            panic!("one request: {requests:?}");
        };
        assert_eq!(arrived, request);
        let end = if trailers.is_none() { END_STREAM } else { 0 };
        let block = encode(&mut self.responses, response);
        self.server
            .output
            .extend(frame(HEADERS, END_HEADERS | end, *there, &block));
        let mut expected = vec![(stream, response.clone())];
        if let Some(trailers) = trailers {
            let block = encode(&mut self.responses, trailers);
            self.server
                .output
                .extend(frame(HEADERS, END_HEADERS | END_STREAM, *there, &block));
            expected.push((stream, trailers.clone()));
        }
        self.pass();
        assert_eq!(Self::arrived(&mut self.client), expected);
    }
}

fn encode(encoder: &mut Encoder, fields: &Fields) -> Vec<u8> {
    let mut block = Vec::new();
    encoder.begin(&mut block);
    for (name, value) in fields {
        let field = Field {
            name,
            value,
            sensitive: name == b"authorization",
        };
        encoder.field(field, &mut block);
    }
    block
}

fn list(fields: &[(&str, &str)]) -> Fields {
    fields
        .iter()
        .map(|(name, value)| (name.as_bytes().to_vec(), value.as_bytes().to_vec()))
        .collect()
}

fn request(path: &str, fields: &[(&str, &str)]) -> Fields {
    let head = [
        (":method", "GET"),
        (":scheme", "https"),
        (":authority", "app.example"),
        (":path", path),
    ];
    [list(&head), list(fields)].concat()
}

fn response(status: &str, fields: &[(&str, &str)]) -> Fields {
    [list(&[(":status", status)]), list(fields)].concat()
}

#[test]
fn lists_that_come_again_arrive_as_they_are() {
    for seed in 0..6 {
        let mut rng = Rng::with_seed(seed);
        let mut tunnel = Tunnel::new();
        let token = "t".repeat(60);
        let long = "l".repeat(700);
        let requests = [
            request("/a", &[("accept", "*/*")]),
            request("/b", &[("accept", "*/*")]),
            request("/a", &[("accept", "*/*"), ("x-kind", "1")]),
            request("/a", &[("authorization", &token)]),
            request("/a", &[("x-long", &long)]),
            request("/", &[]),
            [
                list(&[(":method", "CONNECT"), (":authority", "app.example")]),
                list(&[("x", "y")]),
            ]
            .concat(),
        ];
        let fields = [("server", "nginx"), ("date", "Sun, 06 Nov 1994 08:49:37 GMT")];
        let responses = [
            response("200", &fields),
            response("204", &fields),
            response("200", &fields[..1]),
            response("200", &[("set-cookie", "a=1"), ("set-cookie", "b=2")]),
            response("500", &[]),
        ];
        let trailers = [list(&[("server", "nginx")]), list(&[("grpc-status", "0")])];
        let (mut asked, mut answered) = (requests[0].clone(), responses[0].clone());
        for stream in (1..4_000).step_by(2) {
            match rng.u8(..8) {
                0 => asked = rng.choice(&requests).unwrap().clone(),
                1 => answered = rng.choice(&responses).unwrap().clone(),
                // What enters the tables, and pushes out what is in them.
                2 => {
                    let number = rng.u32(..);
                    asked = request("/a", &[("x-unique", &format!("{number:0100}"))]);
                }
                3 => {
                    let number = rng.u32(..);
                    answered = response(
                        "200",
                        &[(&format!("x-{}", number % 400), &format!("{number:0100}"))],
                    );
                }
                // A codec changes the size of its table, which the converter beside it has to follow.
                4 if rng.u8(..8) == 0 => {
                    let size = rng.choice([0, 100, 2_000, 4_096]).unwrap();
                    tunnel.server.output.extend(settings(&[(1, size)]));
                    tunnel.client.output.extend(settings(&[(1, size)]));
                    tunnel.pass();
                }
                5 if rng.u8(..8) == 0 => {
                    let size = rng.choice([0, 100, 4_096]).unwrap();
                    tunnel.requests.set_max_table_size(size);
                    tunnel.responses.set_max_table_size(size);
                }
                _ => {}
            }
            let trailers = (rng.u8(..8) == 0).then(|| rng.choice(&trailers).unwrap());
            tunnel.exchange(stream, &asked, &answered, trailers);
        }
    }
}

#[test]
fn a_list_that_comes_again_takes_the_bytes_of_its_references() {
    let mut tunnel = Tunnel::new();
    let asked = request("/state", &[("accept", "*/*"), ("user-agent", "client/1.0")]);
    let answered = response("200", &[("server", "nginx"), ("content-type", "text/plain")]);
    let mut sizes = Vec::new();
    for stream in (1..21).step_by(2) {
        tunnel.crossed = 0;
        tunnel.exchange(stream, &asked, &answered, None);
        sizes.push(tunnel.crossed);
    }
    assert_eq!(sizes[2..], [sizes[2]; 8], "{sizes:?}");
    assert!(sizes[2] < 40, "{sizes:?}");
}

/// An encoder may say the same again and have it enter the table each time.
#[test]
fn a_block_that_enters_something_enters_it_each_time() {
    let mut tunnel = Tunnel::new();
    let head = [0x82, 0x86, 0x84, 0x01, 1, b'a'];
    // "x-a: 1", literal with incremental indexing (RFC 7541 §6.2.1).
    let entering = [&head[..], &[0x40, 3], b"x-a", &[1], b"1"].concat();
    let other = [&head[..], &[0x40, 3], b"x-b", &[1], b"2"].concat();
    // Indexes 62 to 65, the newest first.
    let references = [&head[..], &[0xbe, 0xbf, 0xc0, 0xc1]].concat();
    let blocks = [&entering, &entering, &entering, &other, &references, &references];
    let mut arrived = Vec::new();
    for (block, stream) in blocks.into_iter().zip((1..).step_by(2)) {
        let flags = END_HEADERS | END_STREAM;
        tunnel.client.output.extend(frame(HEADERS, flags, stream, block));
        tunnel.pass();
        arrived.extend(Tunnel::arrived(&mut tunnel.server));
    }
    let a = ("x-a", "1");
    let head = [
        (":method", "GET"),
        (":scheme", "http"),
        (":authority", "a"),
        (":path", "/"),
    ];
    for (place, fields) in [
        (2, &[a][..]),
        (4, &[("x-b", "2"), a, a, a]),
        (5, &[("x-b", "2"), a, a, a]),
    ] {
        assert_eq!(arrived[place].1, [list(&head), list(fields)].concat());
    }
}

/// The beginning of a request without body: its stream, GET, http, an authority and a path that don't enter.
fn opening(items: u8, stream: u8) -> Vec<u8> {
    vec![0x80 | items, 0, stream, 0xf5, 0, 0, 0x41, b'a', 0x41, b'/']
}

/// Field values and `:protocol` of the requests that these messages are, which come one after another.
fn values(messages: &[Vec<u8>]) -> Vec<String> {
    let mut decoder = Decoder::new(&Limits::default());
    let value = |message: &Vec<u8>| {
        let mut input = message.as_slice();
        let Ok(Some(Message::Request { head, .. })) = decoder.next(&mut input) else {
            panic!("a request: {message:x?}");
        };
        let fields = head
            .fields
            .iter()
            .flat_map(|field| [field.name, b"=", field.value, b" "].concat());
        let text: Vec<u8> = fields.chain(head.protocol.unwrap_or_default().to_vec()).collect();
        assert_eq!(input, b"", "all of it is taken");
        String::from_utf8(text).unwrap()
    };
    messages.iter().map(value).collect()
}

/// The same for the messages of another implementation.
#[test]
fn a_message_that_enters_something_enters_it_each_time() {
    let request = |stream: u8, fields: &[u8]| [&opening(8, stream), fields].concat();
    // A name, and a text, which enters.
    let entering = |value: u8| [0x82, 0x43, b'x', b'-', b'a', 0x61, value];
    let messages = [
        request(0, &entering(b'1')),
        request(1, &entering(b'1')),
        request(2, &entering(b'1')),
        request(3, &entering(b'2')),
        request(4, &[0x84, 0, 1, 2, 3]),
        request(5, &[0x84, 0, 1, 2, 3]),
    ];
    let all = "x-a=1 x-a=1 x-a=1 x-a=2 ";
    assert_eq!(
        values(&messages),
        ["x-a=1 ", "x-a=1 ", "x-a=1 ", "x-a=2 ", all, all]
    );
    // A name as a text is learned; the value doesn't enter.
    let learning = |name: u8| [0x82, 0x61, name, 0x41, b'1'];
    let messages = [
        request(0, &learning(b'a')),
        request(1, &learning(b'a')),
        request(2, &learning(b'b')),
        request(3, &[0x86, 0x20, 0x41, b'1', 0x21, 0x41, b'1', 0x22, 0x41, b'1']),
    ];
    assert_eq!(values(&messages), ["a=1 ", "a=1 ", "b=1 ", "a=1 a=1 b=1 "]);
}

/// An extended CONNECT has one item more, behind the fields.
#[test]
fn a_request_that_goes_on_where_the_last_one_ended_is_another_one() {
    let fields = [0x82, 0x41, b'a', 0x41, b'1'];
    let short = |stream| [&opening(8, stream)[..], &fields].concat();
    let long = |stream| [&opening(9, stream)[..], &fields, b"\x69websocket"].concat();
    let messages = [short(0), short(1), long(2), long(3), short(4)];
    let expected = ["a=1 ", "a=1 ", "a=1 websocket", "a=1 websocket", "a=1 "];
    assert_eq!(values(&messages), expected);
}
