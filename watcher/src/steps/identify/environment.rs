//! Gateways whose command line does not show it: those that PM2 started, and those behind OPENCLAW_WRAPPER. The
//! environment that they were started with does.

use super::argument::Argument;
use super::proc_files::Environment;
use super::runtime::Runtime;
use super::subcommand::{self, Subcommand};
use super::{Judgement, script};
use crate::model::{Process, Verdict};

/// What names the script in the environment of PM2's processes.
const PM2_SCRIPT: &str = "pm_exec_path";
/// What names the service's executable.
const WRAPPER: &str = "OPENCLAW_WRAPPER";

/// Judges a process whose title is a runtime and a path in one word: PM2 sets `node PATH`, and hides the arguments.
/// `None` when it is not such a title.
pub(super) fn judge_pm2(process: &Process, title: &Argument<'_>) -> Option<Judgement> {
    let (runtime, path) = title.raw.split_once(' ')?;
    Runtime::named(&runtime.to_lowercase())?;
    let path = Argument::new(path)?;
    let Some(environment) = Environment::of(process) else {
        return Some(match script::judge(process, &path) {
            ours if ours.verdict == Verdict::Match => {
                Judgement::unclassified("its title hides its arguments, and its environment can't be read")
            }
            other => other,
        });
    };
    // The title had no more room than the arguments; the variable is whole.
    let whole = environment.variable(PM2_SCRIPT).filter(|whole| whole.starts_with(path.raw));
    let Some(whole) = whole.as_deref().and_then(Argument::new) else {
        return Some(Judgement::other("its title names a script that its environment does not"));
    };
    Some(script::judge(process, &whole))
}

/// Judges a process by the wrapper that the service's environment names: the gateway's ExecStart is then this
/// executable with `gateway --port N`. It shows as argument 0, or after its interpreter when it is a script. `None`
/// when the arguments are not of that form, or the environment names no such wrapper.
pub(super) fn judge_wrapper(process: &Process, arguments: &[Argument<'_>]) -> Option<Judgement> {
    let at = (0..3).find(|at| arguments.get(at + 1).is_some_and(|next| next.normal == "gateway"))?;
    if subcommand::read(&arguments[at + 1..]) != Subcommand::Gateway {
        return None;
    }
    let Some(environment) = Environment::of(process) else {
        let is_service = at == 0 && arguments.get(2).is_some_and(|option| option.normal == "--port");
        // Where no system tells the environment, an unknown program with these arguments is just another one.
        return (is_service && process.root.is_some()).then(|| {
            Judgement::unclassified("it may be a gateway's wrapper, and its environment can't be read")
        });
    };
    let wrapper = environment.variable(WRAPPER)?;
    let is_it = arguments[at].raw == wrapper.trim();
    is_it.then(|| Judgement::matching(format!("it is the gateway's executable by {WRAPPER}")))
}
