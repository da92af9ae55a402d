//! Random traffic that looks like the real thing: some values repeat, some never do.

use proptest::prelude::*;
use proptest::test_runner::TestRng;

use super::{Owned, OwnedField};

const AGENTS: [&str; 3] = [
    "Mozilla/5.0 (X11; Linux x86_64; rv:141.0) Gecko/20100101 Firefox/141.0",
    "grpc-go/1.74.2",
    "curl/8.15.0",
];
const ACCEPT: [&str; 4] = [
    "*/*",
    "application/json",
    "image/avif,image/webp,*/*;q=0.8",
    "text/html,application/xhtml+xml",
];
const HOSTS: [&str; 4] = [
    "example.org",
    "api.example.org:8443",
    "[::1]:8080",
    "cdn.example.net",
];
const PATHS: [&str; 6] = [
    "/",
    "/style.css",
    "/api/v1/poll?client=7",
    "/helloworld.Greeter/SayHello",
    "*",
    "/%E2%82%AC/a%2Fb?q=%00",
];

pub struct Traffic {
    rng: TestRng,
    serial: u64,
}

impl Traffic {
    pub fn new(rng: TestRng) -> Self {
        Self { rng, serial: 0 }
    }

    fn below(&mut self, end: u64) -> u64 {
        self.rng.random_range(0..end)
    }

    fn choose(&mut self, from: &[&str]) -> Vec<u8> {
        let place = self.below(from.len() as u64);
        from[place as usize].as_bytes().to_vec()
    }

    fn chance(&mut self, percent: u64) -> bool {
        self.below(100) < percent
    }

    fn unique(&mut self) -> u64 {
        self.serial += 1;
        self.serial
    }

    fn uuid(&mut self) -> String {
        let (high, low) = (self.rng.random::<u64>(), self.rng.random::<u64>());
        format!(
            "{:08x}-{:04x}-{:04x}-{:04x}-{:012x}",
            high >> 32,
            high >> 16 & 0xffff,
            high & 0xffff,
            low >> 48,
            low & 0xffff_ffff_ffff
        )
    }

    fn path(&mut self) -> Vec<u8> {
        match self.below(5) {
            0..2 => self.choose(&PATHS),
            2 => format!("/users/{}/orders?page={}", self.below(50), self.below(9)).into_bytes(),
            3 => format!("/static/{}.js", self.unique()).into_bytes(),
            _ => {
                let length = self.below(3_000);
                format!("/long/{}", "x".repeat(length as usize)).into_bytes()
            }
        }
    }

    fn fields(&mut self, response: bool) -> Vec<OwnedField> {
        let mut fields: Vec<OwnedField> = Vec::new();
        let mut push = |name: &str, value: Vec<u8>, sensitive| {
            fields.push((name.as_bytes().to_vec(), value, sensitive));
        };
        if response {
            let date = super::http_date(1_700_000_000 + self.serial / 20);
            push("date", date.into_bytes(), false);
            push("server", b"nginx/1.29.1".to_vec(), false);
            push(
                "content-length",
                self.below(9_999).to_string().into_bytes(),
                false,
            );
            push("content-type", self.choose(&ACCEPT), false);
            if self.chance(30) {
                for _ in 0..self.below(4) {
                    push(
                        "set-cookie",
                        format!("id={}", self.unique()).into_bytes(),
                        self.chance(50),
                    );
                }
            }
            if self.chance(30) {
                push("etag", format!("\"{:x}\"", self.below(40)).into_bytes(), false);
            }
        } else {
            push("user-agent", self.choose(&AGENTS), false);
            push("accept", self.choose(&ACCEPT), false);
            if self.chance(60) {
                push("cookie", format!("session={}", self.below(5)).into_bytes(), false);
            }
            if self.chance(30) {
                push(
                    "authorization",
                    format!("Bearer {}", self.below(9)).into_bytes(),
                    true,
                );
            }
        }
        if self.chance(50) {
            push("x-request-id", self.uuid().into_bytes(), false);
        }
        if self.chance(60) {
            // Some often, some rarely: enough to turn the rings round.
            let tenant = self.below(600).min(self.below(600));
            push("x-tenant", format!("tenant-{tenant:04}").into_bytes(), false);
        }
        if self.chance(50) {
            let name = format!("x-random-{}", self.below(400));
            push(&name, format!("{}", self.below(3)).into_bytes(), false);
        }
        if self.chance(5) {
            push(&format!("x-{}", "long-".repeat(20)), b"".to_vec(), false);
        }
        if self.chance(10) {
            push(
                "x-bytes",
                vec![0xff, 0x80, b' ', self.below(200) as u8 | 0x20],
                self.chance(20),
            );
        }
        if self.chance(8) {
            let length = self.below(12_000);
            let filler = ["a", "b", "é"][self.below(3) as usize];
            push(
                "x-large",
                filler.repeat(length as usize / filler.len()).into_bytes(),
                false,
            );
        }
        fields
    }

    /// The next message, of any kind.
    pub fn message(&mut self) -> Owned {
        let stream = self.below(65_536) as u32;
        let end = self.chance(40);
        match self.below(10) {
            0..4 => {
                let connect = self.chance(3);
                Owned::Request {
                    stream,
                    end,
                    method: self.choose(&["GET", "GET", "POST", "PUT", "CONNECT", "PROPFIND", "M-SEARCH"]),
                    scheme: if connect {
                        Vec::new()
                    } else {
                        self.choose(&["http", "https", "ws"])
                    },
                    authority: self.choose(&HOSTS),
                    path: if connect { Vec::new() } else { self.path() },
                    protocol: self.chance(3).then(|| b"websocket".to_vec()),
                    fields: self.fields(false),
                }
            }
            4..7 => Owned::Response {
                stream,
                end,
                status: 100 + self.below(500) as u16,
                fields: self.fields(true),
            },
            7 => {
                let longest = if self.chance(5) { 70_000 } else { 40 };
                let length = self.below(longest);
                Owned::Data {
                    stream,
                    end,
                    payload: (0..length).map(|byte| byte as u8).collect(),
                }
            }
            8 => Owned::Trailers {
                stream,
                fields: vec![
                    (b"grpc-status".to_vec(), b"0".to_vec(), false),
                    (b"grpc-message".to_vec(), b"".to_vec(), false),
                ],
            },
            _ => self.small(stream),
        }
    }

    fn small(&mut self, stream: u32) -> Owned {
        match self.below(6) {
            0 => Owned::Reset {
                stream,
                code: self.rng.random(),
            },
            1 => Owned::Credit {
                stream: self.chance(70).then_some(stream),
                bytes: 1 + self.below((1 << 31) - 1) as u32,
            },
            2 => {
                let count = self.below(6) as u16;
                Owned::Settings(
                    (0..count)
                        .map(|id| (256 * id + 3 + id, self.rng.random()))
                        .collect(),
                )
            }
            3 => Owned::Ack,
            4 => Owned::Raw((0..self.below(500)).map(|byte| byte as u8).collect()),
            _ => Owned::Goaway {
                last: self.chance(50).then_some(stream),
                code: self.below(14) as u32,
            },
        }
    }
}
