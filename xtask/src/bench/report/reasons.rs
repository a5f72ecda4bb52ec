//! Why a way of Gatewatch's takes longer where there is more of something.

const ITERATOR: &str = "the kernel's iterator visits each process, and each descriptor in its table";
const LISTENERS: &str = "the owner's other ports are found in the kernel's list of all listeners, of which there are as many, watched or not";
const FRESH: &str = "a clean takes a fresh look, by the same iterator";
const PROC: &str = "it reads the name of each descriptor of each process in `/proc`";

/// The reason for this variable, job and way; none for what should be flat.
pub(super) fn of(variable: &str, job: &str, label: &str) -> Option<&'static str> {
    Some(match (variable, job, label) {
        ("ports", "owners", "events" | "agent") => LISTENERS,
        ("ports", "clean", "events") => LISTENERS,
        ("ports", "clean", "agent") => {
            "a clean takes a fresh look, and the agent's iterator reports the descriptors of all watched ports, of which this \
             port's are kept"
        }
        ("namespaces", "owners", "events") => {
            "each namespace has a process with a socket on the very port, and the iterator reports them all, of which the \
             caller's are kept"
        }
        ("namespaces", "clean", "events" | "agent") => {
            "a clean takes a fresh look, which has the sockets on the port in all namespaces, of which the caller's are kept"
        }
        ("namespaces", "owners", "agent") => {
            "it knows the owners in all namespaces, and chooses the caller's"
        }
        (_, _, "start") => "the program starts, prints a line and ends, so that is the machine's doing",
        ("processes" | "descriptors", "owners", "agent") => {
            "the answer is from memory, so most of it is the machine's doing: see the process alone"
        }
        ("subscribers", "clean", "agent") => {
            "the agent writes each bind, listen and release of the owner to each subscriber, and the readers run on the same \
             processors"
        }
        ("subscribers", "clean", _) => {
            "the owner's bind, listen and release wake each reader, and the readers run on the same processors"
        }
        ("subscribers", ..) => return None,
        (_, "owners", "events") => ITERATOR,
        (_, "clean", "events" | "agent") => FRESH,
        (_, _, "polling") => PROC,
        _ => return None,
    })
}
