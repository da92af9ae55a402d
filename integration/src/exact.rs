//! Plays the heads and bodies of a [`Scenario`] with hand-made HTTP/2 and compares them exactly: every
//! field in its place, and whether a body is missing or empty.

use crate::chunking::Chunking;
use crate::end::End;
use crate::pair::Traffic;
use crate::raw::{Fields, Frame, Line, data, reset};
use crate::scenario::{FieldList, Piece, Scenario, Side};

fn request_fields(scenario: &Scenario) -> Fields {
    let request = &scenario.request;
    let mut fields = vec![(b":method".to_vec(), request.method.0.clone())];
    for (name, value) in [
        (&b":scheme"[..], &request.scheme),
        (b":authority", &request.authority),
        (b":path", &request.path),
    ] {
        if !value.0.is_empty() {
            fields.push((name.to_vec(), value.0.clone()));
        }
    }
    if let Some(protocol) = &request.protocol {
        fields.push((b":protocol".to_vec(), protocol.0.clone()));
    }
    fields.extend(request.fields.0.iter().cloned());
    fields
}

fn status_fields(status: u16, fields: &FieldList) -> Fields {
    let mut all = vec![(b":status".to_vec(), status.to_string().into_bytes())];
    all.extend(fields.0.iter().cloned());
    all
}

/// Pseudo-header fields may come in any order, but first (RFC 9113 §8.3).
fn sort_pseudo(mut fields: Fields) -> Fields {
    let pseudo = fields
        .iter()
        .take_while(|field| field.0.starts_with(b":"))
        .count();
    fields[..pseudo].sort();
    fields
}

/// What one direction of an exchange carries.
#[derive(Debug, PartialEq, Eq)]
struct Direction {
    interim: Vec<Fields>,
    head: Option<Fields>,
    /// `None`: END_STREAM stood on the head.
    body: Option<Vec<u8>>,
    trailers: Option<Fields>,
    ended: bool,
    reset: Option<u32>,
}

impl Direction {
    fn sent(
        interim: Vec<Fields>,
        head: Fields,
        body: Option<&Vec<Piece>>,
        trailers: Option<&FieldList>,
    ) -> Self {
        Self {
            interim,
            head: Some(sort_pseudo(head)),
            body: (body.is_some() || trailers.is_some()).then(|| {
                body.into_iter()
                    .flatten()
                    .flat_map(|piece| piece.0.clone())
                    .collect()
            }),
            trailers: trailers.map(|trailers| trailers.0.clone()),
            ended: true,
            reset: None,
        }
    }

    fn received(frames: &[Frame], of: u32) -> Self {
        let mut direction = Self {
            interim: Vec::new(),
            head: None,
            body: None,
            trailers: None,
            ended: false,
            reset: None,
        };
        for frame in frames {
            match frame {
                Frame::Headers { stream, fields, end } if *stream == of => {
                    let interim = fields
                        .first()
                        .is_some_and(|field| field.0 == b":status" && field.1.starts_with(b"1"));
                    assert!(!direction.ended, "frames after the end");
                    direction.ended = *end;
                    if interim {
                        direction.interim.push(fields.clone());
                    } else if direction.head.is_none() {
                        direction.head = Some(sort_pseudo(fields.clone()));
                        if !end {
                            direction.body = Some(Vec::new());
                        }
                    } else {
                        direction.trailers = Some(fields.clone());
                    }
                }
                Frame::Data { stream, bytes, end } if *stream == of => {
                    assert!(!direction.ended, "frames after the end");
                    direction.ended = *end;
                    direction
                        .body
                        .as_mut()
                        .expect("a head before data")
                        .extend_from_slice(bytes);
                }
                Frame::Reset { stream, code } if *stream == of => direction.reset = Some(*code),
                _ => {}
            }
        }
        direction
    }
}

fn send_body(line_out: &mut Vec<u8>, stream: u32, body: Option<&Vec<Piece>>, end: bool) {
    let pieces = body.map(Vec::as_slice).unwrap_or_default();
    for (index, piece) in pieces.iter().enumerate() {
        line_out.extend(data(stream, &piece.0, end && index + 1 == pieces.len()));
    }
    if pieces.is_empty() && end {
        line_out.extend(data(stream, &[], true));
    }
}

/// Plays a scenario, `times` over on one connection; gives what crossed.
///
/// # Panics
/// What arrived isn't what was sent.
pub fn play_exactly(scenario: &Scenario, near: impl End, far: impl End, chunking: &Chunking) -> Traffic {
    let mut line = Line::connect(near, far, chunking);
    line.client.take_exchange();
    line.server.take_exchange();
    for round in 0..scenario.times {
        let near_stream = 1 + 2 * round as u32;
        play_once(scenario, &mut line, near_stream);
    }
    assert_eq!(line.near.closed(), None, "{}", scenario.name);
    assert_eq!(line.far.closed(), None, "{}", scenario.name);
    line.traffic
}

fn play_once<N: End, F: End>(scenario: &Scenario, line: &mut Line<N, F>, stream: u32) {
    let name = &scenario.name;
    let resets = |side| {
        scenario
            .reset
            .filter(|reset| reset.by == side)
            .map(|reset| reset.code)
    };
    // The request.
    let request = &scenario.request;
    let bare = request.body.is_none() && request.trailers.is_none();
    line.client.headers(stream, &request_fields(scenario), bare);
    let ends = resets(Side::Client).is_none();
    if !bare {
        let last = ends && request.trailers.is_none();
        send_body(&mut line.client.output, stream, request.body.as_ref(), last);
        if let Some(trailers) = &request.trailers {
            line.client.headers(stream, &trailers.0, true);
        }
    }
    line.settle();
    let mut expected = Direction::sent(
        Vec::new(),
        request_fields(scenario),
        request.body.as_ref(),
        request.trailers.as_ref(),
    );
    expected.ended = ends || bare;
    let frames = line.server.take_exchange();
    let far_stream = frames
        .iter()
        .find_map(|frame| match frame {
            Frame::Headers { stream, .. } => Some(*stream),
            _ => None,
        })
        .unwrap_or_else(|| panic!("{name}: a request arrives"));
    assert_eq!(
        Direction::received(&frames, far_stream),
        expected,
        "{name}: request"
    );

    // The response.
    if let Some(response) = &scenario.response {
        for interim in &response.interim {
            line.server
                .headers(far_stream, &status_fields(interim.status, &interim.fields), false);
        }
        let bare = response.body.is_none() && response.trailers.is_none();
        let ends = scenario.reset.is_none();
        line.server.headers(
            far_stream,
            &status_fields(response.status, &response.fields),
            bare && ends,
        );
        if !bare {
            let last = ends && response.trailers.is_none();
            send_body(&mut line.server.output, far_stream, response.body.as_ref(), last);
            if let Some(trailers) = &response.trailers {
                line.server.headers(far_stream, &trailers.0, true);
            }
        }
        line.settle();
        let interim = response
            .interim
            .iter()
            .map(|interim| status_fields(interim.status, &interim.fields))
            .collect();
        let mut expected = Direction::sent(
            interim,
            status_fields(response.status, &response.fields),
            response.body.as_ref(),
            response.trailers.as_ref(),
        );
        expected.ended = ends;
        let frames = line.client.take_exchange();
        assert_eq!(Direction::received(&frames, stream), expected, "{name}: response");
    }

    // The reset.
    if let Some(code) = resets(Side::Client) {
        line.client.output.extend(reset(stream, code));
        line.settle();
        let frames = line.server.take_exchange();
        assert_eq!(
            Direction::received(&frames, far_stream).reset,
            Some(code),
            "{name}: reset"
        );
    }
    if let Some(code) = resets(Side::Origin) {
        line.server.output.extend(reset(far_stream, code));
        line.settle();
        let frames = line.client.take_exchange();
        assert_eq!(
            Direction::received(&frames, stream).reset,
            Some(code),
            "{name}: reset"
        );
    }
}
