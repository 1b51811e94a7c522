//! What goes wrong: faults drawn by weight, each with its end, and the end of all of them.
//!
//! Invariant: after [`World::heal`] nothing goes wrong any more, so the cluster has to converge.
//! Deliberately not here: what each part makes of it.

use skein_agent_core::ContainerStatus;
use skein_common::{node::Availability, rollout::RolloutPhase};
use skein_master_core::state::Service;

use super::{
    Event, World,
    network::{Message, Way},
    user::Wish,
};

/// One thing that can go wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    KillContainer,
    /// Its supervisor is slow: the node may be given up meanwhile.
    CrashAgent,
    /// Back at once, as an upgrade is.
    RestartAgent,
    Reboot,
    Cut,
    CutOneWay,
    ResetStream,
    CrashLeader,
    CutLeader,
    CrashFollower,
    EngineAway,
    EngineFails,
    EngineSlow,
    RegistryAway,
    LoseCheckpoint,
    CrashEverything,
}

/// Everything that may happen to a cluster.
pub const ALL: &[(u64, Fault)] = &[
    (14, Fault::KillContainer),
    (5, Fault::CrashAgent),
    (3, Fault::RestartAgent),
    (3, Fault::Reboot),
    (6, Fault::Cut),
    (3, Fault::CutOneWay),
    (8, Fault::ResetStream),
    (6, Fault::CrashLeader),
    (4, Fault::CutLeader),
    (2, Fault::CrashFollower),
    (3, Fault::EngineAway),
    (3, Fault::EngineFails),
    (2, Fault::EngineSlow),
    (2, Fault::RegistryAway),
    (1, Fault::LoseCheckpoint),
    (1, Fault::CrashEverything),
];

/// What must not touch a container: masters and agents die, streams break.
pub const CONTROL_PLANE: &[(u64, Fault)] = &[
    (5, Fault::RestartAgent),
    (5, Fault::ResetStream),
    (5, Fault::CrashLeader),
    (4, Fault::CutLeader),
    (2, Fault::CrashFollower),
];

impl World {
    pub(super) fn fault_turn(&mut self) {
        if self.calm {
            return;
        }
        let faults = self.faults;
        if let Some(fault) = self.dice.weighted(faults) {
            self.strike(fault);
        }
        let mean = self.fault_every;
        self.after(mean / 4, 2 * mean, Event::Fault);
    }

    pub(super) fn strike(&mut self, fault: Fault) {
        let node = self.dice.index(self.nodes.len());
        let name = self.nodes[node].name.clone();
        self.note(format!("FAULT {fault:?} ({name} if it is a node's)"));
        self.struck += 1;
        match fault {
            Fault::KillContainer => self.kill_container(node),
            Fault::CrashAgent => {
                self.crash_agent(node);
                self.after(100, 9_000, Event::AgentStarts { node });
            }
            Fault::RestartAgent => {
                self.crash_agent(node);
                self.after(100, 1_000, Event::AgentStarts { node });
            }
            Fault::Reboot => self.reboot(node),
            Fault::Cut | Fault::CutOneWay => self.cut(node, fault),
            Fault::ResetStream => self.reset_stream(node),
            Fault::CrashLeader => {
                if let Some(leader) = self.raft.leader {
                    self.crash_master(leader);
                }
            }
            Fault::CutLeader => {
                if let Some(leader) = self.raft.leader {
                    self.cut_master(leader);
                    // Agents wander between the one that leads and the one that believes to.
                    for _ in 0..4 {
                        self.after(500, 7_000, Event::StreamResets);
                    }
                }
            }
            Fault::CrashFollower => {
                let master = self.any_master();
                if self.raft.leader != Some(master) {
                    self.crash_master(master);
                }
            }
            Fault::EngineAway | Fault::EngineFails | Fault::EngineSlow | Fault::RegistryAway => {
                self.trouble_engine(node, fault);
            }
            Fault::LoseCheckpoint => {
                self.crash_agent(node);
                self.nodes[node].checkpoint = Default::default();
                self.nodes[node].obeyed = 0;
                self.after(100, 5_000, Event::AgentStarts { node });
            }
            Fault::CrashEverything => {
                (0..self.masters.len()).for_each(|master| self.crash_master(master));
                for node in 0..self.nodes.len() {
                    self.crash_agent(node);
                    self.after(100, 9_000, Event::AgentStarts { node });
                }
            }
        }
    }

    fn kill_container(&mut self, node: usize) {
        let running: Vec<_> =
            self.nodes[node].engine.running().map(|each| (each.id.clone(), each.instance)).collect();
        let Some((id, instance)) = self.dice.pick(&running) else { return };
        let code = if self.dice.percent(25) { 0 } else { 137 };
        let now = self.node_time(node);
        self.nodes[node].engine.exit(&id, code, now);
        self.notify(node, instance, id);
    }

    fn reboot(&mut self, node: usize) {
        let now = self.node_time(node);
        self.nodes[node].powered = false;
        self.crash_agent(node);
        self.nodes[node].engine.power_cut(now);
        self.after(500, 40_000, Event::NodeBoots { node });
    }

    pub(super) fn boot(&mut self, node: usize) {
        self.nodes[node].powered = true;
        self.start_agent(node);
    }

    fn cut(&mut self, node: usize, fault: Fault) {
        let one_way = self.dice.index(2);
        for way in 0..2 {
            self.nodes[node].cut[way] |= fault == Fault::Cut || way == one_way;
        }
        let most = if self.dice.percent(60) { 5_000 } else { 45_000 };
        self.after(100, most, Event::NodeHeals { node });
    }

    pub(super) fn reset_stream(&mut self, node: usize) {
        let Some(stream) =
            self.nodes[node].agent.as_ref().and_then(|agent| agent.stream.as_ref()).map(|s| s.id)
        else {
            return;
        };
        self.send(stream, Way::ToMaster, Message::Closed);
        self.send(stream, Way::ToAgent, Message::Closed);
        self.network.break_lane(stream, Way::ToMaster);
        self.network.break_lane(stream, Way::ToAgent);
    }

    fn trouble_engine(&mut self, node: usize, fault: Fault) {
        let engine = &mut self.nodes[node].engine;
        match fault {
            Fault::EngineAway => engine.unavailable = true,
            Fault::EngineFails => engine.failing = 40,
            Fault::EngineSlow => engine.slow = true,
            _ => engine.registry_away = true,
        }
        self.after(200, 20_000, Event::EngineHeals { node });
    }

    pub(super) fn heal_engine(&mut self, node: usize) {
        let engine = &mut self.nodes[node].engine;
        (engine.failing, engine.slow, engine.registry_away) = (0, false, false);
        if engine.unavailable {
            self.engine_returns(node);
        }
    }

    /// Faults stop.
    pub(super) fn heal(&mut self) {
        self.note("HEAL".to_owned());
        self.calm = true;
        self.user.silent = true;
        self.network.hostile = false;
        for master in 0..self.masters.len() {
            self.masters[master].cut = false;
            self.masters[master].up = true;
        }
        for node in 0..self.nodes.len() {
            self.nodes[node].cut = [false; 2];
            self.heal_engine(node);
            self.boot(node);
        }
        self.after(0, 1, Event::Activate);
        self.after(1_000, 1_001, Event::Look4Peace);
    }

    /// The user opens what was closed, one node after the other.
    pub(super) fn activate(&mut self) {
        let closed = (0..self.nodes.len()).find(|node| {
            self.user
                .availability
                .get(&self.nodes[*node].id)
                .is_some_and(|known| *known != Availability::Active)
        });
        if self.user.open.is_none()
            && let Some(node) = closed
        {
            self.ask(Wish::Allow { node, availability: Availability::Active });
        }
        let due = self.suspend_one();
        let bad = self.repair_one();
        if closed.is_some() || due || bad || self.user.open.is_some() {
            self.after(200, 201, Event::Activate);
        }
    }

    /// The user has what failed because of the faults go on.
    pub(super) fn resume_rollouts(&mut self) {
        let is_paused = |service: &Service| {
            service.rollout.as_ref().is_some_and(|rollout| rollout.phase == RolloutPhase::Paused)
        };
        let paused = self.raft.state.services().find(|service| is_paused(service));
        let name = paused.map(|service| service.spec.name.clone());
        if let Some(name) = name.filter(|_| self.user.open.is_none()) {
            self.ask(Wish::Resume { name });
        }
    }

    /// Live containers, for the check that nothing touched them.
    pub fn running(&self) -> Vec<String> {
        let running = |status: &ContainerStatus| status.is_running();
        let all = self.nodes.iter().flat_map(|node| node.engine.containers.values());
        all.filter(|each| running(&each.status)).map(|each| each.id.clone()).collect()
    }
}
