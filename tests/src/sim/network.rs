//! Streams between agents and masters, and what goes wrong with them.
//!
//! Invariant: a stream that lost a message delivers nothing after it (TCP); only a `hostile`
//! network repeats and reorders, and then within one stream too.
//! Deliberately not here: who sends what (`node`, `masters`).

use std::collections::{BTreeMap, BTreeSet};

use skein_common::{
    InstanceId, assignment::AssignmentUpdate, endpoint::EndpointsUpdate, instance::InstanceReport,
};

use super::dice::Dice;

pub type StreamId = u64;

/// Where a message is going.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    ToMaster,
    ToAgent,
}

#[derive(Debug, Clone)]
pub enum Message {
    Hello {
        incarnation: u64,
        term: u64,
        held: Vec<InstanceReport>,
    },
    Heartbeat,
    Report(Vec<InstanceReport>),
    Resync,
    EndpointsApplied {
        generation: u64,
        busy: BTreeSet<InstanceId>,
    },
    Welcome {
        term: u64,
    },
    Redirect {
        leader: Option<usize>,
    },
    HeartbeatAnswer,
    Assign(AssignmentUpdate),
    Endpoints(EndpointsUpdate),
    /// The other side ended the stream.
    Closed,
}

#[derive(Debug)]
pub struct Stream {
    pub node: usize,
    /// Of the agent that opened it.
    pub life: u64,
    pub master: usize,
    lanes: [Lane; 2],
}

#[derive(Debug, Default)]
struct Lane {
    /// Nothing arrives before this.
    last: u64,
    broken: bool,
}

#[derive(Debug, Default)]
pub struct Network {
    pub streams: BTreeMap<StreamId, Stream>,
    opened: StreamId,
    pub hostile: bool,
    /// Milliseconds a message takes at most.
    pub latency: u64,
}

impl Network {
    #[must_use]
    pub fn new(hostile: bool, latency: u64) -> Self {
        Self { hostile, latency, ..Self::default() }
    }

    pub fn open(&mut self, node: usize, life: u64, master: usize) -> StreamId {
        self.opened += 1;
        self.streams.insert(self.opened, Stream { node, life, master, lanes: Default::default() });
        self.opened
    }

    pub fn break_lane(&mut self, stream: StreamId, way: Way) {
        if let Some(stream) = self.streams.get_mut(&stream) {
            stream.lanes[way as usize].broken = true;
        }
    }

    /// When a message sent now arrives; never, once, or twice.
    pub fn deliveries(&mut self, stream: StreamId, way: Way, now: u64, dice: &mut Dice) -> Vec<u64> {
        let (hostile, latency) = (self.hostile, self.latency);
        let Some(stream) = self.streams.get_mut(&stream) else { return Vec::new() };
        let lane = &mut stream.lanes[way as usize];
        if lane.broken {
            return Vec::new();
        }
        let at = now + dice.range(0..latency.max(1));
        if hostile {
            let again = dice.percent(5).then(|| at + dice.range(0..500));
            return std::iter::once(at).chain(again).collect();
        }
        lane.last = lane.last.max(at);
        vec![lane.last]
    }
}
