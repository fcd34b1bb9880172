"""Chapter 14, Server: real sockets, raw bytes; on asyncio's loop and on uvloop."""

from __future__ import annotations

import asyncio
import contextvars
import errno
import gc
import logging
import os
import re
import shutil
import signal
import socket
import ssl
import struct
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import phoenix
from conftest import StartedServer
from phoenix import HTTPLimits, PhoenixError, Server, Timeouts, _run_fairly, match

PATIENCE = 10  # seconds; whatever has not happened by then never will
HAS_PROC = Path("/proc/self/fd").is_dir()


# --- A server in a thread -----------------------------------------------------------------


def wait_until(condition: Callable[[], Any], what: str) -> None:
    """Wait for something of the server that tells nobody when it happens."""
    end = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < end, f"never came true: {what}"
        time.sleep(0.005)


class Gate:
    """Keeps an action waiting: it says ``await gate`` or ``gate.wait()``; the test, ``entered()`` and ``open()``."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop
        self._entered = threading.Semaphore(0)
        self._opened = threading.Event()
        self._futures: list[asyncio.Future[None]] = []

    def __await__(self) -> Any:
        self._entered.release()
        if not self._opened.is_set():
            future = self.loop.create_future()
            self._futures.append(future)
            yield from future.__await__()

    def wait(self) -> None:
        self._entered.release()
        assert self._opened.wait(PATIENCE)

    def entered(self, times: int = 1) -> None:
        for _ in range(times):
            assert self._entered.acquire(timeout=PATIENCE), "the action was not reached"

    def open(self) -> None:
        self._opened.set()
        self.loop.call_soon_threadsafe(self._wake)

    def _wake(self) -> None:
        for future in self._futures:
            if not future.done():
                future.set_result(None)


class Log(logging.Handler):
    """Keeps what is logged as a warning or worse."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(self.format(record))

    def expect(self, pattern: str) -> None:
        """Take out the one line that matches; wait for it."""
        matches = re.compile(pattern).search
        wait_until(lambda: any(map(matches, self.lines)), f"{pattern!r} is in the log: {self.lines}")
        [found] = filter(matches, self.lines)
        self.lines.remove(found)


class Site:
    """An app that is served by a loop in a thread of its own."""

    def __init__(self, new_loop: Callable[[], asyncio.AbstractEventLoop], log: Log) -> None:
        self.loop = new_loop()
        self.log = log
        self.thread = threading.Thread(target=self.loop.run_forever, daemon=True)
        self.thread.start()
        self.server: Any = None
        self.clients: list[Client] = []

    def serve(self, make_server: Callable[[], Server]) -> None:
        self.server = make_server()
        self.run(self.server.start())

    def run(self, coroutine: Any) -> Any:
        return asyncio.run_coroutine_threadsafe(coroutine, self.loop).result(PATIENCE)

    def call(self, function: Callable[[], Any]) -> Any:
        """Call a function on the loop."""

        async def caller() -> Any:
            return function()

        return self.run(caller())

    def gate(self) -> Gate:
        return Gate(self.loop)

    def client(self, **options: Any) -> Client:
        self.clients.append(Client(self.server.port, **options))
        return self.clients[-1]

    def get(self, path: str) -> Response:
        """Send one request on a connection of its own."""
        with self.client() as client:
            return client.get(path)

    def tasks(self) -> set[Any]:
        """Return what runs on the loop, but for the task that looks."""
        found: set[Any] = self.call(lambda: asyncio.all_tasks() - {asyncio.current_task()})
        return found

    def is_quiet(self) -> bool:
        return not self.server.connections and not self.tasks()

    def wait_until_quiet(self) -> None:
        wait_until(self.is_quiet, f"no connections and no tasks are left: {self.server.connections} {self.tasks()}")

    def close(self) -> None:
        """Every test ends here: nothing may be left over, and nothing unexpected in the log."""
        for client in self.clients:
            client.close()
        try:
            self.wait_until_quiet()
            if not self.server.stopping:
                self.run(self.server.stop())
        finally:
            self.loop.call_soon_threadsafe(self.loop.stop)
            self.thread.join(PATIENCE)
            self.loop.close()
            gc.collect()  # a future whose error nobody took says so when it is deleted
        assert self.log.lines == []


LOOPS = ["asyncio", "uvloop"]


@pytest.fixture(params=LOOPS)
def new_loop(request: pytest.FixtureRequest) -> Callable[[], asyncio.AbstractEventLoop]:
    if request.param == "asyncio":
        return asyncio.new_event_loop
    uvloop = pytest.importorskip("uvloop", reason="needs uvloop: pip install uvloop")
    return uvloop.new_event_loop  # type: ignore[no-any-return]


@pytest.fixture
def site(new_loop: Callable[[], asyncio.AbstractEventLoop]) -> Iterator[Site]:
    log = Log()
    for name in ("phoenix", "asyncio"):
        logging.getLogger(name).addHandler(log)
    site = Site(new_loop, log)
    try:
        yield site
        site.close()
    finally:
        for name in ("phoenix", "asyncio"):
            logging.getLogger(name).removeHandler(log)


@pytest.fixture
def serve(site: Site) -> Callable[..., Site]:
    """Serve actions by the name of their path: ``serve(hello=hello)`` answers ``/hello``, by any method."""

    def serve_actions(options: dict[str, Any] | None = None, **actions: Callable[..., Any]) -> Site:
        class Router(phoenix.Router):
            for name, action in actions.items():
                for verb in ("GET", "POST"):
                    match(verb, f"/{name}", action, as_=name)

        endpoint = phoenix.Endpoint(Router, env="prod", **{"log": False, "static": False, **(options or {})})
        site.serve(lambda: endpoint.make_server(port=0))
        return site

    return serve_actions


# --- A client -----------------------------------------------------------------------------


class Response:
    def __init__(self, status: int, headers: dict[str, str], body: bytes, chunks: list[bytes] | None = None) -> None:
        self.status, self.headers, self.body, self.chunks = status, headers, body, chunks

    def __repr__(self) -> str:
        return f"<{self.status} {self.headers} {self.body[:100]!r}>"


class Closed(Exception):
    """The server has closed before all of what was expected had come."""


class Client:
    """A socket, and just enough HTTP to read answers strictly."""

    def __init__(self, port: int, *, receive_buffer: int = 0, timeout: float = PATIENCE) -> None:
        self.socket = socket.socket()
        if receive_buffer:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        self.socket.settimeout(timeout)
        self.socket.connect(("127.0.0.1", port))
        self.data = b""

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        self.socket.close()

    def reset(self) -> None:
        """Go away without a word."""
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.socket.close()

    def send(self, data: bytes | str) -> Client:
        self.socket.sendall(data.encode() if isinstance(data, str) else data)
        return self

    def request(self, path: str, method: str = "GET", body: bytes = b"", /, **headers: str) -> Client:
        lines = [f"{method} {path} HTTP/1.1", "host: test"]
        if body or method == "POST":
            lines.append(f"content-length: {len(body)}")
        lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
        return self.send("\r\n".join([*lines, "", ""]).encode() + body)

    def get(self, path: str, **headers: str) -> Response:
        return self.request(path, "GET", b"", **headers).response()

    def post(self, path: str, body: bytes, **headers: str) -> Response:
        return self.request(path, "POST", body, **headers).response()

    def receive(self) -> None:
        part = self.socket.recv(65_536)
        if not part:
            raise Closed(self.data[:200])
        self.data += part

    def until(self, mark: bytes) -> bytes:
        while mark not in self.data:
            self.receive()
        found, _, self.data = self.data.partition(mark)
        return found

    def exactly(self, size: int) -> bytes:
        while len(self.data) < size:
            self.receive()
        found, self.data = self.data[:size], self.data[size:]
        return found

    def to_the_end(self) -> bytes:
        """Return all that comes until the server closes."""
        parts = [self.data]
        while part := self.socket.recv(1_000_000):
            parts.append(part)
        self.data = b""
        return b"".join(parts)

    def head(self) -> Response:
        line, *fields = self.until(b"\r\n\r\n").decode("latin-1").split("\r\n")
        version, status, _ = line.split(" ", 2)
        assert version == "HTTP/1.1"
        headers: dict[str, str] = {}
        for field in fields:
            name, colon, value = field.partition(": ")
            assert colon and name not in headers, f"{field!r} in {fields}"
            headers[name] = value
        return Response(int(status), headers, b"")

    def response(self, to: str = "GET") -> Response:
        found = self.head()
        headers = found.headers
        assert not ("content-length" in headers and "transfer-encoding" in headers)
        if to == "HEAD" or found.status in (204, 304) or found.status < 200:
            pass
        elif "content-length" in headers:
            found.body = self.exactly(int(headers["content-length"]))
        elif headers.get("transfer-encoding") == "chunked":
            found.chunks = []
            while size := int(self.until(b"\r\n"), 16):
                found.chunks.append(self.exactly(size))
                assert self.exactly(2) == b"\r\n"
            assert self.exactly(2) == b"\r\n"
            found.body = b"".join(found.chunks)
        else:
            found.body = self.to_the_end()
        return found

    def is_closed(self) -> bool:
        """Wait for what comes next: true when it is the end, false when it is bytes."""
        assert self.data == b""
        try:
            self.data = self.socket.recv(1000)
        except ConnectionResetError:
            return True
        return self.data == b""


# --- What is sent, and actions ------------------------------------------------------------

HELLO = "GET /hello HTTP/1.1\r\nHost: a\r\n\r\n"
CHUNKED = "HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"
UPLOAD = "POST /upload HTTP/1.1\r\nHost: a\r\nContent-Type: multipart/form-data; boundary=X\r\nContent-Length: "


async def hello(conn: Any, params: Any) -> Any:
    return conn.text("hello")


def hello_from_a_thread(conn: Any, params: Any) -> Any:
    return conn.text("hello from a thread")


async def echo(conn: Any, params: Any) -> Any:
    return conn.text((await conn.body.read(100_000_000)).decode())


def echo_from_a_thread(conn: Any, params: Any) -> Any:
    return conn.text(conn.read_body(100_000_000).decode())


# --- Connections that last ----------------------------------------------------------------


def test_a_connection_answers_one_request_after_the_other(serve: Any) -> None:
    client = serve(hello=hello, thread=hello_from_a_thread).client()
    for _ in range(3):
        answer = client.get("/hello")
        assert (answer.status, answer.body, answer.headers["content-length"]) == (200, b"hello", "5")
        assert "connection" not in answer.headers
        assert re.fullmatch(r"\w{3}, \d\d \w{3} \d{4} \d\d:\d\d:\d\d GMT", answer.headers["date"])
        assert client.get("/thread").body == b"hello from a thread"
        assert client.get("/nowhere").status == 404


def test_a_connection_closes_when_the_client_asks_for_it(serve: Any) -> None:
    client = serve(hello=hello).client()
    answer = client.get("/hello", connection="close")
    assert (answer.body, answer.headers["connection"]) == (b"hello", "close")
    assert client.is_closed()


def test_a_connection_closes_when_the_action_asks_for_it(serve: Any) -> None:
    async def bye(conn: Any, params: Any) -> Any:
        return conn.put_resp_header("connection", "close").text("bye")

    client = serve(bye=bye).client()
    answer = client.get("/bye")
    assert (answer.body, answer.headers["connection"]) == (b"bye", "close")
    assert client.is_closed()


def test_http_1_0_closes_unless_it_asks_to_keep_the_connection(serve: Any) -> None:
    site = serve(hello=hello)
    with site.client() as client:
        answer = client.send("GET /hello HTTP/1.0\r\n\r\n").response()
        assert (answer.body, answer.headers["connection"]) == (b"hello", "close")
        assert client.is_closed()
    with site.client() as client:
        for _ in range(2):
            answer = client.send("GET /hello HTTP/1.0\r\nConnection: keep-alive\r\n\r\n").response()
            assert (answer.body, answer.headers["connection"]) == (b"hello", "keep-alive")
        assert client.send("GET /hello HTTP/1.0\r\n\r\n").response().body == b"hello"
        assert client.is_closed()


def test_a_request_may_come_byte_by_byte(serve: Any) -> None:
    client = serve(echo=echo).client()
    client.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    for byte in b"POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabc":
        client.send(bytes([byte]))
    assert client.response().body == b"abc"


def test_an_app_cannot_write_the_lengths_that_the_server_writes(serve: Any) -> None:
    async def lie(conn: Any, params: Any) -> Any:
        conn.put_resp_header("content-length", "99").put_resp_header("transfer-encoding", "chunked")
        return conn.put_resp_header("date", "now").text("truth")

    answer = serve(lie=lie).get("/lie")  # the client finds doubled fields
    assert (answer.body, answer.headers["content-length"]) == (b"truth", "5")


# --- Pipelining ---------------------------------------------------------------------------


def test_pipelined_requests_are_answered_in_order_whatever_they_take(serve: Any, site: Site) -> None:
    gate = site.gate()

    async def slow(conn: Any, params: Any) -> Any:
        await gate
        return conn.text("slow")

    def slow_in_thread(conn: Any, params: Any) -> Any:
        gate.wait()
        return conn.text("slow in thread")

    async def chunks(conn: Any, params: Any) -> Any:
        async def parts() -> AsyncIterator[str]:
            yield "a"
            await asyncio.sleep(0)
            yield "b"

        return conn.send_chunked(200, parts())

    paths = ["hello", "slow", "thread", "chunks", "slow_in_thread", "hello", "echo", "slow", "chunks", "thread"]
    serve(hello=hello, thread=hello_from_a_thread, slow=slow, slow_in_thread=slow_in_thread, chunks=chunks, echo=echo)
    client = site.client()
    client.send("".join(f"GET /{path} HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabc" for path in paths))
    assert client.response().body == b"hello"
    gate.entered()
    gate.open()
    expected = {
        "hello": b"hello", "slow": b"slow", "thread": b"hello from a thread", "chunks": b"ab",
        "slow_in_thread": b"slow in thread", "echo": b"abc",
    }  # fmt: skip
    assert [client.response().body for _ in paths[1:]] == [expected[path] for path in paths[1:]]


def test_a_second_request_is_not_begun_before_the_first_is_answered(serve: Any, site: Site) -> None:
    gate, began = site.gate(), []

    async def slow(conn: Any, params: Any) -> Any:
        began.append(conn.query_string)
        await gate
        return conn.text(conn.query_string)

    serve(slow=slow)
    client = site.client().request("/slow?1").request("/slow?2")
    gate.entered()
    assert began == ["1"]
    gate.open()
    assert [client.response().body, client.response().body] == [b"1", b"2"]


@pytest.mark.parametrize("path", ["hello", "echo", "thread", "parts"])
def test_thousands_of_pipelined_requests_are_answered(path: str, serve: Any) -> None:
    async def parts(conn: Any, params: Any) -> Any:
        return conn.send_chunked(200, ["par", "ts"])

    client = serve(hello=hello, echo=echo, thread=hello_from_a_thread, parts=parts).client()
    count = 3000
    wire = f"POST /{path} HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\n\r\nx" * count
    sender = threading.Thread(target=client.send, args=(wire,))
    sender.start()
    expected = {"hello": b"hello", "echo": b"x", "thread": b"hello from a thread", "parts": b"parts"}[path]
    assert {client.response().body for _ in range(count)} == {expected}
    sender.join(PATIENCE)


def test_a_client_that_pipelines_without_end_lets_others_have_their_turn(serve: Any) -> None:
    released, order = threading.Event(), []

    async def block(conn: Any, params: Any) -> Any:
        assert released.wait(PATIENCE)  # this stalls the loop: what is wanted here, and nowhere else
        return conn.text("")

    async def note(conn: Any, params: Any) -> Any:
        order.append(conn.query_string)
        return conn.text("")

    site = serve(block=block, note=note)
    greedy, modest = site.client(), site.client()
    modest.get("/note?ready")
    site.client().request("/block")
    greedy.send("GET /note?greedy HTTP/1.1\r\nHost: a\r\n\r\n" * 1000)  # the loop finds all of them at once
    modest.request("/note?modest")
    released.set()
    modest.response()
    for _ in range(1000):
        greedy.response()
    assert order.index("modest") < 200


def test_a_client_that_pipelines_and_never_reads_fills_no_memory(serve: Any) -> None:
    site = serve({"timeouts": {"write": 0.5}}, page=lambda conn, params: conn.text("x" * 50_000))
    client = site.client(receive_buffer=4096)
    wait_until(lambda: site.server.connections, "the connection")
    [connection] = site.server.connections
    most = 0
    client.socket.settimeout(0.02)
    with pytest.raises(OSError):  # cut off by the time-out for writing
        for _ in range(5000):
            try:
                client.send("GET /page HTTP/1.1\r\nHost: a\r\n\r\n" * 100)
            except TimeoutError:
                pass
            most = max(most, connection.parser.buffered + connection.transport.get_write_buffer_size())
    assert 50_000 < most < 1_000_000
    site.wait_until_quiet()


# --- Chunks -------------------------------------------------------------------------------


@pytest.mark.parametrize("path", ["echo", "thread"])
def test_a_chunked_body_is_read_as_it_comes(path: str, serve: Any) -> None:
    client = serve(echo=echo, thread=echo_from_a_thread).client()
    client.send(f"POST /{path} {CHUNKED}3\r\nabc\r\n")
    for part in ("2\r", "\nde", "\r\n", "0\r\nTrailer: x", "\r\n\r"):
        client.send(part)
    assert client.send("\n").response().body == b"abcde"
    assert client.send(f"POST /{path} {CHUNKED}0\r\n\r\n").response().body == b""


async def chunk_in_action(conn: Any, params: Any) -> Any:
    conn.send_chunked(200)
    for part in ("a", b"bc", "", "d" * 20):
        await conn.chunk(part)
    return conn


def chunk_in_thread(conn: Any, params: Any) -> Any:
    conn.send_chunked(200)
    for part in ("a", b"bc", "", "d" * 20):
        conn.chunk(part)
    return conn


async def generate(conn: Any, params: Any) -> Any:
    async def parts() -> AsyncIterator[str | bytes]:
        for part in ("a", b"bc", "", "d" * 20):
            await asyncio.sleep(0)
            yield part

    return conn.send_chunked(200, parts())


def generate_in_thread(conn: Any, params: Any) -> Any:
    def parts() -> Iterator[str | bytes]:
        assert threading.current_thread().name.startswith("phoenix-worker")
        yield from ("a", b"bc", "", "d" * 20)

    return conn.send_chunked(200, parts())


CHUNKERS = {
    "action": chunk_in_action, "thread": chunk_in_thread, "generator": generate, "thread_generator": generate_in_thread,
}  # fmt: skip


@pytest.mark.parametrize("path", CHUNKERS)
def test_a_chunked_response_comes_in_its_parts(path: str, serve: Any) -> None:
    client = serve(**CHUNKERS).client()
    for _ in range(2):
        answer = client.get(f"/{path}")
        assert answer.headers["transfer-encoding"] == "chunked"
        assert answer.chunks == [b"a", b"bc", b"d" * 20]


@pytest.mark.parametrize("path", CHUNKERS)
def test_http_1_0_gets_the_parts_up_to_the_end_of_the_connection(path: str, serve: Any) -> None:
    client = serve(**CHUNKERS).client()
    answer = client.send(f"GET /{path} HTTP/1.0\r\nConnection: keep-alive\r\n\r\n").response()
    assert answer.headers["connection"] == "close" and "transfer-encoding" not in answer.headers
    assert answer.body == b"abc" + b"d" * 20


@pytest.mark.parametrize("path", CHUNKERS)
def test_head_of_a_chunked_response_has_no_parts(path: str, serve: Any) -> None:
    client = serve(**CHUNKERS).client()
    assert client.request(f"/{path}", "HEAD").response("HEAD").status == 200
    assert client.get(f"/{path}").body == b"abc" + b"d" * 20  # and the connection is where it should be


def test_head_closes_a_generator_that_it_does_not_run(serve: Any) -> None:
    class Parts:
        closed = threading.Event()

        def __iter__(self) -> Iterator[str]:
            raise AssertionError("HEAD needs no parts")

        def close(self) -> None:
            self.closed.set()

    async def parts(conn: Any, params: Any) -> Any:
        return conn.send_chunked(200, Parts())

    client = serve(parts=parts).client()
    client.request("/parts", "HEAD").response("HEAD")
    assert Parts.closed.wait(PATIENCE)


def test_a_part_is_sent_at_once(serve: Any, site: Site) -> None:
    gate = site.gate()

    async def parts(conn: Any, params: Any) -> Any:
        conn.send_chunked(200)
        conn.chunk("first")
        await gate
        return conn.chunk("second")

    serve(parts=parts)
    client = site.client().request("/parts")
    client.head()
    assert client.until(b"\r\n") == b"5" and client.until(b"\r\n") == b"first"
    gate.open()
    assert client.until(b"0\r\n\r\n") == b"6\r\nsecond\r\n"


@pytest.mark.parametrize("in_thread", [False, True])
def test_a_response_that_breaks_off_is_not_ended_as_if_it_were_whole(in_thread: bool, serve: Any) -> None:
    async def async_parts(conn: Any, params: Any) -> Any:
        async def parts() -> AsyncIterator[str]:
            yield "first"
            raise ValueError("no more")

        return conn.send_chunked(200, parts())

    def sync_parts(conn: Any, params: Any) -> Any:
        def parts() -> Iterator[str]:
            yield "first"
            raise ValueError("no more")

        return conn.send_chunked(200, parts())

    site = serve(parts=sync_parts if in_thread else async_parts)
    client = site.client().request("/parts")
    with pytest.raises((Closed, ConnectionError)):
        client.response()
    site.log.expect("GET /parts.*no more")


def test_an_action_that_fails_behind_its_first_part_breaks_off(serve: Any) -> None:
    async def parts(conn: Any, params: Any) -> Any:
        await conn.send_chunked(200).chunk("first")
        raise ValueError("no more")

    site = serve(parts=parts)
    with pytest.raises((Closed, ConnectionError)):
        site.get("/parts")
    site.log.expect("GET /parts.*no more")


def test_two_producers_may_send_parts_of_one_response(serve: Any) -> None:
    async def merge(conn: Any, params: Any) -> Any:
        async def produce(letter: str) -> None:
            for _ in range(100):
                await conn.chunk(letter * 10_000)

        conn.send_chunked(200)
        await asyncio.gather(produce("a"), produce("b"))
        return conn

    body = serve(merge=merge).client(receive_buffer=4096).get("/merge").body
    assert (body.count(b"a"), body.count(b"b")) == (1_000_000, 1_000_000)


# --- Expect: 100-continue -----------------------------------------------------------------

EXPECTING = "POST /{} HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\nExpect: 100-continue\r\n\r\n"


@pytest.mark.parametrize("path", ["echo", "thread"])
def test_100_continue_is_sent_when_the_body_is_read(path: str, serve: Any) -> None:
    client = serve(echo=echo, thread=echo_from_a_thread).client()
    for _ in range(2):
        client.send(EXPECTING.format(path))
        assert client.until(b"\r\n\r\n") == b"HTTP/1.1 100 Continue"
        assert client.send("abc").response().body == b"abc"


def test_100_continue_is_sent_once(serve: Any) -> None:
    client = serve(echo=echo).client()
    client.send(EXPECTING.format("echo"))
    assert client.until(b"\r\n\r\n") == b"HTTP/1.1 100 Continue"
    for part in ("a", "b", "c"):
        client.send(part)
    assert client.response().body == b"abc"


def test_100_continue_is_not_sent_when_the_body_has_come_or_begun_to_come(serve: Any) -> None:
    client = serve(echo=echo).client()
    assert client.send(EXPECTING.format("echo") + "abc").response().status == 200


def test_100_continue_is_not_sent_to_http_1_0(serve: Any, site: Site) -> None:
    gate = site.gate()

    async def read(conn: Any, params: Any) -> Any:
        asyncio.get_running_loop().call_soon(gate.open)
        await gate
        return conn.text((await conn.body.read()).decode())

    serve(read=read)
    client = site.client().send(EXPECTING.format("read").replace("1.1", "1.0"))
    gate.entered()
    assert client.send("abc").response().body == b"abc"


@pytest.mark.parametrize("answer", [401, 413])
def test_100_continue_is_not_sent_when_the_request_is_refused_before(answer: int, serve: Any) -> None:
    async def refuse(conn: Any, params: Any) -> Any:
        return conn.send_resp(401, "no")

    client = serve({"parsers": {"length": 2}}, refuse=refuse).client()
    wire = EXPECTING.format("refuse")
    client.send(wire.replace("Expect", "Content-Type: application/json\r\nExpect") if answer == 413 else wire)
    assert client.response().status == answer
    assert client.is_closed()  # whether the body comes is the client's choice: nothing behind can be trusted


def test_100_continue_is_not_sent_into_a_response(serve: Any) -> None:
    async def read_late(conn: Any, params: Any) -> Any:
        await conn.send_chunked(200).chunk("got ")
        return conn.chunk(await conn.body.read())

    client = serve(read_late=read_late).client()
    client.send(EXPECTING.format("read_late"))
    assert client.head().status == 200
    client.send("abc")
    assert client.until(b"0\r\n\r\n") == b"4\r\ngot \r\n3\r\nabc\r\n"


# --- Responses without body ---------------------------------------------------------------


def test_head_has_the_headers_of_get_and_no_body(serve: Any) -> None:
    client = serve(hello=hello, thread=hello_from_a_thread).client()
    for path, length in (("/hello", "5"), ("/thread", "19")):
        answer = client.request(path, "HEAD").response("HEAD")
        assert (answer.status, answer.headers["content-length"]) == (200, length)
        assert client.get(path).headers == {**answer.headers, "date": client.get(path).headers["date"]}


@pytest.mark.parametrize("status", [204, 304])
@pytest.mark.parametrize("how", ["whole", "chunked", "file"])
def test_204_and_304_have_neither_body_nor_length(status: int, how: str, serve: Any) -> None:
    async def nothing(conn: Any, params: Any) -> Any:
        if how == "whole":
            return conn.send_resp(status, "not to be sent")
        if how == "file":
            return conn.send_file(status, __file__)
        return await conn.send_chunked(status).chunk("not to be sent")

    client = serve(nothing=nothing, hello=hello).client()
    answer = client.get("/nothing")
    assert answer.status == status
    assert not {"content-length", "transfer-encoding"} & set(answer.headers)
    assert client.get("/hello").body == b"hello"


def test_an_empty_response_has_the_length_zero(serve: Any) -> None:
    async def empty(conn: Any, params: Any) -> Any:
        return conn.send_resp(200, "")

    assert serve(empty=empty).get("/empty").headers["content-length"] == "0"


# --- Half-closed connections --------------------------------------------------------------


@pytest.mark.parametrize("path", ["hello", "slow", "thread", "parts", "file"])
def test_a_client_that_has_said_all_still_gets_its_answer(path: str, serve: Any, site: Site, tmp_path: Path) -> None:
    gate = site.gate()
    (tmp_path / "file").write_bytes(b"0123456789" * 100_000)

    async def slow(conn: Any, params: Any) -> Any:
        await gate
        return conn.text("slow")

    async def parts(conn: Any, params: Any) -> Any:
        await gate
        return conn.send_chunked(200, ["par", "ts"])

    async def file(conn: Any, params: Any) -> Any:
        return conn.send_file(200, tmp_path / "file")

    serve(hello=hello, slow=slow, thread=hello_from_a_thread, parts=parts, file=file)
    client = site.client(receive_buffer=4096).request(f"/{path}")
    client.socket.shutdown(socket.SHUT_WR)
    if path in ("slow", "parts"):
        gate.entered()
        wait_until(lambda: [c for c in site.server.connections if c.ended], "the end of what the client says")
        gate.open()
    expected = {
        "hello": b"hello", "slow": b"slow", "thread": b"hello from a thread", "parts": b"parts",
        "file": b"0123456789" * 100_000,
    }  # fmt: skip
    assert client.response().body == expected[path]
    assert client.is_closed()


def test_a_half_closed_client_gets_all_answers_it_has_pipelined_for(serve: Any) -> None:
    client = serve(page=lambda conn, params: conn.text("x" * 30_000)).client(receive_buffer=4096)
    client.send("GET /page HTTP/1.1\r\nHost: a\r\n\r\n" * 200)
    client.socket.shutdown(socket.SHUT_WR)
    assert [len(client.response().body) for _ in range(200)] == [30_000] * 200
    assert client.is_closed()


def test_a_half_closed_client_that_is_reset_ends_also_its_second_request(serve: Any, site: Site) -> None:
    first, cancelled = site.gate(), threading.Event()

    async def quick(conn: Any, params: Any) -> Any:
        await first
        return conn.text("quick")

    async def hang(conn: Any, params: Any) -> Any:
        try:
            await asyncio.sleep(PATIENCE)
        except asyncio.CancelledError:
            cancelled.set()
            raise

    client = serve(quick=quick, hang=hang).client()
    client.send("GET /quick HTTP/1.1\r\nHost: a\r\n\r\nGET /hang HTTP/1.1\r\nHost: a\r\n\r\n")
    client.socket.shutdown(socket.SHUT_WR)
    wait_until(lambda: [c for c in site.server.connections if c.ended], "the end of what the client says")
    first.open()
    assert client.response().body == b"quick"
    client.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    client.close()
    assert cancelled.wait(PATIENCE)


def test_a_client_that_ends_in_the_middle_of_a_head_is_not_answered(serve: Any) -> None:
    client = serve(hello=hello).client().send("GET /hello HTTP/1.1\r\nHo")
    client.socket.shutdown(socket.SHUT_WR)
    assert client.is_closed()


@pytest.mark.parametrize("path", ["echo", "thread"])
def test_a_client_that_ends_in_the_middle_of_a_body_is_told(path: str, serve: Any) -> None:
    client = serve(echo=echo, thread=echo_from_a_thread).client()
    client.send(f"POST /{path} HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nabc")
    client.socket.shutdown(socket.SHUT_WR)
    answer = client.response()
    assert (answer.status, answer.headers["connection"]) == (400, "close")


# --- Time ---------------------------------------------------------------------------------


def test_a_head_has_a_deadline_that_dripping_bytes_do_not_move(serve: Any) -> None:
    site = serve({"timeouts": {"head": 0.4}}, hello=hello)
    client = site.client()
    client.socket.settimeout(0.05)
    began = time.monotonic()
    client.send("GET /hello HTTP/1.1\r\nHost: a\r\n")
    while True:
        assert time.monotonic() - began < PATIENCE
        client.send("x: y\r\n")
        try:
            answer = client.response()
        except TimeoutError:
            continue
        break
    assert (answer.status, answer.headers["connection"]) == (408, "close")
    assert time.monotonic() - began < 3


def test_the_head_of_a_later_request_has_the_same_deadline(serve: Any) -> None:
    client = serve({"timeouts": {"head": 0.3, "idle": 60}}, hello=hello).client()
    assert client.get("/hello").body == b"hello"
    assert client.send("GET /hello HT").response().status == 408
    assert client.is_closed()


def test_a_client_that_says_nothing_is_closed_without_a_word(serve: Any) -> None:
    client = serve({"timeouts": {"head": 0.3}}, hello=hello).client()
    assert client.is_closed()


def test_an_idle_connection_is_closed_without_a_word(serve: Any) -> None:
    client = serve({"timeouts": {"idle": 0.3}}, hello=hello).client()
    assert client.get("/hello").body == b"hello"
    assert client.is_closed()


@pytest.mark.parametrize("path", ["echo", "thread"])
def test_a_body_that_stops_coming_is_answered_408(path: str, serve: Any) -> None:
    site = serve({"timeouts": {"body": 0.3}}, echo=echo, thread=echo_from_a_thread)
    client = site.client().send(f"POST /{path} HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nabc")
    answer = client.response()
    assert (answer.status, answer.headers["connection"]) == (408, "close")
    assert client.is_closed()


def test_a_body_that_keeps_coming_has_time(serve: Any) -> None:
    client = serve({"timeouts": {"body": 1}}, echo=echo).client()
    client.send("POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: 8\r\n\r\n")
    for _ in range(8):  # longer in all than the time between two parts
        time.sleep(0.25)
        client.send("x")
    assert client.response().body == b"x" * 8


def test_an_action_has_all_the_time_it_takes(serve: Any) -> None:
    async def slow(conn: Any, params: Any) -> Any:
        await asyncio.sleep(1.2)
        return conn.text("slow")

    times = {"head": 0.5, "body": 0.5, "idle": 0.5, "write": 0.5}
    assert serve({"timeouts": times}, slow=slow).get("/slow").body == b"slow"


BIG = b"0123456789abcdef" * 1_000_000  # 16 MB: more than the kernel takes


@pytest.mark.parametrize("how", ["whole", "parts", "action", "thread", "thread_parts", "file", "range"])
def test_a_reader_that_never_reads_is_cut_off_while_others_get_everything(how: str, serve: Any, tmp_path: Path) -> None:
    (tmp_path / "big").write_bytes(BIG)
    ended, produced = threading.Event(), []

    def sync_parts() -> Iterator[bytes]:
        try:
            for _ in range(1000):
                produced.append(1)
                yield b"x" * 100_000
        finally:
            ended.set()

    async def async_parts() -> AsyncIterator[bytes]:
        try:
            for _ in range(1000):
                produced.append(1)
                yield b"x" * 100_000
        finally:
            ended.set()

    async def big(conn: Any, params: Any) -> Any:
        if how in ("file", "range"):
            return conn.send_file(200, tmp_path / "big", *((1, 15_000_000) if how == "range" else ()))
        if how == "whole":
            return conn.send_resp(200, BIG)
        if how == "action":
            conn.send_chunked(200)
            async for part in async_parts():
                await conn.chunk(part)
            return conn
        return conn.send_chunked(200, async_parts() if how == "parts" else sync_parts())

    def big_in_thread(conn: Any, params: Any) -> Any:
        conn.send_chunked(200)
        for part in sync_parts():
            conn.chunk(part)
        return conn

    site = serve({"timeouts": {"write": 0.5}}, big=big_in_thread if how == "thread" else big, hello=hello)
    never = site.client(receive_buffer=4096).request("/big")
    wait_until(lambda: any(c.request for c in site.server.connections) or not site.server.connections, "the request")
    reader = site.client()
    assert reader.get("/hello").body == b"hello"
    if how not in ("file", "range", "whole"):
        assert ended.wait(PATIENCE)
        assert len(produced) < 300, "parts were made for a client that did not take them"
    wait_until(lambda: len(site.server.connections) == 1, "the reader that never reads is cut off")
    assert reader.get("/hello").body == b"hello"
    with pytest.raises((Closed, ConnectionError)):
        never.response()


def test_a_slow_reader_gets_everything(serve: Any, tmp_path: Path) -> None:
    (tmp_path / "big").write_bytes(BIG)

    async def big(conn: Any, params: Any) -> Any:
        return conn.send_resp(200, BIG)

    async def file(conn: Any, params: Any) -> Any:
        return conn.send_file(200, tmp_path / "big")

    site = serve({"timeouts": {"write": 0.8}}, big=big, file=file)
    for path in ("/big", "/file"):
        with site.client(receive_buffer=65_536) as client:
            client.request(path, connection="close")
            head, body = client.head(), bytearray(client.data)
            began = time.monotonic()
            while len(body) < len(BIG):
                part = client.socket.recv(100_000)
                assert part, f"cut off at {len(body)}"
                body += part
                if time.monotonic() - began < 2.4:  # three times as long as a reader that never reads would have
                    time.sleep(0.02)
            assert (head.status, bytes(body)) == (200, BIG)
            client.data = b""
            assert client.is_closed()


def test_a_slow_reader_of_a_websocket_is_not_taken_for_one_that_is_gone(site: Site) -> None:
    async def talk(ws: Any) -> None:
        await ws.send(BIG[:6_000_000])

    class Router(phoenix.Router):
        phoenix.websocket("/", talk, ping_interval=0.3)

    endpoint = phoenix.Endpoint(Router, env="prod", log=False, static=False, timeouts={"idle": 0.4})
    site.serve(lambda: endpoint.make_server(port=0))
    client = site.client(receive_buffer=65_536).send(
        "GET / HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\nConnection: upgrade\r\nSec-WebSocket-Version: 13\r\n"
        "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
    )
    assert client.head().status == 101
    received, began = bytearray(client.data), time.monotonic()
    while len(received) < 6_000_010:
        part = client.socket.recv(20_000)
        assert part, f"cut off at {len(received)}"
        received += part
        if time.monotonic() - began < 1.5:  # its pong cannot come before all this was read
            time.sleep(0.02)
    assert received[10:6_000_010] == BIG[:6_000_000]
    client.data = bytes(received[6_000_010:])
    assert client.to_the_end().endswith(b"\x88\x02\x03\xe8")


def test_a_reader_that_stops_in_the_middle_of_what_it_sends_is_cut_off_too(serve: Any) -> None:
    async def echo_parts(conn: Any, params: Any) -> Any:
        conn.send_chunked(200)
        async for part in conn.body:
            await conn.chunk(part * 20)
        return conn

    site = serve({"timeouts": {"write": 0.5, "body": 60}}, echo_parts=echo_parts)
    client = site.client(receive_buffer=4096, timeout=5)
    client.send("POST /echo_parts HTTP/1.1\r\nHost: a\r\nContent-Length: 100000000\r\n\r\n")
    with pytest.raises(ConnectionError):
        for _ in range(1000):
            client.send(b"x" * 100_000)
    site.wait_until_quiet()


# --- Bodies nobody wants ------------------------------------------------------------------


def test_a_body_that_was_not_read_is_skipped_when_it_has_come(serve: Any) -> None:
    client = serve(hello=hello).client()
    answer = client.post("/hello", b"x" * 1000)
    assert answer.body == b"hello" and "connection" not in answer.headers
    client.send(f"POST /hello {CHUNKED}3\r\nabc\r\n0\r\n\r\n")
    assert client.response().body == b"hello"
    assert client.get("/hello").body == b"hello"


@pytest.mark.parametrize("path", ["hello", "thread"])
def test_a_body_that_was_not_read_ends_the_connection_when_it_is_still_coming(path: str, serve: Any) -> None:
    client = serve(hello=hello, thread=hello_from_a_thread).client()
    client.send(f"POST /{path} HTTP/1.1\r\nHost: a\r\nContent-Length: 1000\r\n\r\nabc")
    answer = client.response()
    assert answer.body.startswith(b"hello") and answer.headers["connection"] == "close"
    client.send(HELLO * 10)  # part of the body: it must not be answered
    assert client.is_closed()


def test_a_body_with_bad_chunks_that_was_not_read_ends_the_connection(serve: Any) -> None:
    client = serve(hello=hello).client()
    client.send(f"POST /hello {CHUNKED}zz\r\n{HELLO}")
    assert client.response().body == b"hello"
    assert client.is_closed()


def test_a_body_with_bad_chunks_is_answered_400(serve: Any) -> None:
    client = serve(echo=echo).client()
    client.send(f"POST /echo {CHUNKED}3\r\nabcd\r\n0\r\n\r\n")
    assert client.response().status == 400
    assert client.is_closed()


@pytest.mark.parametrize("kind", ["announced", "chunked", "multipart"])
def test_a_client_that_still_sends_can_read_why_its_body_is_refused(kind: str, serve: Any) -> None:
    def post(conn: Any, params: Any) -> Any:
        return conn.text("read")

    client = serve({"parsers": {"length": 100_000, "multipart_length": 100_000}}, post=post).client()
    size = 20_000_000
    content_type = "multipart/form-data; boundary=X" if kind == "multipart" else "application/json"
    framing = "Transfer-Encoding: chunked" if kind == "chunked" else f"Content-Length: {size}"
    client.send(f"POST /post HTTP/1.1\r\nHost: a\r\nContent-Type: {content_type}\r\n{framing}\r\n\r\n")
    if kind == "chunked":
        client.send(f"{size:x}\r\n")
    for _ in range(size // 100_000):  # all of it, before a look at the answer
        client.send(b"x" * 100_000)
    assert client.response().status == 413
    assert client.is_closed()


@pytest.mark.parametrize("wire, status", [
    (b"GET / HTTP/1.1\n\n", 400),
    (b"GET /" + b"a" * 9000 + b" HTTP/1.1\r\n\r\n", 414),
    (b"GET / HTTP/1.1\r\nHost: a\r\na: " + b"b" * 70_000 + b"\r\n\r\n", 431),
    (b"GET / HTTP/2.0\r\n\r\n", 505),
    (b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip, chunked\r\n\r\n", 501),
    (b"\x16\x03\x01\x02\x00\x01", 400),
])  # fmt: skip
def test_what_is_no_request_is_refused_and_the_connection_closed(wire: bytes, status: int, serve: Any) -> None:
    site = serve(hello=hello)
    client = site.client().send(HELLO.encode() + wire + HELLO.encode())
    assert client.response().body == b"hello"
    answer = client.response()
    assert (answer.status, answer.headers["connection"]) == (status, "close")
    assert answer.headers["content-type"] == "text/plain; charset=utf-8"
    assert answer.body.decode().startswith(phoenix.reason_phrase(status))
    assert client.is_closed()


def test_limits_are_options_of_the_endpoint(serve: Any) -> None:
    site = serve({"limits": {"line": 50, "header": 60, "count": 3}}, hello=hello)
    assert site.get("/hello?" + "a" * 31).status == 414
    assert site.client().get("/hello", a="b" * 60).status == 431
    assert site.client().get("/hello", a="b", c="d", e="f").status == 431
    assert site.client().get("/hello", a="b").status == 200


# --- Large bodies -------------------------------------------------------------------------


@pytest.mark.parametrize("in_thread", [False, True])
def test_a_body_that_nobody_reads_yet_holds_up_its_sender(in_thread: bool, serve: Any, site: Site) -> None:
    gate = site.gate()

    async def read_late(conn: Any, params: Any) -> Any:
        await gate
        size = 0
        async for part in conn.body:
            size += len(part)
        return conn.text(str(size))

    def read_late_in_thread(conn: Any, params: Any) -> Any:
        gate.wait()
        return conn.text(str(sum(map(len, conn.body))))

    serve(read=read_late_in_thread if in_thread else read_late)
    client = site.client()
    size = 40_000_000
    client.send(f"POST /read HTTP/1.1\r\nHost: a\r\nContent-Length: {size}\r\n\r\n")
    gate.entered()
    [connection] = site.server.connections
    client.socket.settimeout(0.3)
    sent = 0
    with pytest.raises(TimeoutError):
        while sent < size:
            sent += client.socket.send(b"x" * 65_536)
    assert sent < 20_000_000
    assert connection.parser.buffered < 1_000_000
    gate.open()
    client.socket.settimeout(PATIENCE)
    while sent < size:
        sent += client.socket.send(b"x" * min(65_536, size - sent))
    assert client.response().body == str(size).encode()


def test_two_readers_of_one_body_are_refused(serve: Any) -> None:
    async def read_twice(conn: Any, params: Any) -> Any:
        found = await asyncio.gather(conn.body.read(), conn.body.read(), return_exceptions=True)
        return conn.text(" ".join(type(each).__name__ for each in found))

    site = serve(read=read_twice)
    client = site.client().send("POST /read HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\n")
    wait_until(lambda: any(connection.waiter for connection in site.server.connections), "the first one waits")
    client.send("abc")
    assert client.response().body == b"bytes PhoenixError"


MEMORY_APP = """
import asyncio, resource, sys
sys.path.insert(0, {root!r})
import phoenix
from phoenix import get, post

def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss

def upload(conn, params):
    upload = params["file"]
    with open(upload.path, "rb") as file:
        size = sum(map(len, iter(lambda: file.read(65536), b"")))
    return conn.text(f"{{size}}")

async def download(conn, params):
    async def parts():
        for _ in range(600):
            yield b"x" * 100_000
    return conn.send_chunked(200, parts())

async def file(conn, params):
    return conn.send_file(200, {file!r})

async def memory(conn, params):
    return conn.text(str(peak()))

class Router(phoenix.Router):
    post("/upload", upload)
    get("/download", download)
    get("/file", file)
    get("/memory", memory)

if __name__ == "__main__":
    phoenix.Endpoint(Router, env="prod", static=False, log=False, parsers={{"multipart_length": 100_000_000}}).run()
"""


@pytest.mark.skipif(not HAS_PROC, reason="needs Linux, where ru_maxrss is in KiB")
def test_large_bodies_pass_through_in_bounded_memory(start: Any, tmp_path: Path) -> None:
    (tmp_path / "big").write_bytes(BIG * 4)
    program = tmp_path / "memory_app.py"
    program.write_text(MEMORY_APP.format(root=str(Path(phoenix.__file__).parent), file=str(tmp_path / "big")))
    started: StartedServer = start(program)
    port = int(started.url.rpartition(":")[2])
    before = int(started.request("/memory").text)
    size = 60_000_000
    head = b'--X\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n\r\n'
    with Client(port) as client:
        length = len(head) + size + len(b"\r\n--X--\r\n")
        client.send(f"{UPLOAD}{length}\r\n\r\n").send(head)
        for _ in range(size // 100_000):
            client.send(b"x" * 100_000)
        assert client.send(b"\r\n--X--\r\n").response().body == str(size).encode()
        for path, expected in (("/download", 60_000_000), ("/file", 64_000_000)):
            client.request(path)
            found = client.head()
            total = len(client.data)
            wanted = int(found.headers.get("content-length", expected))
            client.data = b""
            while total < wanted:
                total += len(client.socket.recv(1_000_000))
            client.close()
            client = Client(port)
        client.close()
    after = int(started.request("/memory").text)
    assert after - before < 16_000, f"{(after - before) // 1000} MB for bodies of 60 MB"


@pytest.mark.parametrize("how", ["parts", "thread_parts", "file"])
def test_a_large_response_arrives_as_it_was_sent(how: str, serve: Any, tmp_path: Path) -> None:
    (tmp_path / "big").write_bytes(BIG)
    pieces = [BIG[at : at + 77_777] for at in range(0, len(BIG), 77_777)]

    async def parts(conn: Any, params: Any) -> Any:
        async def generate() -> AsyncIterator[bytes]:
            for piece in pieces:
                yield piece

        return conn.send_chunked(200, generate())

    def thread_parts(conn: Any, params: Any) -> Any:
        return conn.send_chunked(200, pieces)

    async def file(conn: Any, params: Any) -> Any:
        return conn.send_file(200, tmp_path / "big")

    client = serve(parts=parts, thread_parts=thread_parts, file=file).client()
    for _ in range(2):
        assert client.get(f"/{how}").body == BIG


def test_a_fast_reader_of_an_endless_response_lets_others_have_their_turn(serve: Any) -> None:
    async def endless(conn: Any, params: Any) -> Any:
        async def parts() -> AsyncIterator[bytes]:
            while True:  # without a single await
                yield b"x" * 1000

        return conn.send_chunked(200, parts())

    site = serve(endless=endless, hello=hello)
    client = site.client().request("/endless")
    client.head()
    reading = threading.Event()

    def read() -> None:
        try:
            while client.socket.recv(1_000_000):
                reading.set()
        except OSError:
            pass

    reader = threading.Thread(target=read)
    reader.start()
    assert reading.wait(PATIENCE)
    other = site.client()
    for _ in range(5):
        assert other.get("/hello").body == b"hello"
    client.socket.shutdown(socket.SHUT_RDWR)
    reader.join(PATIENCE)


# --- Files --------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [0, 1, 65_536, 65_537, 262_144, 1_000_000])
def test_a_file_is_sent_whole_and_the_connection_stays(size: int, serve: Any, tmp_path: Path) -> None:
    content = BIG[:size]
    (tmp_path / "file.bin").write_bytes(content)
    client = serve({"static": {"from_": tmp_path}}, hello=hello).client()
    for _ in range(3):
        answer = client.get("/file.bin")
        assert (answer.status, answer.headers["content-length"]) == (200, str(size))
        assert answer.body == content
        assert client.request("/file.bin", "HEAD").response("HEAD").headers["content-length"] == str(size)
        assert client.get("/hello").body == b"hello"


@pytest.mark.parametrize("given, first, last", [
    ("0-0", 0, 0), ("1-65536", 1, 65_536), ("100-300000", 100, 300_000), ("999999-", 999_999, 999_999),
    ("-10", 999_990, 999_999), ("500000-2000000", 500_000, 999_999), ("-999999", 1, 999_999),
])  # fmt: skip
def test_a_part_of_a_file_is_sent(given: str, first: int, last: int, serve: Any, tmp_path: Path) -> None:
    (tmp_path / "file.bin").write_bytes(BIG[:1_000_000])
    client = serve({"static": {"from_": tmp_path}}, hello=hello).client()
    answer = client.get("/file.bin", range=f"bytes={given}")
    assert (answer.status, answer.headers["content-range"]) == (206, f"bytes {first}-{last}/1000000")
    assert answer.body == BIG[first : last + 1]
    assert client.get("/hello").body == b"hello"


def test_a_file_that_vanished_is_answered_500(serve: Any, tmp_path: Path) -> None:
    path = tmp_path / "file"

    async def send(conn: Any, params: Any) -> Any:
        path.write_bytes(BIG[: int(conn.query_string)])
        conn.send_file(200, path)
        path.unlink()
        return conn

    site = serve(send=send)
    for size in (10, 1_000_000):
        client = site.client()
        assert client.get(f"/send?{size}").status == 500
        assert client.is_closed()
        site.log.expect("GET /send.*FileNotFoundError")


def test_a_file_that_becomes_shorter_is_not_taken_for_a_whole_one(serve: Any, tmp_path: Path) -> None:
    path = tmp_path / "file"

    async def send(conn: Any, params: Any) -> Any:
        path.write_bytes(BIG[: int(conn.query_string)])
        conn.send_file(200, path)
        os.truncate(path, 5)
        return conn

    site = serve(send=send)
    assert site.get("/send?10").status == 500  # small ones are read first
    site.log.expect("GET /send.*shorter")
    with pytest.raises((Closed, ConnectionError)):
        site.get("/send?1000000")
    site.log.expect("GET /send.*shorter")


def test_a_loop_without_sendfile_sends_files_as_well(serve: Any, tmp_path: Path) -> None:
    (tmp_path / "file.bin").write_bytes(BIG[:1_000_000])
    site = serve({"static": {"from_": tmp_path}})
    site.server.has_sendfile = False
    client = site.client(receive_buffer=4096)
    for _ in range(2):
        assert client.get("/file.bin").body == BIG[:1_000_000]


# --- TLS ----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file with a key and a certificate that it has signed itself."""
    if shutil.which("openssl") is None:
        pytest.skip("needs openssl, to make a certificate")
    folder = tmp_path_factory.mktemp("tls")
    command = "openssl req -x509 -newkey rsa:2048 -nodes -subj /CN=localhost -days 2 -keyout key.pem -out certificate.pem"
    subprocess.run(command.split(), cwd=folder, check=True, capture_output=True, timeout=60)
    both = folder / "both.pem"
    both.write_bytes((folder / "key.pem").read_bytes() + (folder / "certificate.pem").read_bytes())
    return both


def test_https_serves_the_same_answers(site: Site, certificate: Path, tmp_path: Path) -> None:
    (tmp_path / "big").write_bytes(BIG[:2_000_000])

    async def scheme(conn: Any, params: Any) -> Any:
        return conn.text(conn.request_url())

    async def file(conn: Any, params: Any) -> Any:
        return conn.send_file(200, tmp_path / "big")

    class Router(phoenix.Router):
        match("GET", "/scheme", scheme)
        match("POST", "/echo", echo_from_a_thread)
        match("GET", "/file", file)
        match("GET", "/parts", generate_in_thread)

    endpoint = phoenix.Endpoint(Router, env="prod", log=False, static=False)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    site.serve(lambda: Server(endpoint.handle_request, port=0, tls=context))
    trust = ssl.create_default_context(cafile=str(certificate))
    client = site.client()
    client.socket = trust.wrap_socket(client.socket, server_hostname="localhost")
    for _ in range(2):
        assert client.get("/scheme").body == b"https://test/scheme"
        assert client.post("/echo", b"x" * 300_000).body == b"x" * 300_000
        assert client.get("/file").body == BIG[:2_000_000]
        assert client.get("/parts").body == b"abc" + b"d" * 20
    assert client.get("/scheme", connection="close").body == b"https://test/scheme"
    assert client.is_closed()


def test_a_client_of_https_that_speaks_http_is_closed(site: Site, certificate: Path) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    site.serve(lambda: Server(print, port=0, tls=context))
    client = site.client().request("/")
    assert client.is_closed() or b"HTTP" not in client.data


# --- Clients that go away -----------------------------------------------------------------


def open_files() -> set[str]:
    found = set()
    for name in os.listdir("/proc/self/fd"):
        try:
            found.add(f"{name} {os.readlink(f'/proc/self/fd/{name}')}")
        except OSError:
            pass
    return found


MOMENTS = [
    "connect", "head", "body", "thread_body", "async", "thread", "parts", "waiting_parts", "thread_parts", "action",
    "waiting_action", "thread_action", "whole", "file", "pipelined", "upload",
]  # fmt: skip


@pytest.mark.skipif(not HAS_PROC, reason="needs /proc to count open files")
@pytest.mark.parametrize("how", ["reset", "close"])
@pytest.mark.parametrize("moment", MOMENTS)
def test_a_client_that_goes_away_leaves_nothing_behind(
    moment: str, how: str, serve: Any, site: Site, tmp_path: Path
) -> None:
    (tmp_path / "big").write_bytes(BIG)
    gate, ended = site.gate(), threading.Event()

    async def slow(conn: Any, params: Any) -> Any:
        await gate
        return conn.text("slow")

    def slow_in_thread(conn: Any, params: Any) -> Any:
        gate.wait()
        return conn.text("slow")

    def sync_parts() -> Iterator[bytes]:
        try:
            gate._entered.release()
            while True:
                yield b"x" * 10_000
        finally:
            ended.set()

    async def async_parts() -> AsyncIterator[bytes]:
        try:
            gate._entered.release()
            while True:
                yield b"x" * 10_000
        finally:
            ended.set()

    async def waiting_parts() -> AsyncIterator[bytes]:
        try:
            yield b"x"
            await gate  # for ever: the test does not open it
        finally:
            ended.set()

    async def parts(conn: Any, params: Any) -> Any:
        kinds: Any = {"parts": async_parts, "waiting_parts": waiting_parts, "thread_parts": sync_parts}
        return conn.send_chunked(200, kinds[moment]())

    async def action(conn: Any, params: Any) -> Any:
        conn.send_chunked(200)
        async for part in async_parts() if moment == "action" else waiting_parts():
            await conn.chunk(part)

    def thread_action(conn: Any, params: Any) -> Any:
        conn.send_chunked(200)
        for part in sync_parts():
            conn.chunk(part)

    async def whole(conn: Any, params: Any) -> Any:
        gate._entered.release()
        return conn.send_resp(200, BIG)

    async def file(conn: Any, params: Any) -> Any:
        gate._entered.release()
        return conn.send_file(200, tmp_path / "big")

    async def read(conn: Any, params: Any) -> Any:
        gate._entered.release()
        return conn.text((await conn.body.read()).decode())

    def read_in_thread(conn: Any, params: Any) -> Any:
        gate._entered.release()
        return conn.text(conn.read_body().decode())

    serve(
        body=read, thread_body=read_in_thread, parts=parts, waiting_parts=parts, thread_parts=parts, action=action,
        waiting_action=action, thread_action=thread_action, whole=whole, file=file, pipelined=slow, upload=slow,
        thread=slow_in_thread, hello=hello, **{"async": slow},
    )  # fmt: skip
    site.get("/hello")
    site.wait_until_quiet()
    before = open_files()
    client = site.client(receive_buffer=4096)
    wire = {
        "connect": "", "head": "GET / HTTP/1.1\r\nHo",
        "body": "POST /body HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n\r\nabc",
        "thread_body": f"POST /thread_body {CHUNKED}3\r\nabc",
        "pipelined": "GET /pipelined HTTP/1.1\r\nHost: a\r\n\r\n" * 100,
        "upload": f"{UPLOAD}999999\r\n\r\n--X\r\n"
        'Content-Disposition: form-data; name="a"; filename="b"\r\n\r\n' + "x" * 200_000,
    }.get(moment, f"GET /{moment} HTTP/1.1\r\nHost: a\r\n\r\n")  # fmt: skip
    client.send(wire)
    if moment in ("connect", "head"):
        wait_until(lambda: site.server.connections, "the connection")
    elif moment == "upload":
        wait_until(lambda: any("/tmp" in name for name in open_files() - before), "the upload is on the disk")
    else:
        gate.entered()
    client.reset() if how == "reset" else client.close()
    if moment == "thread":
        if how == "reset":
            wait_until(lambda: not site.server.connections, "the connection is gone")
        gate.open()  # what runs in a thread cannot be torn down: it ends by itself
    site.wait_until_quiet()
    if moment in ("parts", "waiting_parts", "thread_parts", "action", "waiting_action", "thread_action"):
        assert ended.wait(PATIENCE)
    gc.collect()
    wait_until(lambda: open_files() == before, f"no open file is left: {open_files() ^ before}")
    assert site.get("/hello").body == b"hello"


def test_a_client_that_is_reset_behind_its_answer_is_no_error(serve: Any) -> None:
    async def bye(conn: Any, params: Any) -> Any:
        conn._after = [client.reset]  # is called between the answer and the end of the connection
        return conn.text("bye")

    site = serve(bye=bye)
    client = site.client()
    client.request("/bye", connection="close")
    site.wait_until_quiet()  # and nothing is logged


@pytest.mark.skipif(not HAS_PROC, reason="needs /proc to count open files")
def test_connections_that_come_and_go_leave_nothing_behind(serve: Any) -> None:
    site = serve(hello=hello, thread=hello_from_a_thread, echo=echo)

    def come_and_go(number: int) -> None:
        with site.client() as client:
            if number % 4:
                client.get("/thread" if number % 3 else "/hello")
            if number % 5 == 0:
                client.send("POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: 99\r\n\r\n")
            if number % 7 == 0:
                client.reset()
        site.clients.clear()

    for number in range(60):
        come_and_go(number)
    site.wait_until_quiet()
    gc.collect()
    kinds = ("_Connection", "RequestParser", "Conn", "Task")

    def alive() -> int:  # other tests may have left some
        return sum(type(each).__name__ in kinds for each in gc.get_objects())

    files, objects, before = open_files(), len(gc.get_objects()), alive()
    for number in range(420):
        come_and_go(number)
    site.wait_until_quiet()
    gc.collect()
    assert open_files() == files
    assert alive() - before < 10
    assert len(gc.get_objects()) - objects < 420


# --- Worker threads -----------------------------------------------------------------------


def test_as_many_blocking_actions_run_at_a_time_as_there_are_threads(serve: Any) -> None:
    barrier = threading.Barrier(5, timeout=PATIENCE)
    at_once, most, lock = 0, 0, threading.Lock()

    def meet(conn: Any, params: Any) -> Any:
        nonlocal at_once, most
        with lock:
            at_once += 1
            most = max(most, at_once)
        barrier.wait()  # passes only when five are here
        with lock:
            at_once -= 1
        return conn.text("met")

    site = serve({"threads": 5}, meet=meet)
    clients = [site.client().request("/meet") for _ in range(15)]
    assert [client.response().body for client in clients] == [b"met"] * 15
    assert most == 5


def test_threads_that_are_all_stuck_stop_no_async_action(serve: Any, site: Site) -> None:
    gate = site.gate()

    def stuck(conn: Any, params: Any) -> Any:
        gate.wait()
        return conn.text("free")

    serve({"threads": 3}, stuck=stuck, hello=hello, echo=echo, parts=generate)
    waiting = [site.client().request("/stuck") for _ in range(8)]
    gate.entered(3)
    client = site.client()
    for _ in range(10):
        assert client.get("/hello").body == b"hello"
        assert client.post("/echo", b"abc").body == b"abc"
        assert client.get("/parts").body == b"abc" + b"d" * 20
    assert not gate._entered.acquire(blocking=False), "a fourth one began"
    gate.open()
    assert [each.response().body for each in waiting] == [b"free"] * 8


def test_threads_are_started_when_they_are_needed_and_used_again(serve: Any) -> None:
    seen = set()

    def note(conn: Any, params: Any) -> Any:
        seen.add(threading.current_thread().name)
        return conn.text("")

    site = serve(note=note)
    client = site.client()
    for _ in range(20):
        client.get("/note")
    assert len(seen) == 1


@pytest.mark.parametrize("error", [ValueError("no"), StopIteration(), asyncio.CancelledError(), BaseException("odd")])
def test_an_error_in_a_thread_is_answered(error: BaseException, serve: Any) -> None:
    def fail(conn: Any, params: Any) -> Any:
        raise error

    site = serve(fail=fail, hello=hello_from_a_thread)
    client = site.client()
    assert client.get("/fail").status == 500
    site.log.expect("GET /fail")
    assert site.get("/hello").body == b"hello from a thread"


def test_a_thread_sees_the_context_of_its_request_and_no_other(serve: Any) -> None:
    name = contextvars.ContextVar("name", default="nobody")

    async def set_name(conn: Any, params: Any) -> Any:
        before = name.get()
        name.set(conn.query_string)
        return conn.text(before)

    def set_name_in_thread(conn: Any, params: Any) -> Any:
        before = name.get()
        name.set(conn.query_string)
        return conn.text(before)

    client = serve(a=set_name, b=set_name_in_thread).client()
    assert [client.get(path).body for path in ("/a?1", "/b?2", "/a?3", "/b?4")] == [b"nobody"] * 4


# --- Errors where no error page can be made -----------------------------------------------


def test_a_body_that_cannot_be_written_is_answered_500(serve: Any) -> None:
    async def bad(conn: Any, params: Any) -> Any:
        conn.text("").resp_body = 42
        return conn

    def bad_in_thread(conn: Any, params: Any) -> Any:
        conn.text("").resp_body = 42
        return conn

    site = serve(bad=bad, thread=bad_in_thread)
    for path in ("/bad", "/thread"):
        client = site.client()
        assert client.get(path).status == 500
        site.log.expect(f"GET {path}.*int")
        assert client.is_closed()


@pytest.mark.parametrize("error", [asyncio.CancelledError(), GeneratorExit(), BaseException("odd")])
def test_an_error_that_is_no_exception_leaves_no_client_waiting(error: BaseException, serve: Any) -> None:
    async def fail(conn: Any, params: Any) -> Any:
        await asyncio.sleep(0)
        raise error

    site = serve(fail=fail)
    assert site.client().get("/fail").status == 500
    site.log.expect("GET /fail")


def test_a_handler_that_raises_or_returns_nonsense_leaves_no_client_waiting(site: Site) -> None:
    def handle(request: Any, connection: Any) -> Any:
        if request.path == "/raise":
            raise ValueError("handle failed")
        return 42

    site.serve(lambda: Server(handle, port=0))
    for path, words in (("/raise", "handle failed"), ("/nonsense", "int")):
        client = site.client()
        assert client.get(path).status == 500
        assert client.is_closed()
        site.log.expect(words)


def test_what_cleans_up_behind_a_request_may_fail(serve: Any) -> None:
    cleaned = []

    async def work(conn: Any, params: Any) -> Any:
        def fail() -> None:
            raise ValueError("cannot clean up")

        conn._after = [fail, lambda: cleaned.append(1)]
        return conn.text("done")

    site = serve(work=work)
    client = site.client()
    for _ in range(2):
        assert client.get("/work").body == b"done"
        site.log.expect("cannot clean up")
    assert cleaned == [1, 1]


def test_a_conn_is_of_no_use_when_it_was_answered(serve: Any) -> None:
    kept: list[Any] = []

    async def keep(conn: Any, params: Any) -> Any:
        kept.append(conn)
        return conn.send_chunked(200, ["a"])

    site = serve(keep=keep, hello=hello)
    client = site.client()
    assert client.get("/keep").body == b"a"

    async def use_late() -> str:
        errors = []
        uses: list[Callable[[], Any]] = [lambda: kept[0].chunk("late"), lambda: kept[0].adapter.whole_body(kept[0])]
        for use in uses:
            try:
                use()
            except PhoenixError as error:
                errors.append(str(error))
        try:
            await kept[0].body.read()
        except PhoenixError as error:
            errors.append(str(error))
        return " ".join(errors)

    assert site.run(use_late()).count("answered already") == 3
    assert client.get("/hello").body == b"hello"


# --- The end of the server ----------------------------------------------------------------


def test_a_server_that_stops_closes_idle_connections_and_ends_what_was_begun(serve: Any, site: Site) -> None:
    gate = site.gate()

    async def slow(conn: Any, params: Any) -> Any:
        await gate
        return conn.text("slow")

    def slow_in_thread(conn: Any, params: Any) -> Any:
        gate.wait()
        return conn.text("slow")

    async def parts(conn: Any, params: Any) -> Any:
        await conn.send_chunked(200).chunk("a")
        await gate
        return conn.chunk("b")

    serve(slow=slow, thread=slow_in_thread, parts=parts, hello=hello)
    fresh, idle, half = site.client(), site.client(), site.client()
    assert idle.get("/hello").body == b"hello"
    half.send("GET /hello HTTP/1.1\r\nHo")
    busy = [site.client().request(path) for path in ("/slow", "/thread", "/parts", "/slow")]
    busy[3].request("/hello")  # pipelined behind: the client may send it again elsewhere
    gate.entered(4)
    wait_until(lambda: len(site.server.connections) == 7, "all connections")
    stopping = asyncio.run_coroutine_threadsafe(site.server.stop(), site.loop)
    assert fresh.is_closed() and idle.is_closed() and half.is_closed()
    with pytest.raises(ConnectionError):
        site.client()
    assert not stopping.done()
    gate.open()
    answers = [client.response() for client in busy]
    assert [answer.body for answer in answers] == [b"slow", b"slow", b"ab", b"slow"]
    told = [answer.headers.get("connection") for answer in answers]
    assert told == ["close", "close", None, "close"]  # the head of the parts was sent before
    assert all(client.is_closed() for client in busy)
    for client in busy:
        client.close()
    stopping.result(PATIENCE)


def test_what_does_not_end_in_time_is_cut_off(serve: Any, site: Site) -> None:
    gate = site.gate()
    cancelled = threading.Event()

    async def slow(conn: Any, params: Any) -> Any:
        try:
            await gate
        finally:
            cancelled.set()
        return conn.text("slow")

    def slow_in_thread(conn: Any, params: Any) -> Any:
        gate.wait()
        return conn.text("slow")

    serve({"timeouts": {"shutdown": 0.3}}, slow=slow, thread=slow_in_thread)
    busy = [site.client().request(path) for path in ("/slow", "/thread")]
    gate.entered(2)
    site.run(site.server.stop())
    assert all(client.is_closed() for client in busy)
    assert cancelled.wait(PATIENCE)
    site.log.expect("2 requests did not end within 0.3 s")
    gate.open()


def test_a_server_that_has_nothing_to_do_stops_at_once(serve: Any) -> None:
    site = serve(hello=hello)
    site.get("/hello")
    site.wait_until_quiet()
    began = time.monotonic()
    site.run(site.server.stop())
    assert time.monotonic() - began < 3


def test_a_client_that_keeps_its_end_open_after_the_answer_does_not_hold_the_server_up(serve: Any) -> None:
    site = serve(hello=hello)
    with socket.create_connection(("127.0.0.1", site.server.port), PATIENCE) as client:
        client.sendall(b"GET /hello HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
        while client.recv(4096):
            pass
        began = time.monotonic()
        site.run(site.server.stop())
        assert time.monotonic() - began < 5


def test_threads_end_with_their_server(serve: Any) -> None:
    before = {thread.name for thread in threading.enumerate()}
    site = serve(hello=hello_from_a_thread)
    site.get("/hello")
    site.wait_until_quiet()
    site.run(site.server.stop())
    before.add(site.thread.name)
    wait_until(lambda: {thread.name for thread in threading.enumerate()} <= before, "the workers end")


STOP_APP = """
import asyncio, sys, threading
sys.path.insert(0, {root!r})
import phoenix
from phoenix import get

async def slow(conn, params):
    print("begun", file=sys.stderr, flush=True)
    await asyncio.sleep(float(params["seconds"]))
    return conn.text("slow")

def stuck(conn, params):
    print("begun", file=sys.stderr, flush=True)
    threading.Event().wait()

class Router(phoenix.Router):
    get("/slow/:seconds", slow)
    get("/stuck", stuck)

if __name__ == "__main__":
    phoenix.Endpoint(Router, env="prod", static=False, timeouts={{"shutdown": 1}}).run()
"""


@pytest.fixture
def stop_app(start: Any, tmp_path: Path) -> StartedServer:
    program = tmp_path / "stop_app.py"
    program.write_text(STOP_APP.format(root=str(Path(phoenix.__file__).parent)))
    return start(program)  # type: ignore[no-any-return]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_lets_requests_end_and_the_exit_status_is_0(number: int, stop_app: StartedServer) -> None:
    with Client(int(stop_app.url.rpartition(":")[2])) as client:
        client.request("/slow/0.5")
        wait_until(lambda: "begun" in stop_app.log, "the request has begun")
        stop_app.process.send_signal(number)
        answer = client.response()
        assert (answer.body, answer.headers["connection"]) == (b"slow", "close")
    assert stop_app.process.wait(PATIENCE) == 0
    assert "Traceback" not in stop_app.log


@pytest.mark.parametrize("path", ["/slow/60", "/stuck"])
def test_the_exit_status_is_0_even_when_a_request_had_to_be_cut_off(path: str, stop_app: StartedServer) -> None:
    with Client(int(stop_app.url.rpartition(":")[2])) as client:
        client.request(path)
        wait_until(lambda: "begun" in stop_app.log, "the request has begun")
        assert stop_app.stop() == 0
        assert client.is_closed()
    assert "1 requests did not end within 1 s" in stop_app.log
    assert "Traceback" not in stop_app.log


# --- Starting -----------------------------------------------------------------------------


def test_a_port_that_is_taken_is_an_error_of_the_system(site: Site) -> None:
    site.serve(lambda: Server(lambda request, connection: None, port=0))
    second = Server(lambda request, connection: None, port=site.server.port)
    with pytest.raises(OSError) as raised:
        site.run(second.start())
    assert raised.value.errno == errno.EADDRINUSE


def test_an_unknown_limit_or_time_is_refused() -> None:
    with pytest.raises(TypeError):
        Timeouts(header=5)  # type: ignore[call-arg]
    with pytest.raises(TypeError):
        HTTPLimits(lines=5)  # type: ignore[call-arg]
    assert (Timeouts().head, Timeouts().body, Timeouts().idle, Timeouts().shutdown) == (10, 20, 30, 10)


def test_the_server_does_not_import_asyncio_before_it_starts() -> None:
    root = str(Path(phoenix.__file__).parent)
    code = f"""
import sys
sys.path.insert(0, {root!r})
import phoenix
phoenix.Server(print)
print("asyncio" in sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.stdout == "False\n", done.stderr


# --- A crowd ------------------------------------------------------------------------------


@pytest.mark.skipif(sys.version_info < (3, 11), reason="asyncio.run takes no loop before 3.11")
def test_a_crowd_of_sockets_that_are_ready_lets_others_have_their_turn_in_between() -> None:
    turns: list[int] = []

    async def main() -> None:
        loop = asyncio.get_running_loop()
        pairs = [socket.socketpair() for _ in range(400)]
        heard: set[int] = set()
        for at, (near, far) in enumerate(pairs):
            loop.add_reader(near, heard.add, at)
            far.send(b"x")
        while len(heard) < len(pairs):
            before = len(heard)
            await asyncio.sleep(0)
            turns.append(len(heard) - before)
        for near, far in pairs:
            loop.remove_reader(near)
            near.close()
            far.close()

    _run_fairly(main())
    assert sum(turns) == 400
    assert max(turns) <= 128


@pytest.mark.skipif(sys.version_info < (3, 11), reason="asyncio.run takes no loop before 3.11")
def test_a_socket_that_is_gone_when_its_turn_comes_is_not_looked_after() -> None:
    heard: list[int] = []

    async def main() -> None:
        loop = asyncio.get_running_loop()
        pairs = [socket.socketpair() for _ in range(400)]

        def hear(at: int) -> None:
            heard.append(at)
            for near, _ in pairs:
                loop.remove_reader(near)
                near.close()
            again, other = socket.socketpair()  # it takes the number of one that is gone
            pairs.append((again, other))
            loop.add_reader(again, heard.append, -1)

        for at, (near, far) in enumerate(pairs):
            loop.add_reader(near, hear, at)
            far.send(b"x")
        await asyncio.sleep(0.05)
        pairs[-1][1].send(b"x")
        while -1 not in heard:
            await asyncio.sleep(0.01)
        loop.remove_reader(pairs[-1][0])
        for pair in pairs:
            for each in pair:
                each.close()

    _run_fairly(asyncio.wait_for(main(), 10))
    assert heard[0] >= 0
    assert set(heard[1:]) == {-1}


def test_more_clients_wait_to_be_accepted_than_are_accepted_in_one_go() -> None:
    async def main() -> int:
        server = Server(lambda request, connection: None, port=0)
        await server.start()
        clients = [socket.socket() for _ in range(300)]
        for client in clients:
            client.settimeout(5)
            client.connect(("127.0.0.1", server.port))  # the loop has no turn meanwhile: the system lets them wait
        for client in clients:
            client.close()
        await server.stop()
        return len(clients)

    assert asyncio.run(main()) == 300


def test_the_garbage_collector_passes_over_a_crowd_while_it_is_there(
    serve: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(phoenix, "_CROWD", 10)
    site = serve({"timeouts": {"idle": 0.4}}, hello=hello)
    site.call(gc.unfreeze)
    crowd = [site.client() for _ in range(10)]
    for client in crowd:
        client.get("/hello")
    wait_until(gc.get_freeze_count, "the crowd is noticed")
    for client in crowd:
        client.close()
    wait_until(lambda: not gc.get_freeze_count(), "what they left behind can be collected")
