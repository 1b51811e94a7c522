//! The replicated log as a model: what a leader proposed is committed in order, or, when its
//! leadership ends first, a part of it is, and nobody is told which.
//!
//! Invariant: there is one committed log; a leader that was replaced commits nothing more.
//! Deliberately not here: the real Raft (openraft has its own tests, ours are in `master`).

use std::collections::VecDeque;

use skein_common::Revision;
use skein_master_core::{Applied, ClusterState, Command};

use super::{Event, World, check, masters::Leader, network::StreamId};

/// Who waits for the end of a proposal.
#[derive(Debug, Clone)]
pub enum Origin {
    Nobody,
    Planner,
    Reports,
    Judge,
    Registration { stream: StreamId },
    User { sequence: u64 },
}

#[derive(Debug)]
pub struct Proposal {
    id: u64,
    pub command: Command,
    pub origin: Origin,
}

#[derive(Debug, Default)]
pub struct Raft {
    pub term: u64,
    /// The master that can commit.
    pub leader: Option<usize>,
    pub state: ClusterState,
    pub log: Vec<Command>,
    in_flight: VecDeque<Proposal>,
    proposed: u64,
    commits_at: u64,
}

/// One master process.
#[derive(Debug, Default)]
pub struct Master {
    pub up: bool,
    /// From its peers; agents and users may still reach it.
    pub cut: bool,
    /// Leads, or has not heard yet that it no longer does.
    pub leads: Option<Box<Leader>>,
}

impl World {
    /// False when this master can commit nothing any more: the proposal is lost.
    pub(super) fn propose(&mut self, master: usize, term: u64, command: Command, origin: Origin) -> bool {
        if self.raft.leader != Some(master) || self.raft.term != term {
            return false;
        }
        let latency = self.dice.range(1..15);
        let raft = &mut self.raft;
        raft.proposed += 1;
        raft.commits_at = raft.commits_at.max(self.now + latency);
        let (id, at) = (raft.proposed, raft.commits_at);
        raft.in_flight.push_back(Proposal { id, command, origin });
        self.at(at, Event::Commit { id });
        true
    }

    pub(super) fn commit(&mut self, id: u64) {
        let due = self.raft.in_flight.front().is_some_and(|first| first.id == id);
        if !due || self.raft.leader.is_none() {
            return;
        }
        if let Some(proposal) = self.raft.in_flight.pop_front() {
            let applied = self.apply(proposal.command);
            self.committed(proposal.origin, applied);
        }
    }

    fn apply(&mut self, command: Command) -> Applied {
        let revision = Revision(self.raft.state.revision().0 + 1);
        let before = self.raft.state.clone();
        let applied = self.raft.state.apply(revision, &command);
        self.note(format!("{revision} {}", check::tell_command(&command, &applied)));
        self.commits += 1;
        self.check_commit(&before, &command, &applied);
        self.raft.log.push(command);
        applied
    }

    /// The leader is gone: a part of what was under way has reached a majority.
    pub(super) fn depose(&mut self) {
        let Some(master) = self.raft.leader.take() else { return };
        let survive = self.dice.index(self.raft.in_flight.len() + 1);
        let lost = self.raft.in_flight.split_off(survive);
        self.note(format!("m{master} deposed: {survive} proposals survive, {} do not", lost.len()));
        self.after(600, 1_800, Event::Elect { term: self.raft.term });
    }

    pub(super) fn elect(&mut self, term: u64) {
        if self.raft.leader.is_some() || self.raft.term != term {
            return;
        }
        let able: Vec<_> =
            (0..self.masters.len()).filter(|m| self.masters[*m].up && !self.masters[*m].cut).collect();
        let winner = self.dice.pick(&able).filter(|_| able.len() * 2 > self.masters.len());
        let Some(winner) = winner else {
            return self.after(300, 900, Event::Elect { term });
        };
        self.raft.term += self.dice.range(1..3);
        for proposal in std::mem::take(&mut self.raft.in_flight) {
            self.apply(proposal.command);
        }
        // As a member does that was sent a snapshot.
        let loaded = check::reread(&self.raft.state);
        if loaded != self.raft.state {
            self.fail("a snapshot differs from the state it was made of".to_owned());
        }
        self.raft.state = loaded;
        self.raft.leader = Some(winner);
        self.note(format!("m{winner} leads in term {}", self.raft.term));
        self.lead(winner);
    }

    /// The process ends and comes back as a follower.
    pub(super) fn crash_master(&mut self, master: usize) {
        if !self.masters[master].up {
            return;
        }
        self.masters[master] = Master { up: false, cut: self.masters[master].cut, leads: None };
        if self.raft.leader == Some(master) {
            self.depose();
        }
        self.close_streams_of(master);
        self.after(500, 8_000, Event::MasterStarts { master });
    }

    /// From its peers only: it may lead on for a while, in vain.
    pub(super) fn cut_master(&mut self, master: usize) {
        self.masters[master].cut = true;
        if self.raft.leader == Some(master) {
            self.depose();
            self.after(800, 8_000, Event::StepDown { master, term: self.raft.term });
        }
        self.after(1_000, 12_000, Event::MasterHeals { master });
    }

    pub(super) fn step_down(&mut self, master: usize, term: u64) {
        if self.masters[master].leads.as_ref().is_some_and(|leader| leader.term == term) {
            self.masters[master].leads = None;
            self.note(format!("m{master} knows that it no longer leads"));
            self.close_streams_of(master);
        }
    }
}
