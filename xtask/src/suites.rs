//! Debian's other suites, from the archives that this machine's own apt uses: their packages can be looked up and
//! downloaded, and nothing else on the machine changes.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};

use crate::run::{output, run, succeeds};

/// The suites that have kernels, besides the machine's own. Security updates are in an archive of their own.
const SUITES: &[&str] = &["bullseye", "bookworm", "bookworm-backports", "trixie", "trixie-backports", "sid"];
const SECURITY: &[&str] = &["bullseye-security", "bookworm-security", "trixie-security"];

/// An apt whose sources are these suites.
pub(crate) struct Suites {
    configuration: PathBuf,
}

impl Suites {
    /// Sets it up below `folder` for an architecture by Debian's name, and updates its lists.
    ///
    /// # Errors
    /// When this machine's apt has no Debian archive, or nothing can be fetched from it.
    pub(crate) fn set_up(folder: &Path, architecture: &str) -> Result<Self> {
        let sources = folder.join("sources");
        for name in ["sources", "lists/partial", "cache/archives/partial"] {
            fs::create_dir_all(folder.join(name))?;
        }
        let listed = output(Command::new("apt-get").args([
            "indextargets",
            "--format",
            "$(REPO_URI) $(RELEASE)",
            "Created-By: Packages",
        ]))?;
        let lines = sources_of(&listed);
        ensure!(!lines.is_empty(), "this machine's apt has no archive of Debian's");
        fs::write(sources.join("suites.list"), lines.join("\n") + "\n")?;
        let suites = Self { configuration: folder.join("apt.conf") };
        fs::write(
            &suites.configuration,
            format!(
                "Dir::Etc::SourceList \"/dev/null\";\nDir::Etc::SourceParts \"{0}/sources\";\nDir::Etc::PreferencesParts \
                 \"/dev/null\";\nDir::State::Lists \"{0}/lists\";\nDir::Cache \"{0}/cache\";\nAcquire::Languages \
                 \"none\";\nAPT::Sandbox::User \"root\";\nAPT::Architecture \"{architecture}\";\nAPT::Architectures \
                 \"{architecture}\";\n",
                folder.display()
            ),
        )?;
        println!("fetching the lists of Debian's suites");
        // One that is missing, as old suites come to be, is no reason to do without the others.
        if !succeeds(suites.apt("apt-get").args(["-q", "update"])) {
            eprintln!("some suites can't be fetched; using the others");
        }
        Ok(suites)
    }

    /// The names of the packages that match a regular expression.
    ///
    /// # Errors
    /// When apt-cache fails.
    pub(crate) fn search(&self, pattern: &str) -> Result<Vec<String>> {
        let found = output(self.apt("apt-cache").args(["search", "--names-only", pattern]))?;
        Ok(found.lines().filter_map(|line| line.split(' ').next()).map(str::to_owned).collect())
    }

    /// The packages that one depends on.
    ///
    /// # Errors
    /// When apt-cache fails.
    pub(crate) fn depends(&self, package: &str) -> Result<Vec<String>> {
        let found = output(self.apt("apt-cache").args(["depends", "--important", package]))?;
        Ok(found
            .lines()
            .filter_map(|line| line.trim().strip_prefix("Depends: "))
            .map(str::to_owned)
            .collect())
    }

    /// Downloads packages and unpacks them below `root`.
    ///
    /// # Errors
    /// When one is unavailable, or can't be unpacked.
    pub(crate) fn unpack(&self, packages: &[&str], root: &Path) -> Result<()> {
        println!("fetching {}", packages.join(", "));
        let archives = root.with_extension("debs");
        fs::create_dir_all(&archives)?;
        let mut download = self.apt("apt-get");
        run(download.current_dir(&archives).args(["-q", "download"]).args(packages))?;
        fs::create_dir_all(root)?;
        for archive in fs::read_dir(&archives)? {
            run(Command::new("dpkg").arg("-x").arg(archive?.path()).arg(root))?;
        }
        fs::remove_dir_all(&archives).context("the archives can't be removed")
    }

    fn apt(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        command.env("APT_CONFIG", &self.configuration);
        command
    }
}

/// The lines of a sources.list, from lines of an archive's address and one of its suites.
fn sources_of(listed: &str) -> Vec<String> {
    let archive = |suites: &[&str]| {
        let of_suite = |line: &str| {
            let (address, suite) = line.split_once(' ')?;
            suites.contains(&suite.trim()).then(|| address.to_owned())
        };
        listed.lines().find_map(of_suite)
    };
    [SUITES, SECURITY]
        .into_iter()
        .filter_map(|suites| Some((archive(suites)?, suites)))
        .flat_map(|(address, suites)| {
            suites.iter().map(move |suite| format!("deb [target=Packages] {address} {suite} main"))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_suite_comes_from_the_archive_that_has_its_like() {
        let listed =
            "a://one/ bookworm\na://one/ bookworm-updates\na://two/ bookworm-security\na://three/ stable\n";
        let lines = sources_of(listed);
        assert_eq!(lines.len(), SUITES.len() + SECURITY.len());
        assert!(lines.contains(&"deb [target=Packages] a://one/ sid main".to_owned()), "{lines:?}");
        assert!(
            lines.contains(&"deb [target=Packages] a://two/ bullseye-security main".to_owned()),
            "{lines:?}"
        );
        assert!(sources_of("a://three/ stable\n").is_empty());
    }
}
