//! The user-space thing that believes it must close a number. Data only: who owns what is concluded by the model.

use std::rc::Rc;

use super::sighting::OwnerClass;

/// An object that owns a number.
#[derive(Debug, PartialEq, Eq)]
pub struct Owner {
    pub object: u64,
    pub class: Rc<OwnerClass>,
    /// When it was seen to hold the number, nanoseconds of `CLOCK_BOOTTIME`.
    pub since: u64,
}

/// What is known of the object behind a call.
#[derive(Clone, Debug, Default)]
pub struct Part {
    /// The object that makes the call, and the generation that it was bound to.
    pub by: Option<(Rc<Owner>, u32)>,
    /// The object that held the number and was not asked: the call closes it behind its back.
    pub against: Option<Rc<Owner>>,
}
