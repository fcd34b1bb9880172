"""Fixtures that test modules share: a really started server, and a real browser."""

from __future__ import annotations

import http.client
import itertools
import json
import os
import queue
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import urllib.parse
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parent.parent
EXAMPLES = ROOT / "examples"
STARTED = re.compile(r"Running .* on (http://\S+?)(?:[,\s]|$)")


# --- Ports --------------------------------------------------------------------------------
#
# The port 0 of a server that chooses one itself is best. Who has to know the port beforehand, or wants it again after a
# restart, takes one that the system gives to nobody by itself (on Linux it gives those from 32768 on), neither to a
# listener nor to the near end of a connection. So no other test can take it while it is free, and no client that tries
# it then is connected to itself. Processes that run tests side by side begin at different places.

_ports = (20_000 + (os.getpid() * 199 + number) % 12_000 for number in itertools.count())


def free_port() -> int:
    """Return a port of 127.0.0.1 that nobody uses, and that nobody will be given."""
    for port in _ports:
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
    raise AssertionError("they never end")


# --- A started server ---------------------------------------------------------------------


@dataclass
class Response:
    """What a server answered: header names are in lower case."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def text(self) -> str:
        return self.body.decode()

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def cookie(self) -> str:
        """The cookie that was set, as a client sends it back."""
        return self.headers.get("set-cookie", "").partition(";")[0]


class StartedServer:
    """A program that runs in a process of its own and has said where it listens.

    ``url`` is its address, ``announced`` the line that said so. Every wait is bounded; a server that does not start
    fails the test with what it wrote.
    """

    def __init__(self, command: list[str], environment: dict[str, str], log: Path) -> None:
        self.log_file = log
        with open(log, "wb") as errors:
            self.process = subprocess.Popen(
                command, cwd=ROOT, env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=errors
            )
        self._lines: queue.Queue[str] = queue.Queue()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        self.url = self._wait_for_address(20)

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self._lines.put(line.decode())
        self._lines.put("")

    def _wait_for_address(self, seconds: float) -> str:
        said = ""
        try:
            while line := self._lines.get(timeout=seconds):
                said += line
                if found := STARTED.search(line):
                    self.announced = line
                    return found[1]
            problem = "ended before it listened"
        except queue.Empty:
            problem = f"did not listen within {seconds} s"
        self.kill()
        pytest.fail(f"the server {problem}\n{said}{self.log}", pytrace=False)

    @property
    def log(self) -> str:
        """What the server wrote to standard error until now."""
        return self.log_file.read_text()

    def request(
        self,
        path: str,
        method: str = "GET",
        *,
        form: dict[str, str] | None = None,
        json_body: Any = None,
        body: bytes | None = None,
        headers: dict[str, str] | None = None,
    ) -> Response:
        """Send a request, follow nothing, keep nothing. A *form* is sent urlencoded, *json_body* as JSON."""
        headers = dict(headers or {})
        if form is not None:
            body = urllib.parse.urlencode(form).encode()
            headers["content-type"] = "application/x-www-form-urlencoded"
        elif json_body is not None:
            body = json.dumps(json_body).encode()
            headers["content-type"] = "application/json"
        address = urllib.parse.urlsplit(self.url)
        connection = http.client.HTTPConnection(address.hostname or "", address.port, timeout=10)
        try:
            connection.request(method, path, body, headers)
            answer = connection.getresponse()
            fields = {name.lower(): value for name, value in answer.getheaders()}
            return Response(answer.status, fields, answer.read())
        finally:
            connection.close()

    def stop(self, seconds: float = 15) -> int:
        """Ask the server to end (SIGTERM), and return its exit status."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        try:
            return self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            self.kill()
            pytest.fail(f"the server did not end within {seconds} s of SIGTERM\n{self.log}", pytrace=False)
        finally:
            self._close()

    def kill(self) -> None:
        self.process.kill()
        self.process.wait(10)
        self._close()

    def _close(self) -> None:
        self._reader.join(5)
        if self.process.stdout is not None:
            self.process.stdout.close()


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., StartedServer]]:
    """Start servers: ``start("examples/hello.py", PHOENIX_ENV="prod").url``. They end with the test.

    The words are arguments of Python, keywords are added to the environment. The port is free, chosen by the system.
    """
    servers: list[StartedServer] = []

    def start_server(*arguments: str | os.PathLike[str], **environment: str) -> StartedServer:
        outside = ("PHOENIX_ENV", "MIX_ENV", "SECRET_KEY_BASE", "PYTHONPATH")
        inherited = {name: value for name, value in os.environ.items() if name not in outside}
        command = [sys.executable, *map(os.fspath, arguments)]
        log = tmp_path / f"server-{len(servers)}.log"
        server = StartedServer(command, {**inherited, "PORT": "0", "PYTHONUNBUFFERED": "1", **environment}, log)
        servers.append(server)
        return server

    yield start_server
    for server in servers:
        if server.process.poll() is None:
            server.stop()


# --- A browser ----------------------------------------------------------------------------
#
# Playwright's sync interface keeps an event loop running in the thread that uses it, and there no
# test can call `asyncio.run`. So a browser lives as long as the module whose tests ask for it.

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
CHROMIUM_OPTIONS = [
    "--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update", "--disable-sync",
    "--no-first-run",
]  # fmt: skip


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """A headless Chromium."""
    playwright = pytest.importorskip("playwright.sync_api", reason="needs Playwright: pip install playwright")
    if CHROMIUM is None:
        pytest.skip("needs Chromium in the PATH: apt-get install chromium")
    with playwright.sync_playwright() as started:
        chromium = started.chromium.launch(executable_path=CHROMIUM, args=CHROMIUM_OPTIONS)
        yield chromium
        chromium.close()


@pytest.fixture
def page(browser: Any) -> Iterator[Any]:
    """A page of a browser that knows no cookies yet; no wait takes longer than 10 seconds.

    A script that fails, or something that the page's content security policy forbids, fails the test.
    """
    context = browser.new_context(viewport={"width": 900, "height": 800})
    context.set_default_timeout(10_000)
    page = context.new_page()
    complaints: list[str] = []
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on("console", lambda said: complaints.append(said.text) if "Content Security Policy" in said.text else None)
    yield page
    context.close()
    assert not complaints, "the browser complained: " + "; ".join(complaints)
