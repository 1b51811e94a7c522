//! What the masters told this node to hold.
//!
//! Invariant: the term obeyed never goes back, across restarts too; within one session the
//! generation never goes back; a delta is applied to exactly the generation it was made from.
//! Deliberately not here: what follows from it (`lifecycle`).

use std::{collections::BTreeMap, sync::Arc};

use serde::{Deserialize, Serialize};
use skein_common::{
    InstanceId,
    assignment::{Assignment, AssignmentContent, AssignmentUpdate},
};

/// The set, and how current it is.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Assignments {
    /// Highest term ever obeyed; 0 = none.
    term: u64,
    generation: u64,
    set: BTreeMap<InstanceId, Arc<Assignment>>,
    /// A full set came with this session: deltas may follow.
    #[serde(skip)]
    synced: bool,
    /// A full set came since this agent started: what is not in it is no longer wanted.
    #[serde(skip)]
    authoritative: bool,
}

/// What became of an update.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    Accepted,
    /// Said before, or older than what was said: nothing to do.
    Known,
    /// From a leader that has been superseded: its session is to be ended.
    LowerTerm {
        obeyed: u64,
        offered: u64,
    },
    /// Something between was missed: ask for everything.
    Gap {
        held: u64,
        from: u64,
    },
}

impl Assignments {
    /// A session with the leader of `term` begins: its first set counts whatever its
    /// generation, because generations are counted by session.
    ///
    /// # Errors
    /// The verdict `LowerTerm`, when a later leader has been obeyed.
    pub fn begin_session(&mut self, term: u64) -> Result<(), Verdict> {
        self.check_term(term)?;
        self.term = term;
        self.synced = false;
        Ok(())
    }

    /// As after a restart: obeyed, but what is missing from it may still be wanted.
    #[must_use]
    pub fn remembered(self) -> Self {
        Self { synced: false, authoritative: false, ..self }
    }

    pub fn apply(&mut self, update: AssignmentUpdate) -> Verdict {
        if let Err(refused) = self.check_term(update.term) {
            return refused;
        }
        if update.term > self.term {
            self.term = update.term;
            self.synced = false;
        }
        match update.content {
            AssignmentContent::Full(assignments) => self.replace(update.generation, assignments),
            AssignmentContent::Delta { from, upserts, removals } => {
                self.change(from, update.generation, upserts, &removals)
            }
        }
    }

    fn check_term(&self, offered: u64) -> Result<(), Verdict> {
        if offered < self.term { Err(Verdict::LowerTerm { obeyed: self.term, offered }) } else { Ok(()) }
    }

    fn replace(&mut self, generation: u64, assignments: Vec<Assignment>) -> Verdict {
        if self.synced && generation < self.generation {
            return Verdict::Known;
        }
        self.set = assignments.into_iter().map(|each| (each.instance, Arc::new(each))).collect();
        self.generation = generation;
        self.synced = true;
        self.authoritative = true;
        Verdict::Accepted
    }

    fn change(
        &mut self,
        from: u64,
        generation: u64,
        upserts: Vec<Assignment>,
        removals: &[InstanceId],
    ) -> Verdict {
        if self.synced && generation <= self.generation {
            return Verdict::Known;
        }
        if !self.synced || from != self.generation {
            return Verdict::Gap { held: self.generation, from };
        }
        for instance in removals {
            self.set.remove(instance);
        }
        self.set.extend(upserts.into_iter().map(|each| (each.instance, Arc::new(each))));
        self.generation = generation;
        Verdict::Accepted
    }

    /// Highest term ever obeyed; 0 = none.
    #[must_use]
    pub const fn term(&self) -> u64 {
        self.term
    }

    #[must_use]
    pub const fn generation(&self) -> u64 {
        self.generation
    }

    /// Whether what is not in the set is no longer wanted. After a restart that takes a full
    /// set: the checkpoint may be older than a container that was made just before.
    #[must_use]
    pub const fn is_authoritative(&self) -> bool {
        self.authoritative
    }

    #[must_use]
    pub fn get(&self, instance: InstanceId) -> Option<&Arc<Assignment>> {
        self.set.get(&instance)
    }

    pub fn iter(&self) -> impl Iterator<Item = &Arc<Assignment>> {
        self.set.values()
    }

    #[must_use]
    pub fn len(&self) -> usize {
        self.set.len()
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.set.is_empty()
    }
}
