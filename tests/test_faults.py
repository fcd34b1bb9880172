"""What goes wrong in the life of a realtime server, done to a really started one: it must survive, and others too.

Readers that do not read, clients that are killed, channels that raise, callbacks that sleep, a restart under a
thousand connections, and thousands of connections that come and go.
"""

from __future__ import annotations

import asyncio
import collections
import json
import resource
import shutil
import socket
import struct
import subprocess
import sys
import time
import urllib.parse
from collections.abc import Callable, Coroutine, Iterable
from pathlib import Path
from typing import Any

import pytest
from conftest import ROOT, StartedServer, free_port

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="needs /proc, which tells about descriptors and memory")

Start = Callable[..., StartedServer]
CONTINUATION, TEXT, BINARY, CLOSE, PING = 0x0, 0x1, 0x2, 0x8, 0x9
TIMEOUT = 10  # seconds that any one answer may take

APP = '''
import asyncio, gc, json, os, time
import phoenix
from phoenix import Channel, Controller, Presence, PubSub, SocketHandler, channel, get, post, socket

pubsub = PubSub()
presence = Presence(pubsub)
flooding = None


class RoomChannel(Channel):
    async def join(self, socket, topic, message):
        if "name" in message:
            presence.track(socket, message["name"])
            socket.push("presence_state", presence.list(socket))
        return socket.ok({"pid": os.getpid()})

    async def event(self, socket, event, message):
        match event:
            case "ping":
                return socket.ok({"pong": message})
            case "say":
                socket.broadcast("said", message)


def raising(where, plain):
    """A channel that raises in one of its callbacks, written as `def` or as `async def`."""
    def might(self, name, result=None):
        if name == where:
            raise RuntimeError(f"raised in {name}")
        return result

    class Plain(Channel):
        def join(self, socket, topic, message):
            return might(self, "join", socket.ok())
        def event(self, socket, event, message):
            return socket.ok({"pong": message}) if event == "ping" else might(self, "event")
        def leave(self, socket, message):
            might(self, "leave")
        def terminate(self, socket, reason):
            pubsub.broadcast("rooms:lobby", phoenix.Broadcast("rooms:lobby", "terminated", {"reason": reason}))
            might(self, "terminate")

    class Awaiting(Plain):
        async def join(self, *arguments):
            await asyncio.sleep(0)
            return Plain.join(self, *arguments)
        async def event(self, *arguments):
            await asyncio.sleep(0)
            return Plain.event(self, *arguments)
        async def leave(self, *arguments):
            await asyncio.sleep(0)
            return Plain.leave(self, *arguments)
        async def terminate(self, *arguments):
            await asyncio.sleep(0)
            return Plain.terminate(self, *arguments)

    return Plain if plain else Awaiting


def sleeping(where):
    class Sleeper(Channel):
        def join(self, socket, topic, message):
            return rest("join", socket.ok())
        def event(self, socket, event, message):
            return rest("event", socket.ok({"slept": True}))
        def leave(self, socket, message):
            rest("leave")
        def terminate(self, socket, reason):
            rest("terminate")

    def rest(name, result=None):
        if name == where:
            app.broadcast("rooms:lobby", "asleep", {"in": name})
            time.sleep(1)
            app.broadcast("rooms:lobby", "awake", {"in": name})
        return result

    return Sleeper


class SleepyHandler(SocketHandler):
    def connect(self, socket, params, connect_info):
        app.broadcast("rooms:lobby", "asleep", {"in": "connect"})
        time.sleep(1)
        app.broadcast("rooms:lobby", "awake", {"in": "connect"})
        return True


class Controls(Controller):
    async def stats(self, conn, params):
        """What the process holds: it must come back to what it was."""
        gc.unfreeze()  # what a crowd of a thousand froze is hidden from `get_objects`
        gc.collect()
        kinds = (phoenix.Socket, phoenix._Session, phoenix._WebSocketWire, phoenix._Connection)
        alive = {kind.__name__: 0 for kind in kinds}
        for thing in gc.get_objects():
            if type(thing) in kinds:
                alive[type(thing).__name__] += 1
        return conn.json({
            "pid": os.getpid(),
            "tasks": len(asyncio.all_tasks()),
            "descriptors": len(os.listdir("/proc/self/fd")),
            "rss": int(open("/proc/self/statm").read().split()[1]) * os.sysconf("SC_PAGE_SIZE"),
            "topics": sum(name.startswith("rooms:") for name in list(pubsub._topics)),
            "present": sorted(presence.list("rooms:lobby")),
            "alive": alive,
        })

    async def flood(self, conn, params):
        """Broadcast so many messages a second for so many seconds."""
        global flooding
        rate, seconds, size = int(params["rate"]), float(params["seconds"]), int(params["size"])

        async def run():
            began, number, total = time.monotonic(), 0, int(rate * seconds)
            filling = "x" * size
            while number < total:
                due = min(total, int((time.monotonic() - began) * rate))
                while number < due:
                    app.broadcast("rooms:flood", "n", {"n": number, "filling": filling})
                    number += 1
                await asyncio.sleep(0.005)
            app.broadcast("rooms:flood", "over", {"sent": number, "took": time.monotonic() - began})

        flooding = asyncio.create_task(run())
        return conn.json({})


class Router(phoenix.Router):
    get("/stats", Controls, "stats")
    post("/flood", Controls, "flood")
    with socket("/ws"):
        channel("rooms", RoomChannel)
        for name in ("join", "event", "leave", "terminate"):
            channel(f"plain-{name}", raising(name, True))
            channel(f"async-{name}", raising(name, False))
            channel(f"sleeps-{name}", sleeping(name))
    with socket("/sleepy", SleepyHandler):
        channel("rooms", RoomChannel)


app = phoenix.Endpoint(Router, pubsub=pubsub, env="prod")

if __name__ == "__main__":
    app.run()
'''


@pytest.fixture(scope="module", autouse=True)
def _many_descriptors() -> None:
    """A thousand connections need more descriptors than a shell gives; what a test starts inherits them."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = 8192 if hard == resource.RLIM_INFINITY else min(8192, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


@pytest.fixture
def serve(start: Start, tmp_path: Path) -> Start:
    """Start the app above; keywords are its environment."""
    file = tmp_path / "faulty.py"
    file.write_text(APP)
    return lambda **environment: start(file, PYTHONPATH=str(ROOT), **environment)


def run(scenario: Coroutine[Any, Any, None], seconds: float = 120) -> None:  # so that nothing hangs
    asyncio.run(asyncio.wait_for(scenario, seconds))


async def stats(server: StartedServer) -> Any:
    return (await asyncio.to_thread(server.request, "/stats")).json


async def eventually(
    look: Callable[[], Coroutine[Any, Any, Any]], wanted: Callable[[Any], object], seconds: float = TIMEOUT
) -> Any:
    """Look until it is as wanted, or fail with what was there last."""
    end = time.monotonic() + seconds
    while not wanted(found := await look()):
        assert time.monotonic() < end, f"still not as expected after {seconds} s: {found}"
        await asyncio.sleep(0.05)
    return found


def logged_errors(server: StartedServer) -> list[str]:
    return [line for line in server.log.splitlines() if "Traceback" in line or "rror" in line or "crashed" in line]


# --- A client -----------------------------------------------------------------------------


def frame(opcode: int, payload: bytes, fin: bool = True) -> bytes:
    """One frame of a client, masked with zeros: allowed, and quick to make."""
    head, size = bytes([opcode | (0x80 if fin else 0)]), len(payload)
    if size < 126:
        return head + bytes([0x80 | size]) + bytes(4) + payload
    return head + b"\xfe" + struct.pack("!H", size) + bytes(4) + payload


HANDSHAKE = (
    "GET {}/websocket?vsn=2.0.0 HTTP/1.1\r\nHost: 127.0.0.1\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
)


class Client:
    """A WebSocket that speaks V2, and does nothing that it is not told to: it reads when a test waits for something."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer
        self.refs = 0
        self.kept: collections.deque[list[Any]] = collections.deque()  # read, but not what was waited for

    @classmethod
    async def connect(cls, server: StartedServer, path: str = "/ws", receive_buffer: int = 0) -> Client:
        address = urllib.parse.urlsplit(server.url)
        raw = socket.socket()
        if receive_buffer:
            raw.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        raw.setblocking(False)
        await asyncio.wait_for(asyncio.get_running_loop().sock_connect(raw, ("127.0.0.1", address.port)), TIMEOUT)
        reader, writer = await asyncio.open_connection(sock=raw, limit=1 << 24 if receive_buffer else 1 << 16)
        writer.write(HANDSHAKE.format(path).encode())
        head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), TIMEOUT)
        assert head.startswith(b"HTTP/1.1 101 "), head
        return cls(reader, writer)

    def read_again(self) -> None:
        """Take what has waited for this client as fast as it can come: the server has cut it, and waits two seconds."""
        self.writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
        self.writer.transport.resume_reading()  # type: ignore[attr-defined]

    async def _frame(self) -> tuple[int, bytes]:
        first, size = await self.reader.readexactly(2)
        if size == 126:
            (size,) = struct.unpack("!H", await self.reader.readexactly(2))
        elif size == 127:
            (size,) = struct.unpack("!Q", await self.reader.readexactly(8))
        return first & 0xF, await self.reader.readexactly(size)

    async def read(self, seconds: float = TIMEOUT) -> list[Any]:
        """Return the next message, or ``["close", code]``."""
        opcode, payload = await asyncio.wait_for(self._frame(), seconds)
        if opcode == CLOSE:
            return ["close", struct.unpack("!H", payload[:2])[0]]
        assert opcode == TEXT, (opcode, payload)
        message: list[Any] = json.loads(payload)
        return message

    async def wait_for(self, wanted: Callable[[list[Any]], object], seconds: float = TIMEOUT) -> list[Any]:
        """Return the first message that is wanted; others stay for later waits."""
        for message in self.kept:
            if wanted(message):
                self.kept.remove(message)
                return message
        end = time.monotonic() + seconds
        while not wanted(message := await self.read(max(0.001, end - time.monotonic()))):
            assert message[0] != "close", f"closed with {message[1]}"
            self.kept.append(message)
        return message

    async def wait_for_event(self, topic: str, event: str, seconds: float = TIMEOUT) -> Any:
        return (await self.wait_for(lambda message: message[2:4] == [topic, event], seconds))[4]

    async def wait_for_close(self, seconds: float = TIMEOUT) -> int:
        code: int = (await self.wait_for(lambda message: message[0] == "close", seconds))[1]
        return code

    def send(self, topic: str, event: str, payload: Any = None, join_ref: str | None = None) -> str:
        self.refs += 1
        ref = str(self.refs)
        message = [ref if event == "phx_join" else join_ref, ref, topic, event, payload or {}]
        self.writer.write(frame(TEXT, json.dumps(message).encode()))
        return ref

    async def ask(self, topic: str, event: str, payload: Any = None, seconds: float = TIMEOUT) -> Any:
        """Send a message and return the payload of its reply."""
        ref = self.send(topic, event, payload)
        return (await self.wait_for(lambda message: message[1:4] == [ref, topic, "phx_reply"], seconds))[4]

    async def join(self, topic: str, payload: Any = None) -> Client:
        answer = await self.ask(topic, "phx_join", payload)
        assert answer["status"] == "ok", answer
        return self

    async def is_served(self, topic: str) -> None:
        sent = {"n": self.refs}
        assert await self.ask(topic, "ping", sent) == {"status": "ok", "response": {"pong": sent}}

    def goodbye(self, code: int = 1000) -> None:
        """Send a close frame; the server then ends the connection."""
        self.writer.write(frame(CLOSE, struct.pack("!H", code)))

    def vanish(self, reset: bool) -> None:
        """End the connection as a killed process does: RST when something was unread, else FIN."""
        if reset:
            raw = self.writer.get_extra_info("socket")
            raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.writer.transport.abort()
        else:
            self.writer.close()


async def joined(server: StartedServer, topic: str = "rooms:lobby", payload: Any = None, **options: Any) -> Client:
    return await (await Client.connect(server, **options)).join(topic, payload)


async def in_batches(makers: Iterable[Callable[[], Coroutine[Any, Any, Any]]], size: int) -> list[Any]:
    waiting, done = list(makers), []
    for at in range(0, len(waiting), size):
        done += await asyncio.gather(*(make() for make in waiting[at : at + size]))
    return done


# --- A reader that never reads -------------------------------------------------------------


def test_a_reader_that_never_reads_is_cut_alone_and_the_others_get_everything_in_order(serve: Start) -> None:
    rate, seconds, size = 1000, 4, 3000

    async def follow(client: Client) -> tuple[list[int], Any]:
        raw, numbers = bytearray(), list[int]()
        while b'"over"' not in raw[-100:] or not raw.endswith(b"}]"):  # take it first, look at it later: this keeps up
            part = await asyncio.wait_for(client.reader.read(1 << 20), TIMEOUT)
            assert part, f"a client that reads was closed, behind {raw[-100:]!r}"
            raw += part
        got = Client(asyncio.StreamReader(), client.writer)
        got.reader.feed_data(raw)
        while (message := await got.read())[3] != "over":
            numbers.append(message[4]["n"])
        return numbers, message[4]

    async def scenario() -> None:
        server = serve()
        readers = [await joined(server, "rooms:flood") for _ in range(4)]
        stalled = await joined(server, "rooms:flood", receive_buffer=4096)
        stalled.writer.transport.pause_reading()  # type: ignore[attr-defined]
        following = [asyncio.create_task(follow(client)) for client in readers]
        before = (await stats(server))["rss"]
        Path(f"/proc/{server.process.pid}/clear_refs").write_text("5")  # the peak starts anew (man 5 proc)
        await asyncio.to_thread(server.request, f"/flood?rate={rate}&seconds={seconds}&size={size}", "POST")

        async def log() -> str:
            return server.log

        await eventually(log, lambda text: "did not keep up" in text)
        stalled.read_again()
        got = []
        while (message := await stalled.read())[0] != "close":
            got.append(message[4]["n"])
        assert message == ["close", 1013]
        assert got == list(range(len(got))), "what it gets is a beginning, without holes"
        assert len(got) < rate * seconds
        for numbers, over in await asyncio.gather(*following):
            assert over["sent"] == rate * seconds and over["took"] < seconds + 2, over
            assert numbers == list(range(rate * seconds))
        peak = int(Path(f"/proc/{server.process.pid}/status").read_text().split("VmHWM:")[1].split()[0]) * 1024
        grown = (peak - before) / 1e6
        assert grown < 6, f"{grown:.1f} MB more, where {rate * seconds * size / 1e6:.0f} MB were unread"
        assert server.log.count("did not keep up") == 1, server.log
        for client in readers:
            await client.is_served("rooms:flood")

    run(scenario())


def test_a_reader_that_never_reads_again_is_dropped_with_all_that_waited_for_it(serve: Start) -> None:
    async def scenario() -> None:
        server = serve()
        witness = await joined(server, "rooms:lobby", {"name": "witness"})
        stalled = await joined(server, "rooms:flood", receive_buffer=4096)
        await stalled.join("rooms:lobby", {"name": "stalled"})
        stalled.writer.transport.pause_reading()  # type: ignore[attr-defined]
        await asyncio.to_thread(server.request, "/flood?rate=1000&seconds=2&size=8000", "POST")
        while "stalled" not in (await witness.wait_for_event("rooms:lobby", "presence_diff"))["leaves"]:
            pass
        left = await eventually(lambda: stats(server), lambda found: found["alive"]["_WebSocketWire"] == 1)
        assert left["present"] == ["witness"] and left["alive"]["Socket"] == 1
        await witness.is_served("rooms:lobby")
        assert not logged_errors(server), server.log

    run(scenario())


# --- A client that is killed ---------------------------------------------------------------

MESSAGE = json.dumps(["1", "9", "rooms:lobby", "say", {"text": "x" * 2000}]).encode()
HALVES = {
    "after one byte": frame(TEXT, MESSAGE)[:1],
    "in the length": frame(TEXT, MESSAGE)[:3],
    "in the mask": frame(TEXT, MESSAGE)[:6],
    "in the payload": frame(TEXT, MESSAGE)[:900],
    "between fragments": frame(TEXT, MESSAGE[:900], fin=False),
    "in a later fragment": frame(TEXT, MESSAGE[:900], fin=False) + frame(CONTINUATION, MESSAGE[900:])[:500],
    "in a ping": frame(PING, b"are you there")[:9],
    "in a close frame": frame(CLOSE, b"\x03\xe8")[:7],
}


@pytest.mark.parametrize("reset", [True, False], ids=["RST", "FIN"])
def test_a_client_killed_in_the_middle_of_a_frame_is_gone_without_a_trace(serve: Start, reset: bool) -> None:
    async def scenario() -> None:
        server = serve()
        witness = await joined(server, "rooms:lobby", {"name": "witness"})
        before = await stats(server)
        for where, half in HALVES.items():
            victim = await joined(server, "rooms:lobby", {"name": where})
            while where not in (await witness.wait_for_event("rooms:lobby", "presence_diff"))["joins"]:
                pass
            victim.writer.write(half)
            await victim.writer.drain()
            victim.vanish(reset)
            leaves: dict[str, Any] = {}
            while where not in leaves:
                leaves = (await witness.wait_for_event("rooms:lobby", "presence_diff"))["leaves"]
        after = await eventually(lambda: stats(server), lambda found: found["descriptors"] <= before["descriptors"])
        assert after["present"] == ["witness"]
        assert after["alive"] == before["alive"]
        assert not any(message[3] == "said" for message in witness.kept), "half a message is no message"
        await witness.is_served("rooms:lobby")
        assert not logged_errors(server), server.log

    run(scenario())


def test_clients_killed_while_they_are_sent_to_leave_without_a_trace(serve: Start) -> None:
    async def scenario() -> None:
        server = serve()
        witness = await joined(server, "rooms:flood")
        before = await stats(server)
        victims = [await joined(server, "rooms:flood") for _ in range(40)]
        await asyncio.to_thread(server.request, "/flood?rate=500&seconds=1&size=1000", "POST")
        for number, victim in enumerate(victims):
            await victim.wait_for_event("rooms:flood", "n")
            victim.writer.write(frame(TEXT, MESSAGE)[:900])
            victim.vanish(reset=number % 2 == 0)
        assert (await witness.wait_for_event("rooms:flood", "over"))["sent"] == 500
        numbers = [message[4]["n"] for message in witness.kept if message[3] == "n"]
        assert numbers == list(range(500))
        await eventually(lambda: stats(server), lambda found: found["alive"] == before["alive"])
        assert not logged_errors(server), server.log

    run(scenario())


@pytest.mark.parametrize("reset", [True, False], ids=["RST", "FIN"])
def test_a_client_killed_while_its_connect_callback_runs_leaves_no_connection(serve: Start, reset: bool) -> None:
    async def scenario() -> None:
        server = serve()
        watcher = await joined(server)
        before = await stats(server)
        raw = socket.create_connection(("127.0.0.1", urllib.parse.urlsplit(server.url).port or 0), TIMEOUT)
        raw.sendall(HANDSHAKE.format("/sleepy").encode())
        await watcher.wait_for_event("rooms:lobby", "asleep")
        if reset:
            raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        raw.close()
        await watcher.wait_for_event("rooms:lobby", "awake")
        after = await eventually(lambda: stats(server), lambda found: found["alive"] == before["alive"])
        assert after["descriptors"] == before["descriptors"]
        assert not logged_errors(server), server.log

    run(scenario())


# --- A channel that raises ------------------------------------------------------------------


@pytest.mark.parametrize("style", ["plain", "async"])
@pytest.mark.parametrize("where", ["join", "event", "leave", "terminate"])
def test_a_channel_that_raises_tells_its_client_and_harms_nobody_else(serve: Start, where: str, style: str) -> None:
    topic, control = f"{style}-{where}:a", ["phx_close", "phx_error"]

    async def scenario() -> None:
        server = serve()
        witness = await joined(server)  # another connection
        client = await joined(server)  # another topic of the same connection
        neighbour = await Client.connect(server)  # the same channel in another connection
        if where != "join":
            await neighbour.join(topic)

        async def ended() -> list[Any]:
            return await client.wait_for(lambda message: message[2] == topic and message[3] in control)

        for _ in range(2):  # what has crashed can be joined again
            answer = await client.ask(topic, "phx_join")
            join_ref = str(client.refs)
            if where == "join":
                assert answer == {"status": "error", "response": {"reason": "join crashed"}}
                assert await client.ask(topic, "ping") == {
                    "status": "error", "response": {"reason": "unmatched topic"}
                }  # fmt: skip
                continue
            assert answer["status"] == "ok"
            await client.is_served(topic)
            if where == "event":
                client.send(topic, "crash", join_ref=join_ref)
                message = await ended()
                assert message[0] == join_ref and message[3] == "phx_error"
                assert await witness.wait_for_event("rooms:lobby", "terminated") == {"reason": "error"}
            else:
                assert await client.ask(topic, "phx_leave") == {"status": "ok", "response": {}}
                message = await ended()
                assert message[0] == join_ref and message[3] == "phx_close"
                assert await witness.wait_for_event("rooms:lobby", "terminated") == {"reason": "left"}
            assert await client.ask(topic, "ping") == {"status": "error", "response": {"reason": "unmatched topic"}}
        if where != "join":
            await neighbour.is_served(topic)
        neighbour.vanish(reset=True)  # its end runs leave and terminate, too
        if where != "join":
            assert await witness.wait_for_event("rooms:lobby", "terminated") == {"reason": "closed"}
        await client.is_served("rooms:lobby")
        client.send("rooms:lobby", "say", {"text": "still here"})
        assert await witness.wait_for_event("rooms:lobby", "said") == {"text": "still here"}
        await eventually(lambda: stats(server), lambda found: found["alive"]["Socket"] == 2)
        raised = 3 if where in ("leave", "terminate") else 2
        assert server.log.count(f"RuntimeError: raised in {where}") == raised, server.log
        assert server.log.count("Traceback") == raised, server.log
        assert server.stop() == 0

    run(scenario())


# --- A callback that sleeps -----------------------------------------------------------------


@pytest.mark.parametrize("where", ["connect", "join", "event", "leave", "terminate"])
def test_a_plain_callback_that_sleeps_delays_nothing_else(serve: Start, where: str) -> None:
    topic = f"sleeps-{where}:a"

    async def scenario() -> None:
        server = serve()
        watcher = await joined(server)
        other = await joined(server)
        client = await joined(server)
        sleeping: asyncio.Task[Any] | None = None
        ref = ""
        if where == "connect":
            sleeping = asyncio.create_task(Client.connect(server, "/sleepy"))
        elif where == "join":
            ref = client.send(topic, "phx_join")
        else:
            await client.join(topic)
            ref = client.send(topic, "phx_leave" if where in ("leave", "terminate") else "anything")
        assert await watcher.wait_for_event("rooms:lobby", "asleep") == {"in": where}
        slowest, asked = 0.0, 0
        while not any(message[3] == "awake" for message in watcher.kept):
            for each in (client, other, watcher):
                began = time.perf_counter()
                await each.is_served("rooms:lobby")
                slowest = max(slowest, time.perf_counter() - began)
                asked += 1
            await asyncio.sleep(0.01)
        assert asked > 15, f"only {asked} messages were answered meanwhile"
        assert slowest < 0.5, f"an answer took {slowest * 1000:.0f} ms, while the callback slept for 1000"
        if sleeping is not None:
            await (await asyncio.wait_for(sleeping, TIMEOUT)).join("rooms:lobby")
        else:
            answer = await client.wait_for(lambda message: message[1:4] == [ref, topic, "phx_reply"])
            assert answer[4]["status"] == "ok"

    run(scenario())


# --- A restart ------------------------------------------------------------------------------


def test_a_stopped_server_tells_a_thousand_clients_and_they_join_the_next_one(serve: Start) -> None:
    count = 1000

    async def scenario() -> None:
        port = free_port()
        server = serve(PORT=str(port))
        clients = await in_batches([lambda s=server: joined(s)] * count, 100)  # type: ignore[misc]
        assert (await stats(server))["alive"]["Socket"] == count

        async def end(client: Client) -> int:
            code = await client.wait_for_close()
            client.goodbye(code)
            assert await asyncio.wait_for(client.reader.read(), TIMEOUT) == b"", "the server ends the connection"
            client.writer.close()
            return code

        began = time.monotonic()
        stopping = asyncio.create_task(asyncio.to_thread(server.stop, 12))
        codes = collections.Counter(await asyncio.gather(*map(end, clients)))
        assert codes == {1001: count}
        assert await stopping == 0
        assert time.monotonic() - began < 8, "nobody had to be waited for"
        assert not logged_errors(server), server.log
        following = serve(PORT=str(port))
        again = await in_batches([lambda: joined(following)] * count, 100)
        again[0].send("rooms:lobby", "say", {"text": "all here?"})
        heard = await asyncio.gather(*(client.wait_for_event("rooms:lobby", "said") for client in again))
        assert heard == [{"text": "all here?"}] * count
        for client in again:
            client.vanish(reset=True)

    run(scenario())


def test_a_server_with_clients_that_do_not_answer_stops_in_time_all_the_same(serve: Start) -> None:
    async def scenario() -> None:
        server = serve()
        clients = await in_batches([lambda: joined(server)] * 50, 50)
        codes = asyncio.gather(*(client.wait_for_close() for client in clients))
        assert await asyncio.to_thread(server.stop, 14) == 0
        assert await codes == [1001] * 50

    run(scenario())


def test_a_client_whose_connect_callback_still_runs_when_the_server_stops_is_told_too(serve: Start) -> None:
    async def scenario() -> None:
        server = serve()
        watcher = await joined(server)
        connecting = asyncio.create_task(Client.connect(server, "/sleepy"))
        await watcher.wait_for_event("rooms:lobby", "asleep")
        began = time.monotonic()
        stopping = asyncio.create_task(asyncio.to_thread(server.stop, 14))
        assert await watcher.wait_for_close() == 1001
        watcher.goodbye(1001)
        client = await connecting
        assert await client.wait_for_close() == 1001
        client.goodbye(1001)
        assert await stopping == 0
        assert time.monotonic() - began < 6, "nobody had to be waited for but the callback"

    run(scenario())


NODE_CLIENTS = """
const { Socket } = require(process.argv[2])
const lines = require("node:readline").createInterface({ input: process.stdin })
class Transport extends WebSocket { // that of Node 20 does not fire "close" when nobody listens, as the standard says
  constructor(...args) {
    super(...args)
    let closed = false
    this.addEventListener("close", () => (closed = true))
    this.addEventListener("error", () => setTimeout(() => closed || this.dispatchEvent(lost())))
  }
}
const lost = () => Object.assign(new Event("close"), { code: 1006, reason: "", wasClean: false })
const count = 50, joins = new Map(), sockets = []
for (let number = 0; number < count; number++) {
  const soon = () => 200
  const socket = new Socket(process.argv[3], { transport: Transport, reconnectAfterMs: soon, rejoinAfterMs: soon })
  sockets.push(socket)
  socket.connect()
  socket.channel("rooms:lobby", {}).join().receive("ok", ({ pid }) => {
    joins.set(pid, (joins.get(pid) ?? 0) + 1)
    if (joins.get(pid) === count) console.log(pid)
  })
}
lines.on("line", () => process.exit(0))
"""


@pytest.mark.skipif(not shutil.which("node"), reason="needs Node")
def test_clients_of_phoenix_js_rejoin_the_next_process_by_themselves(serve: Start, tmp_path: Path) -> None:
    script = tmp_path / "clients.js"
    script.write_text(NODE_CLIENTS)
    port = free_port()
    server = serve(PORT=str(port))
    command = ["node", "--experimental-websocket", str(script), str(ROOT / "phoenix.js"), f"ws://127.0.0.1:{port}/ws"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as node:
        assert node.stdin is not None and node.stdout is not None
        said = node.stdout

        async def line() -> str:
            return (await asyncio.wait_for(asyncio.to_thread(said.readline), 50)).decode().strip()

        async def scenario() -> None:
            watchdog = asyncio.get_running_loop().call_later(60, node.kill)  # also ends a read that waits
            assert await line() == str(server.process.pid)
            assert await asyncio.to_thread(server.stop, 12) == 0
            following = serve(PORT=str(port))
            assert await line() == str(following.process.pid), following.log
            assert (await stats(following))["alive"]["Socket"] == 50, "each joined once"
            watchdog.cancel()

        try:
            run(scenario())
        finally:
            node.kill()


# --- Thousands that come and go ----------------------------------------------------------------


def test_five_thousand_connections_that_came_and_went_leave_nothing_behind(serve: Start) -> None:
    async def visit(server: StartedServer, number: int) -> None:
        client = await joined(server, f"rooms:{number}")
        await client.join("rooms:lobby", {"name": f"visitor {number}"} if number % 10 == 0 else {})
        way = number % 4
        if way == 0:
            client.goodbye()
            while (await client.read())[0] != "close":
                pass
            client.vanish(reset=False)
        elif way == 1:
            client.writer.write(frame(TEXT, MESSAGE)[:50])
            client.vanish(reset=True)
        elif way == 2:
            client.send("rooms:lobby", "phx_leave")
            client.vanish(reset=False)
        else:
            client.vanish(reset=False)

    async def scenario() -> None:
        server = serve()

        async def visits(first: int, last: int) -> Any:
            await in_batches([lambda n=number: visit(server, n) for number in range(first, last)], 200)  # type: ignore[misc]
            return await eventually(
                lambda: stats(server),
                lambda found: found["alive"]["_WebSocketWire"] == 0 and found["alive"]["_Connection"] == 1,
            )

        before = await visits(0, 1000)
        after = await visits(1000, 6000)
        for what in ("tasks", "descriptors", "topics", "present", "alive"):
            assert after[what] == before[what], what
        grown = (after["rss"] - before["rss"]) / 1e6
        assert grown < 3, f"{grown:.1f} MB more than before"
        assert not logged_errors(server), server.log

    run(scenario())
