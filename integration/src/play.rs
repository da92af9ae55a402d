//! Plays a [`Scenario`] over a pair, with the `h2` crate as client and as origin, and compares what
//! arrived with what was sent.

use std::cell::RefCell;
use std::future::{Future, poll_fn};
use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use h2::ext::Protocol;
use h2::{Reason, RecvStream, SendStream};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode, Uri};
use tokio::sync::watch;

use crate::end::End;
use crate::pair::{Joint, Pair, join};
use crate::scenario::{FieldList, Pace, Piece, Scenario, Side};

/// Virtual time after which a scenario hangs. On paused time it passes at once when nothing moves.
const HANG: Duration = Duration::from_secs(3_600);

/// `h2` closes a connection whose DATA frames are many and small; bytes cut one by one make such.
const SMALL_DATA_FRAMES: usize = usize::MAX;

/// Header lists of the scenarios are larger than what `h2` accepts by default.
const HEADER_LIST_BYTES: u32 = 128 * 1024;

/// Runs a future on a thread of its own time: paused, and moved on when all wait.
///
/// # Panics
/// When nothing moves any more and the future isn't done.
pub fn run<F: Future>(future: F) -> F::Output {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .expect("a runtime");
    let tasks = tokio::task::LocalSet::new();
    runtime.block_on(tasks.run_until(async {
        tokio::time::timeout(HANG, future)
            .await
            .unwrap_or_else(|_| panic!("nothing moves any more"))
    }))
}

/// How far an exchange has come.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
struct Progress {
    request_head: bool,
    request_bytes: usize,
    request_end: bool,
    interim: usize,
    response_head: bool,
    response_bytes: usize,
}

#[derive(Clone)]
struct Exchange {
    scenario: Rc<Scenario>,
    progress: Rc<watch::Sender<Progress>>,
    /// Request heads of the whole round that have arrived.
    heads: Rc<watch::Sender<usize>>,
}

impl Exchange {
    fn update(&self, change: impl FnOnce(&mut Progress)) {
        self.progress.send_modify(change);
    }

    async fn wait(&self, reached: impl FnMut(&Progress) -> bool) {
        let mut receiver = self.progress.subscribe();
        let _ = receiver.wait_for(reached).await;
    }

    fn bytes(pieces: Option<&Vec<Piece>>, count: usize) -> usize {
        pieces
            .into_iter()
            .flatten()
            .take(count)
            .map(|piece| piece.0.len())
            .sum()
    }

    fn pieces(&self, side: Side) -> Option<&Vec<Piece>> {
        match side {
            Side::Client => self.scenario.request.body.as_ref(),
            Side::Origin => self
                .scenario
                .response
                .as_ref()
                .and_then(|response| response.body.as_ref()),
        }
    }

    /// Waits till `side` may send piece `index` (or, past the last, its end).
    async fn may_send(&self, side: Side, index: usize) {
        let request = |count| Self::bytes(self.pieces(Side::Client), count);
        let response = |count| Self::bytes(self.pieces(Side::Origin), count);
        match (self.scenario.pace, side) {
            (Pace::Free, _) => {}
            (Pace::Each, Side::Client) => {
                let bytes = request(index);
                self.wait(|progress| progress.request_bytes >= bytes).await;
            }
            (Pace::Each, Side::Origin) => {
                let bytes = response(index);
                self.wait(|progress| progress.response_bytes >= bytes).await;
            }
            (Pace::Alternate, side) => {
                let own = usize::from(side == Side::Origin);
                let (up, down) = (request(index + own), response(index));
                self.wait(|progress| {
                    progress.response_head && progress.request_bytes >= up && progress.response_bytes >= down
                })
                .await;
            }
        }
    }

    /// Waits till everything that the list names has arrived.
    async fn all_arrived(&self) {
        let (up, down) = (
            Self::bytes(self.pieces(Side::Client), usize::MAX),
            Self::bytes(self.pieces(Side::Origin), usize::MAX),
        );
        let head = self.scenario.response.is_some();
        self.wait(|progress| {
            progress.request_head
                && progress.request_bytes >= up
                && progress.response_bytes >= down
                && (progress.response_head || !head)
        })
        .await;
    }

    fn resets(&self, side: Side) -> Option<Reason> {
        self.scenario
            .reset
            .filter(|reset| reset.by == side)
            .map(|reset| Reason::from(reset.code))
    }

    /// Sends a body with its end; returns early if the stream is reset.
    async fn send_body(
        &self,
        side: Side,
        stream: &mut SendStream<Bytes>,
        trailers: Option<&FieldList>,
    ) -> Result<(), h2::Error> {
        // Whoever resets doesn't end, and the one who is reset has nothing to end.
        let ends = match self.scenario.reset {
            Some(reset) => reset.by != side && side == Side::Client,
            None => true,
        };
        let pieces = self.pieces(side).map(Vec::as_slice).unwrap_or_default();
        for (index, piece) in pieces.iter().enumerate() {
            self.may_send(side, index).await;
            // An end in the last piece's own frame is as common as one after it.
            let last = ends
                && trailers.is_none()
                && index + 1 == pieces.len()
                && self.scenario.pace != Pace::Alternate
                && piece.0.len() % 2 == 0;
            send(stream, &piece.0, last).await?;
            if last {
                return Ok(());
            }
        }
        if !ends {
            return Ok(());
        }
        self.may_send(side, pieces.len()).await;
        match trailers {
            Some(trailers) => stream.send_trailers(header_map(trailers)),
            None => stream.send_data(Bytes::new(), true),
        }
    }

    /// Reads a body, its trailers, or the reset that ends it.
    async fn receive_body(
        &self,
        side: Side,
        stream: &mut RecvStream,
        expected: Option<&FieldList>,
    ) -> Result<(), h2::Error> {
        let name = &self.scenario.name;
        let sent: Vec<u8> = self
            .pieces(side)
            .into_iter()
            .flatten()
            .flat_map(|piece| piece.0.iter().copied())
            .collect();
        let mut received = 0;
        while let Some(data) = stream.data().await {
            let data = data?;
            stream.flow_control().release_capacity(data.len())?;
            assert_eq!(
                Some(&data[..]),
                sent.get(received..received + data.len()),
                "{name}: bytes of the body from {received} on"
            );
            received += data.len();
            self.update(|progress| match side {
                Side::Client => progress.request_bytes = received,
                Side::Origin => progress.response_bytes = received,
            });
        }
        assert_eq!(received, sent.len(), "{name}: length of the body");
        let trailers = stream.trailers().await?;
        assert_eq!(trailers, expected.map(header_map), "{name}: trailers");
        Ok(())
    }
}

/// Sends all of `bytes`, as the windows allow.
///
/// # Errors
/// The stream was reset or the connection is gone.
pub async fn send(stream: &mut SendStream<Bytes>, mut bytes: &[u8], end: bool) -> Result<(), h2::Error> {
    if bytes.is_empty() {
        return stream.send_data(Bytes::new(), end);
    }
    while !bytes.is_empty() {
        stream.reserve_capacity(bytes.len());
        let capacity = match poll_fn(|context| stream.poll_capacity(context)).await {
            Some(capacity) => capacity?,
            None => return Err(poll_fn(|context| stream.poll_reset(context)).await?.into()),
        };
        let (piece, rest) = bytes.split_at(capacity.min(bytes.len()));
        stream.send_data(Bytes::copy_from_slice(piece), end && rest.is_empty())?;
        bytes = rest;
    }
    Ok(())
}

fn header_map(fields: &FieldList) -> HeaderMap {
    fields
        .0
        .iter()
        .map(|(name, value)| {
            (
                HeaderName::from_bytes(name).expect("a field name"),
                HeaderValue::from_bytes(value).expect("a field value"),
            )
        })
        .fold(HeaderMap::new(), |mut map, (name, value)| {
            map.append(name, value);
            map
        })
}

/// The request as `h2` takes it; `None` if its types can't hold it, so that only the raw driver can
/// send it.
fn request(scenario: &Scenario) -> Option<Request<()>> {
    let from = &scenario.request;
    let mut uri = http::uri::Parts::default();
    if !from.scheme.0.is_empty() {
        uri.scheme = Some(from.scheme.0.as_slice().try_into().ok()?);
    }
    if !from.authority.0.is_empty() {
        uri.authority = Some(from.authority.0.as_slice().try_into().ok()?);
    }
    if !from.path.0.is_empty() {
        uri.path_and_query = Some(from.path.0.as_slice().try_into().ok()?);
    }
    let mut request = Request::new(());
    *request.method_mut() = Method::from_bytes(&from.method.0).ok()?;
    *request.uri_mut() = Uri::from_parts(uri).ok()?;
    *request.headers_mut() = header_map(&from.fields);
    if let Some(protocol) = &from.protocol {
        let protocol = Protocol::from(String::from_utf8(protocol.0.clone()).ok()?.as_str());
        request.extensions_mut().insert(protocol);
    }
    Some(request)
}

/// Whether the types of the `http` crate can hold this scenario's request. Those that they can't
/// (a path with `<`, for example) are the exact driver's alone.
pub fn h2_can_send(scenario: &Scenario) -> bool {
    request(scenario).is_some()
}

async fn client(
    exchange: Exchange,
    mut requests: h2::client::SendRequest<Bytes>,
    request: Request<()>,
) -> Result<(), h2::Error> {
    let scenario = Rc::clone(&exchange.scenario);
    let ends_at_once = scenario.request.body.is_none() && scenario.request.trailers.is_none();
    let (mut response, mut stream) = requests.send_request(request, ends_at_once)?;
    let sending = async {
        if scenario.request.await_interim {
            exchange.wait(|progress| progress.interim > 0).await;
        }
        if !ends_at_once {
            exchange
                .send_body(Side::Client, &mut stream, scenario.request.trailers.as_ref())
                .await?;
        }
        if let Some(reason) = exchange.resets(Side::Client) {
            exchange.all_arrived().await;
            stream.send_reset(reason);
        }
        Ok::<(), h2::Error>(())
    };
    let receiving = async {
        if scenario.response.is_none() && scenario.reset.is_some_and(|reset| reset.by == Side::Client) {
            return Ok(());
        }
        let expected = scenario.response.as_ref();
        let interims = expected
            .map(|response| response.interim.as_slice())
            .unwrap_or_default();
        for interim in interims {
            let got = poll_fn(|context| response.poll_informational(context))
                .await
                .expect("an interim response")?;
            assert_eq!(got.status().as_u16(), interim.status, "{}", scenario.name);
            assert_eq!(got.headers(), &header_map(&interim.fields), "{}", scenario.name);
            exchange.update(|progress| progress.interim += 1);
        }
        let (head, mut body) = (&mut response).await?.into_parts();
        let expected = expected.unwrap_or_else(|| panic!("{}: a response came", scenario.name));
        assert_eq!(head.status.as_u16(), expected.status, "{}", scenario.name);
        assert_eq!(head.headers, header_map(&expected.fields), "{}", scenario.name);
        exchange.update(|progress| progress.response_head = true);
        let ended = expected.body.is_none() && expected.trailers.is_none() && scenario.reset.is_none();
        assert_eq!(body.is_end_stream(), ended, "{}: a missing body", scenario.name);
        match scenario.reset {
            Some(reset) if reset.by == Side::Client => {
                exchange.read_till_reset(Side::Origin, &mut body).await;
                Ok(())
            }
            _ => {
                exchange
                    .receive_body(Side::Origin, &mut body, expected.trailers.as_ref())
                    .await
            }
        }
    };
    let (sent, received) = tokio::join!(sending, receiving);
    match exchange.resets(Side::Origin) {
        Some(reason) => {
            let error = received.expect_err("the origin's reset arrives");
            assert_eq!(error.reason(), Some(reason), "{}", scenario.name);
        }
        None => {
            sent?;
            received?;
        }
    }
    Ok(())
}

impl Exchange {
    /// Reads what comes before this side's own reset.
    async fn read_till_reset(&self, side: Side, stream: &mut RecvStream) {
        let mut received = 0;
        let all = Self::bytes(self.pieces(side), usize::MAX);
        while received < all {
            let Some(Ok(data)) = stream.data().await else {
                panic!("{}: the stream ended before its reset", self.scenario.name);
            };
            received += data.len();
            self.update(|progress| match side {
                Side::Client => progress.request_bytes = received,
                Side::Origin => progress.response_bytes = received,
            });
        }
    }

    fn check_request(&self, request: &http::request::Parts, body: &RecvStream) {
        let (name, expected) = (&self.scenario.name, &self.scenario.request);
        let bytes = |text: &str| text.as_bytes().to_vec();
        assert_eq!(request.method.as_str().as_bytes(), expected.method.0, "{name}");
        let uri = &request.uri;
        let scheme = uri.scheme_str().map(bytes).unwrap_or_default();
        assert_eq!(scheme, expected.scheme.0, "{name}: scheme");
        let authority = uri
            .authority()
            .map(|authority| bytes(authority.as_str()))
            .unwrap_or_default();
        assert_eq!(authority, expected.authority.0, "{name}: authority");
        let path = uri
            .path_and_query()
            .map(|path| bytes(path.as_str()))
            .unwrap_or_default();
        assert_eq!(path, expected.path.0, "{name}: path");
        let protocol = request
            .extensions
            .get::<Protocol>()
            .map(|protocol| bytes(protocol.as_str()));
        assert_eq!(
            protocol,
            expected.protocol.as_ref().map(|protocol| protocol.0.clone()),
            "{name}: protocol"
        );
        assert_eq!(request.headers, header_map(&expected.fields), "{name}: fields");
        let ended = expected.body.is_none() && expected.trailers.is_none();
        assert_eq!(body.is_end_stream(), ended, "{name}: a missing body");
    }
}

async fn origin(
    exchange: Exchange,
    request: Request<RecvStream>,
    mut respond: h2::server::SendResponse<Bytes>,
) -> Result<(), h2::Error> {
    let scenario = Rc::clone(&exchange.scenario);
    let (head, mut body) = request.into_parts();
    exchange.check_request(&head, &body);
    exchange.update(|progress| progress.request_head = true);
    exchange.heads.send_modify(|heads| *heads += 1);
    let receiving = async {
        let received = exchange
            .receive_body(Side::Client, &mut body, scenario.request.trailers.as_ref())
            .await;
        exchange.update(|progress| progress.request_end = true);
        received
    };
    let sending = async {
        let Some(response) = &scenario.response else {
            if let Some(reason) = exchange.resets(Side::Origin) {
                exchange.all_arrived().await;
                respond.send_reset(reason);
            }
            return Ok(());
        };
        for interim in &response.interim {
            let mut head = Response::new(());
            *head.status_mut() = StatusCode::from_u16(interim.status).expect("a status");
            *head.headers_mut() = header_map(&interim.fields);
            respond.send_informational(head)?;
        }
        if !response.early && scenario.pace != Pace::Alternate {
            exchange.wait(|progress| progress.request_end).await;
        }
        let mut heads = exchange.heads.subscribe();
        let _ = heads.wait_for(|heads| *heads >= scenario.at_once).await;
        let mut head = Response::new(());
        *head.status_mut() = StatusCode::from_u16(response.status).expect("a status");
        *head.headers_mut() = header_map(&response.fields);
        let ends_at_once = response.body.is_none() && response.trailers.is_none() && scenario.reset.is_none();
        let mut stream = respond.send_response(head, ends_at_once)?;
        if !ends_at_once {
            exchange
                .send_body(Side::Origin, &mut stream, response.trailers.as_ref())
                .await?;
        }
        if let Some(reason) = exchange.resets(Side::Origin) {
            exchange.all_arrived().await;
            stream.send_reset(reason);
        }
        if let Some(reason) = exchange.resets(Side::Client) {
            let got = poll_fn(|context| stream.poll_reset(context)).await?;
            assert_eq!(got, reason, "{}", scenario.name);
        }
        Ok(())
    };
    let (received, sent) = tokio::join!(receiving, sending);
    match exchange.resets(Side::Client) {
        Some(reason) if scenario.request.body.is_some() => {
            let error: h2::Error = received.expect_err("the client's reset arrives");
            assert_eq!(error.reason(), Some(reason), "{}", scenario.name);
        }
        Some(_) => {}
        None if exchange.resets(Side::Origin).is_some() => {}
        None => received?,
    }
    sent
}

async fn play_on(
    scenario: Rc<Scenario>,
    request: Request<()>,
    near: tokio::io::DuplexStream,
    far: tokio::io::DuplexStream,
) {
    let mut server = h2::server::Builder::new();
    server
        .max_header_list_size(HEADER_LIST_BYTES)
        .data_frame_budget(SMALL_DATA_FRAMES)
        .enable_connect_protocol();
    let (requests, connection) = h2::client::Builder::new()
        .max_header_list_size(HEADER_LIST_BYTES)
        .data_frame_budget(SMALL_DATA_FRAMES)
        .handshake::<_, Bytes>(near)
        .await
        .expect("a client");
    let client_connection = tokio::task::spawn_local(connection);
    let queue: Rc<RefCell<Vec<Exchange>>> = Rc::default();
    let expected = Rc::clone(&queue);
    let server_connection = tokio::task::spawn_local(async move {
        let mut connection = server.handshake::<_, Bytes>(far).await.expect("a server");
        let mut origins = tokio::task::JoinSet::new();
        while let Some(accepted) = connection.accept().await {
            let (request, respond) = accepted.expect("a request");
            let exchange = expected.borrow_mut().remove(0);
            origins.spawn_local(origin(exchange, request, respond));
        }
        while let Some(origin) = origins.join_next().await {
            origin.expect("an origin").expect("an origin without errors");
        }
    });
    if scenario.request.protocol.is_some() {
        while !requests.is_extended_connect_protocol_enabled() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }
    for _ in 0..scenario.times {
        let heads = Rc::new(watch::Sender::new(0));
        let mut clients = tokio::task::JoinSet::new();
        let mut requests = requests.clone();
        for _ in 0..scenario.at_once {
            requests = requests.ready().await.expect("a connection that takes requests");
            let exchange = Exchange {
                scenario: Rc::clone(&scenario),
                progress: Rc::default(),
                heads: Rc::clone(&heads),
            };
            queue.borrow_mut().push(exchange.clone());
            clients.spawn_local(client(exchange, requests.clone(), request.clone()));
            // So that requests are opened in the order of the queue.
            tokio::task::yield_now().await;
        }
        while let Some(client) = clients.join_next().await {
            client.expect("a client").expect("a client without errors");
        }
    }
    drop(requests);
    client_connection
        .await
        .expect("a client")
        .expect("an orderly end");
    server_connection.await.expect("a server");
}

/// Plays a scenario over two ends.
///
/// # Panics
/// What arrived isn't what was sent, or nothing moves any more.
pub fn play(scenario: &Scenario, near: impl End + 'static, far: impl End + 'static, joint: &Joint) -> Pair {
    let request = request(scenario).expect("a request that h2 can send");
    run(async {
        let (client, server, pair) = join(near, far, joint);
        play_on(Rc::new(scenario.clone()), request, client, server).await;
        pair
    })
}
