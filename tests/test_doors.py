"""The ways in: Unix sockets and systemd, ASGI, WSGI, gunicorn, nginx; and other people's apps behind `forward`.

Every server here is the real one, in a process of its own.
"""

from __future__ import annotations

import asyncio
import contextvars
import http.client
import io
import json
import os
import re
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from wsgiref.util import setup_testing_defaults

import pytest
from conftest import free_port
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import ClientConnection, connect

import phoenix
from phoenix import forward, get, post, websocket

ROOT = Path(__file__).resolve().parent.parent
DOORS = ROOT / "tests" / "doors"
TIMEOUT = 20  # seconds that anything may take


# --- Programs -------------------------------------------------------------------------------


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
        notes = {"DOORS_NOTES": str(tmp_path / "notes"), "PYTHONPATH": str(ROOT)}
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


@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
def test_the_own_server_listens_on_a_unix_socket_for_its_owner_and_group(run: Any, tmp_path: Path, loop: str) -> None:
    path = str(tmp_path / "app.sock")
    server = run([*OWN_SERVER, "--uds", path, "--loop", loop], path)
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
@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
@pytest.mark.parametrize("kind", ["port", "path"])
def test_systemd_opens_the_socket_and_starts_the_server_at_the_first_request(
    run: Any, tmp_path: Path, kind: str, loop: str
) -> None:
    place = free_port() if kind == "port" else str(tmp_path / "app.sock")
    listen = f"127.0.0.1:{place}" if kind == "port" else place
    server = run([SYSTEMD, "-l", listen, *OWN_SERVER, "--loop", loop], place)
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


# --- What holds at every door -------------------------------------------------------------------


def uvicorn(place: int) -> list[Any]:
    return [program("uvicorn"), "app:app", "--port", str(place), "--no-access-log"]


def hypercorn(place: int) -> list[Any]:
    return [program("hypercorn"), "app:app", "--bind", f"127.0.0.1:{place}", "--graceful-timeout", "3"]


def granian(place: int) -> list[Any]:
    return [program("granian"), "app:app", "--interface", "asgi", "--port", str(place), "--no-access-log"]


def gunicorn_sync(place: int) -> list[Any]:
    return [program("gunicorn"), "app:wsgi", "--bind", f"127.0.0.1:{place}"]


def gunicorn_gthread(place: int) -> list[Any]:
    return [*gunicorn_sync(place), "--threads", "8"]


def gunicorn_worker(place: int | str, *options: str) -> list[Any]:
    bind = f"unix:{place}" if isinstance(place, str) else f"127.0.0.1:{place}"
    return [program("gunicorn"), "-k", "phoenix.GunicornWorker", "app:app", "--bind", bind, *options]


def waitress(place: int) -> list[Any]:
    return [program("waitress-serve"), "--listen", f"127.0.0.1:{place}", "app:app.wsgi"]


def validated(place: int) -> list[Any]:
    return [sys.executable, DOORS / "validated.py", str(place)]


def own(place: int) -> list[Any]:
    return [*OWN_SERVER, "--port", str(place)]


OWN = [own, gunicorn_worker]
ASGI = [uvicorn, hypercorn, granian]
WSGI = [gunicorn_sync, gunicorn_gthread, waitress, validated]


@pytest.fixture(scope="module")
def serve(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., Program]]:
    """Start the app behind a door, once for all tests that ask for it."""
    folder, programs = tmp_path_factory.mktemp("doors"), {}

    def start(door: Any) -> Program:
        if door not in programs:
            port = free_port()
            notes = {"DOORS_NOTES": str(folder / door.__name__), "PYTHONPATH": str(ROOT)}
            programs[door] = Program(door(port), port, folder / f"{door.__name__}.log", notes)
        programs[door].wait_until_listening()
        return programs[door]

    yield start
    for each in programs.values():
        each.kill()


@pytest.fixture(params=[*OWN, *ASGI, *WSGI], ids=lambda door: door.__name__)
def server(request: pytest.FixtureRequest, serve: Any) -> Program:
    started: Program = serve(request.param)
    return started


def test_a_request_comes_in_whole(server: Program) -> None:
    answer = server.get("/pages/caf%C3%A9?a=1&b=%20", host="example.com:8080", cookie="a=b")
    found = json.loads(answer.body)
    assert answer.status == 200
    assert found["path"] == "/pages/caf%C3%A9"
    assert found["query"] == "a=1&b=%20"
    assert found["params"] == {"page": "café", "a": "1", "b": " "}
    assert (found["scheme"], found["host"], found["port"]) == ("http", "example.com", 8080)
    assert found["remote_ip"] == "127.0.0.1"


@pytest.mark.parametrize("door", [own, *ASGI, gunicorn_sync, waitress], ids=lambda door: door.__name__)
def test_a_slash_in_a_segment_is_told_from_one_between_segments(serve: Any, door: Any) -> None:
    assert json.loads(serve(door).get("/pages/a%2Fb").body)["params"] == {"page": "a/b"}


def test_forms_and_json_are_parsed(server: Program) -> None:
    form = {"content-type": "application/x-www-form-urlencoded"}
    answer = server.send("POST", "/pages/a", "user[name]=Ann", form)
    assert json.loads(answer.body)["params"] == {"page": "a", "user": {"name": "Ann"}}
    answer = server.send("POST", "/pages/a", '{"n": [1]}', {"content-type": "application/json"})
    assert json.loads(answer.body)["params"] == {"page": "a", "n": [1]}


def test_an_upload_is_parsed(server: Program) -> None:
    body = b'--b\r\ncontent-disposition: form-data; name="t"\r\n\r\n' + b"x" * 200_000 + b"\r\n--b--\r\n"
    answer = server.send("POST", "/pages/a", body, {"content-type": "multipart/form-data; boundary=b"})
    assert json.loads(answer.body)["params"] == {"page": "a", "t": "x" * 200_000}


def test_a_body_over_the_limit_is_refused(server: Program) -> None:
    headers = {"content-type": "application/x-www-form-urlencoded", "content-length": "1000002"}
    body = "a=" + "b" * 1_000_000 if "waitress" in str(server.process.args) else ""  # it waits for all of it
    assert server.send("POST", "/pages/a", body, headers).status == 413


def test_a_body_streams_in(server: Program) -> None:
    answer = server.send("POST", "/count", b"x" * 3_000_000, {"content-type": "application/octet-stream"})
    assert (answer.status, answer.text.split()[0]) == (200, "3000000")


@pytest.mark.parametrize("door", [own, *ASGI, *WSGI[:-1]], ids=lambda door: door.__name__)
def test_a_chunked_body_streams_in_and_out(serve: Any, door: Any) -> None:
    parts = [bytes([number]) * 70_000 for number in range(20)]
    answer = serve(door).send("POST", "/echo", iter(parts), {"content-type": "application/octet-stream"}, chunked=True)
    assert (answer.status, answer.body) == (200, b"".join(parts))


def test_a_body_of_known_length_streams_in_and_out_through_an_async_def(server: Program) -> None:
    sent = os.urandom(1_000_000)
    answer = server.send("PUT", "/echo", sent, {"content-type": "application/octet-stream"})
    assert (answer.status, answer.body) == (200, sent)


def test_the_session_and_several_cookies_come_and_go(server: Program) -> None:
    first = server.get("/visits")
    assert first.text == "1"
    assert len(first.headers["set-cookie"]) == 2
    cookies = "; ".join(cookie.partition(";")[0] for cookie in first.headers["set-cookie"])
    assert server.get("/visits", cookie=cookies).text == "2"


def test_an_async_def_answers(server: Program) -> None:
    assert server.get("/later").text.startswith("later, ")


def test_generators_stream(server: Program) -> None:
    assert server.get("/generated").text.startswith("one ")
    assert server.get("/generated_later").text == "one two"


def test_chunks_are_pushed(server: Program) -> None:
    assert server.get("/pushed").text == "0,1,2,"


@pytest.mark.parametrize(
    "path", ["/pages/a", "/file", "/app.py", "/generated", "/generated_later", "/pushed", "/later"]
)
def test_a_head_request_gets_the_headers_alone(server: Program, path: str) -> None:
    whole, head = server.get(path), server.send("HEAD", path)
    assert (head.status, head.body) == (200, b"")
    assert head.headers["content-type"] == whole.headers["content-type"]


def test_files_are_sent_whole_and_in_part(server: Program, tmp_path: Path) -> None:
    source = (DOORS / "app.py").read_bytes()
    assert server.get("/file").body == source
    answer = server.get("/app.py", range="bytes=5-9")
    assert (answer.status, answer.body) == (206, source[5:10])
    large = tmp_path / "large"
    large.write_bytes(os.urandom(1_000_000))
    answer = server.get(f"/large?path={large}")
    assert answer.body == large.read_bytes()[5:]
    assert answer.headers["content-length"] == ["999995"]


def test_a_response_without_a_body_has_none(server: Program) -> None:
    answer = server.get("/nothing")
    assert (answer.status, answer.body) == (204, b"")
    assert "content-length" not in answer.headers or answer.headers["content-length"] == ["0"]


def test_a_file_that_did_not_change_is_not_sent_again(server: Program) -> None:
    etag = server.get("/app.py").headers["etag"][0]
    answer = server.get("/app.py", **{"if-none-match": etag})
    assert (answer.status, answer.body) == (304, b"")


def test_an_error_becomes_a_page(server: Program) -> None:
    assert server.get("/fail").status == 500
    assert server.get("/unknown").status == 404
    assert "it fails, as it should" in server.log


def test_a_response_that_breaks_off_does_not_look_complete(server: Program) -> None:
    connection = server.connection()
    connection.request("GET", "/break_off")
    answer = connection.getresponse()
    if answer.chunked:
        with pytest.raises(http.client.IncompleteRead):
            answer.read()
    else:  # the end of the connection is the end: nobody can tell
        assert answer.read() == b"begun"
    connection.close()


def test_many_requests_at_once_get_their_own_answers(server: Program) -> None:
    with ThreadPoolExecutor(8) as pool:
        found = pool.map(lambda number: json.loads(server.get(f"/pages/{number}").body)["params"]["page"], range(40))
        assert list(found) == [str(number) for number in range(40)]


# --- ASGI ---------------------------------------------------------------------------------------


@pytest.fixture(params=ASGI, ids=lambda door: door.__name__)
def asgi(request: pytest.FixtureRequest, serve: Any) -> Program:
    started: Program = serve(request.param)
    return started


@pytest.fixture(params=[*OWN, *ASGI], ids=lambda door: door.__name__)
def speaker(request: pytest.FixtureRequest, serve: Any) -> Program:
    """A server that speaks WebSocket."""
    started: Program = serve(request.param)
    return started


def open_websocket(server: Program, path: str, **options: Any) -> ClientConnection:
    return connect(f"ws://127.0.0.1:{server.place}{path}", open_timeout=TIMEOUT, close_timeout=TIMEOUT, **options)


def test_a_plain_websocket_echoes_text_and_bytes(speaker: Program) -> None:
    with open_websocket(speaker, "/plain", subprotocols=["chat.v2", "chat.v1"]) as ws:
        assert ws.subprotocol == "chat.v1"
        assert ws.recv(TIMEOUT) == "chat.v1 /plain"
        for message in ("hé", b"\x00\xff", "x" * 200_000, ""):
            ws.send(message)
            assert ws.recv(TIMEOUT) == message


def test_a_websocket_without_subprotocols_has_none(speaker: Program) -> None:
    with open_websocket(speaker, "/plain") as ws:
        assert ws.subprotocol is None
        assert ws.recv(TIMEOUT) == "None /plain"


def test_the_app_closes_a_websocket_with_a_code_and_a_reason(speaker: Program) -> None:
    with open_websocket(speaker, "/plain") as ws:
        ws.recv(TIMEOUT)
        ws.send("close")
        with pytest.raises(ConnectionClosed) as closed:
            ws.recv(TIMEOUT)
        assert closed.value.rcvd is not None
        assert (closed.value.rcvd.code, closed.value.rcvd.reason) == (4001, "as you wish")


@pytest.mark.parametrize("door", [own, uvicorn, granian], ids=lambda door: door.__name__)  # hypercorn tells 1006
def test_the_app_is_told_the_code_with_which_the_client_closes(run: Any, notes: Any, door: Any) -> None:
    port = free_port()
    server = run(door(port), port)
    with open_websocket(server, "/plain") as ws:
        ws.recv(TIMEOUT)
        ws.close(4002, "bye")
    server.wait_for(lambda: "closed:4002" in notes(), f"the app was not told: {notes()}")


@pytest.mark.parametrize("path", ["/plain", "/ws/websocket?vsn=2.0.0"])
def test_a_page_of_another_site_may_not_connect(speaker: Program, path: str) -> None:
    with pytest.raises(InvalidStatus) as refused:
        open_websocket(speaker, path, origin="https://evil.example").close()
    assert refused.value.response.status_code == 403
    with open_websocket(speaker, path, origin=f"http://127.0.0.1:{speaker.place}"):
        pass


def test_a_websocket_to_an_unknown_path_is_refused(speaker: Program) -> None:
    with pytest.raises(InvalidStatus) as refused:
        open_websocket(speaker, "/unknown").close()
    assert refused.value.response.status_code in (403, 404)  # not every server can send more than 403


def test_an_ordinary_request_for_a_websocket_is_told_to_upgrade(speaker: Program) -> None:
    assert speaker.get("/plain").status == 426


class Chat:
    """A client of channels that speaks as phoenix.js does (V2)."""

    def __init__(self, server: Program) -> None:
        self.ws = open_websocket(server, "/ws/websocket?vsn=2.0.0", subprotocols=["phoenix"])
        self.ref = 0

    def push(self, topic: str, event: str, payload: Any) -> str:
        self.ref += 1
        ref = str(self.ref)
        self.ws.send(json.dumps(["1", ref, topic, event, payload]))
        return ref

    def recv(self) -> list[Any]:
        found: list[Any] = json.loads(self.ws.recv(TIMEOUT))
        return found

    def join(self, topic: str) -> Any:
        ref = self.push(topic, "phx_join", {})
        answer = self.recv()
        assert answer[1:4] == [ref, topic, "phx_reply"]
        return answer[4]


def test_a_chat_over_channels(speaker: Program) -> None:
    ann, bob = Chat(speaker), Chat(speaker)
    with ann.ws, bob.ws:
        assert ann.join("rooms:secret") == {"status": "error", "response": {"reason": "unauthorized"}}
        for client in (ann, bob):
            assert client.join("rooms:lobby") == {"status": "ok", "response": {"joined": "lobby"}}
        ref = ann.push("rooms:lobby", "new:msg", {"body": "hi"})
        said = [None, None, "rooms:lobby", "new:msg", {"body": "hi"}]
        assert bob.recv() == said
        assert sorted([ann.recv(), ann.recv()], key=lambda message: str(message[1])) == [
            ["1", ref, "rooms:lobby", "phx_reply", {"status": "ok", "response": {"body": "hi"}}], said,
        ]  # fmt: skip
        bob.push("phoenix", "heartbeat", {})
        assert bob.recv()[3:] == ["phx_reply", {"status": "ok", "response": {}}]


def test_binary_messages_of_channels(speaker: Program) -> None:
    chat = Chat(speaker)
    with chat.ws:
        chat.join("rooms:lobby")
        header = bytes([0, 1, 1, 11, 5])
        chat.ws.send(header + b"1" + b"7" + b"rooms:lobby" + b"bytes" + b"\x00\xff")
        answer = chat.ws.recv(TIMEOUT)
        assert answer == bytes([1, 1, 1, 11, 2]) + b"1" + b"7" + b"rooms:lobby" + b"ok" + b"\xff\x00"


def test_the_older_serializers(speaker: Program) -> None:
    with open_websocket(speaker, "/ws/websocket?vsn=1.0.0") as ws:
        ws.send(json.dumps({"topic": "rooms:lobby", "event": "phx_join", "payload": {}, "ref": "1", "join_ref": "1"}))
        assert json.loads(ws.recv(TIMEOUT))["payload"] == {"status": "ok", "response": {"joined": "lobby"}}
    with open_websocket(speaker, "/ws") as ws:
        ws.send(json.dumps({"channel": "rooms", "topic": "lobby", "event": "join", "message": {}}))
        ws.send(json.dumps({"channel": "rooms", "topic": "lobby", "event": "new:msg", "message": {"body": "hi"}}))
        while (found := json.loads(ws.recv(TIMEOUT)))["event"] != "new:msg":
            pass
        assert found["message"] == {"body": "hi"}


@pytest.mark.parametrize("door", [*OWN, *ASGI, gunicorn_gthread, waitress], ids=lambda door: door.__name__)
def test_channels_over_long_poll(serve: Any, door: Any) -> None:
    server = serve(door)
    url = "/ws/longpoll?vsn=2.0.0"
    token = json.loads(server.get(url).body)["token"]
    url = f"{url}&token={token}"
    join = json.dumps(["1", "1", "rooms:lobby", "phx_join", {}])
    assert json.loads(server.send("POST", url, join, {"content-type": "application/json"}).body) == {"status": 200}
    found = json.loads(server.get(url).body)
    assert found["status"] == 200
    assert json.loads(found["messages"][0])[3:] == ["phx_reply", {"status": "ok", "response": {"joined": "lobby"}}]
    with ThreadPoolExecutor(1) as pool:  # what is said while a poll waits answers it
        waiting = pool.submit(server.get, url)
        said = json.dumps(["1", "2", "rooms:lobby", "new:msg", {"body": "hi"}])
        server.send("POST", url, said, {"content-type": "application/json"})
        events = [json.loads(message)[3] for message in json.loads(waiting.result(TIMEOUT).body)["messages"]]
    assert events and set(events) <= {"new:msg", "phx_reply"}


@pytest.mark.parametrize("door", [*OWN, *ASGI], ids=lambda door: door.__name__)
def test_children_and_open_channels_end_with_the_server(run: Any, notes: Any, door: Any) -> None:
    if door is hypercorn and sys.version_info >= (3, 12):
        pytest.skip("hypercorn 0.18 waits for open WebSockets before it tells anybody to stop")
    port = free_port()
    server = run(door(port), port)
    assert server.get("/pages/a").status == 200
    assert notes() == ["started"]
    chat = Chat(server)
    with chat.ws:
        chat.join("rooms:lobby")
        server.process.send_signal(signal.SIGTERM)
        with pytest.raises(ConnectionClosed) as closed:
            chat.recv()
    assert closed.value.rcvd is None or closed.value.rcvd.code in (1000, 1001, 1012, 1011)  # what hypercorn says
    server.process.wait(TIMEOUT)
    assert "started" in notes() and "stopped" in notes(), server.log
    assert any(note.startswith("left:") for note in notes())


@pytest.mark.parametrize("door", [*OWN, *ASGI], ids=lambda door: door.__name__)
def test_a_stream_ends_when_its_client_has_gone(run: Any, notes: Any, door: Any) -> None:
    port = free_port()
    server = run(door(port), port)
    connection = server.connection()
    connection.request("GET", "/forever")
    answer = connection.getresponse()
    assert answer.read(5) == b"tick\n"
    assert notes()[-1] == "streaming"
    answer.close()
    connection.close()
    server.wait_for(lambda: notes()[-1] == "streamed", "the handler goes on without its client")


@pytest.mark.parametrize("door", [*OWN, *ASGI, gunicorn_sync, gunicorn_gthread], ids=lambda door: door.__name__)
def test_server_sent_events_keep_beating_until_the_client_has_gone(run: Any, notes: Any, door: Any) -> None:
    port = free_port()
    server = run(door(port), port)
    connection = server.connection()
    connection.request("GET", "/events")
    answer = connection.getresponse()
    assert answer.getheader("content-type") == "text/event-stream; charset=utf-8"
    lines = [answer.readline() for _ in range(7)]
    assert lines == [b"event: first\n", b'data: {"n":1}\n', b"\n", b":\n", b"\n", b":\n", b"\n"]
    answer.close()
    connection.close()
    server.wait_for(lambda: notes()[-1] == "streamed", "the handler goes on without its client")


def test_asgi_under_a_root_path(run: Any) -> None:
    port = free_port()
    server = run([*uvicorn(port), "--root-path", "/below"], port)
    found = json.loads(server.get("/pages/a").body)
    assert (found["path"], found["script_name"], found["url"]) == ("/pages/a", ["below"], "/below/pages/x")


def test_without_a_lifespan_the_children_start_with_the_first_request(run: Any, notes: Any) -> None:
    port = free_port()
    server = run([*uvicorn(port), "--lifespan", "off"], port)
    assert notes() == []
    assert server.get("/pages/a").status == 200
    assert notes() == ["started"]


# --- WSGI ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("door", [gunicorn_sync, gunicorn_gthread, waitress], ids=lambda door: door.__name__)
def test_plain_functions_run_in_the_thread_of_the_wsgi_server(serve: Any, door: Any) -> None:
    server = serve(door)
    name = {gunicorn_sync: "MainThread", gunicorn_gthread: "ThreadPoolExecutor-", waitress: "waitress-"}[door]
    assert json.loads(server.get("/pages/a").body)["thread"].startswith(name)
    assert server.get("/generated").text.startswith(f"one {name}")
    counted = server.send("POST", "/count", b"abc", {"content-type": "application/octet-stream"})
    assert counted.text.startswith(f"3 {name}")


@pytest.mark.parametrize("door", WSGI, ids=lambda door: door.__name__)
def test_a_websocket_is_answered_with_the_doors_it_may_use(serve: Any, door: Any) -> None:
    answer = serve(door).get("/plain", **UPGRADE)
    assert answer.status == 501
    assert "GunicornWorker" in answer.text and "uvicorn app:app" in answer.text


UPGRADE = {
    "upgrade": "websocket", "connection": "Upgrade", "sec-websocket-version": "13",
    "sec-websocket-key": "dGhlIHNhbXBsZSBub25jZQ==",
}  # fmt: skip


@pytest.mark.parametrize("options", [[], ["--workers", "2", "--threads", "2"]])
def test_a_poll_where_it_cannot_work_is_told_so(run: Any, options: list[str]) -> None:
    port = free_port()
    server = run([*gunicorn_sync(port), *options], port)
    answer = server.get("/ws/longpoll?vsn=2.0.0")
    assert answer.status == 501
    assert "one process with several threads" in answer.text


@pytest.mark.parametrize("door", [gunicorn_sync, waitress], ids=lambda door: door.__name__)
def test_children_run_beside_a_wsgi_server(run: Any, notes: Any, door: Any) -> None:
    port = free_port()
    server = run(door(port), port)
    assert server.get("/later").status == 200
    assert notes() == ["started"]
    server.process.send_signal(signal.SIGTERM if door is gunicorn_sync else signal.SIGINT)
    server.process.wait(TIMEOUT)
    assert notes() == ["started", "stopped"], server.log


def test_the_validator_of_wsgi_has_nothing_to_complain_of(serve: Any) -> None:
    server = serve(validated)
    for path in ("/pages/a", "/later", "/generated", "/pushed", "/file", "/nothing", "/fail", "/visits"):
        server.get(path)
    assert "AssertionError" not in server.log and "Warning" not in server.log, server.log


# --- Guests: apps of others behind `forward` ----------------------------------------------------


def with_guests(door: Any) -> Any:
    """The same door, for tests/doors/guests.py."""

    def command(place: int) -> list[Any]:
        return [word.replace("app:", "guests:") if isinstance(word, str) else word for word in door(place)]

    command.__name__ = f"{door.__name__}_guests"
    return command


GUESTS = {door: with_guests(door) for door in (own, gunicorn_worker, *ASGI, gunicorn_gthread, waitress)}


@pytest.fixture(params=GUESTS, ids=lambda door: door.__name__)
def host(request: pytest.FixtureRequest, serve: Any) -> Program:
    started: Program = serve(GUESTS[request.param])
    return started


@pytest.fixture(params=[own, gunicorn_worker, *ASGI], ids=lambda door: door.__name__)
def speaking_host(request: pytest.FixtureRequest, serve: Any) -> Program:
    started: Program = serve(GUESTS[request.param])
    return started


def test_starlette_behind_a_route(host: Program) -> None:
    headers = {"host": "example.com", "x-test": "yes", "content-type": "text/plain"}
    answer = host.send("POST", "/starlette/show/caf%C3%A9?a=1", "the body", headers)
    assert answer.status == 200, answer.text
    assert answer.headers["x-guest"] == ["starlette"]
    assert json.loads(answer.body) == {
        "method": "POST", "url": "http://example.com/starlette/show/café?a=1", "path": "/starlette/show/café",
        "root_path": "/starlette", "params": {"name": "café"}, "state": "a pool", "body": "the body",
        "link": "http://example.com/starlette/show/x", "header": "yes", "client": "127.0.0.1",
    }  # fmt: skip
    assert json.loads(host.get("/starlette/deep/show/a").body)["root_path"] == "/starlette/deep"
    assert len(host.get("/starlette/cookies").headers["set-cookie"]) == 2
    assert host.get("/starlette/stream").text == "0,1,2,"
    assert host.send("POST", "/starlette/count", b"x" * 2_000_000).text == "2000000"
    assert host.get("/starlette/unknown").text == "Not Found"
    assert host.get("/starlette/fail").status == 500
    head = host.send("HEAD", "/starlette/show/a")
    assert (head.status, head.body) == (200, b"")


def test_flask_and_django_behind_routes(host: Program) -> None:
    form = {"content-type": "application/x-www-form-urlencoded"}
    answer = host.send("POST", "/flask/show/ann", "a=1", form)
    assert json.loads(answer.body) == {"name": "ann", "root": "/flask", "form": {"a": "1"}, "link": "/flask/show/x"}
    answer = host.send("POST", "/django/show/ann", "a=1", {**form, "host": "example.com"})
    assert json.loads(answer.body) == {
        "name": "ann", "form": {"a": "1"}, "path": "/django/show/ann", "link": "http://example.com/django/show/ann"
    }  # fmt: skip
    assert host.get("/django/plain").text == "plain"


def test_an_asgi_application_without_a_framework(host: Program) -> None:
    assert host.get("/raw/a%2Fb").text == "/raw/a%2Fb" or "waitress" in str(host.process.args)
    assert host.get("/silent").status == 500
    assert "the ASGI application guests.silent ended without a response" in host.log


def test_a_websocket_of_starlette(speaking_host: Program) -> None:
    with open_websocket(speaking_host, "/starlette/echo", subprotocols=["chat.v1"]) as ws:
        assert ws.subprotocol == "chat.v1"
        assert ws.response is not None
        is_granian = "granian" in speaking_host.process.args[0]
        assert is_granian or ws.response.headers["x-guest"] == "starlette"  # granian does not send them
        assert json.loads(ws.recv(TIMEOUT)) == {"path": "/starlette/echo", "state": "a pool"}
        for message in ("hé", b"\x00\xff", "x" * 200_000):
            ws.send(message)
            assert ws.recv(TIMEOUT) == message


@pytest.mark.parametrize("door", [own, gunicorn_worker, uvicorn, hypercorn], ids=lambda door: door.__name__)
def test_a_guest_closes_a_websocket(serve: Any, door: Any) -> None:  # granian cannot while it waits for a message
    with open_websocket(serve(GUESTS[door]), "/starlette/echo") as ws:
        ws.recv(TIMEOUT)
        ws.send("close")
        with pytest.raises(ConnectionClosed) as closed:
            ws.recv(TIMEOUT)
        assert closed.value.rcvd is not None
        assert (closed.value.rcvd.code, closed.value.rcvd.reason) == (4001, "as you wish")


def test_a_guest_refuses_a_websocket(speaking_host: Program) -> None:
    with pytest.raises(InvalidStatus) as refused:
        open_websocket(speaking_host, "/starlette/echo?refused=1").close()
    assert refused.value.response.status_code == 403
    with pytest.raises(InvalidStatus) as refused:
        open_websocket(speaking_host, "/starlette/echo?denied=1").close()
    assert refused.value.response.status_code in (402, 403)  # not every server can send more than 403


@pytest.mark.parametrize("door", [gunicorn_gthread, waitress], ids=lambda door: door.__name__)
def test_a_websocket_of_a_guest_is_answered_with_the_doors_it_may_use(serve: Any, door: Any) -> None:
    answer = serve(GUESTS[door]).get("/starlette/echo", **UPGRADE)
    assert answer.status == 501
    assert "uvicorn app:app" in answer.text


@pytest.mark.parametrize("door", [own, gunicorn_worker, uvicorn], ids=lambda door: door.__name__)
def test_a_guest_lives_as_long_as_the_server(run: Any, notes: Any, door: Any) -> None:
    port = free_port()
    server = run(GUESTS[door](port), port)
    assert server.get("/hello").text == "hello"
    assert notes() == ["guest-started"]
    with open_websocket(server, "/starlette/echo") as ws:
        ws.recv(TIMEOUT)
        ws.close(4002)
    server.wait_for(lambda: "guest-left:4002" in notes(), "the guest is not told that its client left")
    connection = server.connection()
    connection.request("GET", "/starlette/forever")
    answer = connection.getresponse()
    assert answer.read(5) == b"tick\n"
    answer.close()
    connection.close()
    server.wait_for(lambda: notes()[-1] == "streamed", "the guest goes on without its client")
    server.process.send_signal(signal.SIGTERM)
    server.process.wait(TIMEOUT)
    assert notes()[-1] == "guest-stopped", server.log


def test_a_guest_that_cannot_start_stops_the_server_with_its_reason(run: Any, tmp_path: Path) -> None:
    (tmp_path / "broken.py").write_text(
        "import phoenix\n"
        "async def guest(scope, receive, send):\n"
        "    await receive()\n"
        "    await send({'type': 'lifespan.startup.failed', 'message': 'no database'})\n"
        "class Router(phoenix.Router):\n"
        "    phoenix.forward('/guest', guest)\n"
        "app = phoenix.Endpoint(Router)\n"
    )
    port = free_port()
    command = [sys.executable, ROOT / "phoenix.py", "server", "broken:app", "--port", str(port)]
    server = run(command, port, wait=False, PYTHONPATH=f"{tmp_path}")
    assert server.process.wait(TIMEOUT) == 1
    assert "the ASGI application broken.guest failed at its startup: no database" in server.log


# --- What other servers let pass ------------------------------------------------------------------
#
# In this process: the servers above would refuse most of it, or not all of their versions let it pass.


def bare_app() -> Any:
    async def received(conn: Any, params: Any) -> Any:
        return conn.json([(await conn.body.read()).decode(), conn.host, conn.request_path])

    async def echo(ws: Any) -> None:
        async for message in ws:
            await ws.send(message)

    class BareRouter(phoenix.Router):
        get("/", received)
        post("/*rest", received, as_="rest")
        websocket("/echo", echo)

    return phoenix.Endpoint(BareRouter, env="test", config=False, parsers=False, static=False)


def ask_asgi(app: Any, *messages: Any, **scope: Any) -> list[Any]:
    """Return what the app sends when it receives *messages*; one that is an exception is raised."""
    sent: list[Any] = []
    waiting = list(messages)

    async def receive() -> Any:
        if not waiting:
            await asyncio.get_running_loop().create_future()
        if isinstance(waiting[0], Exception):
            raise waiting[0]
        return waiting.pop(0)

    async def send(message: Any) -> None:
        sent.append(message)

    about = {
        "type": "http", "http_version": "1.1", "method": "GET", "path": "/", "query_string": b"",
        "headers": [(b"host", b"a.test")], "client": ("127.0.0.1", 1), "server": ("a.test", 80), **scope,
    }  # fmt: skip

    async def run() -> None:
        await asyncio.wait_for(app(about, receive, send), TIMEOUT)
        await app.server.stop()

    asyncio.run(run())
    return sent


def ask_wsgi(app: Any, **environ: str) -> tuple[str, bytes]:
    found: dict[str, Any] = {"wsgi.input": io.BytesIO(b"hello")}
    setup_testing_defaults(found)
    found.update(environ)
    statuses: list[str] = []
    context = contextvars.copy_context()  # the request's id must not stay behind in the thread of the tests
    body = b"".join(context.run(app.wsgi, found, lambda status, headers, error=None: statuses.append(status)))
    return statuses[0], body


def test_a_body_comes_in_over_http2_without_an_announcement() -> None:
    body = {"type": "http.request", "body": b"hello", "more_body": False}
    answer = ask_asgi(bare_app(), body, http_version="2", method="POST")
    assert json.loads(answer[1]["body"])[0] == "hello"


def test_children_that_were_started_again_are_stopped_with_the_asgi_server() -> None:
    log: list[str] = []

    class Child:
        def start(self) -> None:
            log.append("start")

        def stop(self) -> None:
            log.append("stop")

    async def live() -> None:
        told, sent = asyncio.Event(), asyncio.Event()

        async def receive() -> dict[str, Any]:
            if not log:
                return {"type": "lifespan.startup"}
            await told.wait()
            return {"type": "lifespan.shutdown"}

        async def send(message: Any) -> None:
            sent.set()

        lifespan = asyncio.ensure_future(app({"type": "lifespan"}, receive, send))
        await asyncio.wait_for(sent.wait(), TIMEOUT)
        await app.server.stop()  # as it does when a child gives up
        await app._behind_door()
        told.set()
        await asyncio.wait_for(lifespan, TIMEOUT)

    app = phoenix.Endpoint(lambda conn: conn.text(""), env="prod", children=[Child()])
    asyncio.run(live())
    assert log == ["start", "stop", "start", "stop"]


@pytest.mark.parametrize("hosts", [[b"a b"], [b"a.test", b"b.test"]])
def test_a_request_with_a_wrong_host_is_refused_by_asgi(hosts: list[bytes]) -> None:
    headers = [(b"host", host) for host in hosts]
    assert [message.get("status") for message in ask_asgi(bare_app(), headers=headers)] == [400, None]
    opening = {"type": "websocket.connect"}
    assert ask_asgi(bare_app(), opening, type="websocket", headers=headers) == [{"type": "websocket.close"}]


@pytest.mark.parametrize("environ", [{"HTTP_HOST": "a b"}, {"CONTENT_LENGTH": "five"}])
def test_a_request_with_a_wrong_host_or_length_is_refused_by_wsgi(environ: dict[str, str]) -> None:
    assert ask_wsgi(bare_app(), **environ)[0] == "400 Bad Request"


@pytest.mark.parametrize(
    "name, port, expected",
    [("a", "8000", b"a 8000"), ("/run/app.sock", "", b"localhost 80"), ("waitress", "/run/app.sock", b"localhost 80")],
)
def test_without_a_host_it_is_that_of_the_server_unless_this_has_a_unix_socket(
    name: str, port: str, expected: bytes
) -> None:
    app = phoenix.Endpoint(lambda conn: conn.text(f"{conn.host} {conn.port}"), env="prod")
    assert ask_wsgi(app, HTTP_HOST="", SERVER_NAME=name, SERVER_PORT=port) == ("200 OK", expected)


@pytest.mark.parametrize("status, line", [(404, "404 Not Found"), (299, "299 ")])
def test_a_status_without_a_name_has_no_phrase_in_wsgi(status: int, line: str) -> None:
    assert ask_wsgi(phoenix.Endpoint(lambda conn: conn.send_resp(status, ""), env="prod"))[0] == line


def test_control_characters_of_a_path_do_not_reach_the_log() -> None:
    path = "/a\x1b[31m\x0bx"
    _, body = ask_wsgi(bare_app(), REQUEST_METHOD="POST", REQUEST_URI=path, PATH_INFO=path)
    assert json.loads(body)[2] == "/a%1B%5B31m%0Bx"
    answer = ask_asgi(bare_app(), method="POST", path=path, raw_path=path.encode())
    assert json.loads(answer[1]["body"])[2] == "/a%1B%5B31m%0Bx"


def test_a_websocket_is_refused_with_what_its_asgi_server_understands() -> None:
    opening = {"type": "websocket.connect"}
    assert ask_asgi(bare_app(), opening, type="websocket", path="/nowhere") == [{"type": "websocket.close"}]
    extensions: dict[str, Any] = {"websocket.http.response": {}}
    answer = ask_asgi(bare_app(), opening, type="websocket", path="/nowhere", extensions=extensions)
    assert (answer[0]["type"], answer[0]["status"]) == ("websocket.http.response.start", 405)


def test_a_websocket_ends_when_its_asgi_server_fails() -> None:
    with pytest.raises(OSError, match="the server broke"):
        ask_asgi(bare_app(), {"type": "websocket.connect"}, OSError("the server broke"), type="websocket", path="/echo")


def test_uploads_are_removed_when_the_answer_fails_under_wsgi() -> None:
    removed: list[str] = []

    def fail(conn: Any, params: Any) -> Any:
        conn._after = [lambda: removed.append("upload")]
        raise KeyboardInterrupt

    class FailingRouter(phoenix.Router):
        get("/", fail)

    app = phoenix.Endpoint(FailingRouter, env="test", config=False)
    with pytest.raises(KeyboardInterrupt):
        ask_wsgi(app)
    assert removed == ["upload"]


# --- Guests that speak WebSocket --------------------------------------------------------------------


def shake_hands(guest: Any, check: Callable[[Any, Any], Any]) -> bytes:
    """Return the head of what the own server answers for *guest*, once *check* of reader and writer has."""

    class GuestRouter(phoenix.Router):
        forward("/", guest)

    async def run() -> Any:
        server = phoenix.Endpoint(GuestRouter, env="test", config=False).make_server(port=0)
        await server.start()
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
        writer.write(
            b"GET / HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\nConnection: upgrade\r\nSec-WebSocket-Version: 13\r\n"
            b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
        )
        try:
            return await asyncio.wait_for(check(reader, writer), TIMEOUT)
        finally:
            writer.close()
            await server.stop()

    return bytes(asyncio.run(run()))


async def head_of(reader: Any, writer: Any) -> bytes:
    return bytes(await reader.readuntil(b"\r\n\r\n"))


def accepting(*headers: tuple[bytes, bytes]) -> Any:
    async def guest(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "websocket":
            await receive()
            await send({"type": "websocket.accept", "headers": headers})
            await receive()

    return guest


def test_a_guest_sets_two_cookies_with_its_websocket() -> None:
    head = shake_hands(accepting((b"set-cookie", b"a=1"), (b"set-cookie", b"b=2")), head_of)
    assert b"set-cookie: a=1\r\nset-cookie: b=2\r\n" in head


def test_a_header_of_a_guest_cannot_begin_another_in_a_handshake() -> None:
    head = shake_hands(accepting((b"x-name", b"1\r\nx-evil: 2")), head_of)
    assert head.startswith(b"HTTP/1.1 500 ") and b"x-evil" not in head


def test_a_guest_that_refused_a_websocket_is_told_that_there_is_none() -> None:
    async def guest(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "websocket":
            await receive()
            await send({"type": "websocket.close"})
            told.append((await receive())["type"])
            ended.set()

    async def check(reader: Any, writer: Any) -> bytes:
        head = await head_of(reader, writer)
        await ended.wait()
        return head

    told: list[str] = []
    ended = asyncio.Event()
    assert shake_hands(guest, check).startswith(b"HTTP/1.1 403 ")
    assert told == ["websocket.disconnect"]


def test_a_guest_that_thinks_about_a_websocket_is_cancelled_when_its_client_leaves() -> None:
    async def guest(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "websocket":
            begun.set()
            try:
                await asyncio.get_running_loop().create_future()
            finally:
                ended.set()

    async def check(reader: Any, writer: Any) -> bytes:
        await begun.wait()
        writer.transport.abort()
        await ended.wait()
        return b""

    begun, ended = asyncio.Event(), asyncio.Event()
    shake_hands(guest, check)


def test_a_guest_of_two_endpoints_is_started_with_the_first_and_stopped_with_the_last() -> None:
    async def guest(scope: Any, receive: Any, send: Any) -> None:
        while scope["type"] == "lifespan":
            event = (await receive())["type"]
            notes.append(event)
            await send({"type": f"{event}.complete"})

    class GuestRouter(phoenix.Router):
        forward("/", guest)

    async def run() -> None:
        servers = [phoenix.Endpoint(GuestRouter, env="test", config=False).make_server(port=0) for _ in range(2)]
        for server in servers:
            await server.start()
        for server in servers:
            await server.stop()
            notes.append("stopped")

    notes: list[str] = []
    asyncio.run(asyncio.wait_for(run(), TIMEOUT))
    assert notes == ["lifespan.startup", "stopped", "lifespan.shutdown", "stopped"]


# --- gunicorn -----------------------------------------------------------------------------------


def pid_of(server: Program) -> int:
    return int(json.loads(server.get("/pages/a").body)["pid"])


def test_gunicorn_binds_a_unix_socket_for_this_server(run: Any, tmp_path: Path) -> None:
    path = str(tmp_path / "app.sock")
    server = run(gunicorn_worker(path), path)
    assert server.get("/pages/a").status == 200
    assert server.stop() == 0


@pytest.mark.skipif(SYSTEMD is None, reason="needs systemd-socket-activate: apt-get install systemd")
def test_gunicorn_takes_the_socket_of_systemd(run: Any, tmp_path: Path) -> None:
    path = str(tmp_path / "app.sock")
    command = gunicorn_worker(path)
    del command[(at := command.index("--bind")) : at + 2]
    server = run([SYSTEMD, "-l", path, "-E", f"PYTHONPATH={ROOT}", *command], path)  # it passes on nothing of its own
    assert server.get("/pages/a").status == 200
    assert f"Listening at: unix:{path}" in server.log
    assert server.stop() == 0


class Load:
    """Requests from several threads, over connections that are kept and over new ones, until it is told to stop."""

    def __init__(self, server: Program) -> None:
        self.server = server
        self.pids: set[int] = set()
        self.errors: list[str] = []
        self.stop = threading.Event()
        self.threads = [threading.Thread(target=self.work, args=(bool(at % 2),)) for at in range(4)]

    def work(self, keeps: bool) -> None:
        connection = self.server.connection()
        while not self.stop.is_set():
            try:
                connection.request("GET", "/pages/a")
                answer = connection.getresponse()
                self.pids.add(json.loads(answer.read())["pid"])
            except (OSError, http.client.HTTPException, ValueError) as error:
                self.errors.append(repr(error))
            if not keeps:
                connection.close()
        connection.close()

    def __enter__(self) -> Load:
        for thread in self.threads:
            thread.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self.stop.set()
        for thread in self.threads:
            thread.join(TIMEOUT)


@pytest.mark.parametrize("environment, times", [({}, 1), ({"PHOENIX_ENV": "prod"}, 0)])
def test_gunicorn_in_dev_is_warned_of_once(run: Any, tmp_path: Path, environment: dict[str, str], times: int) -> None:
    (tmp_path / "app.py").write_text("import phoenix\napp = phoenix.Endpoint(phoenix.Router, session=False)\n")
    port = free_port()
    server = run([*gunicorn_worker(port, "--workers", "3"), "--chdir", tmp_path], port, **environment)
    server.wait_for(lambda: server.log.count("Booting worker") == 3, "there are fewer workers")
    server.wait_for(lambda: server.log.count("set PHOENIX_ENV=prod") >= times, "it is not warned of")
    assert server.get("/").status == 404
    assert server.stop() == 0
    assert server.log.count("set PHOENIX_ENV=prod") == times


def test_hup_replaces_the_workers_and_refuses_and_cuts_nothing(run: Any, notes: Any) -> None:
    port = free_port()
    server = run(gunicorn_worker(port, "--workers", "2"), port)
    chat = Chat(server)
    with chat.ws, ThreadPoolExecutor(1) as pool:
        chat.join("rooms:lobby")
        slow = pool.submit(server.get, "/slow?seconds=1")
        server.wait_for(lambda: "slow" in notes(), "the slow request did not begin")
        with Load(server) as load:
            server.wait_for(lambda: len(load.pids) == 2, f"only {load.pids} answered")
            before = set(load.pids)
            server.process.send_signal(signal.SIGHUP)
            with pytest.raises(ConnectionClosed) as closed:
                chat.recv()
            server.wait_for(lambda: len(load.pids - before) == 2, "no new worker answers")
            assert slow.result(TIMEOUT).text == "slow, but here"
            server.wait_for(lambda: notes().count("stopped") == 2, "the old workers do not end")
        assert load.errors == []
    assert closed.value.rcvd is not None
    assert closed.value.rcvd.code == 1001
    server.wait_for(lambda: any(note.startswith("left:") for note in notes()), "the channel was not told")


def test_term_lets_a_request_end(run: Any, notes: Any) -> None:
    port = free_port()
    server = run(gunicorn_worker(port), port)
    with ThreadPoolExecutor(1) as pool:
        slow = pool.submit(server.get, "/slow?seconds=1")
        server.wait_for(lambda: "slow" in notes(), "the slow request did not begin")
        assert server.stop() == 0
        assert slow.result(TIMEOUT).text == "slow, but here"


def test_a_request_over_the_graceful_timeout_is_cut(run: Any, notes: Any) -> None:
    port = free_port()
    server = run(gunicorn_worker(port, "--graceful-timeout", "1"), port)
    with ThreadPoolExecutor(1) as pool:
        slow = pool.submit(server.get, "/slow?seconds=60")
        server.wait_for(lambda: "slow" in notes(), "the slow request did not begin")
        started = time.monotonic()
        server.stop()
        assert time.monotonic() - started < 10
        with pytest.raises((OSError, http.client.HTTPException)):
            slow.result(TIMEOUT)


def test_a_worker_whose_loop_stands_still_is_replaced(run: Any) -> None:
    port = free_port()
    server = run(gunicorn_worker(port, "--timeout", "2"), port)
    first = pid_of(server)
    assert server.get("/hang").status == 500
    server.wait_for(lambda: pid_of(server) != first, "the worker goes on")
    assert "WORKER TIMEOUT" in server.log


def test_a_worker_that_is_idle_or_waits_is_not_replaced(run: Any) -> None:
    port = free_port()
    server = run(gunicorn_worker(port, "--timeout", "2"), port)
    first = pid_of(server)
    assert server.get("/slow?seconds=4").status == 200
    assert pid_of(server) == first


def test_a_worker_ends_after_max_requests_and_cuts_none(run: Any) -> None:
    port = free_port()
    server = run(gunicorn_worker(port, "--max-requests", "20", "--workers", "2"), port)
    with Load(server) as load:
        server.wait_for(lambda: len(load.pids) >= 5 or load.errors, f"the workers stay: {load.pids}")
    assert load.errors == []


def test_gunicorn_serves_https(run: Any, tmp_path: Path) -> None:
    port = free_port()
    certificate = ["-keyout", tmp_path / "key.pem", "-out", tmp_path / "cert.pem", "-subj", "/CN=localhost"]
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "1", *certificate]
    subprocess.run(command, check=True, capture_output=True, timeout=TIMEOUT)
    options = ["--certfile", str(tmp_path / "cert.pem"), "--keyfile", str(tmp_path / "key.pem")]
    run(gunicorn_worker(port, *options), port)
    context = ssl.create_default_context(cafile=str(tmp_path / "cert.pem"))
    context.check_hostname = False
    connection = http.client.HTTPSConnection("127.0.0.1", port, timeout=TIMEOUT, context=context)
    connection.request("GET", "/pages/a")
    assert json.loads(connection.getresponse().read())["scheme"] == "https"
    connection.close()


def test_a_worker_whose_master_was_killed_ends(run: Any) -> None:
    port = free_port()
    server = run(gunicorn_worker(port), port)
    worker = pid_of(server)
    server.process.kill()
    server.process.wait(TIMEOUT)
    server.wait_for(lambda: not Path(f"/proc/{worker}/cmdline").exists(), "the worker goes on")


@pytest.mark.parametrize("code, message", [
    ("app = phoenix.Endpoint(Router, children=[Broken()])", "the child app.Broken could not be started: no database"),
    ("app = Router", "GunicornWorker serves an Endpoint, and got <class 'app.Router'>: name it, as in app:app"),
])  # fmt: skip
def test_what_cannot_start_stops_gunicorn_with_the_reason(run: Any, tmp_path: Path, code: str, message: str) -> None:
    (tmp_path / "app.py").write_text(
        "import phoenix\n"
        "class Router(phoenix.Router):\n    pass\n"
        "class Broken:\n"
        "    def start(self): raise RuntimeError('no database')\n"
        "    def stop(self): pass\n"
        f"{code}\n"
    )
    port = free_port()
    server = run([*gunicorn_worker(port), "--chdir", tmp_path], port, wait=False)
    assert server.process.wait(TIMEOUT) != 0
    assert message in server.log


def test_phoenix_is_imported_without_gunicorn_and_the_worker_says_that_it_needs_it() -> None:
    code = (
        "import sys; sys.modules['gunicorn'] = None\n"
        "import phoenix\n"
        "try:\n    phoenix.GunicornWorker\n"
        "except ImportError as error:\n    print(error)\n"
        "try:\n    phoenix.Gunicorn\n"
        "except AttributeError as error:\n    print(error)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=TIMEOUT)
    assert done.stdout.splitlines() == [
        "GunicornWorker needs gunicorn: pip install gunicorn", "module 'phoenix' has no attribute 'Gunicorn'"
    ], done.stderr  # fmt: skip


def test_gunicorn_is_not_imported_with_phoenix() -> None:
    code = "import phoenix, sys; assert 'gunicorn' not in sys.modules; phoenix.GunicornWorker; import gunicorn"
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, timeout=TIMEOUT)


# --- nginx --------------------------------------------------------------------------------------

NGINX = shutil.which("nginx", path=os.environ.get("PATH", "") + ":/usr/sbin")

SITE = re.findall(r"^```nginx\n(.*?)^```", (ROOT / "README.md").read_text("utf-8"), re.MULTILINE | re.DOTALL)[0]


class Site:
    """nginx in front of a server, by http and by https."""

    def __init__(self, run: Any, folder: Path, door: Any, upstream: str) -> None:
        assert NGINX is not None
        self.http, self.https = free_port(), free_port()
        self.certificate = folder / "cert.pem"
        names = ["-keyout", folder / "key.pem", "-out", self.certificate, "-subj", "/CN=localhost"]
        command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "1", *names]
        subprocess.run(command, check=True, capture_output=True, timeout=TIMEOUT)
        (folder / "static" / "css").mkdir(parents=True)
        (folder / "static" / "css" / "app.css").write_text("p { color: red }")
        place: Any = str(folder / "app.sock") if upstream == "unix" else free_port()
        proxies = "unix" if upstream == "unix" else "127.0.0.1"
        command = [*OWN_SERVER, "--uds", place] if door is own and upstream == "unix" else door(place)
        self.app = run(command, place, DOORS_PROXIES=proxies)
        site = SITE
        for written, meant in {
            "unix:/run/my_app/app.sock": f"unix:{place}" if upstream == "unix" else f"127.0.0.1:{place}",
            "listen 80": f"listen 127.0.0.1:{self.http}", "listen 443": f"listen 127.0.0.1:{self.https}",
            "/etc/ssl/example.com.pem": str(self.certificate), "/etc/ssl/example.com.key": str(folder / "key.pem"),
            "/srv/my_app/priv/static": str(folder / "static"),
        }.items():  # fmt: skip
            assert written in site
            site = site.replace(written, meant)
        user = "user root;" if os.getuid() == 0 else ""  # so that its workers may read this test's files
        places = "".join(
            f"{name}_temp_path {folder}/{name};" for name in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
        )
        (folder / "nginx.conf").write_text(
            f"{user} pid {folder}/nginx.pid; error_log {folder}/errors.log; daemon off;\n"
            f"events {{}}\nhttp {{ access_log off; {places} types {{ text/css css; }}\n{site} }}\n"
        )
        self.nginx = run([NGINX, "-p", folder, "-e", folder / "errors.log", "-c", folder / "nginx.conf"], self.http)
        self.context = ssl.create_default_context(cafile=str(self.certificate))
        self.context.check_hostname = False

    def get_by_https(self, path: str, **headers: str) -> Answer:
        connection = http.client.HTTPSConnection("127.0.0.1", self.https, timeout=TIMEOUT, context=self.context)
        connection.request("GET", path, headers=headers)
        try:
            return Answer(connection.getresponse())
        finally:
            connection.close()


@pytest.fixture(params=[(own, "unix"), (own, "tcp"), (gunicorn_worker, "unix"), (uvicorn, "tcp")],
                ids=lambda param: f"{param[0].__name__}-{param[1]}")  # fmt: skip
def site(request: pytest.FixtureRequest, run: Any, tmp_path: Path) -> Site:
    if NGINX is None:
        pytest.skip("needs nginx: apt-get install nginx-light")
    return Site(run, tmp_path, *request.param)


def test_behind_nginx(site: Site) -> None:
    """One test, because each needs programs of its own: who asked, how, static files, bodies, WebSockets."""
    found = json.loads(site.nginx.get("/pages/a%2Fb?x=1", host="example.com").body)
    assert found["params"] == {"page": "a/b", "x": "1"}
    assert (found["scheme"], found["host"], found["port"]) == ("http", "example.com", 80)
    found = json.loads(site.get_by_https("/pages/a", host="example.com").body)
    assert (found["scheme"], found["host"], found["port"]) == ("https", "example.com", 443)
    liar = json.loads(site.nginx.get("/pages/a", **{"x-forwarded-for": "6.6.6.6"}).body)
    trusts_this_machine = isinstance(site.app.place, int)  # nginx's own client is here as well
    assert liar["remote_ip"] == ("6.6.6.6" if trusts_this_machine else "127.0.0.1")
    assert "secure" in site.get_by_https("/visits").headers["set-cookie"][0]

    answer = site.nginx.get("/css/app.css")
    assert (answer.status, answer.text) == (200, "p { color: red }")  # the app has no such file
    assert answer.headers["content-type"] == ["text/css"]
    assert site.nginx.get("/js/phoenix.js").status == 200  # from the app
    assert site.nginx.get("/css/unknown.css").status == 404

    octets = {"content-type": "application/octet-stream"}
    assert site.nginx.send("POST", "/count", b"x" * 9_000_000, octets).text.split()[0] == "9000000"
    assert site.nginx.send("POST", "/count", b"x" * 11_000_000, octets).status == 413
    assert site.nginx.get("/pushed").text == "0,1,2,"

    ann, bob = Chat(site.nginx), Chat(site.nginx)
    with ann.ws, bob.ws:
        for client in (ann, bob):
            assert client.join("rooms:lobby") == {"status": "ok", "response": {"joined": "lobby"}}
        ann.push("rooms:lobby", "new:msg", {"body": "hi"})
        assert bob.recv()[3:] == ["new:msg", {"body": "hi"}]
    page = f"https://127.0.0.1:{site.https}"
    options: dict[str, Any] = {"ssl": site.context, "origin": page, "server_hostname": "localhost"}
    with connect(f"wss://127.0.0.1:{site.https}/plain", **options) as ws:
        assert ws.recv(TIMEOUT) == "None /plain"
    with pytest.raises(InvalidStatus):
        connect(f"wss://127.0.0.1:{site.https}/plain", **{**options, "origin": "https://evil.example"})
