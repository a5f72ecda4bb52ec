"""Fuzzes the agent by its own description with schemathesis, which is on PYTHONPATH: `python3 api.py GATEWATCH ARGUMENTS...`, with its own arguments. The agent watches one port, on which nobody listens, and may end nobody.
"""

import os
import pathlib
import socket
import subprocess
import sys
import tempfile
import threading
import time

PORT = 18789
HERE = pathlib.Path(__file__).parent


def forward(listener, path):
    """From a TCP port to the agent's socket: schemathesis speaks no other language."""
    while True:
        client, _ = listener.accept()
        threading.Thread(target=exchange, args=(client, path), daemon=True).start()


def exchange(client, path):
    """One request and its answer. A stream never ends by itself, so it is ended once it has said nothing for a while."""
    with client, socket.socket(socket.AF_UNIX) as agent:
        agent.connect(str(path))
        # One request for each connection, because only the first one's head is looked at here.
        request = client.recv(65536).replace(b"\r\n", b"\r\nconnection: close\r\n", 1)
        agent.sendall(request)
        head, _, _ = request.partition(b"\r\n")
        if b" /v1/events" in head:
            begin = agent.recv(65536)
            client.sendall(begin)
            agent.settimeout(0.3)
        threading.Thread(target=copy, args=(client, agent), daemon=True).start()
        try:
            copy(agent, client)
        except TimeoutError:
            if b"transfer-encoding: chunked" in begin:
                client.sendall(b"0\r\n\r\n")


def copy(source, sink):
    try:
        while data := source.recv(65536):
            sink.sendall(data)
        sink.shutdown(socket.SHUT_WR)
    except TimeoutError:
        raise
    except OSError:
        pass


def main():
    gatewatch, arguments = sys.argv[1], sys.argv[2:]
    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)
        path = folder / "agent.sock"
        (folder / "config.toml").write_text(
            f'[history]\npath = "{folder / "history.db"}"\n'
            f'[[watch]]\nport = {PORT}\nclean = {{ users = ["{os.getuid()}"] }}\n')
        agent = subprocess.Popen([gatewatch, "-q", "agent", "--config", folder / "config.toml", "--socket", path])
        try:
            while not path.exists():
                if agent.poll() is not None:
                    sys.exit("the agent does not start")
                time.sleep(0.02)
            listener = socket.create_server(("127.0.0.1", 0))
            threading.Thread(target=forward, args=(listener, path), daemon=True).start()
            base = f"http://127.0.0.1:{listener.getsockname()[1]}"
            paths = os.pathsep.join([str(HERE), os.environ.get("PYTHONPATH", "")])
            tested = subprocess.run(
                [sys.executable, "-c", "from schemathesis.cli import schemathesis; schemathesis()", "run",
                 base + "/v1/openapi.json", "--phases=coverage,fuzzing", "--request-timeout=30", "--workers=1",
                 *arguments, "--continue-on-failure", "--no-color"],
                env=os.environ | {"SCHEMATHESIS_HOOKS": "api_hooks", "PYTHONPATH": paths}, cwd=folder)
            # Whatever it was asked, it still answers.
            assert agent.poll() is None, "the agent has ended"
            sys.exit(tested.returncode)
        finally:
            agent.terminate()
            agent.wait()


main()
