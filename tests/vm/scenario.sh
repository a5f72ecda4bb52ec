#!/bin/bash
# What an administrator does, on a real systemd: installs the units, asks as an ordinary user, restarts a gateway.
set -u
export PATH=$PATH:/usr/bin
failed=0
P=18789

check() { # check NAME COMMAND...: the command succeeds
    local name=$1; shift
    if "$@"; then echo "ok      $name"; else echo "FAILED  $name"; failed=1; fi
}
refused() { # refused STATUS COMMAND...: the command ends with this status
    local wanted=$1; shift
    "$@" > /tmp/out 2>&1; local status=$?
    [ $status = "$wanted" ] || { echo "status $status instead of $wanted:"; cat /tmp/out; false; }
}
as() { local user=$1; shift; setpriv --reuid "$user" --regid "$user" --init-groups -- "$@"; }
main_pid() { systemctl show -P MainPID openclaw-gateway; }
listening() { gatewatch wait listening -p $P --timeout 20s --agent never -q > /dev/null; }
json() { python3 -c "import json,sys; d=json.load(sys.stdin); sys.exit(0 if ($1) else print(d) or 1)"; }

echo "--- $(uname -r)"
install -m 755 gatewatch actor /usr/bin/
install -m 644 packaging/gatewatch.service packaging/gatewatch.socket packaging/openclaw-gateway-restart.service /etc/systemd/system/
install -D -m 644 packaging/openclaw-gateway.service.d/10-clean.conf /etc/systemd/system/openclaw-gateway.service.d/10-clean.conf
install -D -m 644 packaging/gatewatch.sysusers /usr/lib/sysusers.d/gatewatch.conf
systemd-sysusers /usr/lib/sysusers.d/gatewatch.conf
# A restart reads events, which is for the group; a clean alone is not.
useradd -r -G gatewatch openclaw; useradd -r -G gatewatch member; useradd -r stranger
install -D -m 644 packaging/config.toml /etc/gatewatch/config.toml
check "the packaged configuration is right" gatewatch agent --check-config
sed -i 's/^#clean = .*/clean = { users = ["openclaw"] }/' /etc/gatewatch/config.toml
cat > /etc/systemd/system/openclaw-gateway.service <<'U'
[Service]
User=openclaw
ExecStart=@/usr/bin/actor openclaw-gateway --stay --on 127.0.0.1:18789
Restart=always
RestartSec=300ms
U
systemctl daemon-reload

check "the socket unit starts" systemctl start gatewatch.socket
check "the agent is not running yet" refused 3 systemctl is-active gatewatch
check "the first caller starts it and is answered" refused 0 gatewatch owners --agent only
check "the agent runs" systemctl is-active -q gatewatch
systemctl show -P StatusText gatewatch
check "its status says what it watches" grep -q "watching 18789 by ebpf" <(systemctl show -P StatusText gatewatch)

# a stale gateway, left behind by somebody, keeps the port
setsid actor --stay --title openclaw-gateway --on 127.0.0.1:$P > /dev/null 2>&1 < /dev/null &
listening
check "a member of the group may ask" refused 0 as member gatewatch owners --agent only
check "a stranger may not" refused 6 as stranger gatewatch owners --agent only
check "a stranger can't have it cleaned" refused 6 as stranger gatewatch clean --agent only
check "a member of the group can't either" refused 6 as member gatewatch clean --agent only

check "the service starts though a stale gateway had the port" systemctl start openclaw-gateway
check "and listens" listening
gatewatch owners --agent only
check "the owner's unit is shown" json 'd["owners"][0]["unit"] == "openclaw-gateway.service"' < <(gatewatch owners --agent only --format json)

old=$(main_pid)
check "a restart by the unit, through the agent" json 'd["outcome"] == "restarted" and d["backend"] == "agent" and d["downtime_us"] > 0' \
    < <(gatewatch restart --unit openclaw-gateway --agent only --format json)
check "runs another process" test "$old" != "$(main_pid)"
check "the packaged restart service" systemctl start openclaw-gateway-restart
journalctl -u openclaw-gateway-restart -o cat --no-pager | tail -n 12

old=$(main_pid)
check "the service's user may have it cleaned; the supervisor's new process is waited for" \
    json 'd["outcome"] == "restarted" and d["killed"] == ['"$old"']' < <(as openclaw gatewatch restart --agent only --adopt --format json 2> /dev/null)
sleep 1

agent=$(systemctl show -P MainPID gatewatch)
kill -9 "$agent"
check "after its death the agent is started again" refused 0 gatewatch wait listening --agent only --timeout 20s
check "as another process" test "$agent" != "$(systemctl show -P MainPID gatewatch)"
printf '\n[[watch]]\nport = 18888\n' >> /etc/gatewatch/config.toml
check "a reload" systemctl reload gatewatch
check "brings the new port" refused 0 gatewatch owners -p 18888 --agent only
check "the agent holds no more than it needs" json 'len(d["capabilities"]) == 8 and d["no_new_privileges"] and not d["degraded"]' \
    < <(python3 - <<'Q'
import socket
s = socket.socket(socket.AF_UNIX); s.connect("/run/gatewatch/agent.sock")
s.sendall(b"GET /v1/status HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")
data = b""
while chunk := s.recv(65536): data += chunk
print(data.split(b"\r\n\r\n", 1)[1].decode())
Q
)
check "stopping the service frees the port" systemctl stop openclaw-gateway
check "which the agent sees" refused 0 gatewatch wait free --agent only --timeout 20s
check "the agent ends in order" systemctl stop gatewatch.service gatewatch.socket
check "without a failure" refused 1 systemctl is-failed gatewatch.service
[ $failed = 0 ] || journalctl -u gatewatch -u openclaw-gateway -o short-monotonic --no-pager | tail -n 60

if [ -x scenarios ]; then
    echo "--- every scenario on this kernel"
    mkdir -p release/deps && ln -f gatewatch actor release/ && mv scenarios release/deps/
    GATEWATCH_BIN=/opt/gatewatch/gatewatch RUST_BACKTRACE=0 release/deps/scenarios --test-threads 2 > /tmp/suite 2>&1 || failed=1
    grep -v -E '\.\.\. (ok|ignored)|WARN|^skipped' /tmp/suite | tail -n 80
fi
exit $failed
