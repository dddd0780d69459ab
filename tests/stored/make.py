#!/usr/bin/env python3
"""Writes a small store with events in every state, for the tests of `tests/e2e/earlier_versions.rs`.

    python3 tests/stored/make.py BINARY GUEST tests/stored/COMMIT

BINARY is the `eventstream` whose store is to be written, GUEST the component `target/guests/scripted.wasm`. For each
broker the script writes `BROKER.tar.gz`, the files of the store, and `BROKER.json`: every event as that
version showed it, and the requests with their idempotency keys. It ends the server with SIGKILL, as a crash does.
"""

import json
import os
import pathlib
import re
import shutil
import signal
import socket
import subprocess
import sys
import tarfile
import tempfile
import time
import urllib.request

# Long enough for what was posted to be looked at, and over when a test starts.
SOON_MS = 45_000
YEAR_MS = 366 * 24 * 60 * 60 * 1000
SETTINGS = {
    "CONSUMER_CONCURRENCY": "1",
    "CONSUMER_NAME": "writer",
    "CONSUMER_LEASE_MS": "2000",
    # The files are to be of use for years.
    "RETENTION_PROCESSED": "36500d",
    "RETENTION_IDEMPOTENCY": "36500d",
    "RETRY_INITIAL_MS": "10",
    "RETRY_MAX_MS": str(SOON_MS),
    "RETRY_TRAP_MAX_ATTEMPTS": "2",
    "RETRY_NO_HANDLER_MAX_ATTEMPTS": "1",
    # Compiled code is of one version and of one machine.
    "PLUGINS_DATA_DIR": "",
}


def ask(url, method="GET", body=None, headers=None):
    request = urllib.request.Request(url, method=method, data=body, headers=headers or {})
    with urllib.request.urlopen(request, timeout=30) as answer:
        return json.load(answer)


def wait_until(what, is_so):
    for _ in range(600):
        found = is_so()
        if found:
            return found
        time.sleep(0.05)
    sys.exit(f"not so after 30 s: {what}")


class Host:
    def __init__(self, binary, guest, broker, folder):
        plugins = folder / "plugins"
        plugins.mkdir()
        for name in ["quick", "slow", "counter"]:
            shutil.copy(guest, plugins / f"{name}.wasm")
        environment = {name: value for name, value in os.environ.items() if not name.startswith("EVENTSTREAM_")}
        environment.update({f"EVENTSTREAM_{name}": value for name, value in SETTINGS.items()})
        command = [binary, "serve", "--listen", "127.0.0.1:0", "--broker", broker, "--plugins", str(plugins)]
        self.process = subprocess.Popen(command, cwd=folder, env=environment, stdout=subprocess.PIPE, text=True)
        self.requests = []
        for line in self.process.stdout:
            if found := re.match(r"listening on (\S+)", line):
                self.url = found.group(1)
            if line.startswith("ready, "):
                return
        sys.exit("the server ended before it was ready")

    def post(self, body, key=None):
        text = json.dumps(body)
        headers = {"content-type": "application/json"} | ({"idempotency-key": key} if key else {})
        answer = ask(f"{self.url}/events", "POST", text.encode(), headers)
        ids = answer.get("eventIds") or [answer["eventId"]]
        if key or "id" in body:
            self.requests.append({"key": key, "body": text, "eventIds": list(ids)})
        return ids

    def event(self, event_id):
        return ask(f"{self.url}/events/{event_id}")

    def wait_for(self, event_id, state):
        wait_until(f"{event_id} is {state}", lambda: self.event(event_id)["state"] == state)

    def fill(self):
        echo = {"do": "echo", "key": "größer"}
        ended = self.post({"type": "quick", "subject": "order/17", "payload": echo}, "order-17")
        ended += self.post([{"type": "quick", "payload": echo}, {"type": "quick", "payload": {}}], "batch-1")
        ended += self.post({"type": "quick", "source": "/shop", "id": "17", "payload": echo})
        ended += self.post({"type": "quick", "payload": {"flaky": 2}})
        parent = {"publish": 2, "publish-type": "quick", "publish-payload": echo}
        ended += self.post({"type": "quick", "payload": parent})
        calls = [{"set": {"key": "order/7", "value": "paid"}}, {"increment": {"key": "orders", "delta": 1}}]
        ended += self.post({"type": "counter", "payload": {"do": "state", "state": calls}})
        for event_id in list(ended):
            self.wait_for(event_id, "processed")
            ended += self.event(event_id)["children"]
        failed = self.post({"type": "quick", "payload": {"do": "reject", "message": "no stock"}})
        failed += self.post({"type": "quick", "payload": {"do": "trap", "message": "a bug", "stderr-bytes": 100}})
        failed += self.post({"type": "latecomer", "payload": echo})
        again = self.post({"type": "quick", "payload": {"do": "reject", "message": "sent twice"}})
        for event_id in failed + again:
            self.wait_for(event_id, "failed")
        ask(f"{self.url}/failed-events/{again[0]}/replay", "POST", b"")
        wait_until("the replayed one fails again", lambda: len(self.event(again[0])["attempts"]) == 2)
        later = self.post({"type": "quick", "delayMs": YEAR_MS, "payload": echo})
        later += self.post({"type": "quick", "delayMs": SOON_MS, "payload": echo})
        retrying = self.post({"type": "quick", "payload": {"flaky": 2, "after-ms": SOON_MS}})
        self.wait_for(retrying[0], "retrying")
        waiting = self.post([{"type": "slow", "payload": {"sleep-ms": 3000}}] + [{"type": "slow", "payload": echo}] * 4)
        self.wait_for(waiting[0], "running")
        return ended + failed + again + later + retrying + waiting

    def kill(self):
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()


def write(binary, guest, out, name, broker, folder):
    """Fills the store, kills the server and writes down what the server showed."""
    with tempfile.TemporaryDirectory() as work:
        host = Host(binary, guest, broker, pathlib.Path(work))
        ids = host.fill()
        events = [host.event(event_id) for event_id in ids]
        host.kill()
    states = [event["state"] for event in events]
    print(name, {state: states.count(state) for state in sorted(set(states))})
    shown = {"events": events, "requests": host.requests}
    (out / f"{name}.json").write_text(json.dumps(shown, indent=1, ensure_ascii=False) + "\n")


def pack(folder, file):
    """Packs the files without owners and times."""
    def bare(info):
        info.uid = info.gid = info.mtime = 0
        info.uname = info.gname = ""
        return info
    with tarfile.open(file, "w:gz", compresslevel=9) as archive:
        for path in sorted(folder.iterdir()):
            if path.name != "redis.log":
                archive.add(path, path.name, filter=bare)
    print(file.name, file.stat().st_size, "bytes")


def redis_command(port, line):
    with socket.create_connection(("127.0.0.1", port), 10) as connection:
        connection.sendall(f"{line}\r\nQUIT\r\n".encode())
        return b"".join(iter(lambda: connection.recv(65536), b"")).decode()


def is_up(port):
    try:
        return "PONG" in redis_command(port, "PING")
    except OSError:
        return False


def is_rewritten(facts):
    is_idle = "aof_rewrite_in_progress:0" in facts and "aof_rewrite_scheduled:0" in facts
    return is_idle and "aof_rewrites:0" not in facts


def main():
    binary, guest, out = (pathlib.Path(argument).resolve() for argument in sys.argv[1:])
    out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        data = pathlib.Path(folder) / "data"
        write(str(binary), guest, out, "embedded", f"embedded:{data}", data)
        pack(data, out / "embedded.tar.gz")
    with tempfile.TemporaryDirectory() as folder, socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
        free.close()
        keeps = ["--save", "", "--appendonly", "yes", "--appendfsync", "always", "--logfile", "redis.log"]
        server = subprocess.Popen(["redis-server", "--port", str(port), "--bind", "127.0.0.1", "--dir", folder, *keeps],
                                  stdout=subprocess.DEVNULL)
        wait_until("Redis answers", lambda: is_up(port))
        write(str(binary), guest, out, "redis", f"redis://127.0.0.1:{port}", folder)
        # The log becomes one small snapshot.
        redis_command(port, "BGREWRITEAOF")
        wait_until("the log is rewritten", lambda: is_rewritten(redis_command(port, "INFO persistence")))
        redis_command(port, "SHUTDOWN")
        server.wait()
        pack(pathlib.Path(folder), out / "redis.tar.gz")


main()
