"""Several processes of one app, connected by a real Redis: chat and presence across them, and what goes wrong."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import phoenix
import pytest
from conftest import ROOT, StartedServer, free_port
from hypothesis import given, settings
from hypothesis import strategies as st
from phoenix import Broadcast, Presence, PubSub, Redis
from serving import Serving
from redis import from_url
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect

HAS_REDIS = shutil.which("redis-server") is not None
pytestmark = pytest.mark.skipif(not HAS_REDIS, reason="needs Redis: apt-get install redis-server")

TIMEOUT = 20  # seconds that anything may take
DEAD_AFTER = 3  # seconds: on a busy machine a process may well be silent for one

APP = '''
import os
import phoenix
from phoenix import Broadcast, Channel, Controller, Presence, PubSub, Redis, SocketHandler, channel, get, post, socket

adapter = Redis(os.environ["REDIS_URL"], heartbeat=0.4, timeout=float(os.environ["DEAD_AFTER"]), socket_timeout=4)
pubsub = PubSub(adapter=adapter)
presence = Presence(pubsub)
heard = []
pubsub.subscribe("news", heard.append)


class UserSocket(SocketHandler):
    def id(self, socket):
        return f"users:{socket.connect_info['params'].get('user', '')}"


class RoomChannel(Channel):
    async def join(self, socket, topic, message):
        if "name" in message:
            presence.track(socket, message["name"], {"mood": "new"})
        socket.push("presence_state", presence.list(socket))
        return socket.ok()

    async def event(self, socket, event, message):
        match event:
            case "say":
                socket.broadcast("said", message)
            case "say_others":
                socket.broadcast_from("said", message)
            case "say_binary":
                socket.broadcast("binary", message)
            case "mood":
                presence.update(socket, message["name"], {"mood": message["mood"]})
            case "hide":
                presence.untrack(socket, message["name"])
        return socket.ok()


class Operator(Controller):
    async def stats(self, conn, params):
        return conn.json({**adapter.stats, "node": pubsub.node})

    async def heard(self, conn, params):
        return conn.json([repr(message) for message in heard])

    async def present(self, conn, params):
        return conn.json(presence.list("rooms:lobby"))

    def say(self, conn, params):  # in a worker thread
        for number in range(int(params.get("times", 1))):
            app.broadcast("rooms:lobby", "said", {"body": params["body"], "number": number})
        return conn.json({})

    def tell(self, conn, params):
        pubsub.broadcast("news", {"title": params["title"]})
        pubsub.broadcast("news", Broadcast("other:topic", "news", params["title"]))
        pubsub.local_broadcast("news", "local")
        return conn.json({})

    async def kick(self, conn, params):
        app.broadcast(f"users:{params['user']}", "disconnect")
        return conn.json({})


class Router(phoenix.Router):
    get("/stats", Operator, "stats")
    get("/heard", Operator, "heard")
    get("/present", Operator, "present")
    post("/say", Operator, "say")
    post("/tell", Operator, "tell")
    post("/kick", Operator, "kick")
    with socket("/ws", UserSocket):
        channel("rooms", RoomChannel)


app = phoenix.Endpoint(Router, pubsub=pubsub)

if __name__ == "__main__":
    app.run()
'''


# --- Redis, servers and clients -----------------------------------------------------------


def eventually(holds: Callable[[], Any], what: str = "") -> Any:
    """Wait until *holds* returns something true, and return that."""
    deadline = time.monotonic() + TIMEOUT
    while True:
        found = holds()
        if found:
            return found
        assert time.monotonic() < deadline, f"in vain: {what or holds}"
        time.sleep(0.02)


class RedisServer:
    """A Redis of our own, on a port of its own, which can be killed, started again, and frozen."""

    def __init__(self, folder: Path) -> None:
        self.port = free_port()
        self.folder = folder
        self.url = f"redis://127.0.0.1:{self.port}/0"
        self.start()

    def start(self) -> None:
        command = ["redis-server", "--port", str(self.port), "--bind", "127.0.0.1", "--save", "", "--dir", self.folder]
        self.process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
        eventually(self.answers, "Redis answers")

    def answers(self) -> bool:
        try:
            return self.command("PING").startswith(b"+PONG")
        except OSError:
            return False

    def command(self, text: str) -> bytes:
        """Send an inline command; return the beginning of the answer."""
        with socket.create_connection(("127.0.0.1", self.port), timeout=TIMEOUT) as connection:
            connection.sendall(text.encode() + b"\r\n")
            return connection.recv(4096)

    def kill(self) -> None:
        self.process.kill()
        self.process.wait(TIMEOUT)

    def freeze(self) -> None:
        self.process.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        self.process.send_signal(signal.SIGCONT)


@pytest.fixture
def redis(tmp_path: Path) -> Iterator[RedisServer]:
    server = RedisServer(tmp_path)
    yield server
    server.kill()


def variables(url: str) -> dict[str, str]:
    """The environment of a process of the app."""
    return {"REDIS_URL": url, "DEAD_AFTER": str(DEAD_AFTER), "PYTHONPATH": str(ROOT)}


@pytest.fixture
def start_node(start: Callable[..., StartedServer], redis: RedisServer, tmp_path: Path) -> Callable[..., StartedServer]:
    """Start a process of the app. It has connected to Redis, and knows as many others as there are."""
    script = tmp_path / "cluster_app.py"
    script.write_text(APP)
    nodes: list[StartedServer] = []

    def start_node(**environment: str) -> StartedServer:
        settings = {**variables(redis.url), "PHOENIX_ENV": "prod", **environment}
        nodes.append(start(script, **settings))
        for node in nodes:
            eventually(lambda node=node: stats(node)["nodes"] == len(nodes) - 1, "they know each other")
        return nodes[-1]

    return start_node


@pytest.fixture
def two(start_node: Callable[..., StartedServer]) -> tuple[StartedServer, StartedServer]:
    return start_node(), start_node()


def tapped(tap: Any, text: bytes) -> bytes | None:
    """Return the next batch that a subscriber to Redis has, if *text* is in it."""
    message = tap.get_message(ignore_subscribe_messages=True, timeout=1)
    return message["data"] if message and text in message["data"] else None


def stats(node: StartedServer) -> dict[str, Any]:
    found: dict[str, Any] = node.request("/stats").json
    return found


def post(node: StartedServer, path: str, **form: str) -> None:
    assert node.request(path, "POST", form=form).status == 200


class Person:
    """A client in a browser of its own: the V2 protocol over the `websockets` package."""

    def __init__(self, node: StartedServer, name: str = "", user: str = "", room: str = "lobby") -> None:
        self.topic = f"rooms:{room}"
        url = f"{node.url.replace('http', 'ws')}/ws/websocket?vsn=2.0.0&user={user}"
        self.socket = connect(url, open_timeout=TIMEOUT).__enter__()  # left by `close`
        self.got: list[tuple[str, Any]] = []
        self.present: dict[str, dict[str, Any]] = {}  # key -> phx_ref -> meta, as the official client keeps it
        self.diffs: list[tuple[str, str, str]] = []  # "join" or "leave", key, phx_ref
        self.closed = threading.Event()
        self._replies: dict[str, threading.Event] = {}
        self._count = 0
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        self.push("phx_join", {"name": name} if name else {})

    def push(self, event: str, payload: Any) -> None:
        """Send an event, and wait for its reply."""
        self._count += 1
        ref = str(self._count)
        replied = self._replies[ref] = threading.Event()
        if isinstance(payload, bytes):
            fields = [field.encode() for field in ("1", ref, self.topic, event)]
            self.socket.send(bytes([0, *map(len, fields)]) + b"".join(fields) + payload)
        else:
            self.socket.send(json.dumps(["1", ref, self.topic, event, payload]))
        assert replied.wait(TIMEOUT), f"no reply to {event}"

    def say(self, body: Any) -> None:
        self.push("say", {"body": body})

    def _read(self) -> None:
        with suppress(ConnectionClosed):
            for data in self.socket:
                if isinstance(data, bytes):
                    length_of_topic, length_of_event = data[1], data[2]
                    event = data[3 + length_of_topic :][:length_of_event].decode()
                    self.got.append((event, data[3 + length_of_topic + length_of_event :]))
                    continue
                _, ref, _, event, payload = json.loads(data)
                if event == "phx_reply":
                    self._replies[ref].set()
                elif event == "presence_state":
                    self.present = {
                        key: {meta["phx_ref"]: meta for meta in entry["metas"]} for key, entry in payload.items()
                    }
                elif event == "presence_diff":
                    self._sync(payload)
                else:
                    self.got.append((event, payload))
        self.closed.set()

    def _sync(self, diff: dict[str, Any]) -> None:
        for key, entry in diff["joins"].items():
            for meta in entry["metas"]:
                self.diffs.append(("join", key, meta["phx_ref"]))
                self.present.setdefault(key, {})[meta["phx_ref"]] = meta
        for key, entry in diff["leaves"].items():
            for meta in entry["metas"]:
                self.diffs.append(("leave", key, meta["phx_ref"]))
                self.present.get(key, {}).pop(meta["phx_ref"], None)
        self.present = {key: refs for key, refs in self.present.items() if refs}

    @property
    def bodies(self) -> list[Any]:
        return [payload["body"] for event, payload in self.got if event == "said"]

    def hears(self, body: Any) -> None:
        eventually(lambda: body in self.bodies, f"{body!r} is heard")

    def sees(self, *names: str) -> None:
        eventually(lambda: sorted(self.present) == sorted(names), f"{names} are there, and not {list(self.present)}")

    def moods(self) -> dict[str, list[str]]:
        return {key: [meta["mood"] for meta in refs.values()] for key, refs in self.present.items()}

    def close(self) -> None:
        self.socket.__exit__(None, None, None)
        self._reader.join(TIMEOUT)


@pytest.fixture
def join() -> Iterator[Callable[..., Person]]:
    people: list[Person] = []

    def join(*arguments: Any, **options: Any) -> Person:
        people.append(Person(*arguments, **options))
        return people[-1]

    yield join
    for person in people:
        with suppress(Exception):
            person.close()


Two = tuple[StartedServer, StartedServer]
Join = Callable[..., Person]


# --- Chat ---------------------------------------------------------------------------------


def test_what_is_said_in_one_process_is_heard_in_both_once_and_in_order(two: Two, join: Join) -> None:
    ann, bob = join(two[0]), join(two[1])
    for number in range(50):
        ann.say(number)
    post(two[0], "/say", body="many", times="300")
    bob.say("end")
    for person in (ann, bob):
        person.hears("end")
        eventually(lambda person=person: len(person.bodies) >= 351)
        assert [body for body in person.bodies if body != "many" and body != "end"] == list(range(50))
        many = [payload["number"] for _, payload in person.got if payload["body"] == "many"]
        assert many == list(range(300))
        assert len(person.bodies) == 351
    assert stats(two[1])["received"] >= 350
    eventually(lambda: stats(two[0])["published"] >= 350, "Redis has confirmed what bob has heard")
    assert stats(two[0])["lost"] == stats(two[1])["missed"] == 0


def test_broadcast_from_leaves_out_the_sender_and_nobody_else(two: Two, join: Join) -> None:
    ann, anns_neighbour, bob = join(two[0]), join(two[0]), join(two[1])
    ann.push("say_others", {"body": "psst"})
    ann.say("end")
    for person in (ann, anns_neighbour, bob):
        person.hears("end")
    assert (ann.bodies, anns_neighbour.bodies, bob.bodies) == (["end"], ["psst", "end"], ["psst", "end"])


def test_a_payload_of_bytes_survives_the_trip(two: Two, join: Join) -> None:
    ann, bob = join(two[0]), join(two[1])
    ann.push("say_binary", b"\x00\xff\n{")
    for person in (ann, bob):
        eventually(lambda person=person: person.got)
        assert person.got == [("binary", b"\x00\xff\n{")]


def test_other_messages_arrive_as_what_their_json_says_and_broadcasts_as_broadcasts(two: Two) -> None:
    post(two[0], "/tell", title="line 1\nline 2 \u2028 \U0001f600")
    title = "line 1\nline 2 \u2028 \U0001f600"
    remote = [repr({"title": title}), repr(Broadcast("other:topic", "news", title))]
    eventually(lambda: len(two[1].request("/heard").json) >= 2)
    assert two[1].request("/heard").json == remote
    assert two[0].request("/heard").json == [*remote, repr("local")]


def test_a_script_without_a_server_reaches_the_clients_of_all_processes(
    two: Two, join: Join, redis: RedisServer, tmp_path: Path
) -> None:
    ann, bob = join(two[0]), join(two[1])
    script = "import cluster_app; cluster_app.app.broadcast('rooms:lobby', 'said', {'body': 'from a script'})"
    environment = {**os.environ, **variables(redis.url), "PYTHONPATH": f"{ROOT}:{tmp_path}"}
    subprocess.run([sys.executable, "-c", script], env=environment, check=True, timeout=30)
    ann.hears("from a script")
    bob.hears("from a script")
    assert stats(two[0])["nodes"] == 1, "a script is no node"


def test_the_connections_of_a_user_are_closed_in_all_processes(two: Two, join: Join) -> None:
    phone, laptop, other = join(two[0], user="7"), join(two[1], user="7"), join(two[1], user="8")
    post(two[0], "/kick", user="7")
    assert phone.closed.wait(TIMEOUT) and laptop.closed.wait(TIMEOUT)
    assert laptop.socket.protocol.close_code == 1001
    other.say("still here")
    other.hears("still here")


def test_what_redis_delivers_twice_is_heard_once(two: Two, join: Join, redis: RedisServer) -> None:
    bob = join(two[1])
    with from_url(redis.url) as client, client.pubsub() as tap:
        tap.subscribe("phoenix:0")
        post(two[0], "/say", body="once")
        batch = eventually(lambda: tapped(tap, b'"once"'))
        for _ in range(3):
            client.publish("phoenix:0", batch)
    post(two[0], "/say", body="end")
    bob.hears("end")
    assert bob.bodies == ["once", "end"]
    assert stats(two[1])["missed"] == 0


def test_apps_with_another_name_or_database_do_not_hear_each_other(two: Two, join: Join, redis: RedisServer) -> None:
    ann = join(two[0])
    for stranger in (Redis(redis.url, name="other"), Redis(redis.url.replace("/0", "/1"))):
        PubSub(adapter=stranger).broadcast("rooms:lobby", Broadcast("rooms:lobby", "said", {"body": "stranger"}))
        assert stranger.stats["published"] == 1
    PubSub(adapter=Redis(redis.url)).broadcast("rooms:lobby", Broadcast("rooms:lobby", "said", {"body": "friend"}))
    ann.hears("friend")
    assert ann.bodies == ["friend"]


def test_what_others_write_into_the_channel_harms_nobody(two: Two, join: Join, redis: RedisServer) -> None:
    ann, bob = join(two[0]), join(two[1])
    for text in ("hello", "x", "'n 0 \\n[1'", "\"n 0 \\n{}\"", "\"a b c d\"", "\"n 1 \\n[\\\"rooms:lobby\\\"]\""):
        redis.command(f"PUBLISH phoenix:0 {text}")
    ann.say("fine")
    bob.hears("fine")
    eventually(lambda: "is not from this app" in two[0].log)


# --- When Redis fails ---------------------------------------------------------------------


def test_redis_is_killed_and_comes_back(two: Two, join: Join, redis: RedisServer) -> None:
    ann, anns_neighbour, bob = join(two[0]), join(two[0]), join(two[1])
    ann.say("before")
    bob.hears("before")
    redis.kill()
    eventually(lambda: not stats(two[0])["up"] and not stats(two[1])["up"], "both have noticed")
    eventually(lambda: (ann.say("meanwhile"), stats(two[0])["lost"])[1], "what is said now is lost")
    anns_neighbour.hears("meanwhile")  # in one process it goes on
    redis.start()
    eventually(lambda: stats(two[0])["up"] and stats(two[1])["up"], "both are back")
    eventually(lambda: (time.sleep(0.05), ann.say("after"), "after" in bob.bodies)[2], "they hear each other again")
    ann.say("end")
    bob.hears("end")
    said, seen = ann.bodies, bob.bodies
    assert len(said) == len(seen) + stats(two[0])["lost"], "each message is delivered once, or counted as lost"
    assert "meanwhile" not in seen[:1] and seen.count("before") == seen.count("end") == 1
    assert stats(two[1])["missed"] == stats(two[0])["lost"]
    for node in two:
        assert stats(node)["reconnects"] == 1
        assert node.log.count("lost Redis at") == 1
        assert node.log.count("is back after") == 1
    assert f"; {stats(two[0])['lost']} messages to other processes were lost" in two[0].log


def test_connections_that_redis_drops_are_made_again_at_once_and_nothing_is_lost(
    two: Two, join: Join, redis: RedisServer
) -> None:
    ann, bob = join(two[0]), join(two[1])
    redis.command("CLIENT KILL TYPE pubsub")
    ann.say("one")
    eventually(lambda: stats(two[0])["reconnects"] == stats(two[1])["reconnects"] == 1)
    assert stats(two[0])["lost"] == 0
    ann.say("two")
    bob.hears("two")
    assert ann.bodies == ["one", "two"]


def test_a_frozen_redis_is_noticed_and_chat_goes_on_in_each_process(two: Two, join: Join, redis: RedisServer) -> None:
    ann, anns_neighbour, bob = join(two[0]), join(two[0]), join(two[1])
    redis.freeze()
    try:
        ann.say("cold")
        anns_neighbour.hears("cold")
        eventually(lambda: not stats(two[0])["up"] and not stats(two[1])["up"], "they notice")
        assert "lost Redis at" in two[0].log
        eventually(lambda: stats(two[0])["lost"] == 1, "what was under way counts as lost")
    finally:
        redis.thaw()
    eventually(lambda: stats(two[0])["up"] and stats(two[1])["up"])
    ann.say("warm")
    bob.hears("warm")
    assert ann.bodies == ["cold", "warm"]
    assert bob.bodies.count("cold") <= 1 and bob.bodies.count("warm") == 1


class Swallower:
    """A proxy in front of Redis. When told, it keeps back what Redis sends to subscribers, and closes nothing."""

    def __init__(self, port: int) -> None:
        self.target = port
        self.swallows = False
        self.sockets: list[socket.socket] = []
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"redis://127.0.0.1:{self.listener.getsockname()[1]}/0"
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                client, _ = self.listener.accept()
                server = socket.create_connection(("127.0.0.1", self.target))
                self.sockets += [client, server]
                threading.Thread(target=self._pump, args=(client, server, False), daemon=True).start()
                threading.Thread(target=self._pump, args=(server, client, True), daemon=True).start()

    def _pump(self, source: socket.socket, sink: socket.socket, from_redis: bool) -> None:
        is_subscriber = False
        with suppress(OSError):
            while data := source.recv(65536):
                is_subscriber = is_subscriber or from_redis and b"subscribe\r\n" in data
                if not (is_subscriber and self.swallows):
                    sink.sendall(data)
        for each in (source, sink):
            with suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        self.listener.shutdown(socket.SHUT_RDWR)  # else the thread in `accept` takes one more
        for each in (self.listener, *self.sockets):
            each.close()


def test_a_process_that_hears_nothing_though_its_connections_are_up_notices_it_is_deaf(
    start_node: Callable[..., StartedServer], join: Join, redis: RedisServer
) -> None:
    proxy = Swallower(redis.port)
    try:
        deaf, other = start_node(REDIS_URL=proxy.url), start_node()
        ann, bob = join(deaf), join(other)
        proxy.swallows = True
        eventually(lambda: not stats(deaf)["up"], "it notices")
        assert re.search("has not heard itself for 3 heartbeats|Timeout", deaf.log)  # older packages are faster
        proxy.swallows = False
        eventually(lambda: stats(deaf)["up"])
        bob.say("can you hear me?")
        ann.hears("can you hear me?")
        assert stats(other)["reconnects"] == 0
    finally:
        proxy.close()


def test_a_server_starts_without_redis_and_connects_when_it_comes(
    start: Callable[..., StartedServer], join: Join, redis: RedisServer, tmp_path: Path
) -> None:
    (tmp_path / "cluster_app.py").write_text(APP)
    redis.kill()
    one, two = (start(tmp_path / "cluster_app.py", **variables(redis.url)) for _ in range(2))
    ann = join(one)
    ann.say("alone")
    ann.hears("alone")
    eventually(lambda: "lost Redis at" in one.log)
    redis.start()
    eventually(lambda: stats(one)["nodes"] == stats(two)["nodes"] == 1)
    bob = join(two)
    ann.say("together")
    bob.hears("together")


def test_a_script_does_not_wait_for_a_redis_that_is_away_again_and_again(
    redis: RedisServer, caplog: pytest.LogCaptureFixture
) -> None:
    redis.freeze()
    adapter = Redis(redis.url, heartbeat=0.1)
    pubsub = PubSub(adapter=adapter)
    mailbox = pubsub.subscribe("news")
    started = time.monotonic()
    for number in range(100):
        pubsub.broadcast("news", number)
    assert time.monotonic() - started < 2
    assert len(mailbox) == 100
    assert (adapter.stats["lost"], adapter.stats["published"]) == (100, 0)
    assert [record.getMessage()[:13] for record in caplog.records] == ["lost Redis at"]


def test_what_waits_for_a_slow_redis_is_bounded_and_what_is_over_is_counted_and_logged(
    redis: RedisServer, caplog: pytest.LogCaptureFixture
) -> None:
    adapter = Redis(redis.url, heartbeat=10)
    with Serving(phoenix.Endpoint(phoenix.Router, pubsub=PubSub(adapter=adapter), log=False)) as server:
        eventually(lambda: adapter.is_up)
        redis.freeze()
        for _ in range(12):
            server.app.pubsub.broadcast("news", "x" * (1 << 20))
        assert adapter.stats["lost"] >= 8
        assert "is too slow" in caplog.text
        redis.thaw()
        eventually(lambda: adapter.stats["published"] + adapter.stats["lost"] == 12)


def test_an_endpoint_that_stopped_may_serve_and_connect_again(redis: RedisServer) -> None:
    adapter = Redis(redis.url)
    app = phoenix.Endpoint(phoenix.Router, pubsub=PubSub(adapter=adapter), log=False)
    for _ in range(2):
        with Serving(app):
            eventually(lambda: adapter.is_up)
        assert not adapter.is_up
        app.broadcast("rooms:lobby", "said")
    assert (adapter.stats["published"], adapter.stats["lost"]) == (2, 0)


def test_options_that_suit_other_uses_of_a_redis_do_no_harm(redis: RedisServer) -> None:
    adapters = [Redis(redis.url, decode_responses=True), Redis(redis.url)]
    apps = [phoenix.Endpoint(phoenix.Router, pubsub=PubSub(adapter=adapter), log=False) for adapter in adapters]
    with Serving(apps[0]), Serving(apps[1]):
        eventually(lambda: all(adapter.is_up for adapter in adapters))
        apps[1].broadcast("rooms:lobby", "said")
        eventually(lambda: adapters[0].stats["received"] == 1)
        assert [adapter.stats["reconnects"] for adapter in adapters] == [0, 0]


# --- Presence -----------------------------------------------------------------------------


def test_presence_is_one_across_processes(two: Two, join: Join) -> None:
    ann = join(two[0], "ann")
    eventually(lambda: "ann" in two[1].request("/present").json)
    bob = join(two[1], "bob")
    for person in (ann, bob):
        person.sees("ann", "bob")
    anns_phone = join(two[1], "ann")
    anns_phone.sees("ann", "bob")
    eventually(lambda: len(ann.present["ann"]) == len(bob.present["ann"]) == 2, "a key has a meta for each connection")
    ann.push("mood", {"name": "ann", "mood": "fine"})
    eventually(lambda: sorted(bob.moods()["ann"]) == ["fine", "new"])
    anns_phone.close()
    ann.push("hide", {"name": "ann"})
    for person in (ann, bob):
        person.sees("bob")
        assert len(set(person.diffs)) == len(person.diffs), "each change comes once"
    about_ann = [what for what, key, _ in bob.diffs if key == "ann"]
    assert sorted(about_ann) == ["join"] * 2 + ["leave"] * 3, "the first was there before bob"
    eventually(lambda: two[0].request("/present").json == two[1].request("/present").json)


def test_who_comes_to_a_new_process_sees_those_of_the_old_one(
    start_node: Callable[..., StartedServer], join: Join
) -> None:
    ann = join(start_node(), "ann")
    new = start_node()
    eventually(lambda: "ann" in new.request("/present").json)
    bob = join(new, "bob")
    assert sorted(bob.present) in (["ann"], ["ann", "bob"])
    ann.sees("ann", "bob")


def test_the_people_of_a_killed_process_leave_after_the_time_out(two: Two, join: Join) -> None:
    ann, bob, carl = join(two[0], "ann"), join(two[1], "bob"), join(two[1], "carl")
    ann.sees("ann", "bob", "carl")
    two[1].kill()
    ann.sees("ann")
    assert sorted(key for what, key, _ in ann.diffs if what == "leave") == ["bob", "carl"]
    assert "counts as dead" in two[0].log
    assert stats(two[0])["nodes"] == 0


def test_the_people_of_a_process_that_stops_leave_at_once(
    start_node: Callable[..., StartedServer], join: Join
) -> None:
    stays, goes = start_node(DEAD_AFTER="60"), start_node(DEAD_AFTER="60")
    ann, bob = join(stays, "ann"), join(goes, "bob")
    ann.sees("ann", "bob")
    goes.stop()
    ann.sees("ann")
    eventually(lambda: stats(stays)["nodes"] == 0)
    assert "counts as dead" not in stays.log


def test_a_process_that_was_taken_for_dead_and_comes_back_is_there_again(two: Two, join: Join) -> None:
    ann, bob = join(two[0], "ann"), join(two[1], "bob")
    ann.sees("ann", "bob")
    two[1].process.send_signal(signal.SIGSTOP)
    try:
        ann.sees("ann")
    finally:
        two[1].process.send_signal(signal.SIGCONT)
    ann.sees("ann", "bob")
    bob.sees("ann", "bob")
    assert not [diff for diff in bob.diffs if diff[0] == "leave"], "for those who froze with it, nobody has left"


def test_an_outage_longer_than_the_time_out_lets_nobody_leave_and_heals_what_changed(
    two: Two, join: Join, redis: RedisServer
) -> None:
    ann, bob, carl = join(two[0], "ann"), join(two[1], "bob"), join(two[1], "carl")
    ann.sees("ann", "bob", "carl")
    redis.kill()
    eventually(lambda: not stats(two[0])["up"] and not stats(two[1])["up"])
    carl.close()
    dora = join(two[1], "dora")
    bob.push("mood", {"name": "bob", "mood": "lonely"})
    time.sleep(DEAD_AFTER + 0.5)  # longer than the time-out of a dead process
    ann.sees("ann", "bob", "carl")
    redis.start()
    for person in (ann, bob, dora):
        person.sees("ann", "bob", "dora")
        eventually(lambda person=person: person.moods()["bob"] == ["lonely"])
        assert len(set(person.diffs)) == len(person.diffs), "each change comes once"
        assert not [diff for diff in person.diffs if diff[0] == "leave" and diff[1] in ("ann", "dora")], "they stayed"
    assert two[0].request("/present").json == two[1].request("/present").json


class Net:
    """Nodes in one process, and what is on its way between them: it is delivered, lost, or delivered late, as told."""

    def __init__(self, count: int) -> None:
        self.nodes = [self.Node(self) for _ in range(count)]

    class Node:
        def __init__(self, net: Net) -> None:
            self.net = net
            self.inbox: list[tuple[str, dict[str, Any]]] = []
            self.is_away = False
            self.pubsub = PubSub(adapter=self)  # type: ignore[arg-type]
            self.pubsub._loop = self
            self.presence = Presence(self.pubsub)
            self.clients = [self.Client(self.pubsub)]
            self.people: dict[str, Any] = {}

        class Client:
            def __init__(self, pubsub: PubSub) -> None:
                self.present: set[str] = set()
                pubsub.subscribe("rooms:lobby", self.hear)

            def hear(self, message: Any) -> None:
                for entry in message.payload["joins"].values():
                    for meta in entry["metas"]:
                        assert meta["phx_ref"] not in self.present, "nobody joins twice"
                        self.present.add(meta["phx_ref"])
                for entry in message.payload["leaves"].values():
                    for meta in entry["metas"]:
                        self.present.remove(meta["phx_ref"])  # nobody leaves twice

        def _attach(self, pubsub: PubSub) -> None:
            pass

        def is_closed(self) -> bool:
            return True

        def call_later(self, seconds: float, call: Callable[[], None]) -> None:
            call()

        def _publish(self, line: bytes) -> None:
            for other in self.net.nodes:
                if other is not self and not self.is_away and not other.is_away:
                    other.inbox.append((self.pubsub.node, json.loads(line)))

        def read(self) -> None:
            inbox, self.inbox = self.inbox, []
            for node, message in inbox:
                self.presence._hear(node, message)

    def settle(self) -> None:
        for node in self.nodes:
            node.is_away = False
        for _ in range(2):
            for node in self.nodes:
                node.presence._beat()
            while any(node.inbox for node in self.nodes):
                for node in self.nodes:
                    node.read()


WHAT = st.sampled_from(["track", "update", "leave", "away", "back", "read", "lose", "dead"])
OPERATIONS = st.lists(st.tuples(WHAT, st.integers(0, 2), st.integers(0, 2)), max_size=40)


class Tracked:
    """What a presence needs of a socket."""

    topic, joined, _left = "rooms:lobby", True, False

    def _on_close(self, callback: Any) -> None:
        self.leave = lambda: callback(self)


@settings(max_examples=200, deadline=None)
@given(OPERATIONS)
def test_whatever_is_lost_on_the_way_the_tables_agree_again(operations: list[tuple[str, int, int]]) -> None:
    net = Net(3)
    for what, index, who in operations:
        node, name = net.nodes[index], f"person {who}"
        match what:
            case "track" if name not in node.people:
                node.people[name] = Tracked()
                node.presence.track(node.people[name], name, {"mood": 0})
            case "update" if name in node.people:
                node.presence.update(node.people[name], name, lambda meta: {"mood": meta["mood"] + 1})
            case "leave" if name in node.people:
                node.people.pop(name).leave()
            case "away" | "back":
                node.is_away = what == "away"
            case "read":
                node.read()
            case "lose":
                del node.inbox[:who]
            case "dead":
                node.presence._drop(net.nodes[who].pubsub.node)
    net.settle()
    tables = [node.presence._topics for node in net.nodes]
    assert tables[0] == tables[1] == tables[2]
    refs = {reference for keys in tables[0].values() for refs in keys.values() for reference in refs}
    assert len(refs) == sum(len(node.people) for node in net.nodes)
    for node in net.nodes:
        assert node.clients[0].present == refs


# --- Mistakes -----------------------------------------------------------------------------


def test_what_cannot_be_json_is_an_error_where_it_is_broadcast() -> None:
    pubsub = PubSub(adapter=Redis("redis://127.0.0.1:1/0"))
    heard: list[Any] = []
    pubsub.subscribe("news", heard.append)
    for value in ({"file": open}, {"price": float("nan")}, "\ud800", b"bytes", {(1, 2): 3}):
        with pytest.raises(phoenix.ArgumentError) as error:
            pubsub.broadcast("news", value)
        assert "'news'" in str(error.value) and repr(value) in str(error.value)
        with pytest.raises(phoenix.ArgumentError):
            pubsub.broadcast_from(heard.append, "news", Broadcast("news", "new", [value, object()]))
    assert heard == []
    pubsub.local_broadcast("news", open)
    assert heard == [open]


def test_a_meta_that_cannot_be_json_is_an_error_where_it_is_tracked() -> None:
    presence = Presence(PubSub(adapter=Redis("redis://127.0.0.1:1/0")))
    person = Tracked()
    with pytest.raises(phoenix.ArgumentError, match="'ann' in 'rooms:lobby'"):
        presence.track(person, "ann", {"file": open})
    assert presence.list("rooms:lobby") == {}
    presence.track(person, "ann")
    with pytest.raises(phoenix.ArgumentError, match="'ann' in 'rooms:lobby'"):
        presence.update(person, "ann", {"file": open})
    assert list(presence.list("rooms:lobby")) == ["ann"]


def test_the_missing_package_is_named_with_the_command_that_installs_it(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.partition(".")[0] == "redis"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "redis", None)
    with pytest.raises(phoenix.PhoenixError, match="pip install redis"):
        Redis()


def test_the_package_is_imported_only_when_it_is_used() -> None:
    code = "phoenix.PubSub(); assert 'redis' not in sys.modules; phoenix.Redis(); assert 'redis' in sys.modules"
    subprocess.run([sys.executable, "-c", f"import sys, phoenix; {code}"], cwd=ROOT, check=True, timeout=30)


@pytest.mark.parametrize("url", ["localhost:6379", "http://localhost", "redis://localhost:port"])
def test_what_is_no_url_of_a_redis_is_refused_with_an_example(url: str) -> None:
    with pytest.raises(phoenix.ArgumentError, match="It looks like redis://:password@host:6379/0"):
        Redis(url)


@pytest.mark.parametrize("options", [{"heartbeat": 0}, {"heartbeat": 5, "timeout": 6}, {"timeout": -1}])
def test_heartbeats_that_would_never_be_heard_in_time_are_refused(options: dict[str, float]) -> None:
    with pytest.raises(phoenix.ArgumentError, match="at least two beats long"):
        Redis(**options)


def test_an_unknown_option_is_refused_when_the_adapter_is_made() -> None:
    with pytest.raises(phoenix.ArgumentError, match="hartbeat"):
        Redis(hartbeat=3)


def test_an_adapter_serves_one_pubsub_and_presences_are_told_apart_by_name() -> None:
    adapter = Redis()
    pubsub = PubSub(adapter=adapter)
    with pytest.raises(phoenix.ArgumentError, match="one PubSub"):
        PubSub(adapter=adapter)
    Presence(pubsub)
    with pytest.raises(phoenix.ArgumentError, match="give each a name"):
        Presence(pubsub)
    assert Presence(pubsub, name="games").name == "games"


def test_a_password_is_not_logged(caplog: pytest.LogCaptureFixture) -> None:
    PubSub(adapter=Redis("redis://:sesame@127.0.0.1:1/0")).broadcast("news", 1)
    assert "lost Redis at 127.0.0.1:1" in caplog.text
    assert "sesame" not in caplog.text
    with pytest.raises(phoenix.ArgumentError) as error:
        Redis("rediss//:sesame@127.0.0.1")
    assert "sesame" not in str(error.value)


# --- Several workers ----------------------------------------------------------------------

WORKERS = '''
import phoenix
from phoenix import Channel, channel, socket

class RoomChannel(Channel):
    async def join(self, socket, topic, message):
        return socket.ok()

class Router(phoenix.Router):
    with socket("/ws"):
        channel("rooms", RoomChannel)

app = phoenix.Endpoint(Router)
app.run()
'''


@pytest.mark.parametrize(
    "name, value",
    [("WEB_CONCURRENCY", "3"), ("GUNICORN_CMD_ARGS", "--preload --workers=3"), ("GUNICORN_CMD_ARGS", "-w 3")],
)
def test_several_workers_without_an_adapter_are_warned_of(
    name: str, value: str, start: Callable[..., StartedServer], tmp_path: Path
) -> None:
    script = tmp_path / "workers_app.py"
    script.write_text(WORKERS)
    server = start(script, PYTHONPATH=str(ROOT), **{name: value})
    assert "several processes serve this app (" in server.log
    assert "pubsub=PubSub(adapter=Redis(" in server.log


@pytest.mark.parametrize("change", ["one worker", "an adapter", "no channels"])
def test_nothing_is_said_where_there_is_nothing_to_warn_of(
    change: str, start: Callable[..., StartedServer], tmp_path: Path, redis: RedisServer
) -> None:
    text = WORKERS
    if change == "an adapter":
        text = text.replace("(Router)", f"(Router, pubsub=phoenix.PubSub(adapter=phoenix.Redis({redis.url!r})))")
    elif change == "no channels":
        text = text.replace('with socket("/ws"):', "if False:")
    script = tmp_path / "workers_app.py"
    script.write_text(text)
    server = start(script, PYTHONPATH=str(ROOT), WEB_CONCURRENCY="1" if change == "one worker" else "3")
    server.stop()
    assert "processes serve this app" not in server.log


def test_the_command_line_of_other_servers_tells_their_workers(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("WEB_CONCURRENCY", "GUNICORN_CMD_ARGS"):
        monkeypatch.delenv(name, raising=False)
    for line, sign in (
        ("/usr/bin/gunicorn -w 4 app:app", "-w 4"), ("uvicorn app:app --workers=2", "--workers=2"),
        ("hypercorn -w2 app", "-w2"), ("/venv/uvicorn/__main__.py --workers 10 app:app", "--workers 10"),
        ("gunicorn app:app", ""), ("gunicorn -w 1 app:app", ""), ("gunicorn --a-w 2 app:app", ""), ("app.py -w 4", ""),
    ):  # fmt: skip
        monkeypatch.setattr(sys, "argv", line.split())
        assert phoenix._sign_of_workers() == sign


def test_a_long_poll_that_lands_in_another_process_is_answered_410_and_the_log_says_why(two: Two) -> None:
    opened = two[0].request("/ws/longpoll?vsn=2.0.0").json
    assert opened["status"] == 410
    path = f"/ws/longpoll?vsn=2.0.0&token={opened['token']}"
    assert two[1].request(path, "POST", body=b'["1","1","rooms:lobby","phx_join",{}]').json == {"status": 410}
    polled = two[1].request(path).json
    assert polled["status"] == 410 and polled["token"] != opened["token"]
    assert "sticky sessions" in two[1].log
    assert "sticky sessions" not in two[0].log
