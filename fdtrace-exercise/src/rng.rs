//! A small seeded generator (splitmix64).
//!
//! Written out so that a seed printed today means the same sequence with any later dependency. Not for secrets.

/// State of one generator; plain data, so that it survives fork and can be kept in shared memory across exec.
#[derive(Clone, Copy, Debug)]
pub struct Rng(pub u64);

impl Rng {
    pub fn new(seed: u64) -> Self {
        Self(seed ^ 0x9e37_79b9_7f4a_7c15)
    }

    /// A generator that depends on this one's seed and on `index` alone.
    pub fn derived(seed: u64, index: u64) -> Self {
        let mut rng = Self::new(seed.wrapping_add(index.wrapping_mul(0xd134_2543_de82_ef95)));
        rng.draw();
        rng
    }

    pub fn draw(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number below `limit`; 0 when `limit` is 0.
    pub fn below(&mut self, limit: usize) -> usize {
        if limit == 0 { 0 } else { (self.draw() % limit as u64) as usize }
    }

    /// True `percent` times in a hundred.
    pub fn chance(&mut self, percent: usize) -> bool {
        self.below(100) < percent
    }

    /// One of `choices`, or `None` when there are none.
    pub fn pick<T: Copy>(&mut self, choices: &[T]) -> Option<T> {
        let at = self.below(choices.len());
        choices.get(at).copied()
    }
}

#[cfg(test)]
mod tests {
    use super::Rng;

    #[test]
    fn a_seed_means_the_same_sequence_for_ever() {
        let mut rng = Rng::derived(7, 3);
        let first = [rng.draw(), rng.draw(), rng.draw()];
        let mut again = Rng::derived(7, 3);
        assert_eq!(first, [again.draw(), again.draw(), again.draw()]);
        assert_ne!(Rng::derived(7, 4).draw(), first[0]);
    }
}
