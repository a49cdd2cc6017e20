//! How values look in the maps.

use anyhow::Result;
use aya::{
    Ebpf,
    maps::{Array, MapData},
};
use fdtrace_common::wire::{Plain, bytes_of};

use super::object;

/// A word that both sides read and write: a section of the object that has nothing else in it.
pub struct Word(Array<MapData, u64>);

impl Word {
    /// `name`: of `wire::shared`.
    pub fn take(ebpf: &mut Ebpf, name: &str) -> Result<Self> {
        Ok(Self(Array::try_from(object::map(ebpf, name)?)?))
    }

    pub fn get(&self) -> u64 {
        // An array has every element below its length.
        self.0.get(&0, 0).unwrap_or(0)
    }

    pub fn set(&mut self, value: u64) -> Result<()> {
        Ok(self.0.set(0, value, 0)?)
    }
}

/// A structure as the words of a map's value.
#[derive(Clone, Copy)]
#[repr(transparent)]
pub struct Words<const N: usize>([u64; N]);

// SAFETY: integers.
unsafe impl<const N: usize> aya::Pod for Words<N> {}

impl<const N: usize> Words<N> {
    pub fn of<T: Plain>(value: &T) -> Self {
        let mut words = [0; N];
        for (word, bytes) in words.iter_mut().zip(bytes_of(value).as_chunks::<8>().0) {
            *word = u64::from_ne_bytes(*bytes);
        }
        Self(words)
    }

    /// `None`: it is not of this size.
    pub fn read<T: Plain + Copy>(&self) -> Option<T> {
        let bytes: Vec<u8> = self.0.iter().flat_map(|word| word.to_ne_bytes()).collect();
        fdtrace_common::wire::read::<T>(&bytes).map(|(value, _)| value)
    }
}
