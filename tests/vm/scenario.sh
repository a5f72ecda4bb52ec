#!/bin/bash
# What an administrator does, on a real systemd: installs the units, asks as an ordinary user, restarts a gateway.
set -u
export PATH=$PATH:/usr/bin
. ./common.sh
P=18789

as() { local user=$1; shift; setpriv --reuid "$user" --regid "$user" --init-groups -- "$@"; }
# A command that may ask nobody else gives up an agent that says nothing for 2 s, and an emulated one takes longer to start.
answers() { for _ in 1 2 3 4 5 6 7 8 9 10; do gatewatch "$@" > /tmp/out 2>&1 && return; done; cat /tmp/out; false; }
main_pid() { systemctl show -P MainPID openclaw-gateway; }
listening() { gatewatch wait listening -p $P --timeout 20s --agent never -q > /dev/null; }
gone() { refused 1 grep . <(find / -xdev -name '*gatewatch*' -not -path '/opt/*' -not -path '/proc/*' -not -path '/sys/*'); }
json() { python3 -c "import json,sys; d=json.load(sys.stdin); sys.exit(0 if ($1) else print(d) or 1)"; }

. ./units.sh

install -m 755 actor /usr/bin/
# The guest was made without documents, which dpkg would go on to leave out.
rm -f /etc/dpkg/dpkg.cfg.d/*
check "the package can be installed" dpkg -i 1.deb
check "its agent runs" systemctl is-active -q gatewatch.service gatewatch.socket
check "it is enabled" systemctl is-enabled -q gatewatch.service gatewatch.socket
check "its group is there" getent group gatewatch > /dev/null
check "it has a manual and completions" test -f /usr/share/man/man1/gatewatch-clean.1.gz -a -f /usr/share/bash-completion/completions/gatewatch
examples=/usr/share/doc/gatewatch/examples
cp -r $examples/openclaw-gateway-restart.service $examples/openclaw-gateway.service.d /etc/systemd/system/
# A restart reads events, which is for the group; a clean alone is not.
useradd -r -G gatewatch openclaw; useradd -r -G gatewatch member; useradd -r stranger
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

gatewatch doctor --color never
knows_kernel gatewatch
check "the agent can be stopped, and its socket stays" systemctl stop gatewatch.service
check "the socket is there" systemctl is-active -q gatewatch.socket
check "the agent is not running yet" refused 3 systemctl is-active gatewatch
check "the first caller starts it and is answered" answers owners --agent only
check "the agent runs" systemctl is-active -q gatewatch
systemctl show -P StatusText gatewatch
check "its status says what it watches" grep -q "watching every port by $backend" <(systemctl show -P StatusText gatewatch)

# a stale gateway, left behind by somebody, keeps the port
setsid actor --stay --title openclaw-gateway --on 127.0.0.1:$P > /dev/null 2>&1 < /dev/null &
listening
check "a member of the group may ask" refused 0 as member gatewatch owners --agent only
check "a stranger may not" refused 6 as stranger gatewatch owners --agent only
check "a stranger can't have it cleaned" refused 6 as stranger gatewatch clean --agent only
check "a member of the group can't either" refused 6 as member gatewatch clean --agent only

# the packaged drop-in spares a gateway that has just begun
until json 'd["owners"][0]["age_ms"] > 30000' < <(gatewatch owners --agent only --format json) > /dev/null; do sleep 1; done
check "the service starts though a stale gateway had the port" systemctl start openclaw-gateway
check "and listens" listening
gatewatch owners --agent only
check "the owner's unit is shown" json 'd["owners"][0]["unit"] == "openclaw-gateway.service"' < <(gatewatch owners --agent only --format json)

old=$(main_pid)
check "a restart by the unit, through the agent" json 'd["outcome"] == "restarted" and d["backend"] == "agent" and d["downtime_us"] > 0 and d["new_owner"]["by"] == "unit"' \
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
check "after its death the agent is started again" answers wait listening --agent only --timeout 20s
check "as another process" test "$agent" != "$(systemctl show -P MainPID gatewatch)"
printf '\n[[watch]]\nport = 18888\n' >> /etc/gatewatch/config.toml
check "a reload" systemctl reload gatewatch
check "brings the new port" refused 0 gatewatch owners -p 18888 --agent only
printf '\n[[watch]]\nport = 0\n' >> /etc/gatewatch/config.toml
check "a reload of a wrong configuration fails" refused 1 systemctl reload gatewatch
# A command reads the file as well, and would be refused too.
: > /root/none.toml
check "and the old one stays in force" refused 0 gatewatch owners -p 18888 --agent only --config /root/none.toml
head -n -3 /etc/gatewatch/config.toml > /tmp/right && cat /tmp/right > /etc/gatewatch/config.toml
check "until it is right" systemctl reload gatewatch
check "the journal names what was ended, in its fields" \
    json 'd["OUTCOME"] == "cleaned" and d["UNIT"] == "openclaw-gateway.service" and d["SIGNAL"] == "SIGTERM" and d["PRIORITY"] == "6"' \
    < <(journalctl -u gatewatch PORT=$P OUTCOME=cleaned -o json -n 1 --no-pager)
check "and who is refused" json 'd["PRIORITY"] == "4" and d["REQUESTER_UID"] == "'"$(id -u stranger)"'"' \
    < <(journalctl -u gatewatch PORT=$P REQUESTER_UID="$(id -u stranger)" -o json -n 1 --no-pager)
check "the agent holds no more than it needs" json 'len(d["capabilities"]) == 8 and d["no_new_privileges"] and bool(d["degraded"]) == ("'$backend'" == "poll")' \
    < <(python3 - <<'Q'
import socket
s = socket.socket(socket.AF_UNIX); s.connect("/run/gatewatch/agent.sock")
s.sendall(b"GET /v1/status HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")
data = b""
while chunk := s.recv(65536): data += chunk
print(data.split(b"\r\n\r\n", 1)[1].decode())
Q
)
if [ "$backend" != poll ]; then
    sed -i 's/^#guard = /guard = /' /etc/gatewatch/config.toml
    check "a reload guards the port" systemctl reload gatewatch
    until gatewatch doctor --color never | grep "guards port $P: only user $(id -u openclaw) may"; do sleep 0.2; done
fi
check "stopping the service frees the port" systemctl stop openclaw-gateway
check "which the agent sees" refused 0 gatewatch wait free --agent only --timeout 20s
if [ "$backend" != poll ]; then
    take() { as stranger python3 -c "import socket; socket.create_server(('127.0.0.1', $P))" 2> /dev/null; }
    check "a guarded port is not a stranger's to take" refused 1 take
    check "but the service's" systemctl start openclaw-gateway
    check "which listens again" listening
    systemctl stop openclaw-gateway
fi

# an upgrade, while four callers ask without a pause
agent=$(systemctl show -P MainPID gatewatch)
for caller in 1 2 3 4; do
    while [ ! -e /tmp/upgraded ]; do
        gatewatch owners -q > /tmp/out.$caller 2>&1 && echo ok || { echo failed; cat /tmp/out.$caller; }
    done > /tmp/calls.$caller &
done
until [ "$(cat /tmp/calls.* | grep -c ok)" -gt 4 ]; do sleep 0.1; done
check "the package can be upgraded" dpkg -i 2.deb
before=$(cat /tmp/calls.* | grep -c ok)
until [ "$(cat /tmp/calls.* | grep -c ok)" -gt $((before + 4)) ]; do sleep 0.1; done
touch /tmp/upgraded; wait
echo "$(cat /tmp/calls.* | grep -c ok) calls meanwhile"
check "no call fails meanwhile" refused 1 grep -h failed -A 5 /tmp/calls.1 /tmp/calls.2 /tmp/calls.3 /tmp/calls.4
check "another agent runs" test "$agent" != "$(systemctl show -P MainPID gatewatch)"
check "the administrator's configuration is kept" grep -q 18888 /etc/gatewatch/config.toml

check "the agent ends in order" systemctl stop gatewatch.service gatewatch.socket
check "without a failure" refused 1 systemctl is-failed gatewatch.service
systemctl start gatewatch.socket gatewatch.service
check "the package can be purged" dpkg --purge gatewatch
check "nothing of it is left" gone
check "nor a process" refused 1 pgrep -x gatewatch
check "nor its group" refused 2 getent group gatewatch

# the same by the other packages
check "the rpm can be installed" rpm -i --nodeps 1.rpm
check "its group is there as well" getent group gatewatch > /dev/null
check "its presets enable it" systemctl is-enabled -q gatewatch.service gatewatch.socket
systemctl start gatewatch.socket gatewatch.service
check "its agent answers" answers owners --agent only
agent=$(systemctl show -P MainPID gatewatch)
printf '\n[[watch]]\nport = 18888\n' >> /etc/gatewatch/config.toml
check "the rpm can be upgraded" rpm -U --nodeps 2.rpm
check "another agent runs after it" test "$agent" != "$(systemctl show -P MainPID gatewatch)"
check "and answers" answers owners -p 18888 --agent only
check "the rpm can be erased" rpm -e gatewatch
check "no process is left of it" refused 1 pgrep -x gatewatch
check "a changed configuration is kept" grep -q 18888 /etc/gatewatch/config.toml.rpmsave
rm -rf /etc/gatewatch /var/lib/gatewatch /run/gatewatch; groupdel gatewatch
check "nothing else is left of it" gone

check "the tarball can be unpacked" tar -xzf gatewatch.tar.gz -C / --strip-components=1 --no-same-owner
systemd-sysusers; systemctl daemon-reload
check "and enabled" systemctl enable -q --now gatewatch.socket gatewatch.service
check "its agent answers, too" answers owners --agent only
systemctl disable -q --now gatewatch.service gatewatch.socket
tar -tzf gatewatch.tar.gz | sed -n 's,^[^/]*/,/,p' | grep -v '/$' | tr '\n' '\0' | xargs -0 rm -f
rm -rf /etc/gatewatch /var/lib/gatewatch /run/gatewatch /usr/share/doc/gatewatch; groupdel gatewatch; systemctl daemon-reload
check "what was unpacked is what there was of it" gone
[ $failed = 0 ] || journalctl -u gatewatch -u openclaw-gateway -o short-monotonic --no-pager | tail -n 60

if [ -x scenarios ]; then
    echo "--- every scenario on this kernel"
    run_scenarios ""
fi
lock_down
exit $failed
