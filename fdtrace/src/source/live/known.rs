//! Tells the kernel side of stacks that were unwound, so that it need not send copies of them again.

use anyhow::{Context as _, Result};
use aya::maps::{HashMap, MapData};
use fdtrace_common::witness::{KnownStack, StackKey};

use super::word::Words;

type Map = HashMap<MapData, Words<{ size_of::<StackKey>() / 8 }>, Words<{ size_of::<KnownStack>() / 8 }>>;

pub struct KnownStacks(Map);

impl KnownStacks {
    pub fn new(map: Map) -> Self {
        Self(map)
    }

    /// Has calls from this stack reported by its number, from now on or a little later.
    pub fn add(&mut self, key: &StackKey, stack: &KnownStack) -> Result<()> {
        self.0.insert(Words::of(key), Words::of(stack), 0).context("cannot tell the kernel side of a known stack")
    }

    pub fn remove(&mut self, key: &StackKey) {
        // The longest unused go by themselves.
        let _ = self.0.remove(&Words::of(key));
    }
}
