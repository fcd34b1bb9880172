"""Requests that take long: events as they happen, large bodies in constant memory, clients that go away."""

from __future__ import annotations

import asyncio
import hashlib
import logging
import os
import re
import socket
import struct
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import ROOT, StartedServer
from serving import TIMEOUT, Serving, until

import phoenix
from phoenix import ArgumentError, Conn, Endpoint, PubSub, get, post


def app(router: Any, **options: Any) -> Endpoint:
    return Endpoint(router, **{"env": "prod", "static": False, "log": False, **options})


class Raw:
    """A client that sees bytes."""

    def __init__(self, port: int, path: str, method: str = "GET", head: str = "", body: bytes = b"", minor: int = 1) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=TIMEOUT)
        self.socket.sendall(f"{method} {path} HTTP/1.{minor}\r\nHost: a\r\n{head}\r\n".encode() + body)
        self.data = b""

    def read_until(self, end: bytes) -> bytes:
        while end not in self.data:
            part = self.socket.recv(65536)
            assert part, f"it ended with {self.data!r}"
            self.data += part
        found, _, self.data = self.data.partition(end)
        return found

    def rest(self) -> bytes:
        while part := self.socket.recv(65536):
            self.data += part
        return self.data

    def leave(self, how: str) -> None:
        if how == "reset":
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.socket.close()


def ended_early(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if "ended early" in record.getMessage()]


# --- Server-sent events -------------------------------------------------------------------


def sent(conn: Conn) -> str:
    return b"".join(conn.adapter.chunks).decode()


@pytest.mark.parametrize(
    "data, options, wire",
    [
        ("hello", {}, "data: hello\n\n"),
        ("", {}, "data: \n\n"),
        ("two\nlines", {}, "data: two\ndata: lines\n\n"),
        ("a\r\nb\rc\n", {}, "data: a\ndata: b\ndata: c\ndata: \n\n"),
        ("not\u2028an end\x0bof lines\x85", {}, "data: not\u2028an end\x0bof lines\x85\n\n"),
        (" space:colon", {}, "data:  space:colon\n\n"),
        ({"a": [1, "ü\n"]}, {}, 'data: {"a":[1,"ü\\n"]}\n\n'),
        (None, {}, "data: null\n\n"),
        ("x", {"event": "news", "id": 7, "retry": 3000}, "event: news\nid: 7\nretry: 3000\ndata: x\n\n"),
        ("x", {"id": ""}, "id: \ndata: x\n\n"),
    ],
)
def test_an_event_is_framed(data: Any, options: dict[str, Any], wire: str) -> None:
    assert sent(Conn().event_stream().send_event(data, **options)) == wire


@pytest.mark.parametrize("field", ["event", "id"])
@pytest.mark.parametrize("text", ["a\nb", "a\rdata: forged", "a\0", "end\n"])
def test_a_name_or_id_cannot_become_another_field(field: str, text: str) -> None:
    conn = Conn().event_stream()
    with pytest.raises(ArgumentError, match="expected text of one line"):
        conn.send_event("x", **{field: text})
    assert sent(conn) == ""


def test_a_stream_of_events_says_so_and_is_kept_by_nobody() -> None:
    conn = Conn().send_event("x")  # the first event starts it
    assert (conn.status, conn.state, sent(conn)) == (200, "chunked", "data: x\n\n")
    for name, value in (
        ("content-type", "text/event-stream; charset=utf-8"), ("cache-control", "no-cache"), ("x-accel-buffering", "no"),
    ):  # fmt: skip
        assert conn.get_resp_header(name) == [value]


def test_a_stream_cannot_start_behind_a_response() -> None:
    with pytest.raises(phoenix.AlreadySentError):
        Conn().text("sent").event_stream()


class News:
    """An app whose clients hear the news, and what became of its actions."""

    def __init__(self, heartbeat: float = 15) -> None:
        self.pubsub = pubsub = PubSub()
        self.ended: list[str] = []
        self.seen: list[list[str]] = []

        async def news(conn: Any, params: Any) -> Any:
            self.seen.append(conn.get_req_header("last-event-id"))
            try:
                with pubsub.subscribe("news") as mailbox:
                    conn.event_stream(heartbeat=heartbeat)
                    async for number, message in mailbox:
                        await conn.send_event(message, event="news", id=number)
            finally:
                self.ended.append("news")

        def news_in_thread(conn: Any, params: Any) -> Any:
            try:
                with pubsub.subscribe("news") as mailbox:
                    conn.event_stream(heartbeat=heartbeat)
                    for number, message in mailbox:
                        conn.send_event(message, event="news", id=number)
            finally:
                self.ended.append("thread")

        class Router(phoenix.Router):
            get("/", lambda conn, params: conn.html("<!DOCTYPE html><title>News</title>"))
            get("/news", news)
            get("/thread", news_in_thread)

        self.app = app(Router, pubsub=pubsub, timeouts={"shutdown": 5})

    def say(self, number: int, message: Any) -> None:
        until(lambda: self.pubsub.subscribers("news"))
        self.pubsub.broadcast("news", (number, message))


@pytest.mark.parametrize("path", ["/news", "/thread"])
def test_events_of_a_topic_arrive_as_they_happen(path: str) -> None:
    news = News()
    with Serving(news.app) as server:
        client = Raw(server.port, path)
        head = client.read_until(b"\r\n\r\n").lower()
        assert b"content-type: text/event-stream" in head and b"x-accel-buffering: no" in head
        for number in (1, 2):
            news.say(number, f"line {number}\nmore")
            event = f"event: news\nid: {number}\ndata: line {number}\ndata: more".encode()
            assert event in client.read_until(b"\n\n")
        client.socket.close()
        if path == "/thread":
            until(lambda: news.pubsub.broadcast("news", (3, "is anybody there?")) or news.ended)
        until(lambda: news.ended, "the end of the action")
        assert news.pubsub.topics() == []


@pytest.mark.parametrize("minor", [0, 1])
def test_a_stream_without_events_has_a_heartbeat(minor: int) -> None:
    news = News(heartbeat=0.05)
    with Serving(news.app) as server:
        server.app.server._sweep()  # the first look is not a second away
        client = Raw(server.port, "/news", minor=minor)
        client.read_until(b"\r\n\r\n")
        for _ in range(2):
            assert client.read_until(b":\n\n") in ((b"3\r\n", b"\r\n3\r\n") if minor else (b"",))
        client.leave("close")
        until(lambda: news.ended, "the end of the action")


def test_head_of_a_stream_of_events_ends_when_its_client_has_seen_it() -> None:
    news = News()
    with Serving(news.app) as server:
        client = Raw(server.port, "/news", "HEAD")
        assert b"text/event-stream" in client.read_until(b"\r\n\r\n")
        client.leave("close")
        until(lambda: news.ended, "the end of the action")


def test_a_stream_of_events_does_not_hold_up_a_server_that_stops(caplog: pytest.LogCaptureFixture) -> None:
    news = News()
    with caplog.at_level(logging.INFO, "phoenix"), Serving(news.app) as server:
        client = Raw(server.port, "/news")
        client.read_until(b"\r\n\r\n")
        began = time.monotonic()
    assert time.monotonic() - began < 3
    assert client.rest() == b"0\r\n\r\n"  # it is not broken off
    assert news.ended == ["news"]
    assert ended_early(caplog) == ["GET /news ended early: the server stopped"]


def test_a_stream_by_asgi_has_a_heartbeat_and_ends_with_its_client(caplog: pytest.LogCaptureFixture) -> None:
    news = News(heartbeat=0.02)
    scope = {
        "type": "http", "asgi": {"version": "3.0"}, "http_version": "1.1", "method": "GET", "scheme": "http",
        "path": "/news", "raw_path": b"/news", "query_string": b"", "root_path": "", "headers": [(b"host", b"a")],
        "client": ("127.0.0.1", 1), "server": ("127.0.0.1", 80),
    }  # fmt: skip
    bodies: list[bytes] = []

    async def listen() -> None:
        beaten = asyncio.Event()

        async def receive() -> dict[str, Any]:
            await beaten.wait()
            return {"type": "http.disconnect"}

        async def send(message: dict[str, Any]) -> None:
            bodies.append(message.get("body", b""))
            if bodies.count(b":\n\n") == 2:
                beaten.set()

        await asyncio.wait_for(news.app(scope, receive, send), TIMEOUT)

    with caplog.at_level(logging.INFO, "phoenix"):
        asyncio.run(listen())
    assert news.ended == ["news"] and news.pubsub.topics() == []
    assert ended_early(caplog) == ["GET /news ended early: the client went away"]


LISTEN = """
() => {
  window.heard = []
  window.source = new EventSource("/news")
  source.onopen = () => heard.push("open")
  source.addEventListener("news", event => heard.push([event.data, event.lastEventId]))
}
"""


def test_a_browser_hears_events_and_says_what_it_has_heard_when_it_comes_again(page: Any) -> None:
    news = News()
    with Serving(news.app) as server:
        page.goto(f"http://127.0.0.1:{server.port}/")
        page.evaluate(LISTEN)
        page.wait_for_function("heard.length == 1")
        news.say(7, "ünï\ncode 🎉")
        news.say(8, {"to": ["all"]})
        page.wait_for_function("heard.length == 3")
        assert page.evaluate("heard") == ["open", ["ünï\ncode 🎉", "7"], ['{"to":["all"]}', "8"]]
        [connection] = [each for each in server.app.server.connections if each.request]
        connection.server.loop.call_soon_threadsafe(connection.abort)
        until(lambda: len(news.seen) == 2, "the browser's coming again")
        assert news.seen == [[], ["8"]]
        until(lambda: len(news.ended) == 1, "the end of the first action")
        news.say(9, "again")
        page.wait_for_function("heard.length == 5")
        page.evaluate("source.close()")
        until(lambda: len(news.ended) == 2, "the end of the second action")
    assert news.pubsub.topics() == []


# --- Clients that go away -----------------------------------------------------------------


@pytest.mark.parametrize("how", ["reset", "close"])
@pytest.mark.parametrize("kind", ["waiting", "streaming", "chunks", "body", "topic", "post"])
def test_a_coroutine_is_cancelled_when_its_client_goes_away(
    kind: str, how: str, caplog: pytest.LogCaptureFixture
) -> None:
    began, ended = threading.Event(), threading.Event()
    errors: list[str] = []
    pubsub = PubSub()

    async def parts() -> AsyncIterator[bytes]:
        yield b"first"
        began.set()
        await asyncio.Event().wait()

    async def work(conn: Any) -> Any:
        if kind in ("waiting", "post"):
            began.set()
            await asyncio.Event().wait()
        elif kind == "chunks":
            async for part in parts():
                await conn.send_chunked(200).chunk(part)
        elif kind == "topic":
            conn.send_chunked(200)
            async for message in pubsub.subscribe("topic"):
                await conn.chunk(message)
        elif kind == "body":
            began.set()
            async for _ in conn.body:
                pass

    async def action(conn: Any, params: Any) -> Any:
        try:
            if kind == "streaming":
                return conn.send_chunked(200, generator())
            await work(conn)
        except BaseException as error:
            errors.append(type(error).__name__)
            raise
        finally:
            if kind != "streaming":
                ended.set()

    async def generator() -> AsyncIterator[bytes]:
        try:
            async for part in parts():
                yield part
        except BaseException as error:
            errors.append(type(error).__name__)
            raise
        finally:
            ended.set()

    class Router(phoenix.Router):
        get("/", action)
        post("/", action)

    with caplog.at_level(logging.INFO, "phoenix"), Serving(app(Router, parsers=False)) as server:
        if kind == "body":
            client = Raw(server.port, "/", "POST", "content-length: 9\r\n", b"abc")
        else:
            client = Raw(server.port, "/", "POST" if kind == "post" else "GET")
        if kind == "topic":
            until(lambda: pubsub.topics())
        else:
            assert began.wait(TIMEOUT)
        client.leave(how)
        assert ended.wait(TIMEOUT)
        until(lambda: ended_early(caplog) or kind == "body", "the line in the log")
        until(lambda: not server.app.server.connections)
    assert errors == ["ClientDisconnected" if kind == "body" else "CancelledError"]
    if kind != "body" or how != "close":  # then it could still read, and was told
        method = "POST" if kind in ("body", "post") else "GET"
        assert ended_early(caplog) == [f"{method} / ended early: the client went away"]
    assert pubsub.topics() == []
    assert [record for record in caplog.records if record.levelno > logging.INFO] == []


@pytest.mark.parametrize("how", ["reset", "close"])
def test_a_worker_thread_is_told_when_it_sends_to_a_client_that_is_gone(
    how: str, caplog: pytest.LogCaptureFixture
) -> None:
    errors: list[str] = []

    def action(conn: Any, params: Any) -> Any:
        conn.send_chunked(200)
        try:
            while True:
                conn.chunk("x")
                time.sleep(0.01)
        except Exception as error:
            errors.append(type(error).__name__)
            raise

    class Router(phoenix.Router):
        get("/", action)

    with caplog.at_level(logging.INFO, "phoenix"), Serving(app(Router)) as server:
        client = Raw(server.port, "/")
        client.read_until(b"x")
        client.leave(how)
        until(lambda: errors)
        until(lambda: ended_early(caplog), "the line in the log")
    assert errors == ["ClientDisconnected"]
    assert ended_early(caplog) == ["GET / ended early: the client went away"]
    assert [record for record in caplog.records if record.levelno > logging.INFO] == []


def test_a_coroutine_behind_a_plug_in_a_thread_is_cancelled_when_the_client_went_away_meanwhile() -> None:
    entered, gone, ended = threading.Event(), threading.Event(), threading.Event()

    def blocking(conn: Any) -> Any:
        entered.set()
        assert gone.wait(TIMEOUT)
        return conn

    async def endless(conn: Any, params: Any) -> Any:
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()

    class Router(phoenix.Router):
        get("/", endless)

    with Serving(app(Router, plugs=[blocking])) as server:
        client = Raw(server.port, "/")
        assert entered.wait(TIMEOUT)
        client.leave("reset")
        until(lambda: not server.app.server.connections)
        gone.set()
        assert ended.wait(TIMEOUT)


def test_what_must_not_be_torn_can_be_shielded() -> None:
    began, done = threading.Event(), threading.Event()

    async def save() -> None:
        began.set()
        await asyncio.sleep(0.1)
        done.set()

    async def action(conn: Any, params: Any) -> Any:
        await asyncio.shield(asyncio.ensure_future(save()))
        return conn.text("saved")

    class Router(phoenix.Router):
        post("/", action)

    with Serving(app(Router)) as server:
        client = Raw(server.port, "/", "POST")
        assert began.wait(TIMEOUT)
        client.leave("reset")
        assert done.wait(TIMEOUT)


@pytest.mark.parametrize("kind", ["whole", "chunks", "thread"])
def test_a_client_that_has_said_all_gets_its_answer_however_long_it_takes(kind: str) -> None:
    waited = threading.Event()

    async def pause() -> None:
        while not waited.is_set():
            await asyncio.sleep(0.01)

    async def action(conn: Any, params: Any) -> Any:
        if kind == "whole":
            await pause()
            return conn.text("answer")
        await conn.send_chunked(200).chunk("ans")
        await pause()
        return conn.chunk("wer")

    def in_thread(conn: Any, params: Any) -> Any:
        conn.send_chunked(200).chunk("ans")
        assert waited.wait(TIMEOUT)
        return conn.chunk("wer")

    class Router(phoenix.Router):
        get("/", in_thread if kind == "thread" else action)

    with Serving(app(Router)) as server:
        client = Raw(server.port, "/")
        client.socket.shutdown(socket.SHUT_WR)
        time.sleep(2.2)  # the server looks after its client once a second
        waited.set()
        answer = client.rest()
    head, _, body = answer.partition(b"\r\n\r\n")
    if kind == "whole":
        assert head == b"HTTP/1.1 100 Continue"
        assert body.endswith(b"\r\n\r\nanswer")
    else:
        assert body == b"3\r\nans\r\n03\r\nwer\r\n0\r\n\r\n"


def test_http_1_0_is_not_sent_what_it_does_not_know() -> None:
    async def action(conn: Any, params: Any) -> Any:
        await asyncio.sleep(2.2)
        return conn.text("answer")

    class Router(phoenix.Router):
        get("/", action)

    with Serving(app(Router)) as server:
        client = Raw(server.port, "/", minor=0)
        client.socket.shutdown(socket.SHUT_WR)
        answer = client.rest()
    assert answer.startswith(b"HTTP/1.1 200") and answer.endswith(b"\r\n\r\nanswer")


# --- Others have their turn ---------------------------------------------------------------


def drained(client: Raw) -> threading.Thread:
    def read() -> None:
        try:
            while client.socket.recv(1_000_000):
                pass
        except OSError:
            pass

    thread = threading.Thread(target=read)
    thread.start()
    return thread


@pytest.mark.parametrize("size", [1, 1000, 1_000_000])
def test_an_endless_response_to_a_fast_reader_lets_others_have_their_turn(size: int) -> None:
    async def endless(conn: Any, params: Any) -> Any:
        conn.send_chunked(200)
        part = b"x" * size
        while True:
            await conn.chunk(part)

    class Router(phoenix.Router):
        get("/endless", endless)
        get("/", lambda conn, params: conn.text("hello"))

    with Serving(app(Router)) as server:
        client = Raw(server.port, "/endless")
        client.read_until(b"x")
        reading = drained(client)
        with server.client() as other:
            began = time.monotonic()
            for _ in range(20):
                assert other.get("/").text == "hello"
            assert time.monotonic() - began < 5
        client.socket.shutdown(socket.SHUT_RDWR)
        reading.join(TIMEOUT)
        client.socket.close()


def test_a_coroutine_that_sends_without_ever_waiting_is_told_how_to(caplog: pytest.LogCaptureFixture) -> None:
    async def flood(conn: Any, params: Any) -> Any:
        conn.send_chunked(200)
        while True:
            conn.chunk(b"x" * 100_000)

    class Router(phoenix.Router):
        get("/", flood)

    with Serving(app(Router)) as server:
        client = Raw(server.port, "/")
        assert not client.rest().endswith(b"0\r\n\r\n")
    assert "without a pause" in caplog.text and "write `await conn.chunk(data)`" in caplog.text


# --- Large bodies in constant memory ------------------------------------------------------

SIZE = 256 * 1024 * 1024
LARGE = """
import hashlib, os, sys, tempfile
sys.path.insert(0, {root!r})
import phoenix
from phoenix import get, post

BLOCK = bytes(range(256)) * 256

async def upload(conn, params):
    seen, size = hashlib.sha256(), 0
    async for part in conn.body:
        seen.update(part)
        size += len(part)
    return conn.json([size, seen.hexdigest()])

def upload_in_thread(conn, params):
    seen, size = hashlib.sha256(), 0
    for part in conn.body:
        seen.update(part)
        size += len(part)
    return conn.json([size, seen.hexdigest()])

def form(conn, params):
    return conn.json([os.stat(params["file"].path).st_size, params["file"].filename])

async def download(conn, params):
    conn.send_chunked(200)
    for _ in range({size} // len(BLOCK)):
        await conn.chunk(BLOCK)
    return conn

def download_in_thread(conn, params):
    return conn.send_chunked(200, (BLOCK for _ in range({size} // len(BLOCK))))

async def file(conn, params):
    return conn.send_file(200, {file!r})

def memory(conn, params):
    with open("/proc/self/status") as status:
        found = next(line.split()[1] for line in status if line.startswith("VmHWM"))
    with open("/proc/self/clear_refs", "w") as reset:
        reset.write("5")
    return conn.text(found)

class Router(phoenix.Router):
    post("/upload", upload)
    post("/upload_in_thread", upload_in_thread)
    post("/form", form)
    get("/download", download)
    get("/download_in_thread", download_in_thread)
    get("/file", file)
    get("/memory", memory)

app = phoenix.Endpoint(Router, env="prod", log=False, static={{"from": {folder!r}}},
                       parsers={{"pass": ["*/*"], "multipart_length": 2 * {size}}})
app.run()
"""
BLOCK = bytes(range(256)) * 256


@pytest.fixture(scope="module")
def digest() -> str:
    seen = hashlib.sha256()
    for _ in range(SIZE // len(BLOCK)):
        seen.update(BLOCK)
    return seen.hexdigest()


@pytest.fixture
def large(start: Callable[..., StartedServer], tmp_path: Path) -> Iterator[StartedServer]:
    (tmp_path / "public").mkdir()
    file = tmp_path / "public" / "large.bin"
    with open(file, "wb") as stream:
        for _ in range(SIZE // len(BLOCK)):
            stream.write(BLOCK)
    program = tmp_path / "app.py"
    program.write_text(LARGE.format(root=str(ROOT), size=SIZE, file=str(file), folder=str(file.parent)))
    yield start(program)
    os.unlink(file)


def port_of(server: StartedServer) -> int:
    return int(server.url.rpartition(":")[2])


def peak(server: StartedServer) -> int:
    """The most memory that the server has had since this was asked before, in KiB."""
    return int(server.request("/memory").text)


def body_of(client: Raw) -> tuple[int, str]:
    """Read a response to its end; return how long its body is, without the sizes of chunks, and its digest."""
    head = client.read_until(b"\r\n\r\n").lower()
    seen, size = hashlib.sha256(), 0
    if found := re.search(rb"content-length: (\d+)", head):
        left = int(found[1])
        while left:
            part = client.data or client.socket.recv(1 << 20)
            client.data = b""
            assert part, f"{left} bytes are missing"
            seen.update(part)
            size, left = size + len(part), left - len(part)
        return size, seen.hexdigest()
    while length := int(client.read_until(b"\r\n"), 16):
        while len(client.data) < length + 2:
            part = client.socket.recv(1 << 20)
            assert part, "it ended"
            client.data += part
        seen.update(client.data[:length])
        size += length
        client.data = client.data[length + 2 :]
    return size, seen.hexdigest()


MOST_GROWTH = 40 * 1024  # KiB


@pytest.mark.skipif(not os.path.exists("/proc/self/status"), reason="needs /proc to measure memory")
@pytest.mark.parametrize("path", ["/upload", "/upload_in_thread", "/form"])
def test_an_upload_is_received_in_constant_memory(path: str, large: StartedServer, digest: str) -> None:
    peak(large)
    before = peak(large)
    start, end, kind = b"", b"", "application/octet-stream"
    if path == "/form":
        start = b'--X\r\ncontent-disposition: form-data; name="file"; filename="a.bin"\r\n\r\n'
        end, kind = b"\r\n--X--\r\n", "multipart/form-data; boundary=X"
    length = len(start) + SIZE + len(end)
    client = Raw(port_of(large), path, "POST", f"content-type: {kind}\r\ncontent-length: {length}\r\n", start)
    for _ in range(SIZE // len(BLOCK)):
        client.socket.sendall(BLOCK)
    client.socket.sendall(end)
    client.socket.settimeout(60)
    answer = client.read_until(b"]")
    client.socket.close()
    assert f"[{SIZE},".encode() in answer and (path == "/form" or digest.encode() in answer)
    assert peak(large) - before < MOST_GROWTH


@pytest.mark.skipif(not os.path.exists("/proc/self/status"), reason="needs /proc to measure memory")
@pytest.mark.parametrize("path", ["/download", "/download_in_thread", "/file", "/large.bin"])
def test_a_download_is_sent_in_constant_memory_and_waits_for_its_reader(
    path: str, large: StartedServer, digest: str
) -> None:
    peak(large)
    before = peak(large)
    slow = Raw(port_of(large), path)
    slow.read_until(b"\r\n\r\n")  # and no more
    client = Raw(port_of(large), path)
    assert body_of(client) == (SIZE, digest)
    client.socket.close()
    slow.socket.close()
    assert peak(large) - before < MOST_GROWTH


def test_a_part_of_a_large_file_is_sent(large: StartedServer) -> None:
    first = SIZE // 2 + 1
    answer = large.request("/large.bin", headers={"range": f"bytes={first}-{first + 999_999}"})
    assert (answer.status, answer.headers["content-range"]) == (206, f"bytes {first}-{first + 999_999}/{SIZE}")
    assert answer.body == (BLOCK * 17)[1:1_000_001]
    answer = large.request("/large.bin", headers={"range": "bytes=-1"})
    assert (answer.status, answer.body) == (206, BLOCK[-1:])
    assert large.request("/large.bin", headers={"range": f"bytes={SIZE}-"}).status == 416
    assert large.request("/large.bin", "HEAD").headers["content-length"] == str(SIZE)
