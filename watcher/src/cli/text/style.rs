//! Colours, durations, names.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::LazyLock;
use std::time::Duration;

use anstyle::{AnsiColor, Effects, Style};
use regex::Regex;

use crate::model::{Naming, PodName, Port, Process, Protocol};
use crate::platform::contract::MOST_OTHER_PORTS;
use crate::steps::owner::Owner;

/// A colour.
#[derive(Debug, Clone, Copy)]
pub(in crate::cli) enum Colour {
    Good,
    Bad,
    Odd,
    Faint,
    Strong,
    Plain,
}

/// Paints text. Where colours are not wanted, printing strips them: on what is no terminal, with `NO_COLOR`
/// (no-color.org), with `--color never`.
pub(in crate::cli) fn paint(colour: Colour, text: &str) -> String {
    let style = match colour {
        Colour::Good => AnsiColor::Green.on_default(),
        Colour::Bad => AnsiColor::Red.on_default(),
        Colour::Odd => AnsiColor::Yellow.on_default(),
        Colour::Faint => Style::new().effects(Effects::DIMMED),
        Colour::Strong => Style::new().effects(Effects::BOLD),
        Colour::Plain => Style::new(),
    };
    format!("{style}{text}{style:#}")
}

/// A duration for people: three digits, and a suitable unit.
pub(in crate::cli) fn duration(duration: Duration) -> String {
    let micros = duration.as_micros();
    match micros {
        0..1_000 => format!("{micros} µs"),
        1_000..100_000 => format!("{:.1} ms", duration.as_secs_f64() * 1e3),
        100_000..1_000_000 => format!("{:.0} ms", duration.as_secs_f64() * 1e3),
        _ => format!("{:.2} s", duration.as_secs_f64()),
    }
}

/// How long a process has run, in the unit that people would use.
pub(in crate::cli) fn age(age: Duration) -> String {
    let seconds = age.as_secs();
    match seconds {
        0..60 => format!("{seconds} s"),
        60..3_600 => format!("{} min", seconds / 60),
        3_600..86_400 => format!("{} h", seconds / 3_600),
        _ => format!("{} d", seconds / 86_400),
    }
}

/// A folder, with the person's own shortened to `~`.
pub(in crate::cli) fn folder(path: &Path) -> String {
    let home = std::env::home_dir().filter(|home| home.components().count() > 1);
    match home.and_then(|home| path.strip_prefix(home).ok()) {
        Some(rest) if rest.as_os_str().is_empty() => "~".to_owned(),
        Some(rest) => printable(&format!("~/{}", rest.display())),
        None => printable(&path.to_string_lossy()),
    }
}

/// A process by its name and pid; one that can't be seen, by what is known of it.
pub(in crate::cli) fn process(owner: &Owner) -> String {
    match (&owner.process, owner.pid, owner.uid) {
        (Some(process), Some(pid), _) => format!("{} (pid {pid})", printable(&process.comm)),
        (_, Some(pid), _) => format!("an unreadable process (pid {pid})"),
        (_, None, Some(uid)) => format!("an unseen process of user {uid}"),
        (_, None, None) => "an unseen process".to_owned(),
    }
}

/// An owner's user, by name where that is known.
pub(in crate::cli) fn user(owner: &Owner) -> String {
    let name = owner.process.as_ref().and_then(|process| process.user.as_deref()).map(printable);
    name.or_else(|| owner.uid.map(|uid| uid.to_string())).unwrap_or_default()
}

/// The pod, the container or the unit.
pub(in crate::cli) fn place(process: &Process) -> String {
    let pod = process.pod.as_ref().and_then(|pod| pod.name.as_ref());
    match (pod, &process.naming, &process.container, &process.unit) {
        (Some(pod), ..) => pod_name(pod),
        (_, Some(Naming::Known { name: Some(name), .. }), ..) => printable(name),
        (_, _, Some(container), _) => container_id(container),
        (_, _, None, Some(unit)) => printable(unit),
        (_, _, None, None) => String::new(),
    }
}

/// A container's id, as short as the runtimes show it.
pub(in crate::cli) fn container_id(id: &str) -> String {
    printable(id.get(..12).unwrap_or(id))
}

fn pod_name(pod: &PodName) -> String {
    printable(&format!("{}/{}", pod.namespace, pod.name))
}

/// A container and its pod, by name where that is known, and if not, why not.
pub(in crate::cli) fn container(process: &Process) -> Option<String> {
    let id = container_id(process.container.as_deref()?);
    let pod = process.pod.as_ref().map(|pod| match (&pod.name, &pod.uid) {
        (Some(name), _) => format!("pod {}", pod_name(name)),
        (None, uid) => format!("the pod with uid {}", printable(uid.as_deref().unwrap_or("unknown"))),
    });
    let of_pod = pod.as_ref().map(|pod| format!(" of {pod}")).unwrap_or_default();
    Some(match &process.naming {
        Some(Naming::Known { runtime, name: Some(name) }) => {
            format!("{}{of_pod} ({}, {id})", printable(name), printable(runtime))
        }
        // It has no name where it keeps the namespaces of a pod.
        Some(Naming::Known { runtime, name: None }) => {
            format!("{id}{of_pod} ({}, which gives it no name)", printable(runtime))
        }
        Some(Naming::Unknown(why)) => format!("{id}{of_pod} (its name can't be read: {})", printable(why)),
        None => format!("{id}{of_pod}"),
    })
}

/// What it listens on besides; `None` if that is nothing, or not known.
pub(in crate::cli) fn other_ports(owner: &Owner) -> Option<String> {
    let protocol = owner.holdings.first().map_or(Protocol::Tcp, |holding| holding.socket.protocol);
    let ports = owner.other_ports.as_ref()?.iter().map(|&number| Port { protocol, number }.to_string());
    let ports: Vec<String> = ports.collect();
    let more = if ports.len() == MOST_OTHER_PORTS { " and maybe more" } else { "" };
    let also = match protocol {
        Protocol::Tcp => "also listens on",
        Protocol::Udp => "is also bound to",
    };
    (!ports.is_empty()).then(|| format!("{also} {}{more}", ports.join(", ")))
}

/// What a server does with a port of this protocol.
pub(in crate::cli) fn listens(protocol: Protocol) -> &'static str {
    match protocol {
        Protocol::Tcp => "listens on",
        Protocol::Udp => "is bound to",
    }
}

/// An address of a port, with the protocol where it is not TCP.
pub(in crate::cli) fn address(port: Port, address: SocketAddr) -> String {
    match port.protocol {
        Protocol::Tcp => address.to_string(),
        Protocol::Udp => format!("{address}/udp"),
    }
}

/// An owner's command line.
pub(in crate::cli) fn command_line(owner: &Owner) -> Option<String> {
    owner.process.as_ref()?.argv.as_deref().map(words)
}

/// A command line on one line, truncated if it is too long.
pub(super) fn words(argv: &[String]) -> String {
    const LONGEST: usize = 96;
    let line = printable(&argv.join(" "));
    let cut = line.char_indices().nth(LONGEST).map_or(line.len(), |(at, _)| at);
    if cut < line.len() { format!("{}…", &line[..cut]) } else { line }
}

/// Replaces what does not show itself but changes how the rest is shown: control characters, those that turn the direction
/// of writing or are invisible (the category `Cf`), and other ends of a line (`Zl`, `Zp`). A name can contain anything, and
/// must neither steer a terminal nor look like another one.
pub(in crate::cli) fn printable(text: &str) -> String {
    static INVISIBLE: LazyLock<Option<Regex>> =
        LazyLock::new(|| Regex::new(r"[\p{Cc}\p{Cf}\p{Zl}\p{Zp}]").ok());
    // Nearly all text is this, and the expression takes as long to make as a look at a port.
    if text.bytes().all(|byte| (b' '..=b'~').contains(&byte)) {
        return text.to_owned();
    }
    match &*INVISIBLE {
        Some(invisible) => invisible.replace_all(text, "\u{fffd}").into_owned(),
        None => text.escape_debug().collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Pod;
    use crate::steps::fake::process;

    #[test]
    fn a_container_is_told_by_name_or_with_the_reason_why_not() {
        let id = "0123456789abcdef".repeat(4);
        let inside = |pod, naming| Process { container: Some(id.clone()), pod, naming, ..process(&["web"]) };
        let uid = || Some("0f2e4a1c-1111-2222-3333-444455556666".to_owned());
        let pod_name = PodName { namespace: "shop".to_owned(), name: "cart-7d9".to_owned() };
        let known = |name: Option<&str>, runtime: &str| {
            Some(Naming::Known { runtime: runtime.to_owned(), name: name.map(str::to_owned) })
        };
        let named = Some(Pod { uid: uid(), name: Some(pod_name) });
        for (process, told, short) in [
            (
                inside(named.clone(), known(Some("web"), "containerd")),
                "web of pod shop/cart-7d9 (containerd, 0123456789ab)",
                "shop/cart-7d9",
            ),
            (
                inside(named, known(None, "containerd")),
                "0123456789ab of pod shop/cart-7d9 (containerd, which gives it no name)",
                "shop/cart-7d9",
            ),
            (inside(None, known(Some("web"), "podman")), "web (podman, 0123456789ab)", "web"),
            (
                inside(Some(Pod { uid: uid(), name: None }), Some(Naming::Unknown("no\nreason".to_owned()))),
                "0123456789ab of the pod with uid 0f2e4a1c-1111-2222-3333-444455556666 (its name can't be read: \
                 no\u{fffd}reason)",
                "0123456789ab",
            ),
            (inside(None, None), "0123456789ab", "0123456789ab"),
        ] {
            assert_eq!(container(&process).as_deref(), Some(told));
            assert_eq!(place(&process), short);
        }
        let outside = Process { unit: Some("a.service".to_owned()), ..process(&["web"]) };
        assert_eq!((container(&outside), place(&outside)), (None, "a.service".to_owned()));
    }

    #[test]
    fn what_changes_how_the_rest_is_shown_is_replaced() {
        for sign in "\u{1b}\n\u{7f}\u{9b}\u{ad}\u{61c}\u{200b}\u{200f}\u{2028}\u{2029}\u{202e}\u{2066}\u{feff}\u{e0041}".chars() {
            assert_eq!(printable(&format!("a{sign}b")), "a\u{fffd}b", "{sign:?}");
        }
        assert_eq!(printable("näme 名 ✓ é"), "näme 名 ✓ é");
    }
}
