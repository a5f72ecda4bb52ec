//! Rules: each is written down once, where the scenario that shows it is, and the table of all follows from that.

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::{Arc, Mutex};

use gatewatch_tests::{BACKENDS, Backend, Needs, have};
use libtest_mimic::{Failed, Trial};

/// A rule, as [`scenario!`] registers it.
pub(crate) struct Rule {
    /// The module in which it is written.
    pub(crate) module: &'static str,
    /// The rule itself, and the name of its function.
    pub(crate) name: &'static str,
    /// What its scenario needs.
    pub(crate) needs: &'static [Needs],
    /// The scenario.
    pub(crate) test: Test,
}

/// How often a scenario is run.
#[derive(Clone, Copy)]
pub(crate) enum Test {
    /// Once for each way to observe ports: the rule holds for all of them.
    ByBackend(fn(Backend)),
    /// Once.
    Once(fn()),
}

inventory::collect!(Rule);

/// Declares a rule and its scenario, which is run once for each backend if it takes one:
///
/// ```ignore
/// scenario!(a_gateway_that_obeys_is_asked_to_end, |backend| { … });
/// scenario!(an_event_says_who_where_and_when, needs(Bpf), || { … });
/// ```
macro_rules! scenario {
    ($name:ident, $(needs($($need:ident),+),)? |$backend:ident| $body:block) => {
        fn $name($backend: ::gatewatch_tests::Backend) $body
        scenario!(@register $name, ByBackend, [$($($need),+)?]);
    };
    ($name:ident, $(needs($($need:ident),+),)? || $body:block) => {
        fn $name() $body
        scenario!(@register $name, Once, [$($($need),+)?]);
    };
    (@register $name:ident, $test:ident, [$($need:ident),*]) => {
        ::inventory::submit! {
            crate::rule::Rule {
                module: module_path!(),
                name: stringify!($name),
                needs: &[$(::gatewatch_tests::Needs::$need),*],
                test: crate::rule::Test::$test($name),
            }
        }
    };
}

impl Rule {
    /// The part of a scenario's name that says where it is: the module below the crate, or below `linux`.
    fn place(&self) -> &'static str {
        let mut names = self.module.split("::").skip(1);
        let name = names.next().filter(|&name| name != "linux").or_else(|| names.next());
        name.unwrap_or(self.module)
    }

    /// The scenarios that show it.
    fn scenarios(&self) -> Vec<Scenario> {
        let name = format!("{}::{}", self.place(), self.name);
        match self.test {
            Test::ByBackend(test) => BACKENDS.iter().map(|&backend| self.by(backend, &name, test)).collect(),
            Test::Once(test) => vec![Scenario { name, needs: self.needs.to_vec(), run: Arc::new(test) }],
        }
    }

    fn by(&self, backend: Backend, name: &str, test: fn(Backend)) -> Scenario {
        let mut needs = self.needs.to_vec();
        if backend == Backend::Ebpf {
            needs.push(Needs::Bpf);
        }
        let name = format!("{}::{name}", backend.name());
        Scenario { name, needs, run: Arc::new(move || test(backend)) }
    }
}

/// The scenarios of all rules, by name: the linker gives the rules in no order of ours.
pub(crate) fn scenarios() -> Vec<Scenario> {
    let mut scenarios: Vec<Scenario> = inventory::iter::<Rule>().flat_map(Rule::scenarios).collect();
    scenarios.sort_by(|one, other| one.name.cmp(&other.name));
    scenarios
}

/// The scenarios that failed so far.
static FAILED: Mutex<Vec<String>> = Mutex::new(Vec::new());

/// Takes the names of the scenarios that failed since this was last asked.
pub(crate) fn take_failed() -> Vec<String> {
    std::mem::take(&mut *FAILED.lock().unwrap())
}

/// A rule as it is tried in one way.
#[derive(Clone)]
pub(crate) struct Scenario {
    /// Backend, place and rule.
    pub(crate) name: String,
    /// What it needs.
    pub(crate) needs: Vec<Needs>,
    run: Arc<dyn Fn() + Send + Sync>,
}

impl Scenario {
    /// Why this system, whatever is installed on it, can't show the rule; `None` if it can.
    pub(crate) fn cannot_be_shown(&self) -> Option<&'static str> {
        self.needs.iter().find_map(|needs| needs.cannot_be_shown())
    }

    /// A trial that runs it. If something is missing, the trial is ignored, or fails in CI.
    pub(crate) fn into_trial(self) -> Trial {
        let missing = self.needs.into_iter().find_map(|needs| have(needs).err());
        let (name, run) = (self.name, self.run);
        match missing {
            None => Trial::test(name.clone(), move || {
                catch_unwind(AssertUnwindSafe(|| run())).map_err(|panic| {
                    FAILED.lock().unwrap().push(name);
                    resume_unwind(panic)
                })
            }),
            Some(why) if std::env::var_os("CI").is_some() => {
                Trial::test(name, move || Err(Failed::from(format!("can't be skipped in CI: {why}"))))
            }
            Some(why) => {
                eprintln!("skipped: {name}: {why}");
                Trial::test(name, || Ok(())).with_ignored_flag(true)
            }
        }
    }
}
