//! Chance and hashes for choices: fast, seeded by the shell, good enough to share load fairly.
//!
//! Invariant: equal seeds give equal throws. Not for secrets.

/// SplitMix64 (Steele, Lea and Flood, 2014).
#[derive(Debug, Clone)]
pub struct Dice(u64);

impl Dice {
    #[must_use]
    pub const fn seeded(seed: u64) -> Self {
        Self(seed)
    }

    pub const fn throw(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        mix(self.0)
    }

    /// A number below `bound`, which is not zero (Lemire's multiplication; its bias is below 2⁻³²).
    pub const fn below(&mut self, bound: u64) -> u64 {
        ((self.throw() as u128 * bound as u128) >> 64) as u64
    }
}

/// Each bit of the result depends on each bit of the input.
pub(super) const fn mix(bits: u64) -> u64 {
    let bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    bits ^ (bits >> 31)
}

/// What a client, a header, a cookie or a path is hashed to: the same on every node and in every version (FNV-1a, mixed).
#[must_use]
pub fn key(bytes: &[u8]) -> u64 {
    let hash = bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash: u64, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
    });
    mix(hash)
}
