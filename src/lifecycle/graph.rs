//! Components and what they need: started as their needs are met, stopped in reverse.
//!
//! What is critical has to start, or all that has started is stopped again. What is not is tried again in the background,
//! and nothing may need it. The components are a fixed list ([`crate::app`]), which is checked all the same: a mistake in it
//! is to fail every start, and not to wait for ever in one.

use std::collections::BTreeSet;
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};

use super::{ComponentReport, ComponentState, Lifecycle};

/// Bounds of the pause before a component that is not critical is tried again: it doubles from the first to the second.
const PAUSE: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(2));

/// The start of a component: what is wrong if it fails, with the remedy.
pub type Start = Pin<Box<dyn Future<Output = Result<(), String>> + Send>>;

/// One part of the process, which works on the state `S`.
pub struct Component<S: 'static> {
    /// Its name.
    pub name: &'static str,
    /// What has to be up before it.
    pub needs: &'static [&'static str],
    /// Without it there is no service.
    pub critical: bool,
    /// What its start may take.
    pub limit: Duration,
    /// Starts it.
    pub start: fn(Arc<S>) -> Start,
    /// Ends what was started; only of those that are critical, the others end with their start.
    pub stop: fn(&S),
}

/// What is wrong with a list of components.
#[derive(Debug, PartialEq, Eq)]
pub enum Flaw {
    /// Two have this name.
    Twice(&'static str),
    /// The first needs the second, which does not exist.
    Unknown(&'static str, &'static str),
    /// The first needs the second, which may never be there.
    Uncertain(&'static str, &'static str),
    /// These wait for each other.
    Circle(Vec<&'static str>),
}

impl fmt::Display for Flaw {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Twice(name) => write!(f, "two components are called `{name}`"),
            Self::Unknown(name, need) => write!(f, "component `{name}` needs `{need}`, which does not exist"),
            Self::Uncertain(name, need) => write!(f, "component `{name}` needs `{need}`, which is not critical"),
            Self::Circle(names) => write!(f, "components wait for each other: {}", names.join(", ")),
        }
    }
}

/// What matters of a component to the plan.
#[derive(Debug, Clone, Copy)]
struct Part {
    name: &'static str,
    needs: &'static [&'static str],
    critical: bool,
}

/// Whether everything can be started (Kahn's algorithm).
fn check(parts: &[Part]) -> Result<(), Flaw> {
    for (at, part) in parts.iter().enumerate() {
        if parts.iter().skip(at + 1).any(|other| other.name == part.name) {
            return Err(Flaw::Twice(part.name));
        }
        for need in part.needs {
            match parts.iter().find(|other| other.name == *need) {
                None => return Err(Flaw::Unknown(part.name, need)),
                Some(needed) if !needed.critical => return Err(Flaw::Uncertain(part.name, need)),
                Some(_) => {}
            }
        }
    }
    let mut left: Vec<Part> = parts.to_vec();
    let mut up = BTreeSet::new();
    loop {
        let ready: Vec<_> = left.iter().filter(|part| is_ready(part.needs, &up)).map(|part| part.name).collect();
        if ready.is_empty() {
            let names: Vec<_> = left.iter().map(|part| part.name).collect();
            return if names.is_empty() { Ok(()) } else { Err(Flaw::Circle(names)) };
        }
        left.retain(|part| !ready.contains(&part.name));
        up.extend(ready);
    }
}

fn is_ready(needs: &[&'static str], up: &BTreeSet<&'static str>) -> bool {
    needs.iter().all(|need| up.contains(need))
}

/// The components of a process, and how far they are.
pub struct Graph<S: 'static> {
    state: Arc<S>,
    lifecycle: Arc<Lifecycle>,
    /// Those that nothing was done about yet.
    waiting: Vec<&'static Component<S>>,
    /// The starts that are under way; those that are not critical go on until they succeed.
    starting: JoinSet<(&'static Component<S>, Result<(), String>)>,
    /// Those that are up, in the order in which they came.
    up: Vec<&'static Component<S>>,
}

impl<S: Send + Sync + 'static> Graph<S> {
    /// Nothing has started.
    ///
    /// # Errors
    /// These components can never all be started.
    pub fn new(components: &'static [Component<S>], state: Arc<S>, lifecycle: Arc<Lifecycle>) -> Result<Self, Flaw> {
        let part = |component: &Component<S>| {
            let Component { name, needs, critical, .. } = *component;
            Part { name, needs, critical }
        };
        check(&components.iter().map(part).collect::<Vec<_>>())?;
        for component in components {
            component.report(&lifecycle, ComponentState::Waiting, None, None);
        }
        let waiting = components.iter().collect();
        Ok(Self { state, lifecycle, waiting, starting: JoinSet::new(), up: Vec::new() })
    }

    /// Starts everything; ready when all that is critical is up.
    ///
    /// # Errors
    /// Why something critical could not be started. What has started then is for [`Graph::stop`] to end.
    pub async fn start(&mut self) -> Result<(), String> {
        let begun = Instant::now();
        loop {
            self.begin_ready();
            let critical = |component: &&Component<S>| component.critical;
            let due = self.lifecycle.components().iter().filter(|report| report.critical).count();
            if self.up.iter().copied().filter(critical).count() == due {
                break;
            }
            let Some(ended) = self.starting.join_next().await else { break };
            let (component, result) = ended.map_err(|error| format!("a component ended: {error}"))?;
            result?;
            self.up.push(component);
        }
        self.lifecycle.has_started(begun.elapsed());
        let total_ms = u64::try_from(begun.elapsed().as_millis()).unwrap_or(u64::MAX);
        tracing::info!(total_ms, components = self.lifecycle.summary(), "started");
        Ok(())
    }

    /// Begins to start everything whose needs are met.
    fn begin_ready(&mut self) {
        let up: BTreeSet<_> = self.up.iter().map(|component| component.name).collect();
        let (ready, waiting) = self.waiting.iter().partition(|component| is_ready(component.needs, &up));
        self.waiting = waiting;
        let ready: Vec<&'static Component<S>> = ready;
        for component in ready {
            let (state, lifecycle) = (Arc::clone(&self.state), Arc::clone(&self.lifecycle));
            self.starting.spawn(async move {
                let begun = Instant::now();
                component.report(&lifecycle, ComponentState::Starting, None, None);
                let mut result = component.attempt(&state, &lifecycle, begun).await;
                if let Err(problem) = &result
                    && !component.critical
                {
                    result = component.persist(problem, &state, &lifecycle, begun).await;
                }
                (component, result)
            });
        }
    }

    /// Ends what is being started, and stops what has started, the latest first.
    pub async fn stop(&mut self) {
        // Those that came up in the moment when another failed are to be stopped as well.
        while let Some(ended) = self.starting.try_join_next() {
            self.up.extend(ended.ok().filter(|(_, result)| result.is_ok()).map(|(component, _)| component));
        }
        self.starting.shutdown().await;
        for component in self.up.drain(..).rev() {
            (component.stop)(&self.state);
            component.report(&self.lifecycle, ComponentState::Stopped, None, None);
        }
    }
}

impl<S: 'static> Component<S> {
    async fn attempt(&self, state: &Arc<S>, lifecycle: &Lifecycle, begun: Instant) -> Result<(), String> {
        let (name, limit) = (self.name, self.limit);
        let result = timeout(limit, (self.start)(Arc::clone(state))).await;
        let result = result.unwrap_or_else(|_| Err(format!("component `{name}` has not started within {limit:?}")));
        match &result {
            Ok(()) => self.report(lifecycle, ComponentState::Up, Some(begun.elapsed()), None),
            Err(problem) => {
                self.report(lifecycle, ComponentState::Failed, Some(begun.elapsed()), Some(problem.clone()));
            }
        }
        result
    }

    /// Tries again until it succeeds.
    async fn persist(
        &self,
        problem: &str,
        state: &Arc<S>,
        lifecycle: &Lifecycle,
        begun: Instant,
    ) -> Result<(), String> {
        let (mut pause, longest) = PAUSE;
        tracing::warn!(component = self.name, problem, "not up yet: serving without, and trying again");
        loop {
            sleep(pause).await;
            pause = (pause * 2).min(longest);
            if self.attempt(state, lifecycle, begun).await.is_ok() {
                tracing::info!(component = self.name, "up at last");
                return Ok(());
            }
        }
    }

    fn report(&self, lifecycle: &Lifecycle, state: ComponentState, took: Option<Duration>, problem: Option<String>) {
        let Self { name, critical, needs, .. } = *self;
        lifecycle.report(ComponentReport { name, critical, state, needs, took, problem });
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;
    use std::sync::atomic::{AtomicU32, Ordering};

    use super::*;

    const LIMIT: Duration = Duration::from_mins(1);

    fn part(name: &'static str, needs: &'static [&'static str]) -> Part {
        Part { name, needs, critical: true }
    }

    #[test]
    fn what_can_be_started_is_no_flaw() {
        let diamond = [part("d", &["b", "c"]), part("b", &["a"]), part("c", &["a"]), part("a", &[])];
        assert_eq!(check(&diamond), Ok(()));
        assert_eq!(check(&[]), Ok(()));
    }

    #[test]
    fn mistakes_in_the_list_are_found() {
        assert_eq!(check(&[part("a", &[]), part("b", &[]), part("a", &[])]), Err(Flaw::Twice("a")));
        assert_eq!(check(&[part("a", &["b"])]), Err(Flaw::Unknown("a", "b")));
        assert_eq!(check(&[part("a", &["a"])]), Err(Flaw::Circle(vec!["a"])));
        let circle = [part("z", &[]), part("a", &["c", "z"]), part("b", &["a"]), part("c", &["b"])];
        assert_eq!(check(&circle), Err(Flaw::Circle(vec!["a", "b", "c"])));
        let loose = Part { critical: false, ..part("a", &[]) };
        assert_eq!(check(&[loose, part("b", &["a"])]), Err(Flaw::Uncertain("b", "a")));
    }

    /// What happened, in order, and how often the fickle component was tried.
    #[derive(Default)]
    struct Story {
        lines: Mutex<Vec<String>>,
        tries: AtomicU32,
    }

    impl Story {
        fn tell(&self, line: &str) {
            self.lines.lock().expect("not poisoned").push(line.to_owned());
        }

        fn told(&self) -> Vec<String> {
            self.lines.lock().expect("not poisoned").clone()
        }
    }

    const fn component(name: &'static str, needs: &'static [&'static str]) -> Component<Story> {
        Component { name, needs, critical: true, limit: LIMIT, start: |_| Box::pin(async { Ok(()) }), stop: |_| {} }
    }

    fn graph(components: &'static [Component<Story>]) -> (Graph<Story>, Arc<Story>, Arc<Lifecycle>) {
        let (story, lifecycle) = (Arc::<Story>::default(), Lifecycle::new());
        let graph = Graph::new(components, Arc::clone(&story), Arc::clone(&lifecycle)).expect("no flaw");
        (graph, story, lifecycle)
    }

    fn states(lifecycle: &Lifecycle) -> Vec<ComponentState> {
        lifecycle.components().iter().map(|report| report.state).collect()
    }

    #[tokio::test]
    async fn what_came_up_as_another_failed_is_stopped_too() {
        static COMPONENTS: [Component<Story>; 2] = [
            Component { start: |_| Box::pin(async { Err("no luck".to_owned()) }), ..component("broken", &[]) },
            Component { stop: |story| story.tell("twin stops"), ..component("twin", &[]) },
        ];
        let (mut graph, story, _) = graph(&COMPONENTS);
        assert_eq!(graph.start().await, Err("no luck".to_owned()));
        graph.stop().await;
        assert_eq!(story.told(), ["twin stops"]);
    }

    #[tokio::test]
    async fn a_critical_failure_ends_what_starts_and_stops_the_rest_in_reverse() {
        static COMPONENTS: [Component<Story>; 4] = [
            Component { stop: |story| story.tell("first stops"), ..component("first", &[]) },
            Component { stop: |story| story.tell("second stops"), ..component("second", &["first"]) },
            Component {
                start: |_| Box::pin(std::future::pending()),
                stop: |story| story.tell("endless stops"),
                ..component("endless", &["first"])
            },
            Component {
                start: |_| Box::pin(async { Err("no luck".to_owned()) }),
                stop: |story| story.tell("broken stops"),
                ..component("broken", &["second"])
            },
        ];
        let (mut graph, story, lifecycle) = graph(&COMPONENTS);
        assert_eq!(graph.start().await, Err("no luck".to_owned()));
        use ComponentState::{Failed, Starting, Stopped, Up};
        assert_eq!(states(&lifecycle), [Up, Up, Starting, Failed]);
        assert_eq!(lifecycle.components().last().and_then(|last| last.problem.clone()), Some("no luck".to_owned()));
        graph.stop().await;
        assert_eq!(story.told(), ["second stops", "first stops"]);
        assert_eq!(states(&lifecycle)[..2], [Stopped, Stopped]);
    }

    #[tokio::test]
    async fn what_is_not_critical_is_tried_again_and_waited_for_by_nobody() {
        static COMPONENTS: [Component<Story>; 2] = [
            Component {
                critical: false,
                start: |story| {
                    Box::pin(async move {
                        let tries = story.tries.fetch_add(1, Ordering::Relaxed);
                        if tries < 2 { Err("not yet".to_owned()) } else { Ok(()) }
                    })
                },
                ..component("fickle", &[])
            },
            component("steady", &[]),
        ];
        let (mut graph, story, lifecycle) = graph(&COMPONENTS);
        assert_eq!(graph.start().await, Ok(()));
        assert_eq!(states(&lifecycle)[1], ComponentState::Up);
        let begun = Instant::now();
        while states(&lifecycle)[0] != ComponentState::Up {
            assert!(begun.elapsed() < LIMIT);
            tokio::task::yield_now().await;
        }
        assert_eq!(story.tries.load(Ordering::Relaxed), 3);
    }

    #[tokio::test]
    async fn a_start_has_a_limit() {
        static COMPONENTS: [Component<Story>; 1] = [Component {
            limit: Duration::from_millis(10),
            start: |_| Box::pin(std::future::pending()),
            ..component("endless", &[])
        }];
        let (mut graph, _, _) = graph(&COMPONENTS);
        let problem = graph.start().await.expect_err("it does not start");
        assert!(problem.contains("`endless` has not started within 10ms"), "{problem}");
    }
}
