//! Time as Envoy's timers count it.

/// A point in time: milliseconds since any fixed one, the same for all workers. It never goes back.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Time(pub u64);

impl Time {
    /// So many milliseconds later.
    #[must_use]
    pub fn after(self, milliseconds: u32) -> Self {
        Self(self.0.saturating_add(u64::from(milliseconds)))
    }

    /// Milliseconds from `earlier` to this, 0 where that is later.
    pub fn since(self, earlier: Self) -> u64 {
        self.0.saturating_sub(earlier.0)
    }
}

/// `milliseconds`, shortened by up to `percent` of it; `random` picks how much. Shortened and never
/// lengthened, so that a configured time is the longest.
pub fn jittered(milliseconds: u32, percent: u32, random: u32) -> u32 {
    let range = u64::from(milliseconds)
        .saturating_mul(u64::from(percent))
        .checked_div(100)
        .unwrap_or_default();
    // The upper half of a 64-bit product: spread evenly over 0..=range without a division.
    let cut = range
        .saturating_add(1)
        .saturating_mul(u64::from(random))
        .checked_shr(32)
        .unwrap_or_default();
    milliseconds.saturating_sub(u32::try_from(cut).unwrap_or(u32::MAX))
}
