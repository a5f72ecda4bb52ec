//! What became of a port, of its owners, and when.

use strum::{EnumString, IntoStaticStr, VariantNames};

/// How a port was at the end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, IntoStaticStr, EnumString, VariantNames)]
#[strum(serialize_all = "snake_case")]
pub enum Outcome {
    /// It can be bound, and no process was signalled.
    Free,
    /// It can be bound, and an owner was ended for that.
    Cleaned,
    /// A dry run: no owner would be left.
    WouldClean,
    /// A process listens.
    Listening,
    /// The port was cleaned, and a new owner listens.
    Restarted,
    /// The command of a restart failed before a new owner listened.
    CommandFailed,
    /// The new owner ended again, or could not take the port.
    Crashed,
    /// A process that does not match holds it.
    HeldByOther,
    /// The caller, an ancestor of it, or a protected process holds it.
    HeldByProtected,
    /// It is held, and its owner can't be seen or identified.
    Unknown,
    /// The owner matches, and this user may not signal it.
    NotPermitted,
    /// A timeout expired.
    TimedOut,
    /// The old owner is gone, and a new process took the port.
    Respawned,
}

impl Outcome {
    /// The name in JSON and in metrics.
    #[must_use]
    pub(crate) fn name(self) -> &'static str {
        self.into()
    }

    /// Whether a clean, or a dry run of one, can end so, by its name.
    pub(crate) fn is_cleans(name: &str) -> bool {
        let others = [Self::Listening, Self::Restarted, Self::CommandFailed, Self::Crashed];
        !others.map(Self::name).contains(&name)
    }
}

/// Why an outcome is what it is, where the outcome alone does not say.
#[derive(Debug, Clone, Copy, PartialEq, Eq, IntoStaticStr, EnumString, VariantNames)]
#[strum(serialize_all = "snake_case")]
pub enum Reason {
    /// Only connections in TIME_WAIT keep the port.
    TimeWait,
    /// An outgoing connection has the port as its local one.
    BoundClient,
    /// A process that won't be ended holds the very socket of a match: it inherited it, or was passed it.
    Inherited,
    /// No process holds the socket: it is on its way between two, or the kernel itself holds it.
    InFlight,
    /// The owner lives in another pid or network namespace.
    OtherNamespace,
    /// There are more sockets or holders on the port than are kept account of.
    TooMany,
    /// The owner began less than `--min-age` ago.
    TooYoung,
    /// OpenClaw's own record names the owner as the live gateway.
    ProtectedByRecord,
    /// The command of a restart can't be found or run.
    NoSuchCommand,
    /// The check before a restart failed.
    CheckFailed,
    /// A process that nobody asked for took the port.
    Stranger,
    /// The old owner's sockets can't be kept.
    CannotKeepListening,
    /// The process that was waited for listens, but not yet for as long as it has to.
    NotSettled,
    /// A signal ended the wait.
    Interrupted,
}

/// A signal that asks a process to end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, IntoStaticStr, EnumString, VariantNames)]
#[strum(serialize_all = "UPPERCASE")]
pub enum EndSignal {
    /// SIGTERM; on Windows a close of its windows and a Ctrl-C.
    #[default]
    Term,
    /// SIGINT: PostgreSQL's fast shutdown.
    Int,
    /// SIGQUIT: nginx's graceful shutdown.
    Quit,
    /// SIGHUP.
    Hup,
    /// SIGUSR1.
    Usr1,
    /// SIGUSR2.
    Usr2,
}

/// What was done with an owner.
#[derive(Debug, Clone, Copy, PartialEq, Eq, IntoStaticStr, EnumString, VariantNames)]
#[strum(serialize_all = "snake_case")]
pub enum Action {
    /// It was signalled, and is seen to be gone.
    Killed,
    /// It was left alone.
    Spared,
    /// It ended, or closed the port, before it was signalled.
    Gone,
    /// It matches, and this user may not signal it.
    NotPermitted,
    /// It was signalled, but is still alive.
    Survived,
    /// It would be ended if this were not a dry run.
    WouldKill,
}

impl Action {
    /// The name in JSON and in logs.
    #[must_use]
    pub(crate) fn name(self) -> &'static str {
        self.into()
    }
}

/// How the release of a port is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq, IntoStaticStr, EnumString, VariantNames)]
#[strum(serialize_all = "lowercase")]
pub enum ProofKind {
    /// The kernel reported the destruction of each stale socket, and a bind succeeded.
    Ebpf,
    /// A bind succeeded.
    Bind,
    /// The socket table has no listener on the port, and it could not be bound to try.
    Poll,
}

/// A step of a restart.
#[derive(Debug, Clone, Copy, PartialEq, Eq, IntoStaticStr, EnumString, VariantNames)]
#[strum(serialize_all = "snake_case")]
pub(crate) enum Step {
    /// SIGTERM was sent.
    Sigterm,
    /// SIGKILL was sent.
    Sigkill,
    /// The old process has ended.
    Exited,
    /// The last of the old sockets gave the port back.
    Released,
    /// The command was started.
    CommandStarted,
    /// The command has ended.
    CommandEnded,
    /// A new process took the port.
    Bind,
    /// It listens.
    Listen,
    /// A new process failed to take the port.
    Conflict,
    /// A new process gave the port back.
    Lost,
    /// The old owner's socket was taken over, to be handed to the command.
    Kept,
    /// A new process waits for connections on it.
    TakenOver,
}
