//! When the last requests came: exact rates without a timer and without allocation.

use super::config::Rate;
use crate::time::Time;

/// A ring of the times of the last requests, as many as the larger of the rates asked for.
#[derive(Debug)]
pub struct RequestWindow {
    times: Vec<Time>,
    /// Where the next one goes, once the ring is full: the oldest.
    next: usize,
    capacity: usize,
}

impl RequestWindow {
    /// For rates of up to `requests` requests.
    pub fn new(requests: u32) -> Self {
        let capacity = usize::try_from(requests).unwrap_or(usize::MAX).max(1);
        Self {
            times: Vec::with_capacity(capacity),
            next: 0,
            capacity,
        }
    }

    /// A request came.
    pub fn push(&mut self, now: Time) {
        if self.times.len() < self.capacity {
            self.times.push(now);
            return;
        }
        if let Some(oldest) = self.times.get_mut(self.next) {
            *oldest = now;
        }
        self.next = self
            .next
            .checked_add(1)
            .filter(|&next| next < self.capacity)
            .unwrap_or(0);
    }

    /// So many requests came.
    pub fn push_many(&mut self, requests: u32, now: Time) {
        let requests = usize::try_from(requests).unwrap_or(usize::MAX);
        for _ in 0..requests.min(self.capacity) {
            self.push(now);
        }
    }

    /// When the last but `requests - 1` came; `None` if there were fewer.
    pub fn last_but(&self, requests: u32) -> Option<Time> {
        let requests = usize::try_from(requests).ok()?;
        let len = self.times.len();
        let from_oldest = len.checked_sub(requests)?;
        // Until the ring is full `next` is 0 and the oldest stands first.
        let index = self.next.checked_add(from_oldest)?;
        let index = if index < len {
            index
        } else {
            index.checked_sub(len)?
        };
        self.times.get(index).copied()
    }

    /// Whether the requests of the time up to `now` reach a rate.
    pub fn reaches(&self, rate: Rate, now: Time) -> bool {
        self.last_but(rate.requests)
            .is_some_and(|time| now.since(time) < u64::from(rate.within_ms))
    }
}
