#!/bin/bash
# Restarts of units, on a real systemd: of a server that forks workers, and without a refused connection. To be sourced.

cat > /usr/local/bin/forks <<'P'
#!/usr/bin/python3
# forks PORT [given]: a parent, and two workers that accept; with "given", on the socket that systemd hands over.
import os, select, signal, socket, sys
port, pid = int(sys.argv[1]), os.getpid()
names = os.environ.get("LISTEN_FDNAMES", "").split(":")
if sys.argv[2:] == ["given"] and os.environ.get("LISTEN_PID") == str(pid) and str(port) in names:
    server = socket.socket(fileno=3 + names.index(str(port)))
else:
    server = socket.create_server(("127.0.0.1", port), backlog=128)
server.setblocking(False)
signal.signal(signal.SIGTERM, lambda *_: os._exit(0))
# What a worker has accepted, it answers: it ends nowhere but in its wait.
for worker in range(2):
    if os.fork() == 0:
        signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])
        while True:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGTERM])
            select.select([server], [], [])
            signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])
            try: client, _ = server.accept()
            except BlockingIOError: continue
            client.sendall(b"%d" % pid)
            client.close()
while True: os.wait()
P
cat > /usr/local/bin/connects <<'P'
#!/usr/bin/python3
# connects PORT FILE: connects without a pause until the file is there, and tells who answered, and what failed.
import collections, os, socket, sys
seen, failed = collections.Counter(), collections.Counter()
while not os.path.exists(sys.argv[2]):
    try:
        with socket.create_connection(("127.0.0.1", int(sys.argv[1])), timeout=60) as client:
            seen[client.recv(64)] += 1
    except OSError as error:
        failed[type(error).__name__] += 1
print(sum(seen.values()), "answered by", len(seen), "failed", dict(failed), "empty", seen[b""])
sys.exit(0 if len(seen) > 1 and not failed and not seen[b""] else 1)
P
chmod +x /usr/local/bin/forks /usr/local/bin/connects

unit() { # unit NAME ARGUMENTS [LINES]: starts a unit of the server above, and waits for it
    printf '[Service]\nExecStart=/usr/local/bin/forks %s\nRestart=always\n%b\n' "$2" "${3-}" > /etc/systemd/system/$1.service
    systemctl daemon-reload; systemctl start $1
    ./gatewatch wait listening -p ${2% *} --timeout 60s --agent never -q > /dev/null
}
main_of() { systemctl show -P MainPID $1; }
kept_for() { systemctl show -P NFileDescriptorStore $1; }
restarts() { ./gatewatch restart --any --agent never --format json "$@" 2> /tmp/err || { cat /tmp/err; false; }; }

store='FileDescriptorStoreMax=4\nNotifyAccess=main'
unit forks "18101 given" "$store"; unit ignores 18102 "$store"; unit closed "18103 given"

old=$(main_of forks)
check "a dry run of a unit's restart" json 'd["outcome"] == "would_clean"' < <(restarts 18101 --unit forks --dry-run)
check "restarts nothing" test "$old" = "$(main_of forks)"
check "a unit whose server forks workers is restarted" \
    json 'd["outcome"] == "restarted" and d["killed"] == [] and len(d["owners"]) == 3 and d["new_owner"]["by"] == "unit"' \
    < <(restarts 18101 --unit forks)
check "and has another main process" test "$old" != "$(main_of forks)"

connects 18101 /tmp/restarted > /tmp/connected & client=$!
old=$(main_of forks)
for time in first second; do
    check "a unit's socket is kept over its $time restart" \
        json 'd["outcome"] == "restarted" and d["refused"] == 0 and d["downtime_us"] == 0 and d["fallback"] is None and d["kept"][0]["name"] == "18101" and d["new_owner"]["by"] == "unit"' \
        < <(restarts 18101 --keep-listening --unit forks)
    check "by another main process" test "$old" != "$(main_of forks)"
    old=$(main_of forks)
done
touch /tmp/restarted
check "no connection is refused meanwhile, or unanswered" wait $client
cat /tmp/connected
check "systemd has let go of the socket" test "$(kept_for forks)" = 0

old=$(main_of ignores)
check "a unit whose server takes no socket over is restarted all the same" \
    json 'd["outcome"] == "restarted" and bool(d["fallback"]) and d["refused"] is None' < <(restarts 18102 --keep-listening --unit ignores)
check "by another main process as well" test "$old" != "$(main_of ignores)"
check "and systemd keeps nothing for it" test "$(kept_for ignores)" = 0

# systemd refuses, and nothing has happened: then nothing is mended either
unit refuses "18104 given" "$store"; sed -i '1i [Unit]\nRefuseManualStop=yes' /etc/systemd/system/refuses.service; systemctl daemon-reload
old=$(main_of refuses)
check "a unit that systemd does not restart goes on" refused 1 ./gatewatch restart 18104 --any --agent never --keep-listening --unit refuses
check "as the same process" test "$old" = "$(main_of refuses)"
check "and systemd keeps nothing for that one" test "$(kept_for refuses)" = 0

# an interrupt while the old owner is about to end
printf '[Service]\nExecStart=/bin/sh -c "[ ! -e /tmp/waits ] || sleep 5; exec /usr/local/bin/forks 18105 given"\n%b\n' "$store" > /etc/systemd/system/waits.service
systemctl daemon-reload; systemctl start waits
./gatewatch wait listening -p 18105 --timeout 60s --agent never -q > /dev/null
touch /tmp/waits
./gatewatch restart 18105 --any --agent never --keep-listening --unit waits > /tmp/out 2>&1 & restart=$!
old=$(main_of waits); until [ "$(main_of waits)" != "$old" ] && [ "$(main_of waits)" != 0 ]; do sleep 0.1; done
kill -TERM $restart; wait $restart
check "an interrupt is answered" test $? = 7 -a "$(grep -c interrupted /tmp/out)" = 1
check "and leaves nothing in the store" test "$(kept_for waits)" = 0

old=$(main_of closed)
check "a unit without a store is not restarted so" refused 2 ./gatewatch restart 18103 --any --agent never --keep-listening --unit closed
check "which is said, with what opens it" grep -q "FileDescriptorStoreMax=8 and NotifyAccess=main" /tmp/refused
check "and costs it nothing" test "$old" = "$(main_of closed)"

sed -i /RefuseManualStop/d /etc/systemd/system/refuses.service; systemctl daemon-reload
systemctl stop forks ignores closed refuses waits
rm /etc/systemd/system/{forks,ignores,closed,refuses,waits}.service /usr/local/bin/forks /usr/local/bin/connects
systemctl daemon-reload
