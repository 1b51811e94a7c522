//! All of a group, or none of it.
//!
//! The group is placed as any other; when one of it finds no room, the pass is as it was before. So an
//! ordinary group pays nothing, and a gang one copy of the pass.
//!
//! Invariant: nobody gives way unless that makes room for all that is missing; then the rooms that were
//! found are kept for the gang in this pass.
//! Deliberately not here: who is in a gang (`orchestrator`).

use super::{Decision, Group, Placed, Preemption, Scheduler};

/// Why a gang waits.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unfit {
    /// How many would have found room.
    pub fit: usize,
    /// What the others lack.
    pub explanation: String,
    /// Who gives way, so that all will find room.
    pub preemptions: Vec<Preemption>,
}

impl<'a> Scheduler<'a> {
    /// # Errors
    /// When not all of them find room: none is placed.
    pub fn place_all(&mut self, group: &Group<'a>) -> Result<Vec<Placed>, Unfit> {
        let before = self.clone();
        let (mut placed, mut lacking) = (Vec::new(), Vec::new());
        for decision in self.place(group) {
            match decision {
                Decision::Placed(found) => placed.push(found),
                Decision::Unplaced { explanation } => lacking.push(explanation),
            }
        }
        let missing = lacking.len();
        let Some(explanation) = lacking.into_iter().next() else { return Ok(placed) };
        let (making, mut preemptions) = self.make_room(group, missing);
        if making + preemptions.len() < missing {
            preemptions.clear();
            *self = before;
        }
        Err(Unfit { fit: placed.len(), explanation, preemptions })
    }
}
