//! Files of `Name:<tab>values` lines: `/proc/PID/status`, and a pidfd's `fdinfo` (proc_pid_status(5), pidfd_open(2)).

/// The values of a line, by its name without the colon.
pub(in crate::platform::linux) fn numbers<'a>(
    text: &'a str,
    name: &str,
) -> Option<impl Iterator<Item = &'a str> + use<'a>> {
    let values = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
    Some(values.split_whitespace())
}

/// The real and the effective user id: the first two numbers of `Uid:`.
pub(super) fn users(status: &str) -> (Option<u32>, Option<u32>) {
    let mut ids = numbers(status, "Uid").into_iter().flatten().map(|id| id.parse().ok());
    (ids.next().flatten(), ids.next().flatten())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn users_are_the_first_two_numbers() {
        assert_eq!(users("Name:\tUid:\nUid:\t1000\t0\t0\t0\nGid:\t5\t6\n"), (Some(1000), Some(0)));
        assert_eq!(users("Uid:\tx\n"), (None, None));
        assert_eq!(users(""), (None, None));
    }

    #[test]
    fn a_line_is_found_by_its_whole_name() {
        let fdinfo = "pos:\t0\nflags:\t02000002\nPid:\t-1\nNSpid:\t-1\n";
        assert_eq!(numbers(fdinfo, "Pid").unwrap().collect::<Vec<_>>(), ["-1"]);
        assert_eq!(numbers(fdinfo, "NSpid").unwrap().collect::<Vec<_>>(), ["-1"]);
        assert!(numbers(fdinfo, "Tgid").is_none());
    }
}
