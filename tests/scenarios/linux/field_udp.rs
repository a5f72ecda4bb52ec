//! Real servers of UDP, as people run them: DNS, QUIC, StatsD.

use std::fs;
use std::net::UdpSocket;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use gatewatch_tests::{Gatewatch, can_bind_udp, until, unused_port};
use serde_json::Value;

use super::field::{Server, file, libraries, shell};
use crate::udp::{clean_udp, owners_udp, restart_udp, watch_udp};

/// A DNS server, which holds the number by TCP as well.
fn dnsmasq(ip: &str, port: u16) -> Server {
    Server::run(&mut dnsmasq_command(ip, port))
}

fn dnsmasq_command(ip: &str, port: u16) -> Command {
    let mut command = Command::new(file("debian/usr/sbin/dnsmasq"));
    command.env("LD_LIBRARY_PATH", libraries());
    command.args(["--keep-in-foreground", "--conf-file=/dev/null", "--bind-interfaces", "--user=root"]);
    command.args(["--no-resolv", "--no-hosts", "--pid-file=", "--address=/x.test/192.0.2.1"]);
    command.args(["--listen-address", ip, "--port", &port.to_string()]);
    command
}

/// A command with its environment, as words of a command line.
fn words(command: &Command) -> Vec<String> {
    let variables = command.get_envs().map(|(name, value)| {
        let [name, value] = [name, value.unwrap()].map(|word| word.to_str().unwrap());
        format!("{name}={value}")
    });
    let rest = std::iter::once(command.get_program()).chain(command.get_args());
    let rest = rest.map(|word| word.to_str().unwrap().to_owned());
    std::iter::once("env".to_owned()).chain(variables).chain(rest).collect()
}

/// Whether a DNS server answers there.
fn resolves(ip: &str, port: u16) -> bool {
    let query = b"\x12\x34\x01\x00\x00\x01\x00\x00\x00\x00\x00\x00\x01x\x04test\x00\x00\x01\x00\x01";
    let client = UdpSocket::bind((ip, 0)).unwrap();
    client.set_read_timeout(Some(Duration::from_millis(500))).unwrap();
    client.connect((ip, port)).unwrap();
    let mut answer = [0; 512];
    client.send(query).is_ok()
        && client.recv(&mut answer).is_ok_and(|length| answer[..length].ends_with(&[192, 0, 2, 1]))
}

scenario!(a_dns_server_is_ended_and_one_on_another_address_is_not, needs(Root, Servers), |backend| {
    let port = unused_port();
    let mut server = dnsmasq("127.0.0.1", port);
    let other = dnsmasq("127.0.0.2", port);
    until("both answer", || resolves("127.0.0.1", port) && resolves("127.0.0.2", port));
    let answer = owners_udp(backend, port);
    assert_eq!(answer.owner(server.0.id())["listeners"][0], format!("127.0.0.1:{port}"), "{answer:?}");
    let on_one = format!("127.0.0.1:{port}/udp");
    let flags = ["--format", "json", "--backend", gatewatch_tests::run().flag(backend)];
    let clean = |rules: &[&str]| Gatewatch::new(&["clean", &on_one]).with(rules).with(&flags).run();
    // given rules that mean somebody else
    let answer = clean(&[]);
    assert_eq!((answer.status, answer.outcome().as_str()), (3, "held_by_other"), "{answer:?}");
    assert!(resolves("127.0.0.1", port));
    let answer = clean(&["--match-comm", "dnsmasq"]);
    assert_eq!((answer.status, answer.outcome().as_str()), (0, "cleaned"), "{answer:?}");
    assert_eq!(answer.killed(), [u64::from(server.0.id())]);
    until("it has ended", || server.0.try_wait().unwrap().is_some());
    assert!(resolves("127.0.0.2", port));
    // and another takes its place
    let _again = dnsmasq("127.0.0.1", port);
    until("it answers", || resolves("127.0.0.1", port));
    drop(other);
});

scenario!(a_dns_server_is_restarted_on_its_ports_of_both_protocols, needs(Root, Servers), |backend| {
    let port = unused_port();
    let mut old = dnsmasq("127.0.0.1", port);
    until("it answers", || resolves("127.0.0.1", port));
    let command = words(&dnsmasq_command("127.0.0.1", port));
    let command: Vec<&str> = command.iter().map(String::as_str).collect();
    let both = Gatewatch::on(backend, &["restart", "--poll-interval", "2ms"], port);
    let both = both.with(&["-p", &format!("{port}/udp"), "--match-comm", "dnsmasq", "--"]);
    let answer = both.with(&command).run();
    assert_eq!(answer.status, 0, "{answer:?}");
    let of_both = answer.lines();
    let told = of_both.iter().map(|one| (&one["protocol"], &one["outcome"], &one["new_owner"]["by"]));
    let (restarted, command) = (Value::from("restarted"), Value::from("command"));
    let expected = [(&Value::Null, &restarted, &command), (&"udp".into(), &restarted, &command)];
    assert_eq!(told.collect::<Vec<_>>(), expected, "{answer:?}");
    until("the old one has ended", || old.0.try_wait().unwrap().is_some());
    until("the new one answers", || resolves("127.0.0.1", port));
    assert_eq!(clean_udp(backend, port, &["--any"]).outcome(), "cleaned");
});

/// Programs of Python that serve by QUIC, and that connect to such a server.
struct Quic(tempfile::TempDir);

impl Quic {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let server = r#"
import asyncio, datetime, sys
from aioquic.asyncio import serve
from aioquic.quic.configuration import QuicConfiguration
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
key = ec.generate_private_key(ec.SECP256R1())
name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "localhost")])
began = datetime.datetime.now(datetime.timezone.utc)
builder = x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key())
builder = builder.serial_number(1).not_valid_before(began).not_valid_after(began + datetime.timedelta(1))
configuration = QuicConfiguration(is_client=False, alpn_protocols=["x"])
configuration.certificate, configuration.private_key = builder.sign(key, hashes.SHA256()), key
async def main():
    await serve("127.0.0.1", int(sys.argv[1]), configuration=configuration)
    await asyncio.Future()
asyncio.run(main())
"#;
        let client = r#"
import asyncio, ssl, sys
from aioquic.asyncio import connect
from aioquic.quic.configuration import QuicConfiguration
configuration = QuicConfiguration(alpn_protocols=["x"], verify_mode=ssl.CERT_NONE, idle_timeout=2)
async def main():
    async with connect("127.0.0.1", int(sys.argv[1]), configuration=configuration) as client:
        await client.ping()
asyncio.run(main())
"#;
        fs::write(folder.path().join("server.py"), server).unwrap();
        fs::write(folder.path().join("client.py"), client).unwrap();
        Self(folder)
    }

    fn words(&self, program: &str, port: u16) -> Vec<String> {
        let script: PathBuf = self.0.path().join(program);
        vec![file("python/bin/python3"), script.display().to_string(), port.to_string()]
    }

    fn command(&self, program: &str, port: u16) -> Command {
        let words = self.words(program, port);
        let mut command = Command::new(&words[0]);
        command.args(&words[1..]);
        command
    }

    /// Whether a client's handshake succeeds.
    fn answers(&self, port: u16) -> bool {
        let mut client = Server::run(&mut self.command("client.py", port));
        client.0.wait().unwrap().success()
    }
}

scenario!(a_quic_server_is_replaced_by_a_restart, needs(Root, Servers), |backend| {
    let quic = Quic::new();
    let port = unused_port();
    let mut old = Server::run(&mut quic.command("server.py", port));
    until("it answers", || quic.answers(port));
    let command = shell(&format!("exec {}", quic.words("server.py", port).join(" ")));
    let answer = restart_udp(backend, port, &["--match-argv", "server.py"], &command);
    assert_eq!((answer.status, answer.outcome().as_str()), (0, "restarted"), "{answer:?}");
    assert_eq!(answer.killed(), [u64::from(old.0.id())], "{answer:?}");
    assert_eq!(answer.json()["new_owner"]["by"], "command", "{answer:?}");
    until("it has ended", || old.0.try_wait().unwrap().is_some());
    assert!(quic.answers(port));
    assert_eq!(clean_udp(backend, port, &["--any"]).outcome(), "cleaned");
});

/// StatsD, which takes commands by TCP on the very number.
fn statsd(folder: &Path, port: u16) -> Server {
    let config = folder.join("config.js");
    let text = format!(
        "{{ port: {port}, mgmt_port: {port}, address: '127.0.0.1', mgmt_address: '127.0.0.1', \
         backends: ['./backends/console'] }}"
    );
    fs::write(&config, text).unwrap();
    Server::run(Command::new("node").arg(file("npm/node_modules/statsd/stats.js")).arg(&config))
}

scenario!(a_statsd_server_is_watched_and_ended_by_its_udp_port, needs(Root, Servers, Node), |backend| {
    let folder = tempfile::tempdir().unwrap();
    let port = unused_port();
    let mut watch = watch_udp(backend, port);
    let mut server = statsd(folder.path(), port);
    let bind = watch.expect("bind");
    assert_eq!((&bind["pid"], &bind["protocol"]), (&server.0.id().into(), &"udp".into()), "{bind}");
    let answer = clean_udp(backend, port, &["--match-argv", "statsd"]);
    assert_eq!((answer.status, answer.outcome().as_str()), (0, "cleaned"), "{answer:?}");
    assert_eq!(answer.killed(), [u64::from(server.0.id())]);
    assert!(can_bind_udp(([127, 0, 0, 1], port).into()));
    let release = watch.expect("release");
    assert_eq!(release["pid"], server.0.id(), "{release}");
    watch.expect("free");
    until("it has ended", || server.0.try_wait().unwrap().is_some());
    assert_eq!(answer.json()["released"]["proof"], "bind", "{answer:?}");
});
