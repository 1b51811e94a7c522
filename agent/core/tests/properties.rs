//! Properties: whatever happens in whatever order, and then nothing more happens.

#[path = "world/model.rs"]
mod model;

use std::time::Duration;

use model::{Fault, IMAGE, World, assignment, exited, instance};
use proptest::prelude::*;
use skein_agent_core::{Assignments, ContainerStatus, Health, RuntimeError, Verdict};
use skein_common::{
    assignment::{AssignmentContent, AssignmentUpdate},
    instance::{Desired, News, Phase},
    service::{RestartCondition, RestartPolicy},
};

const INSTANCES: u64 = 3;

/// Something that happens to a node.
#[derive(Debug, Clone)]
enum Happening {
    /// Desired of each instance; `None` = not assigned.
    Told([Option<Desired>; 3]),
    Pass,
    /// One of the steps under way ends.
    Step(usize),
    Exit(u64, i64),
    Unhealthy(u64),
    Vanish(u64),
    TimePasses(u64),
    List,
    /// An old look arrives late.
    LateLook,
    Fault(Fault),
    ImageRemoved,
    AgentRestart {
        done: bool,
    },
}

fn desired() -> impl Strategy<Value = Option<Desired>> {
    prop_oneof![
        4 => Just(Some(Desired::Run)),
        1 => Just(Some(Desired::Stop)),
        1 => Just(Some(Desired::Remove)),
        1 => Just(None),
    ]
}

fn error() -> impl Strategy<Value = RuntimeError> {
    prop_oneof![
        Just(RuntimeError::Unavailable("away".to_owned())),
        Just(RuntimeError::Failed("broken".to_owned())),
        Just(RuntimeError::Rejected("never".to_owned())),
        Just(RuntimeError::NotFound("it".to_owned())),
        Just(RuntimeError::Image { image: "alias".to_owned(), reason: "denied".to_owned() }),
    ]
}

fn fault() -> impl Strategy<Value = Fault> {
    prop_oneof![
        error().prop_map(Fault::Create),
        error().prop_map(Fault::Start),
        error().prop_map(Fault::Stop),
        error().prop_map(Fault::Pull),
    ]
}

fn happening() -> impl Strategy<Value = Happening> {
    let number = 1..=INSTANCES;
    prop_oneof![
        2 => [desired(), desired(), desired()].prop_map(Happening::Told),
        8 => Just(Happening::Pass),
        8 => (0usize..4).prop_map(Happening::Step),
        3 => (number.clone(), 0i64..3).prop_map(|(number, code)| Happening::Exit(number, code)),
        1 => number.clone().prop_map(Happening::Unhealthy),
        1 => number.prop_map(Happening::Vanish),
        3 => (1u64..20_000).prop_map(Happening::TimePasses),
        2 => Just(Happening::List),
        2 => Just(Happening::LateLook),
        2 => fault().prop_map(Happening::Fault),
        1 => Just(Happening::ImageRemoved),
        1 => any::<bool>().prop_map(|done| Happening::AgentRestart { done }),
    ]
}

fn policy() -> impl Strategy<Value = RestartPolicy> {
    let condition = prop_oneof![
        Just(RestartCondition::Any),
        Just(RestartCondition::OnFailure),
        Just(RestartCondition::None)
    ];
    let delay = prop_oneof![Just(None), Just(Some(Duration::ZERO)), Just(Some(Duration::from_secs(3)))];
    let max_attempts = proptest::option::of(0u32..4);
    let window = prop_oneof![Just(Duration::ZERO), Just(Duration::from_secs(20))];
    (condition, delay, max_attempts, window).prop_map(|(condition, delay, max_attempts, window)| {
        RestartPolicy { condition, delay, max_attempts, window }
    })
}

struct Run {
    world: World,
    policy: RestartPolicy,
    /// Wishes only grow while an instance is assigned.
    wishes: [Option<Desired>; 3],
    late: Option<skein_agent_core::Look>,
}

impl Run {
    fn tell(&mut self, told: [Option<Desired>; 3]) {
        for (wish, told) in self.wishes.iter_mut().zip(told) {
            // An instance that was taken off the node does not come back.
            *wish = match (*wish, told) {
                (Some(before), Some(told)) => Some(before.max(told)),
                (_, None) => Some(Desired::Remove),
                (None, told) => told,
            };
        }
        let set = (1..).zip(&self.wishes);
        let set = set.filter_map(|(number, wish)| wish.map(|wish| assignment(number, wish, self.policy)));
        self.world.set(set.collect());
    }

    fn happens(&mut self, happening: Happening) {
        let world = &mut self.world;
        let now = world.now;
        match happening {
            Happening::Told(told) => self.tell(told),
            Happening::Pass => drop(world.pass()),
            Happening::Step(number) if number < world.under_way.len() => world.step(number),
            Happening::Step(_) => {}
            Happening::Exit(number, code) => self.change(number, exited(code, now)),
            Happening::Unhealthy(number) => {
                let health = Health::Unhealthy { output: "no".to_owned() };
                self.change(number, ContainerStatus::Running { health, started_at: now });
            }
            Happening::Vanish(number) => {
                world.engine.containers.retain(|_, each| each.instance != instance(number));
            }
            Happening::TimePasses(ms) => world.now = now + Duration::from_millis(ms),
            Happening::List => {
                self.late = Some(world.look(None));
                world.list();
            }
            Happening::LateLook => {
                if let Some(look) = self.late.take() {
                    world.state.look(look);
                }
            }
            Happening::Fault(fault) => world.engine.faults.push(fault),
            Happening::ImageRemoved => drop(world.engine.images.remove(IMAGE)),
            Happening::AgentRestart { done } => {
                world.restart_agent(done);
                world.list();
            }
        }
    }

    /// Behind the agent's back.
    fn change(&mut self, number: u64, status: ContainerStatus) {
        let id = instance(number);
        let mut containers = self.world.engine.containers.values_mut();
        if let Some(running) = containers.find(|each| each.instance == id && each.status.is_running()) {
            running.status = status;
        }
    }

    /// Faults stop, and the relist comes that always comes.
    fn heal(&mut self) {
        self.world.engine.faults.clear();
        self.tell(self.wishes.map(|wish| wish.or(Some(Desired::Run))));
        while !self.world.under_way.is_empty() {
            self.world.step(0);
        }
        for _ in 0..3 {
            self.world.list();
            self.world.settle();
            self.world.pass_time(Duration::from_secs(400));
        }
    }

    fn check_converged(&self) -> Result<(), TestCaseError> {
        for (number, wish) in (1..).zip(self.wishes) {
            let shown = self.world.shown(number);
            let running = shown.iter().filter(|shown| shown.ends_with("running")).count();
            match wish {
                Some(Desired::Run) if !self.world.progress(number).1.is_terminal() => {
                    let (attempt, phase) = self.world.progress(number);
                    prop_assert_eq!(phase, Phase::Ready);
                    prop_assert!(shown.contains(&format!("{attempt}:running")), "{:?}", shown);
                    prop_assert!(running == 1 && shown.len() <= 2, "{:?}", shown);
                }
                Some(Desired::Run | Desired::Stop) => {
                    prop_assert!(self.world.progress(number).1.is_terminal());
                    prop_assert_eq!(running, 0);
                }
                Some(Desired::Remove) | None => {
                    prop_assert_eq!(self.world.state.news(instance(number)), Some(News::Gone));
                    prop_assert_eq!(shown.len(), 0);
                }
            }
        }
        Ok(())
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, ..ProptestConfig::default() })]

    /// Progress never goes back (checked at each pass), one step per instance at a time (there
    /// too), and once faults stop, what is seen is what is wanted.
    #[test]
    fn every_history_converges(policy in policy(), history in proptest::collection::vec(happening(), 0..80)) {
        let mut run = Run { world: World::default(), policy, wishes: [None; 3], late: None };
        for happening in history {
            run.happens(happening);
        }
        run.heal();
        run.check_converged()?;
        prop_assert_eq!(run.world.pass().actions, vec![], "a fixed point");
    }

    /// Terms and generations obeyed never go back; said twice is said once.
    #[test]
    fn updates_are_obeyed_in_order(updates in proptest::collection::vec((0u64..4, 0u64..6, proptest::option::of(0u64..6)), 1..40)) {
        let mut assignments = Assignments::default();
        let mut obeyed = (0, 0);
        for (term, generation, from) in updates {
            let content = match from {
                None => AssignmentContent::Full(vec![assignment(generation, Desired::Run, RestartPolicy::default())]),
                Some(from) => AssignmentContent::Delta { from, upserts: Vec::new(), removals: Vec::new() },
            };
            let update = AssignmentUpdate { term, generation, content };
            let before = assignments.clone();
            let verdict = assignments.apply(update.clone());
            match verdict {
                Verdict::Accepted => {
                    prop_assert!(obeyed <= (term, generation));
                    obeyed = (term, generation);
                    prop_assert_eq!(assignments.generation(), generation);
                    let after = assignments.clone();
                    prop_assert_ne!(assignments.apply(update), Verdict::Gap { held: generation, from: generation });
                    prop_assert_eq!(&assignments, &after, "a duplicate changes nothing");
                }
                Verdict::LowerTerm { .. } => {
                    prop_assert!(term < before.term());
                    prop_assert_eq!(&assignments, &before);
                }
                Verdict::Known | Verdict::Gap { .. } => {
                    prop_assert!(assignments.iter().eq(before.iter()), "nothing is obeyed");
                }
            }
        }
    }
}
