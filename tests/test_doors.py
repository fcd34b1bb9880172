"""The ways in: Unix sockets and systemd, ASGI, WSGI, gunicorn, nginx; and other people's apps behind `forward`.

Every server here is the real one, in a process of its own.
"""

from __future__ import annotations

import http.client
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parent.parent
DOORS = ROOT / "tests" / "doors"
TIMEOUT = 20  # seconds that anything may take


# --- Programs -------------------------------------------------------------------------------


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Unix(http.client.HTTPConnection):
    """A connection to a Unix socket."""

    def __init__(self, path: str) -> None:
        super().__init__("localhost", timeout=TIMEOUT)
        self.path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(TIMEOUT)
        self.sock.connect(self.path)


class Answer:
    def __init__(self, answer: http.client.HTTPResponse) -> None:
        self.status = answer.status
        self.headers: dict[str, list[str]] = {}
        for name, value in answer.getheaders():
            self.headers.setdefault(name.lower(), []).append(value)
        self.body = answer.read()
        self.text = self.body.decode(errors="replace")


class Program:
    """A process that will listen on *place*: a port, or the path of a Unix socket."""

    def __init__(self, command: list[Any], place: int | str, log: Path, environment: dict[str, str]) -> None:
        self.place, self.log_file = place, log
        outside = ("PHOENIX_ENV", "MIX_ENV", "SECRET_KEY_BASE", "PYTHONPATH", "PORT")
        inherited = {name: value for name, value in os.environ.items() if name not in outside}
        with open(log, "wb") as output:
            self.process = subprocess.Popen(
                list(map(os.fspath, command)), cwd=DOORS, stdin=subprocess.DEVNULL, stdout=output,
                stderr=subprocess.STDOUT, start_new_session=True, env={**inherited, **environment},
            )  # fmt: skip

    @property
    def log(self) -> str:
        return self.log_file.read_text(errors="replace")

    def connection(self) -> http.client.HTTPConnection:
        if isinstance(self.place, str):
            return Unix(self.place)
        return http.client.HTTPConnection("127.0.0.1", self.place, timeout=TIMEOUT)

    def send(self, method: str, path: str, body: Any = None, headers: Any = None, chunked: bool = False) -> Answer:
        connection = self.connection()
        try:
            connection.request(method, path, body, headers or {}, encode_chunked=chunked)
            return Answer(connection.getresponse())
        finally:
            connection.close()

    def get(self, path: str, **headers: str) -> Answer:
        return self.send("GET", path, headers=headers)

    def wait_until_listening(self) -> None:
        self.wait_for(self._listens, "it does not listen")

    def _listens(self) -> bool:
        if self.process.poll() is not None:
            pytest.fail(f"{self.process.args!r} ended with {self.process.returncode}:\n{self.log}", pytrace=False)
        connection = self.connection()
        try:
            connection.connect()
        except OSError:
            return False
        finally:
            connection.close()
        return True

    def wait_for(self, condition: Callable[[], object], complaint: str) -> None:
        deadline = time.monotonic() + TIMEOUT
        while not condition():
            if time.monotonic() > deadline:
                pytest.fail(f"{complaint}:\n{self.log}", pytrace=False)
            time.sleep(0.02)

    def stop(self) -> int:
        """Ask it to end (SIGTERM), and return its exit status."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        try:
            return self.process.wait(TIMEOUT)
        except subprocess.TimeoutExpired:
            pytest.fail(f"{self.process.args!r} did not end at SIGTERM\n{self.log}", pytrace=False)
        finally:
            self.kill()

    def kill(self) -> None:
        """End it and all that it has started, which are of its session."""
        try:
            os.killpg(self.process.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
        self.process.wait(10)


@pytest.fixture
def run(tmp_path: Path) -> Iterator[Callable[..., Program]]:
    """Start programs: ``run([...], port)``. They end with the test."""
    programs: list[Program] = []

    def start(command: list[Any], place: int | str, wait: bool = True, **environment: str) -> Program:
        notes = {"DOORS_NOTES": str(tmp_path / "notes")}
        program = Program(command, place, tmp_path / f"{len(programs)}.log", {**notes, **environment})
        programs.append(program)
        if wait:
            program.wait_until_listening()
        return program

    yield start
    for program in programs:
        program.kill()


@pytest.fixture
def notes(tmp_path: Path) -> Callable[[], list[str]]:
    """What the app has written down."""

    def read() -> list[str]:
        file = tmp_path / "notes"
        return [line.partition(" ")[0] for line in file.read_text().splitlines()] if file.exists() else []

    return read


def program(name: str) -> str:
    """Return the path of a program that pip has installed beside this Python."""
    found = shutil.which(name, path=os.path.dirname(sys.executable))
    assert found, f"{name} is missing: pip install -r tests/requirements.txt"
    return found


OWN_SERVER = [sys.executable, ROOT / "phoenix.py", "server", "app:app"]


# --- Unix sockets and systemd -----------------------------------------------------------------


def test_the_own_server_listens_on_a_unix_socket_for_its_owner_and_group(run: Any, tmp_path: Path) -> None:
    path = str(tmp_path / "app.sock")
    server = run([*OWN_SERVER, "--uds", path], path)
    assert server.get("/pages/a").status == 200
    assert os.stat(path).st_mode & 0o777 == 0o660
    assert "unix:" + path in server.log
    assert server.stop() == 0
    assert not os.path.lexists(path)


def test_the_socket_file_that_a_killed_server_left_is_replaced(run: Any, tmp_path: Path) -> None:
    path = str(tmp_path / "app.sock")
    run([*OWN_SERVER, "--uds", path], path).kill()
    assert os.path.exists(path)
    assert run([*OWN_SERVER, "--uds", path], path).get("/pages/a").status == 200


def test_a_socket_that_another_server_answers_on_is_left_to_it(run: Any, tmp_path: Path) -> None:
    path = str(tmp_path / "app.sock")
    first = run([*OWN_SERVER, "--uds", path], path)
    second = run([*OWN_SERVER, "--uds", path], path, wait=False)
    assert second.process.wait(TIMEOUT) == 1
    assert f"cannot listen on the Unix socket {path}: another server listens there" in second.log
    assert first.get("/pages/a").status == 200


def test_a_file_that_is_no_socket_is_not_replaced(run: Any, tmp_path: Path) -> None:
    path = tmp_path / "precious"
    path.write_text("data")
    server = run([*OWN_SERVER, "--uds", path], str(path), wait=False)
    assert server.process.wait(TIMEOUT) == 1
    assert "there is a file, which is no socket" in server.log
    assert path.read_text() == "data"


def test_the_config_names_a_unix_socket_and_its_permissions(run: Any, tmp_path: Path) -> None:
    path = str(tmp_path / "app.sock")
    code = f"import app; app.app.options['http'] = {{'uds': {path!r}, 'uds_mode': 0o600}}; app.app.run()"
    server = run([sys.executable, "-c", code], path)
    assert server.get("/pages/a").status == 200
    assert os.stat(path).st_mode & 0o777 == 0o600


def test_a_server_leaves_the_socket_alone_that_took_the_place_of_its_own(run: Any, tmp_path: Path) -> None:
    path = str(tmp_path / "app.sock")
    first = run([*OWN_SERVER, "--uds", path], path)
    os.unlink(path)
    second = run([*OWN_SERVER, "--uds", path], path)
    assert first.stop() == 0
    assert second.get("/pages/a").status == 200


SYSTEMD = shutil.which("systemd-socket-activate")


@pytest.mark.skipif(SYSTEMD is None, reason="needs systemd-socket-activate: apt-get install systemd")
@pytest.mark.parametrize("kind", ["port", "path"])
def test_systemd_opens_the_socket_and_starts_the_server_at_the_first_request(
    run: Any, tmp_path: Path, kind: str
) -> None:
    place = free_port() if kind == "port" else str(tmp_path / "app.sock")
    listen = f"127.0.0.1:{place}" if kind == "port" else place
    server = run([SYSTEMD, "-l", listen, *OWN_SERVER], place)
    assert server.get("/pages/a").status == 200
    assert "Running Router on" in server.log
    assert server.stop() == 0
    assert kind == "port" or os.path.exists(place)  # it is systemd's


@pytest.mark.skipif(SYSTEMD is None, reason="needs systemd-socket-activate: apt-get install systemd")
def test_two_apps_take_one_socket_of_systemd_each(run: Any, tmp_path: Path) -> None:
    (tmp_path / "two.py").write_text(
        "import phoenix\n"
        "def make(name):\n"
        "    class Router(phoenix.Router):\n"
        "        phoenix.get('/', lambda conn, params: conn.text(name))\n"
        "    return phoenix.Endpoint(Router)\n"
        "one, two = make('one'), make('two')\n"
    )
    ports = free_port(), free_port()
    listen = [word for port in ports for word in ("-l", f"127.0.0.1:{port}")]
    command = [SYSTEMD, *listen, "-E", f"PYTHONPATH={tmp_path}"]  # it passes on nothing of its own
    server = run([*command, sys.executable, ROOT / "phoenix.py", "server", "two:one", "two:two"], ports[0])
    assert server.get("/").text == "one"
    server.place = ports[1]
    assert server.get("/").text == "two"
