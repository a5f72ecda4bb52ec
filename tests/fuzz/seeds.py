"""Writes the inputs that fuzzing begins with, from what this machine's kernel and programs say: `python3 seeds.py`.

What it captures is of processes and sockets that it makes itself, so that no one's names and paths are in it. Needs no
privileges. GATEWATCH names the program (`cargo build` makes it).
"""

import json
import os
import pathlib
import re
import shutil
import socket
import struct
import subprocess
import sys
import tempfile

HERE = pathlib.Path(__file__).parent
ROOT = HERE.parent.parent
GATEWATCH = os.environ.get("GATEWATCH", ROOT / "target/debug/gatewatch")


def seed(target, name, content):
    folder = HERE / "corpus" / target
    folder.mkdir(parents=True, exist_ok=True)
    content = content if isinstance(content, bytes) else content.encode()
    (folder / name).write_bytes(content[:8192])


def listeners():
    """One of each kind that the tables tell apart."""
    made = {}
    for name, family, place in [
        ("ipv4", socket.AF_INET, ("127.0.0.1", 0)),
        ("ipv6", socket.AF_INET6, ("::1", 0)),
        ("dual", socket.AF_INET6, ("::", 0)),
        ("mapped", socket.AF_INET6, ("::ffff:127.0.0.1", 0)),
    ]:
        made[name] = socket.socket(family)
        if name in ("dual", "mapped"):
            made[name].setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        made[name].bind(place)
        made[name].listen()
    made["bound"] = socket.socket()
    made["bound"].bind(("127.0.0.1", 0))
    return made


def netlink(made):
    def ask(family, port, states, message=20, flags=0x301):
        with socket.socket(socket.AF_NETLINK, socket.SOCK_DGRAM, 4) as netlink:
            body = struct.pack("=BBBBI", family, 6, 0, 0, states) + struct.pack(">H", port) + bytes(46)
            netlink.send(struct.pack("=IHHII", 16 + len(body), message, flags, 0, 0) + body)
            return netlink.recv(32 * 1024)

    for name, one in made.items():
        family = one.family
        seed("netlink", name, ask(family, one.getsockname()[1], 1 << 10 | 1 << 13))
        seed("netlink", name + "-none", ask(family, 1, 1 << 10))
    seed("netlink", "connections", ask(socket.AF_INET, made["ipv4"].getsockname()[1], 0xFFF))
    seed("netlink", "refused-with-the-least-number", struct.pack("=IHHIIi", 20, 2, 0, 0, 0, -(2**31)))
    seed("netlink", "refused", ask(socket.AF_INET, 1, 1 << 10, message=9, flags=0x5))


def kernel(made):
    """The kernel program's records, as watcher-common has them."""
    netns = os.stat("/proc/self/ns/net").st_ino
    for place, (name, one) in enumerate(made.items()):
        cookie = struct.unpack("=Q", one.getsockopt(socket.SOL_SOCKET, 57, 8))[0]
        address = socket.inet_pton(one.family, one.getsockname()[0]).ljust(16, b"\0")
        port, inode = one.getsockname()[1], os.fstat(one.fileno()).st_ino
        # Even numbers begin events, odd ones descriptors.
        events = b"".join(
            struct.pack("=QQIIII16s16sHHHH", 1_000_000 * place, cookie, 7, 1000, netns, 0, address, comm, kind,
                        one.family, port, 17 if name == "bound" else 6)
            for kind, comm in [(1, b"python3"), (2, b"python3"), (3, b"kworker/0:1"), (4, b""), (5, b"node\0x")])
        seed("kernel", name + "-events", b"\0" + events)
        for pids in (1, 3):
            descriptors = b"".join(
                struct.pack("=QQQ16s4sIIIIIIHHHHHH", cookie, 0, inode, address, address[:4], pid, pid, 3, netns, 0, 1000,
                            one.family, 17 if name == "bound" else 6, port, 0, 10, pid << 5 & 32)
                for pid in range(pids))
            seed("kernel", f"{name}-descriptors-{pids}", b"\1" + descriptors)


def proc(made):
    child = subprocess.Popen(["sleep", "60"], executable="/usr/bin/sleep", cwd="/", env={})
    try:
        for name in ("stat", "status", "cmdline", "comm"):
            seed("proc", name, pathlib.Path(f"/proc/{child.pid}/{name}").read_bytes())
        if hasattr(os, "pidfd_open"):
            pidfd = os.pidfd_open(child.pid)
            text = pathlib.Path(f"/proc/self/fdinfo/{pidfd}").read_text()
            seed("proc", "fdinfo", re.sub(r"(Pid|NSpid):\t\d+", r"\1:\t7", text))
            seed("proc", "fdinfo-ended", re.sub(r"(Pid|NSpid):\t\d+", r"\1:\t-1", text))
            os.close(pidfd)
    finally:
        child.kill()
        child.wait()
    stat = (HERE / "corpus/proc/stat").read_text()
    seed("proc", "stat-of-a-name-with-a-bracket", stat.replace("(sleep)", "(a) Z 1 (b)"))
    seed("proc", "stat-far-start", re.sub(r"( \S+){31}$", " 18446744073709551615" + " 0" * 30, stat.strip()))
    ports = {f"{one.getsockname()[1]:04X}" for one in made.values()}
    for name in ("tcp", "tcp6"):
        head, *rows = pathlib.Path(f"/proc/self/net/{name}").read_text().splitlines(keepends=True)
        own = [row for row in rows if row.split()[1].rpartition(":")[2] in ports]
        seed("proc", name, "".join([head, *own]))
    row = "   1: 0100007F:4965 0200007F:C350 06 00000000:00000000 03:000016F1 00000000     0        0 0 3 0000000000000000\n"
    seed("proc", "tcp-time-wait", row)
    identity = "0123456789abcdef" * 4
    for name, text in [
        ("cgroup-unit", "0::/system.slice/openclaw-gateway.service\n"),
        ("cgroup-user", "0::/user.slice/user-1000.slice/user@1000.service/app.slice/gateway.service/sub\n"),
        ("cgroup-docker", f"0::/system.slice/docker-{identity}.scope\n"),
        ("cgroup-1", f"4:name=systemd:/system.slice/a.service\n5:cpu,freezer:/docker/{identity}\n0::/../x\n"),
        ("stat-with-brackets-turned", "1 )a( S 1\n"),
        ("title", "openclaw-gateway\0\0\0\0\0"),
        ("cmdline-gateway", "node\0/app/dist/index.js\0gateway\0--port\x0018789\0"),
        ("cmdline-empty-arguments", "\0\0a\0\0b\0\0"),
        ("deleted", "/usr/bin/node (deleted)\n"),
        ("timens", "monotonic           -5         7\nboottime   1   0\n"),
        ("nspid", "Name:\tx\nTgid:\t7\nNSpid:\t7\t1\n"),
    ]:
        seed("proc", name, text)


def gateway():
    for number, (comm, exe, argv, environ) in enumerate([
        ("node", "/usr/bin/node", ["node", "/app/dist/index.js", "gateway", "--port", "18789"], None),
        ("node", "/usr/bin/node", ["node", "dist/index.js", "gateway", "status"], None),
        ("MainThread", "/usr/bin/node", ["openclaw-gateway"], None),
        ("openclaw-gatewa", "/usr/bin/node", ["openclaw-gat"], None),
        ("openclaw", "/usr/bin/openclaw", ["openclaw", "--profile", "work", "gateway"], None),
        ("openclaw", "", ["openclaw", "--unknown", "gateway", "gateway"], None),
        ("node", "/usr/bin/node", ["node", "--import", "tsx", "-r", "x", "/srv/openclaw/dist/index.js", "gateway"], None),
        ("node", "/usr/bin/node", ["node", "/gone/openclaw/dist/index.js", "gateway"], None),
        ("node", "/usr/bin/node", ["node", "/broken/dist/index.js", "gateway"], None),
        ("bun", "/usr/bin/bun", ["bun", "run", "/app/dist/entry.js", "gateway"], None),
        ("bun", "/usr/bin/bun", ["bun", "--config", "run", "/app/dist/index.js", "gateway"], None),
        ("tsx", "/usr/bin/node", ["tsx", "watch", "/app/src/entry.ts", "gateway"], None),
        ("node /app/dist/", "/usr/bin/node", ["node /app/dist/index.js"], "pm_exec_path=/app/dist/index.js\0A=1"),
        ("node /app/dist/", "/usr/bin/node", ["node /app/dist/ind"], "pm_exec_path=/srv/openclaw/dist/index.js\0"),
        ("wrap", "/opt/wrap", ["/opt/wrap", "gateway", "--port", "18789"], "OPENCLAW_WRAPPER=/opt/wrap\0B=2"),
        ("sh", "/bin/sh", ["sh", "/opt/wrap", "gateway", "--port", "1"], "OPENCLAW_WRAPPER=/opt/other\0"),
        ("node.exe", "C:\\Program Files\\node.exe", ["C:\\N\\NODE.EXE", "\\app\\dist\\index.js", "gateway"], None),
        ("docker-proxy", "/usr/bin/docker-proxy", ["docker-proxy", "-proto", "tcp", "gateway"], None),
        ("node", "/usr/bin/node", ["PM2 v5.4.3: God Daemon (/srv/.pm2)"], None),
        ("node", "/usr/bin/node", ["node", "-e", "1", "/app/dist/index.js", "gateway"], None),
        ("node", "/usr/bin/node", ["node", "/app/server.js", "gateway"], ""),
    ]):
        text = f"{comm}\n{exe}\n" + "\0".join(argv)
        seed("gateway", f"{number:02}", text if environ is None else f"{text}\nenviron\n{environ}")


def texts():
    for number, text in enumerate([
        '{"name":"openclaw","version":"2026.1.1","type":"module","bin":{"openclaw":"openclaw.mjs"}}',
        '{"name":"clawdbot"}', '{"name":"other"}', '{}', '{"name":null}', '{"name":["openclaw"]}', '[]',
        '["openclaw"]', '{"name":"openclaw","name":"other"}', '{"name":"\\u006fpenclaw"}', '{"a":{"name":"openclaw"}}',
        '\ufeff{"name":"moltbot"}', '{"name":"openclaw"',
    ]):
        seed("package", f"{number:02}", text)
    for number, text in enumerate([
        '{"owner":{"pid":42,"host":"here","startedAt":8675309},"port":18789,"mode":"local"}',
        '{"owner":{"pid":-1,"startedAt":1}}', '{"owner":{"pid":42,"startedAt":1.5}}', '{"owner":null}',
        '{"owner":[42,8675309]}', '[[42,1]]', '{"owner":{"pid":4294967296,"startedAt":"1"}}',
    ]):
        seed("owner-record", f"{number:02}", text)
    seed("config", "packaged", (ROOT / "packaging/config.toml").read_bytes())
    for name, text in [
        ("ports", '[[watch]]\nport = 18789\n[[watch]]\nport = 8080\nidentity = "web"\nclean = { users = ["1000"], groups = ["adm"] }\n'
                  '[identity.web]\nargv = "serve.*"\nsignal = "SIGINT"\nkill = false\nterm_timeout = "2s"\n'),
        ("agent", '[agent]\nsocket = "/run/gatewatch/agent.sock"\ngroup = "gatewatch"\n'),
        ("all-criteria", '[identity.a]\ncomm = "x"\nexe = "/usr/bin/x"\ncwd = "/srv"\nunit = "x.service"\n'),
        ("unknown-key", '[identity.a]\nterm_timout = "1h 5m"\n'),
        ("built-in", '[identity.any]\ncomm = "x"\n'), ("empty-rules", "[identity.a]\n"),
        ("bad-regex", '[identity.a]\nargv = "("\n'), ("port-0", "[[watch]]\nport = 0\n"),
        ("last-line", "[[watch]]\nport ="), ("long", '[identity.a]\nterm_timeout = "99999999999999999h"\n'),
    ]:
        seed("config", name, text)
    for number, text in enumerate([
        "18789\n", "18789?netns=4026531840\n", "18789?until=free&timeout_ms=600000\n", "1?until=listening\n",
        "?port=18789&port=1&netns=1&after=1a-42\n", "x?after=ffffffffffffffff-18446744073709551615\n", "[::1]:80?x=1\n",
        "0?netns=%31&until=%zz+\n", '1\n{"dry_run":true,"protect":[1,2],"term_timeout_ms":600}',
        '1\n{"kill_timeout_ms":18446744073709551615,"free_timeout_ms":0,"all_or_nothing":true}',
        '1\n{"unknown":1}', "1\n \t\n", '1\n{"protect":null}', '65535\n{"dry_run":null,"term_timeout_ms":null}',
    ]):
        seed("request", f"{number:02}", text)


def answers(made):
    """What the program itself says of a listener."""
    port = str(made["dual"].getsockname()[1])
    folder = tempfile.mkdtemp()
    server = subprocess.Popen(
        [sys.executable, "-c", "import socket,sys;s=socket.create_server(('127.0.0.1',0));print(s.getsockname()[1],flush=True);sys.stdin.read()"],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd="/", env={})
    try:
        port = server.stdout.readline().strip()
        run = lambda *words: subprocess.run([GATEWATCH, *words, "--port", port, "--format", "json"], cwd="/", capture_output=True, text=True).stdout
        found = {
            "o": run("owners"),
            "c": run("clean", "--dry-run", "--any"),
            "w": run("wait", "free", "--timeout", "10ms"),
        }
        watch = subprocess.Popen([GATEWATCH, "watch", "--port", port, "--format", "json"], cwd="/", stdout=subprocess.PIPE, text=True)
        found["e"] = watch.stdout.readline() + watch.stdout.readline()
        server.stdin.close()
        while '"free"' not in found["e"]:
            found["e"] += watch.stdout.readline()
        watch.terminate()
    finally:
        server.kill()
        shutil.rmtree(folder)
    ended = '{"port":18789,"outcome":"free","backend":"ebpf","killed":[7],"owners":[],"released":{"proof":"kernel_event","after_us":812,"plain_bind":true},"elapsed_us":900}\n'
    found["c2"] = ended
    found["e2"] = json.dumps({
        "event": "conflict", "port": 18789, "time": "2026-01-02T03:04:05.678901Z", "monotonic_ns": 1, "pid": 2, "uid": 3,
        "comm": "node", "address": "[fe80::1%3]:18789", "netns": 4, "socket": "0x5", "backend": "agent", "delay_us": 6,
        "holders": [{"pid": None, "comm": "\x1b[31m", "address": "127.0.0.1:18789"}], "cursor": "1a-42"}) + "\n"
    found["e3"] = '{"event":"lost","port":1,"time":"9999-12-30T21:59:59.9999999Z","backend":"poll","count":18446744073709551615}\n'
    found["w2"] = '{"port":1,"outcome":"timed_out","backend":"poll","elapsed_us":1,"reason":"time_wait"}\n'
    for name, text in found.items():
        assert text, name
        # Where this machine keeps its Python is nobody's business.
        text = re.sub(r'"/[^"]*/python[0-9.]*"', '"/usr/bin/python3"', text)
        seed("answers", name, name[0] + text)
        kinds = {"e": "application/x-ndjson"}
        head = f"HTTP/1.1 200 OK\r\ncontent-type: {kinds.get(name[0], 'application/json')}\r\n"
        seed("client", name, name[0] + head + f"content-length: {len(text)}\r\n\r\n" + text)
        seed("client", name + "-chunked", name[0] + head + f"transfer-encoding: chunked\r\n\r\n{len(text):x}\r\n{text}\r\n0\r\n\r\n")
    problem = '{"status":404,"title":"Not Found","detail":"port 1 is not watched","mend":"add it"}'
    seed("client", "problem", "oHTTP/1.1 404 Not Found\r\ncontent-type: application/problem+json\r\n\r\n" + problem)
    seed("client", "no-http", "oSSH-2.0-x\r\n")
    seed("client", "early-end", "oHTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\n{")
    seed("client", "interim", "cHTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 204 No Content\r\n\r\n")


def main():
    made = listeners()
    netlink(made)
    kernel(made)
    proc(made)
    gateway()
    texts()
    answers(made)


main()
