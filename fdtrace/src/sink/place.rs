//! The source line that a finding is shown at, for forms that have room for one.

use crate::detect::finding::{Finding, Name};

/// Of the root cause, the culprit or the victim, whichever is known first, the innermost frame with a line.
pub fn place(finding: &Finding) -> Option<(&Name, u32)> {
    let acts = [&finding.root_cause, &finding.culprit, &finding.victim];
    let frames = acts.into_iter().flatten().flat_map(|act| act.who.frames());
    let mut places = frames.filter_map(|frame| Some((frame.file.as_ref()?, frame.line?)));
    places.next()
}
