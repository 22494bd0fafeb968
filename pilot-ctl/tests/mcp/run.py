"""MCP through a tunnel, between programs that know nothing of Pilot.

Two homes stand for two hosts. One offers an MCP server with `pilotctl mcp serve`; in the other, MCP clients are configured
with nothing but `"command": "pilotctl", "args": ["mcp", "connect", "my-mcp-server"]`. Each client talks to each server:

    clients   the official SDKs of Python (client.py) and Rust (examples/mcp_client.rs)
    servers   server-everything from npm (revision 2025-11-25), examples/mcp_server.rs (2026-07-28, without `initialize`)

Usage: run.py --programs DIR --bin DIR [--direct]

`--programs` is where `install` put the programs of others, `--bin` has `pilotctl`, and the Rust programs in its `examples`.
`--direct` leaves Pilot out and lets the client start the server itself: what fails then is not ours.
"""

import argparse
import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).resolve().parent
SERVER_NAME = "my-mcp-server"
# Long enough that a bridge which collects messages before it passes them on cannot look like one that does not.
STEPS = 5
PAUSE_MS = 400
# No message of MCP is ASCII by promise: U+2028 ends a line for some, and must not here.
TEXT = 'Grüße, 世界 \u2028 "quoted" \\ \t 🛰'
COMMAND_TIMEOUT_S = 30
CLIENT_TIMEOUT_S = 60
SERVER_END_TIMEOUT_S = 10


@dataclass
class Server:
    """A program to call, and what a client must find there."""

    label: str
    command: list[str]
    revision: str
    has_initialize: bool
    progress_tool: str
    progress_arguments: dict


@dataclass
class Client:
    """A program that calls."""

    label: str
    command: list[str]


class Failed(Exception):
    """What was seen is not what was promised."""


def servers(binaries: Path) -> list[Server]:
    return [
        Server(
            label="server-everything",
            command=["npx", "-y", "@modelcontextprotocol/server-everything"],
            revision="2025-11-25",
            has_initialize=True,
            progress_tool="trigger-long-running-operation",
            progress_arguments={"duration": STEPS * PAUSE_MS / 1000, "steps": STEPS},
        ),
        Server(
            label="rmcp server",
            command=[str(binaries / "examples" / "mcp_server")],
            revision="2026-07-28",
            has_initialize=False,
            progress_tool="count",
            progress_arguments={"steps": STEPS, "pause_ms": PAUSE_MS},
        ),
    ]


def clients(programs: Path, binaries: Path) -> list[Client]:
    return [
        Client("PyPI mcp", [str(programs / "venv" / "bin" / "python"), str(HERE / "client.py")]),
        Client("rmcp client", [str(binaries / "examples" / "mcp_client")]),
    ]


class Host:
    """A host of its own, as far as Pilot can tell: a home directory. SDKs pass HOME on to what they start, but not PILOT_*."""

    def __init__(self, directory: Path, binaries: Path):
        self.home = directory
        self.home.mkdir()
        kept = {name: value for name, value in os.environ.items() if not name.startswith("PILOT_")}
        kept.pop("XDG_RUNTIME_DIR", None)
        self.environment = kept | {"HOME": str(directory), "PATH": f"{binaries}:{os.environ['PATH']}"}

    def pilotctl(self, *arguments: str) -> str:
        command = ["pilotctl", *arguments]
        done = subprocess.run(
            command,
            env=self.environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            timeout=COMMAND_TIMEOUT_S,
        )
        if done.returncode != 0:
            raise Failed(f"`{' '.join(command)}` exited with {done.returncode}: {done.stderr.strip()}")
        return done.stdout.strip()


class Tap:
    """Stands before a server and keeps what the clients say to it, and how it ended."""

    SCRIPT = 'tee "$0" | "$@"; echo $? > "$0.status"'

    def __init__(self, path: Path):
        self.path = path
        self.status_path = Path(f"{path}.status")

    def before(self, server: Server) -> list[str]:
        return ["sh", "-c", self.SCRIPT, str(self.path), *server.command]

    def initialize_count(self) -> int:
        messages = [json.loads(line) for line in self.path.read_bytes().split(b"\n") if line]
        return sum(message.get("method") == "initialize" for message in messages)

    def wait_for_end(self) -> str:
        deadline = time.monotonic() + SERVER_END_TIMEOUT_S
        while not (self.status_path.exists() and self.status_path.read_text()):
            if time.monotonic() > deadline:
                raise Failed("the server still runs although its client has gone")
            time.sleep(0.02)
        return self.status_path.read_text().strip()

    def clear(self) -> None:
        self.path.unlink(missing_ok=True)
        self.status_path.unlink(missing_ok=True)


@contextlib.contextmanager
def network(workspace: Path, binaries: Path) -> Iterator[tuple[Host, Host]]:
    """A backbone, the agent that offers MCP servers, and on a host of its own the agent that calls."""
    serving, calling = Host(workspace / "serving", binaries), Host(workspace / "calling", binaries)
    try:
        ticket = serving.pilotctl("backbone", "start", "--listen", "127.0.0.1:0", "--detach")
        serving.pilotctl("daemon", "start", "--hostname", SERVER_NAME, "--tags", "mcp", "--backbone", ticket)
        calling.pilotctl("daemon", "start", "--hostname", "mcp-caller", "--backbone", ticket)
        yield serving, calling
    finally:
        for host, arguments in [(calling, "daemon stop --all"), (serving, "daemon stop --all"), (serving, "backbone stop")]:
            try:
                host.pilotctl(*arguments.split())
            except (Failed, subprocess.TimeoutExpired) as error:
                print(f"while cleaning up: {error}", file=sys.stderr)


@contextlib.contextmanager
def offered(host: Host, command: list[str], directory: Path) -> Iterator[None]:
    """`pilotctl mcp serve`, from the line that says it is ready until it is told to end."""
    serve = subprocess.Popen(
        ["pilotctl", "mcp", "serve", "--allow", "public", "--", *command],
        cwd=directory,
        env=host.environment,
        stdin=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        ready = serve.stderr.readline()
        if not ready.startswith("serving MCP"):
            raise Failed(f"`pilotctl mcp serve` did not start: {ready}{serve.stderr.read()}")
        # Its servers write there too: what nobody reads would stop them.
        threading.Thread(target=shutil.copyfileobj, args=(serve.stderr, sys.stderr), daemon=True).start()
        yield
    finally:
        serve.terminate()
        try:
            serve.wait(SERVER_END_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            serve.kill()
            raise Failed("`pilotctl mcp serve` did not end when it was told to") from None


def call(client: Client, server: Server, config: Path, environment: dict, directory: Path) -> dict:
    arguments = [str(config), TEXT, server.progress_tool, json.dumps(server.progress_arguments)]
    done = subprocess.run(
        [*client.command, *arguments],
        cwd=directory,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        text=True,
        timeout=CLIENT_TIMEOUT_S,
    )
    if done.returncode != 0:
        raise Failed(f"the client exited with {done.returncode}")
    return json.loads(done.stdout)


def judge(report: dict, server: Server, tap: Tap) -> str:
    """Says what was seen, if it is what was promised."""
    expect("the revision negotiated", report["revision"], server.revision)
    for tool in ("echo", server.progress_tool):
        if tool not in report["tools"]:
            raise Failed(f"tool {tool} is not in the list: {report['tools']}")
    expect("the echo", report["echo"], f"Echo: {TEXT}")
    arrivals = report["arrivals"]
    expect("the progress", [arrival.get("progress") for arrival in arrivals[:-1]], list(range(1, STEPS + 1)))
    if "result" not in arrivals[-1]:
        raise Failed(f"the result was not the last to arrive: {arrivals}")
    times = [arrival["at_ms"] for arrival in arrivals]
    check_one_by_one(times[:-1])
    expect("the exit status of the server", tap.wait_for_end(), "0")
    expect("the number of `initialize` requests", tap.initialize_count(), int(server.has_initialize))
    progress = " ".join(f"+{at - times[0]}" for at in times[:-1])
    return f"revision {report['revision']}, {len(report['tools'])} tools, progress at {progress}, result at +{times[-1] - times[0]} ms"


def expect(what: str, seen, promised) -> None:
    if seen != promised:
        raise Failed(f"{what} should be {promised!r} and is {seen!r}")


def check_one_by_one(times: list[int]) -> None:
    """The server pauses before each notification, so they are apart here too, unless something on the way collects them.

    One gap may be short: a busy machine can hold up the notification before it.
    """
    gaps = [later - earlier for earlier, later in zip(times, times[1:])]
    if sum(gap >= PAUSE_MS / 2 for gap in gaps) < len(gaps) - 1:
        raise Failed(f"notifications {PAUSE_MS} ms apart at the server arrived in lumps, {gaps} ms apart")


def write_config(path: Path, command: list[str]) -> Path:
    path.write_text(json.dumps({"mcpServers": {SERVER_NAME: {"command": command[0], "args": command[1:]}}}))
    return path


def main() -> int:
    arguments = argparse.ArgumentParser()
    arguments.add_argument("--programs", type=Path, required=True)
    arguments.add_argument("--bin", type=Path, required=True)
    arguments.add_argument("--direct", action="store_true")
    options = arguments.parse_args()
    programs, binaries = options.programs.resolve(), options.bin.resolve()
    passed = failed = 0
    with contextlib.ExitStack() as stack:
        workspace = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="pilot-mcp-")))
        if not options.direct:
            serving, calling = stack.enter_context(network(workspace, binaries))
        for server in servers(binaries):
            tap = Tap(workspace / "said")
            with contextlib.ExitStack() as serving_stack:
                if options.direct:
                    config, environment = write_config(workspace / "config.json", tap.before(server)), dict(os.environ)
                else:
                    config = write_config(workspace / "config.json", ["pilotctl", "mcp", "connect", SERVER_NAME])
                    environment = calling.environment
                    serving_stack.enter_context(offered(serving, tap.before(server), programs))
                for client in clients(programs, binaries):
                    tap.clear()
                    try:
                        seen = judge(call(client, server, config, environment, programs), server, tap)
                    except (Failed, subprocess.TimeoutExpired) as error:
                        failed += 1
                        print(f"FAILED {client.label} -> {server.label}: {error}", flush=True)
                    else:
                        passed += 1
                        print(f"ok {client.label} -> {server.label}: {seen}", flush=True)
    print(f"mcp: {passed} passed, {failed} failed")
    return 1 if failed else 0


if __name__ == "__main__":
    # What was started is ended also when this is told to end.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    sys.exit(main())
