//! Counts that are checked in, one a line, its name before it: a new one is compared with them, or recorded.

use std::collections::BTreeMap;
use std::fs;

use anyhow::{Result, bail};

use crate::run::root;

/// By the name, which may have spaces.
pub(crate) type Counts = BTreeMap<String, u64>;

/// Where counts are recorded, and what is said of them.
pub(crate) struct Recorded {
    /// The file, from the checkout's root.
    pub(crate) file: &'static str,
    /// The file's first line.
    pub(crate) head: &'static str,
    /// What has grown, before the names: `a tenth more instructions or worse for`.
    pub(crate) grown: &'static str,
    /// What records it.
    pub(crate) task: &'static str,
}

impl Recorded {
    /// Prints the counts beside those that are recorded, and records them if that is wanted.
    ///
    /// # Errors
    /// When one has grown by a tenth or more and they are not recorded, or they can't be; and when one of these is recorded and was
    /// not counted: of verifiers' counts, a program that can't be loaded any more.
    pub(crate) fn compare(
        &self,
        counted: Counts,
        is_expected: impl Fn(&str) -> bool,
        record: bool,
    ) -> Result<()> {
        let path = root().join(self.file);
        let mut recorded = read(&fs::read_to_string(&path).unwrap_or_default());
        let mut grown = Vec::new();
        for (name, &count) in &counted {
            let before = recorded.get(name).copied();
            let beside = before.map_or("not recorded".to_owned(), |before| format!("recorded: {before}"));
            println!("{name:<28} {count:>10}  ({beside})");
            if before.is_some_and(|before| count * 10 >= before * 11) {
                grown.push(name.as_str());
            }
        }
        let Self { head, task, .. } = self;
        let missing: Vec<&str> = recorded
            .keys()
            .map(String::as_str)
            .filter(|name| is_expected(name) && !counted.contains_key(*name))
            .collect();
        if !missing.is_empty() {
            bail!("{} is recorded in {}, and was not counted now", missing.join(", "), self.file);
        }
        if record {
            recorded.extend(counted);
            let lines: String = recorded.iter().map(|(name, count)| format!("{name} {count}\n")).collect();
            return Ok(fs::write(path, format!("# {head}: `{task}`.\n{lines}"))?);
        }
        if !grown.is_empty() {
            bail!("{} {}: find out why, or `{task}`", self.grown, grown.join(", "));
        }
        Ok(())
    }
}

fn read(text: &str) -> Counts {
    text.lines().filter(|line| !line.starts_with('#')).filter_map(read_line).collect()
}

/// Name and count of a line such as `6.1 bind4 7713`.
pub(crate) fn read_line(line: &str) -> Option<(String, u64)> {
    let (name, count) = line.trim().rsplit_once(' ')?;
    Some((name.to_owned(), count.parse().ok().filter(|&count| count > 0)?))
}
