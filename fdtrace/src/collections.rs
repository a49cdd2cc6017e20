//! Maps for keys that come by the million: quick ones, and ones that forget.

use std::{
    borrow::Borrow,
    collections::{HashMap, HashSet},
    hash::Hash,
};

use foldhash::fast::RandomState;

/// The standard map with a quicker hash. It has a random seed, so that a traced program cannot choose numbers
/// that collide.
pub type Map<K, V> = HashMap<K, V, RandomState>;
/// The same for sets.
pub type Set<K> = HashSet<K, RandomState>;

/// A map of at most `MOST` entries. A traced program decides how many there are to remember, so what rules remember must
/// end somewhere: of more than that the oldest half is forgotten, and counted.
#[derive(Debug)]
pub struct Bounded<K, V, const MOST: usize> {
    young: Map<K, V>,
    /// Put in before any of the young.
    old: Map<K, V>,
    forgotten: u64,
}

impl<K, V, const MOST: usize> Default for Bounded<K, V, MOST> {
    fn default() -> Self {
        Self { young: Map::default(), old: Map::default(), forgotten: 0 }
    }
}

impl<K: Hash + Eq, V, const MOST: usize> Bounded<K, V, MOST> {
    pub fn get<Q: Hash + Eq + ?Sized>(&self, key: &Q) -> Option<&V>
    where
        K: Borrow<Q>,
    {
        self.young.get(key).or_else(|| self.old.get(key))
    }

    pub fn contains_key<Q: Hash + Eq + ?Sized>(&self, key: &Q) -> bool
    where
        K: Borrow<Q>,
    {
        self.get(key).is_some()
    }

    /// Returns what was there before.
    pub fn insert(&mut self, key: K, value: V) -> Option<V> {
        let before = self.old.remove(&key);
        let before = self.young.insert(key, value).or(before);
        self.age();
        before
    }

    /// What is there, or what is put there now. It counts as new.
    pub fn or_insert_with(&mut self, key: K, value: impl FnOnce() -> V) -> &mut V
    where
        K: Clone,
    {
        if !self.young.contains_key(&key) {
            let value = self.old.remove(&key).unwrap_or_else(value);
            self.young.insert(key.clone(), value);
            self.age();
        }
        // The insertion may have made it old.
        if self.young.contains_key(&key) { &mut self.young } else { &mut self.old }
            .get_mut(&key)
            .expect("it was put there just now")
    }

    pub fn remove<Q: Hash + Eq + ?Sized>(&mut self, key: &Q) -> Option<V>
    where
        K: Borrow<Q>,
    {
        self.young.remove(key).or_else(|| self.old.remove(key))
    }

    pub fn retain(&mut self, mut keep: impl FnMut(&K, &mut V) -> bool) {
        self.young.retain(&mut keep);
        self.old.retain(keep);
    }

    pub fn len(&self) -> usize {
        self.young.len() + self.old.len()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// How many entries had to go because there were too many.
    pub fn forgotten(&self) -> u64 {
        self.forgotten
    }

    fn age(&mut self) {
        if self.young.len() * 2 >= MOST.max(2) {
            let gone = std::mem::replace(&mut self.old, std::mem::take(&mut self.young));
            self.forgotten += gone.len() as u64;
        }
    }
}

/// A set of what was said already: at most `MOST`, and who is forgotten may be told again.
#[derive(Debug)]
pub struct Told<K, const MOST: usize>(Bounded<K, (), MOST>);

impl<K, const MOST: usize> Default for Told<K, MOST> {
    fn default() -> Self {
        Self(Bounded::default())
    }
}

impl<K: Hash + Eq, const MOST: usize> Told<K, MOST> {
    /// `true`: it is new.
    pub fn insert(&mut self, key: K) -> bool {
        self.0.insert(key, ()).is_none()
    }

    pub fn contains(&self, key: &K) -> bool {
        self.0.contains_key(key)
    }

    pub fn forgotten(&self) -> u64 {
        self.0.forgotten()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_never_has_more_than_it_may() {
        let mut map = Bounded::<u32, u32, 100>::default();
        for key in 0..10_000 {
            assert_eq!(map.insert(key, key), None);
            assert!(map.len() <= 100);
            assert_eq!(map.get(&key), Some(&key), "the newest is kept");
        }
        assert_eq!(map.forgotten() + map.len() as u64, 10_000, "what is gone was counted");
        assert!(map.get(&9_960).is_some() && map.get(&100).is_none());
    }

    #[test]
    fn who_comes_again_is_kept() {
        let mut map = Bounded::<u32, u32, 100>::default();
        map.insert(7, 1);
        for key in 1000..1500 {
            *map.or_insert_with(7, || 0) += 1;
            map.insert(key, 0);
        }
        assert_eq!(map.get(&7), Some(&501));
        assert_eq!(map.remove(&7), Some(501));
        assert!(!map.contains_key(&7));
    }

    #[test]
    fn what_was_told_is_not_new() {
        let mut told = Told::<u32, 4>::default();
        assert!(told.insert(1) && !told.insert(1));
        (2..10).for_each(|key| assert!(told.insert(key)));
        assert!(told.contains(&9) && !told.contains(&1));
        assert!(told.forgotten() > 0);
    }
}
