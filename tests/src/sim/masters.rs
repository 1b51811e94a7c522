//! The leader's work: plan, judge, collect reports, tell agents.
//!
//! Invariant: what the leader does here is what `skein-master` does: one plan and one batch of
//! reports under way at a time, everything else level-triggered; all of it is gone with the term.
//! Deliberately not here: decisions (`skein_master_core`), the log (`raft`).

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use skein_common::{
    InstanceId, NodeId, Timestamp, assignment::AssignmentUpdate, endpoint::EndpointsUpdate,
    instance::InstanceReport, node::Liveness as Belief,
};
use skein_master_core::{
    Applied, ClusterState, Command, CommandKind,
    command::{Actor, Report, Verdict},
    drain::Drains,
    endpoints::{EndpointBook, ToldEndpoints},
    liveness::{Liveness, LivenessConfig},
    orchestrator::{self, Scope},
    state::Change,
    told::{Told, concerned},
};

use super::{
    Event, World, check,
    network::{Message, StreamId, Way},
    raft::Origin,
    rules,
};

const SILENCE: u64 = 6_000;
const TICK: u64 = 500;

#[derive(Debug)]
pub struct Leader {
    pub term: u64,
    /// When it began, for the check of its verdicts.
    pub since: u64,
    /// What it last saw applied; stands still once it is cut off.
    pub(super) state: ClusterState,
    pub(super) sessions: BTreeMap<usize, Session>,
    pub(super) book: EndpointBook,
    pub(super) drains: Drains,
    /// Newest entry of the book that sessions know of.
    pub(super) number: u64,
    /// Changes that its dispatcher has not seen yet.
    feed: Vec<Change>,
    hellos: BTreeMap<StreamId, Vec<InstanceReport>>,
    liveness: Liveness,
    /// When each node was last heard, kept apart from `liveness` to check it.
    pub heard: BTreeMap<NodeId, u64>,
    /// Nodes that were late when it began.
    pub late: BTreeSet<NodeId>,
    scope: Scope,
    planning: bool,
    reports: Vec<Report>,
    reporting: bool,
    judging: bool,
}

#[derive(Debug)]
pub struct Session {
    pub(super) stream: StreamId,
    pub(super) balances: bool,
    pub(super) told_endpoints: ToldEndpoints,
    pub(super) heard_number: u64,
    /// Instances it last said its balancer waits for.
    pub(super) busy: BTreeSet<InstanceId>,
    /// The book has something new.
    pub(super) endpoints: bool,
    heard: u64,
    /// The real one: what an agent is told is not modelled.
    told: Told,
    /// Instances it has not looked at yet.
    inbox: BTreeSet<InstanceId>,
}

impl World {
    pub(super) fn master_time(&self, master: usize) -> Timestamp {
        self.wall(self.master_skew[master])
    }

    fn command(&self, master: usize, actor: Actor, kind: CommandKind) -> Command {
        Command { request: None, at: self.master_time(master), actor, kind }
    }

    pub(super) fn leader(&mut self, master: usize, term: u64) -> Option<&mut Leader> {
        self.masters[master].leads.as_deref_mut().filter(|leader| leader.term == term)
    }

    /// Leadership begins.
    pub(super) fn lead(&mut self, master: usize) {
        let (term, state) = (self.raft.term, self.raft.state.clone());
        let now = Duration::from_millis(self.now);
        let liveness = Liveness::new(LivenessConfig::default(), now, state.nodes().map(Arc::as_ref));
        let late =
            state.nodes().filter(|node| node.liveness == Belief::Unknown).map(|node| node.id).collect();
        self.masters[master].leads = Some(Box::new(Leader {
            term,
            since: self.now,
            state,
            sessions: BTreeMap::new(),
            book: EndpointBook::default(),
            drains: Drains::default(),
            number: 0,
            feed: Vec::new(),
            hellos: BTreeMap::new(),
            liveness,
            heard: BTreeMap::new(),
            late,
            scope: Scope::All,
            planning: false,
            reports: Vec::new(),
            reporting: false,
            judging: false,
        }));
        if self.raft.state.cluster_id().is_none() {
            let id = skein_common::ClusterId::from_random(self.dice.bits());
            let form = self.command(
                master,
                Actor::Controller("bootstrap".to_owned()),
                CommandKind::FormCluster { id },
            );
            self.propose(master, term, form, Origin::Nobody);
        }
        self.after(TICK, TICK + 1, Event::Tick { master, term });
        self.look_at_all_endpoints(master, term);
        self.plan(master, term);
    }

    pub(super) fn committed(&mut self, origin: Origin, applied: Applied) {
        let Some(master) = self.raft.leader else { return };
        let (term, state) = (self.raft.term, self.raft.state.clone());
        if let Some(leader) = self.leader(master, term) {
            leader.state = state;
        }
        self.feed(master, term, &applied.changes);
        let Some(leader) = self.leader(master, term) else { return };
        applied.changes.iter().for_each(|change| leader.scope.add(change));
        match origin {
            Origin::Nobody => {}
            Origin::Planner => leader.planning = false,
            Origin::Reports => leader.reporting = false,
            Origin::Judge => leader.judging = false,
            Origin::Registration { stream } => self.registered(master, term, stream, applied.outcome.is_ok()),
            Origin::User { sequence } => self.user_answered(sequence, applied.outcome),
        }
        self.end_sessions_of_strangers(master, term);
        self.plan(master, term);
        self.pass_on_reports(master, term);
    }

    pub(super) fn plan(&mut self, master: usize, term: u64) {
        let now = self.master_time(master);
        let mut dice = self.dice.clone();
        let Some(leader) = self.leader(master, term) else { return };
        if leader.planning || leader.scope.is_nothing() {
            return;
        }
        let scope = std::mem::take(&mut leader.scope);
        let mut ids = || InstanceId::from_random(dice.bits());
        let planned = orchestrator::plan(&leader.state, &scope, now, &mut ids);
        let empty = planned.plan.is_empty();
        leader.planning = !empty;
        let baseless = check::baseless_ends(&leader.state, &planned.plan)
            .or_else(|| check::disruption(&leader.state, &planned.plan, now))
            .or_else(|| rules::released_too_early(&leader.state, &planned.plan));
        self.dice = dice;
        if let Some(baseless) = baseless {
            self.fail(baseless);
        }
        if let Some(at) = planned.wake_at {
            let wait = at.unix_ms().saturating_sub(now.unix_ms());
            self.after(wait, wait + 1, Event::PlanAll { master, term });
        }
        if !empty {
            let plan = self.command(
                master,
                Actor::Controller("planner".to_owned()),
                CommandKind::Plan(planned.plan),
            );
            self.propose(master, term, plan, Origin::Planner);
        }
    }

    pub(super) fn plan_all(&mut self, master: usize, term: u64) {
        if let Some(leader) = self.leader(master, term) {
            leader.scope = Scope::All;
            self.plan(master, term);
        }
    }

    pub(super) fn tick(&mut self, master: usize, term: u64) {
        let now = self.now;
        let Some(leader) = self.leader(master, term) else { return };
        let silent: Vec<_> =
            leader.sessions.values().filter(|s| now - s.heard > SILENCE).map(|s| s.stream).collect();
        silent.into_iter().for_each(|stream| self.end_session(master, stream));
        self.judge(master, term);
        self.after(TICK, TICK + 1, Event::Tick { master, term });
    }

    fn judge(&mut self, master: usize, term: u64) {
        let now = Duration::from_millis(self.now);
        let Some(leader) = self.leader(master, term).filter(|leader| !leader.judging) else { return };
        let verdicts: Vec<Verdict> = leader.liveness.judge(&leader.state, now).verdicts;
        if verdicts.is_empty() {
            return;
        }
        leader.judging = true;
        if let Some(rash) = self.rash_verdicts(master, &verdicts) {
            self.fail(rash);
        }
        let actor = Actor::Controller("liveness".to_owned());
        let command = self.command(master, actor, CommandKind::JudgeNodes { verdicts });
        self.propose(master, term, command, Origin::Judge);
    }

    pub(super) fn master_receives(&mut self, stream: StreamId, message: Message) {
        let Some((node, master)) = self.network.streams.get(&stream).map(|known| (known.node, known.master))
        else {
            return;
        };
        if !self.masters[master].up {
            // Connection refused, unless the caller has just given up too.
            if !matches!(message, Message::Closed) {
                self.send(stream, Way::ToAgent, Message::Closed);
            }
            return;
        }
        let Some(term) = self.masters[master].leads.as_ref().map(|leader| leader.term) else {
            let leader = self.raft.leader;
            if !matches!(message, Message::Closed) {
                self.send(stream, Way::ToAgent, Message::Redirect { leader });
            }
            return;
        };
        match message {
            Message::Hello { incarnation, term: obeyed, held } => {
                // The agent must not depend on this courtesy.
                if obeyed > term && self.dice.percent(50) {
                    return self.send(stream, Way::ToAgent, Message::Closed);
                }
                self.register(master, term, stream, (incarnation, held));
            }
            Message::Closed => self.forget_session(master, stream),
            Message::Heartbeat => {
                if self.in_session(master, node, stream) {
                    self.hear(master, node);
                    self.send(stream, Way::ToAgent, Message::HeartbeatAnswer);
                }
            }
            Message::Report(reports) => {
                if self.in_session(master, node, stream) {
                    self.hear(master, node);
                    self.collect(master, term, node, reports);
                }
            }
            Message::Resync => self.resync(master, term, node, stream),
            Message::EndpointsApplied { generation, busy } => {
                if self.in_session(master, node, stream) {
                    self.hear(master, node);
                    self.balancer_said(master, node, generation, busy);
                }
            }
            Message::Welcome { .. }
            | Message::Redirect { .. }
            | Message::HeartbeatAnswer
            | Message::Endpoints(_)
            | Message::Assign(_) => {}
        }
    }

    fn in_session(&mut self, master: usize, node: usize, stream: StreamId) -> bool {
        let now = self.now;
        let session = self.masters[master].leads.as_mut().and_then(|leader| leader.sessions.get_mut(&node));
        let Some(session) = session.filter(|session| session.stream == stream) else { return false };
        session.heard = now;
        true
    }

    fn hear(&mut self, master: usize, node: usize) {
        let (id, now) = (self.nodes[node].id, self.now);
        if let Some(leader) = &mut self.masters[master].leads {
            leader.heard.insert(id, now);
            leader.liveness.heard(id, Duration::from_millis(now));
        }
    }

    fn register(&mut self, master: usize, term: u64, stream: StreamId, hello: (u64, Vec<InstanceReport>)) {
        let Some(node) = self.network.streams.get(&stream).map(|known| known.node) else { return };
        let (incarnation, held) = hello;
        let (id, description) = (self.nodes[node].id, self.nodes[node].description.clone());
        let Some(leader) = self.leader(master, term) else { return };
        leader.hellos.insert(stream, held);
        // Nothing new is not written down, so a leader that can write no more lets agents in too.
        let known = leader.state.node(id).is_some_and(|node| {
            node.incarnation == incarnation
                && node.liveness == Belief::Ready
                && node.description == *description
        });
        if known {
            return self.registered(master, term, stream, true);
        }
        let kind = CommandKind::RegisterNode { id, description, incarnation };
        let command = self.command(master, Actor::Agent(id), kind);
        self.propose(master, term, command, Origin::Registration { stream });
    }

    fn registered(&mut self, master: usize, term: u64, stream: StreamId, accepted: bool) {
        let now = self.now;
        let Some(node) = self.network.streams.get(&stream).map(|known| known.node) else { return };
        let (id, balances) = (self.nodes[node].id, self.nodes[node].description.balances);
        let Some(leader) = self.leader(master, term) else { return };
        let Some(held) = leader.hellos.remove(&stream) else { return };
        if !accepted {
            return self.send(stream, Way::ToAgent, Message::Closed);
        }
        self.hear(master, node);
        let Some(leader) = self.leader(master, term) else { return };
        let mut told = Told::new(id, term);
        let update = told.everything(&leader.state, &leader.drains);
        let mut told_endpoints = ToldEndpoints::new(term);
        let endpoints = balances.then(|| told_endpoints.everything(&leader.book));
        let session = Session {
            stream,
            balances,
            told_endpoints,
            heard_number: 0,
            busy: BTreeSet::new(),
            endpoints: false,
            heard: now,
            told,
            inbox: BTreeSet::new(),
        };
        let before = leader.sessions.insert(node, session);
        if let Some(before) = before.filter(|before| before.stream != stream) {
            self.send(before.stream, Way::ToAgent, Message::Closed);
        }
        self.collect(master, term, node, held);
        self.send(stream, Way::ToAgent, Message::Welcome { term });
        self.send_told(master, stream, Some(update), endpoints);
    }

    fn resync(&mut self, master: usize, term: u64, node: usize, stream: StreamId) {
        if !self.in_session(master, node, stream) {
            return;
        }
        let Some(leader) = self.leader(master, term) else { return };
        let Some(session) = leader.sessions.get_mut(&node) else { return };
        let update = session.told.everything(&leader.state, &leader.drains);
        let endpoints = session.balances.then(|| session.told_endpoints.everything(&leader.book));
        self.send_told(master, stream, Some(update), endpoints);
    }

    fn send_told(
        &mut self,
        master: usize,
        stream: StreamId,
        update: Option<AssignmentUpdate>,
        endpoints: Option<EndpointsUpdate>,
    ) {
        if let Some(update) = update {
            self.check_stops(master, &update);
            self.send(stream, Way::ToAgent, Message::Assign(update));
        }
        if let Some(update) = endpoints {
            self.send(stream, Way::ToAgent, Message::Endpoints(update));
        }
    }

    fn collect(&mut self, master: usize, term: u64, node: usize, reports: Vec<InstanceReport>) {
        let id = self.nodes[node].id;
        let Some(leader) = self.leader(master, term) else { return };
        let reports = reports.into_iter().map(|r| Report { node: id, instance: r.instance, news: r.news });
        leader.reports.extend(reports);
        self.pass_on_reports(master, term);
    }

    /// Whatever came while the last batch was under way is the next one.
    fn pass_on_reports(&mut self, master: usize, term: u64) {
        let Some(leader) = self.leader(master, term) else { return };
        if leader.reporting || leader.reports.is_empty() {
            return;
        }
        leader.reporting = true;
        let reports = std::mem::take(&mut leader.reports);
        let actor = Actor::Controller("reports".to_owned());
        let command = self.command(master, actor, CommandKind::Observe { reports });
        self.propose(master, term, command, Origin::Reports);
    }

    /// The dispatcher sees what was applied, a little later as a feed is; nobody waits where nothing balances.
    fn feed(&mut self, master: usize, term: u64, changes: &[Change]) {
        if !self.mixed {
            self.dispatch_endpoints(master, term, changes);
            return self.dispatch(master, term, changes);
        }
        let Some(leader) = self.leader(master, term) else { return };
        let is_first = leader.feed.is_empty();
        leader.feed.extend_from_slice(changes);
        if is_first && !changes.is_empty() {
            self.after(0, 20, Event::Feed { master, term });
        }
    }

    pub(super) fn fed(&mut self, master: usize, term: u64) {
        let Some(leader) = self.leader(master, term) else { return };
        let changes = std::mem::take(&mut leader.feed);
        self.dispatch_endpoints(master, term, &changes);
        for (node, instance) in concerned(changes.iter()) {
            if let Some(node) = self.nodes.iter().position(|known| known.id == node) {
                self.after(0, 8, Event::Inbox { master, term, node, instance });
            }
        }
    }

    /// Puts what changed before the sessions concerned, each a little later than it was applied and
    /// independently of the others, as a feed does.
    fn dispatch(&mut self, master: usize, term: u64, changes: &[Change]) {
        for change in changes {
            let Change::Instance { instance, .. } = change else { continue };
            let node = instance.node.and_then(|id| self.nodes.iter().position(|node| node.id == id));
            if let Some(node) = node {
                let instance = instance.id;
                self.after(0, 8, Event::Inbox { master, term, node, instance });
            }
        }
    }

    pub(super) fn inbox(&mut self, master: usize, term: u64, node: usize, instance: InstanceId) {
        let session = self.leader(master, term).and_then(|leader| leader.sessions.get_mut(&node));
        if let Some(session) = session
            && session.inbox.insert(instance)
            && session.inbox.len() == 1
        {
            self.after(0, 4, Event::Tell { master, term, node });
        }
    }

    /// The session looks at the state of now, which may be ahead of what its inbox says.
    pub(super) fn tell(&mut self, master: usize, term: u64, node: usize) {
        let Some(leader) = self.leader(master, term) else { return };
        let Some(session) = leader.sessions.get_mut(&node) else { return };
        let inbox = std::mem::take(&mut session.inbox);
        let update = session.told.difference(&leader.state, &leader.drains, inbox);
        let is_new = std::mem::take(&mut session.endpoints);
        let endpoints = is_new.then(|| session.told_endpoints.difference(&leader.book)).flatten();
        let stream = session.stream;
        self.send_told(master, stream, update, endpoints);
    }

    /// A node that was removed by force has nothing to say any more until it comes again.
    fn end_sessions_of_strangers(&mut self, master: usize, term: u64) {
        let ids: Vec<NodeId> = self.nodes.iter().map(|node| node.id).collect();
        let Some(leader) = self.leader(master, term) else { return };
        let unknown = leader.sessions.iter().filter(|(node, _)| leader.state.node(ids[**node]).is_none());
        let unknown: Vec<_> = unknown.map(|(_, session)| session.stream).collect();
        unknown.into_iter().for_each(|stream| self.end_session(master, stream));
    }

    fn end_session(&mut self, master: usize, stream: StreamId) {
        self.forget_session(master, stream);
        self.send(stream, Way::ToAgent, Message::Closed);
    }

    fn forget_session(&mut self, master: usize, stream: StreamId) {
        let ids: Vec<NodeId> = self.nodes.iter().map(|node| node.id).collect();
        if let Some(leader) = self.masters[master].leads.as_deref_mut() {
            let (sessions, drains) = (&mut leader.sessions, &mut leader.drains);
            sessions.retain(|node, session| {
                if session.stream == stream {
                    drains.lost(ids[*node]);
                }
                session.stream != stream
            });
            leader.hellos.remove(&stream);
        }
    }

    /// Every agent connected to this master notices.
    pub(super) fn close_streams_of(&mut self, master: usize) {
        let streams: Vec<_> =
            self.network.streams.iter().filter(|(_, s)| s.master == master).map(|(id, _)| *id).collect();
        for stream in streams {
            self.send(stream, Way::ToAgent, Message::Closed);
        }
    }
}
