//! Identify: may this owner be ended?
//!
//! There are three verdicts. If the deciding facts can't be read, or are ambiguous, the owner is *unclassified*, and such
//! an owner is never ended.

mod argument;
mod criteria;
mod environment;
mod files;
#[cfg(all(any(fuzzing, test), target_os = "linux"))]
pub(crate) mod fuzzing;
mod gateway;
mod node_options;
mod package;
mod proc_files;
mod product;
mod runtime;
mod script;
mod stand_in;
mod subcommand;

use std::time::Duration;

pub use self::criteria::Criteria;
use super::end::Timeouts;
use crate::model::{EndSignal, Process, StartTime, Verdict};
use crate::platform::patience;

/// The name of the built-in rule set, which is the default.
pub(crate) const OPENCLAW_GATEWAY: &str = "openclaw-gateway";
/// What the names of processes contain that may be gateways: the product's own names, and its runtimes.
pub(crate) const GATEWAY_PROCESSES: [&str; 5] = ["openclaw", "clawdbot", "moltbot", "node", "bun"];
/// The name of the rule set that matches every owner.
pub(crate) const ANY: &str = "any";

/// A verdict and its reason.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Judgement {
    /// The verdict.
    pub(crate) verdict: Verdict,
    /// A short clause for people.
    pub(crate) why: String,
}

/// Whether a process is systemd: the system's manager of services, or a user's own; also where that can't be told in time.
pub(crate) fn is_systemd(process: &Process) -> bool {
    looked_at(process, stand_in::is_systemd)
}

/// Whether a process holds ports for others; also where that can't be told in time.
pub(crate) fn stands_in(process: &Process) -> bool {
    looked_at(process, |process| stand_in::why(process).is_some())
}

fn looked_at(process: &Process, is_it: fn(&Process) -> bool) -> bool {
    let own = process.clone();
    patience::within(process.pid, process.start_time, process.uid, move || is_it(&own)).unwrap_or(true)
}

impl Judgement {
    fn new(verdict: Verdict, why: impl Into<String>) -> Self {
        Self { verdict, why: why.into() }
    }

    fn matching(why: impl Into<String>) -> Self {
        Self::new(Verdict::Match, why)
    }

    fn other(why: impl Into<String>) -> Self {
        Self::new(Verdict::Other, why)
    }

    fn unclassified(why: impl Into<String>) -> Self {
        Self::new(Verdict::Unclassified, why)
    }

    fn unreadable_argv() -> Self {
        Self::unclassified("its command line can't be read")
    }

    /// What follows what was read could say anything.
    fn cut_argv() -> Self {
        Self::unclassified("its command line is too long to be read whole")
    }
}

/// Which owners may be ended: all rules in a set must agree. And how they are ended, where that is not the usual way.
#[derive(Debug, Clone)]
pub struct Rules {
    rules: Vec<Rule>,
    ending: EndingRules,
    /// Processes that match whatever the rules say, as long as they can be identified.
    chosen: Vec<(u32, StartTime)>,
    /// Where it is given, no other process matches.
    only: Option<Vec<(u32, StartTime)>>,
}

/// How the owners that match a rule set are ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct EndingRules {
    /// What they are asked with.
    pub(crate) signal: EndSignal,
    /// Whether one that does not end in time is forced.
    pub(crate) kill: bool,
    /// The longest wait after the request; `None` for the usual one.
    pub(crate) term_timeout: Option<Duration>,
}

impl Default for EndingRules {
    fn default() -> Self {
        Self { signal: EndSignal::default(), kill: true, term_timeout: None }
    }
}

#[derive(Debug, Clone)]
enum Rule {
    /// The command line is a gateway's.
    Gateway,
    /// Every owner that can be identified.
    Any,
    /// An owner that meets all given criteria.
    Criteria(Criteria),
}

impl Rules {
    fn of(rule: Rule) -> Self {
        Self { rules: vec![rule], ending: EndingRules::default(), chosen: Vec::new(), only: None }
    }

    /// The same rules, with another way to end those that match.
    #[must_use]
    pub(crate) fn ending(self, ending: EndingRules) -> Self {
        Self { ending, ..self }
    }

    /// Whether these are the rules of OpenClaw's gateways.
    #[must_use]
    pub(crate) fn is_gateways(&self) -> bool {
        self.rules.iter().any(|rule| matches!(rule, Rule::Gateway))
    }

    /// Whether every process matches, so that a match says nothing of whose it is.
    #[must_use]
    pub(crate) fn is_any(&self) -> bool {
        self.rules.iter().all(|rule| matches!(rule, Rule::Any))
    }

    /// What those that match are asked with.
    #[must_use]
    pub(crate) fn signal(&self) -> EndSignal {
        self.ending.signal
    }

    /// Whether those that do not end in time are forced.
    #[must_use]
    pub(crate) fn kill(&self) -> bool {
        self.ending.kill
    }

    /// The longest wait after the request to end. OpenClaw's gateway is known to need little; a database that is cut off
    /// has to recover, so every other rule set grants more.
    #[must_use]
    pub(crate) fn term_timeout(&self) -> Duration {
        const OTHERS: Duration = Duration::from_secs(5);
        let usual =
            if self.is_gateways() && self.chosen.is_empty() { Timeouts::DEFAULT.term } else { OTHERS };
        self.ending.term_timeout.unwrap_or(usual)
    }

    /// OpenClaw's gateways.
    #[must_use]
    pub fn openclaw_gateway() -> Self {
        Self::of(Rule::Gateway)
    }

    /// Every owner whose command line can be read.
    #[must_use]
    pub fn any() -> Self {
        Self::of(Rule::Any)
    }

    /// Every owner that meets the criteria. `None` if no criterion is given, which would match all owners.
    #[must_use]
    pub fn matching(criteria: Criteria) -> Option<Self> {
        (!criteria.is_empty()).then(|| Self::of(Rule::Criteria(criteria)))
    }

    /// The same rules, by which these very processes match as well: a person has looked at them. Another that gets one's pid
    /// does not.
    #[must_use]
    pub(crate) fn or_chosen<'a>(mut self, processes: impl IntoIterator<Item = &'a Process>) -> Self {
        self.chosen = processes.into_iter().map(|process| (process.pid, process.start_time)).collect();
        self
    }

    /// The same rules, by which no process matches but these very ones: a person has seen them and no others.
    #[must_use]
    pub(crate) fn narrowed_to<'a>(mut self, processes: impl IntoIterator<Item = &'a Process>) -> Self {
        self.only = Some(processes.into_iter().map(|process| (process.pid, process.start_time)).collect());
        self
    }

    /// Both sets must match.
    #[must_use]
    pub fn and(mut self, other: Self) -> Self {
        self.rules.extend(other.rules);
        self
    }

    /// Judges a process: other if one rule says so, else unclassified if one rule says so, else a match. One that
    /// stands in for others is always other, because it holds the port for them.
    #[must_use]
    pub(crate) fn judge(&self, process: &Process) -> Judgement {
        // Files that the process chose are looked at, its executable's among them, and its environment.
        let (rules, own) = (self.clone(), process.clone());
        let judged = move || rules.judge_by_files(&own);
        patience::within(process.pid, process.start_time, process.uid, judged)
            .unwrap_or_else(|| Judgement::unclassified("its files or its memory can't be read in time"))
    }

    fn judge_by_files(&self, process: &Process) -> Judgement {
        if let Some(why) = stand_in::why(process) {
            return Judgement::other(why);
        }
        let is_chosen =
            |(pid, start): &(u32, StartTime)| *pid == process.pid && start.is_same(process.start_time);
        if self.only.as_ref().is_some_and(|only| !only.iter().any(is_chosen)) {
            return Judgement::other("it is not the process that was shown");
        }
        if self.chosen.iter().any(is_chosen) && process.argv.is_some() {
            return Judgement::matching("it was chosen");
        }
        let judgements: Vec<Judgement> = self.rules.iter().flat_map(|rule| rule.judge(process)).collect();
        for verdict in [Verdict::Other, Verdict::Unclassified] {
            if let Some(deciding) = judgements.iter().find(|judgement| judgement.verdict == verdict) {
                return deciding.clone();
            }
        }
        let reasons: Vec<&str> = judgements.iter().map(|judgement| judgement.why.as_str()).collect();
        Judgement::matching(reasons.join(", "))
    }
}

impl Rule {
    fn judge(&self, process: &Process) -> Vec<Judgement> {
        match self {
            Self::Gateway => vec![gateway::judge(process)],
            Self::Any => vec![match &process.argv {
                Some(_) => Judgement::matching("any owner may be ended"),
                None => Judgement::unreadable_argv(),
            }],
            Self::Criteria(criteria) => criteria.judge(process),
        }
    }
}

#[cfg(test)]
mod tests {
    use regex::Regex;

    use super::*;
    use crate::steps::fake::process;

    fn criteria(comm: Option<&str>, argv: Option<&str>, exe: Option<&str>) -> Rules {
        let argv = argv.map(|pattern| Regex::new(pattern).unwrap());
        Rules::matching(Criteria {
            comm: comm.map(str::to_owned),
            argv,
            exe: exe.map(Into::into),
            ..Criteria::default()
        })
        .unwrap()
    }

    #[test]
    fn one_rule_that_says_other_decides() {
        let rules = Rules::any().and(criteria(Some("SERV"), None, Some("/bin/false")));
        assert_eq!(rules.judge(&process(&["my-server"])).verdict, Verdict::Other);
        let rules = Rules::any().and(criteria(Some("SERV"), None, Some("/usr/bin/thing")));
        assert_eq!(rules.judge(&process(&["my-server"])).verdict, Verdict::Match);
    }

    #[test]
    fn what_can_not_be_read_is_unclassified_even_for_any() {
        let mut hidden = process(&["x"]);
        hidden.argv = None;
        hidden.exe = None;
        assert_eq!(Rules::any().judge(&hidden).verdict, Verdict::Unclassified);
        assert_eq!(criteria(None, Some("x"), None).judge(&hidden).verdict, Verdict::Unclassified);
        assert_eq!(
            criteria(None, None, Some("/usr/bin/thing")).judge(&hidden).verdict,
            Verdict::Unclassified
        );
    }

    #[test]
    fn the_command_line_matches_across_arguments() {
        let rules = criteria(None, Some("--mode (prod|stage)"), None);
        assert_eq!(rules.judge(&process(&["server", "--mode", "prod"])).verdict, Verdict::Match);
        assert_eq!(rules.judge(&process(&["server", "--mode", "dev"])).verdict, Verdict::Other);
    }

    #[test]
    fn an_empty_set_of_matches_is_none_rather_than_any() {
        assert!(Rules::matching(Criteria::default()).is_none());
    }

    #[test]
    fn narrowed_rules_match_no_process_but_those_shown() {
        let shown = process(&["server"]);
        let rules = Rules::any().narrowed_to([&shown]);
        assert_eq!(rules.judge(&shown).verdict, Verdict::Match);
        // not one that has got its pid, nor another with its command line
        let mut later = shown.clone();
        later.start_time.raw += 1;
        let mut beside = shown.clone();
        beside.pid += 1;
        for other in [later, beside] {
            assert_eq!(rules.judge(&other).verdict, Verdict::Other);
        }
        // and what the rules refuse stays refused
        let rules = criteria(Some("node"), None, None).narrowed_to([&shown]);
        assert_eq!(rules.judge(&shown).verdict, Verdict::Other);
    }

    #[test]
    fn one_that_stands_in_for_others_is_never_a_match() {
        let mut forwarder = process(&["x"]);
        forwarder.exe = Some("/usr/bin/docker-proxy".into());
        forwarder.exe_owner = Some(0);
        assert_eq!(Rules::any().judge(&forwarder).verdict, Verdict::Other);
        let rules = criteria(None, None, Some("/usr/bin/docker-proxy"));
        assert_eq!(rules.judge(&forwarder).verdict, Verdict::Other);
    }
}
