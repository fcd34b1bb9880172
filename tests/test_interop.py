"""Clients that others wrote talk to a started server: five generations of phoenix.js, packages for Python, and 0.7."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import websockets
from conftest import ROOT, StartedServer
from websockets.sync.client import ClientConnection, connect

INTEROP = ROOT / "tests" / "interop"
INSTALLED = ROOT / ".venv" / "interop"
TIMEOUT = 10

Start = Callable[..., StartedServer]


@pytest.fixture
def server(start: Start) -> StartedServer:
    return start(INTEROP / "app.py")


def ws(server: StartedServer, path: str) -> str:
    return server.url.replace("http://", "ws://").replace("localhost", "127.0.0.1") + path


# --- phoenix.js ---------------------------------------------------------------------------


@pytest.fixture(scope="session")
def modules() -> Path:
    """The folder with the packages of tests/interop/package.json: filled once, and again when that file changes."""
    wanted, copy = INTEROP / "package.json", INSTALLED / "installed.json"
    INSTALLED.mkdir(parents=True, exist_ok=True)
    with open(INSTALLED / "lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # several processes may run the tests
        if not copy.exists() or copy.read_bytes() != wanted.read_bytes():
            shutil.rmtree(INSTALLED / "node_modules", ignore_errors=True)
            (INSTALLED / "package-lock.json").unlink(missing_ok=True)
            shutil.copy(wanted, INSTALLED / "package.json")
            command = ["npm", "install", "--no-audit", "--no-fund", "--ignore-scripts"]
            done = subprocess.run(command, cwd=INSTALLED, capture_output=True, text=True, timeout=180)
            if done.returncode != 0:
                pytest.fail(f"npm install failed\n{done.stdout}{done.stderr}", pytrace=False)
            shutil.copy(wanted, copy)
    return INSTALLED


OURS = str(ROOT / "phoenix.js")
VERSIONS = ["phoenix-1-2-1", "phoenix-1-3-5", "phoenix-1-4-18", "phoenix-1-7-21", "phoenix-1-8-16", OURS]
SCENARIOS = [
    "connect", "join", "refused", "crashing_join", "no_such_topic", "reply", "large", "error_reply", "broadcast",
    "two_topics", "presence", "leave", "join_again_after_leave", "crash", "stop",
]  # fmt: skip


def scenarios_of(version: str, transport: str) -> list[str]:
    """The scenarios that a version can run: what it lacks is named here, so that nothing is left out unnoticed."""
    scenarios = list(SCENARIOS)
    if version not in VERSIONS[:2]:
        scenarios.append("presence_object")
    if transport == "websocket":
        scenarios += ["heartbeat", "reconnect"]  # a client that polls has no heartbeat
        if version not in VERSIONS[:3]:
            scenarios.append("binary")
    return scenarios


@pytest.mark.parametrize("transport", ["websocket", "longpoll"])
@pytest.mark.parametrize("version", VERSIONS, ids=lambda version: Path(version).name)
def test_a_version_of_phoenix_js_gets_along_with_the_server(
    server: StartedServer, modules: Path, version: str, transport: str
) -> None:
    scenarios = scenarios_of(version, transport)
    url = ws(server, "/socket") if transport == "websocket" else ws(server, "/socket").replace("ws://", "http://")
    command = ["node", str(INTEROP / "client.js"), version, url, transport, *scenarios]
    environment = {**os.environ, "INTEROP_MODULES": str(modules)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=180)
    results = [json.loads(line) for line in done.stdout.splitlines()]
    failed = "\n".join(f"{result['scenario']}: {result['error']}" for result in results if not result["ok"])
    assert not failed, f"{failed}\n{server.log}"
    assert [result["scenario"] for result in results] == scenarios, done.stderr
    assert done.returncode == 0


# --- websockets, which knows nothing of channels ------------------------------------------


@contextlib.contextmanager
def connected(url: str) -> Iterator[ClientConnection]:
    with connect(url, open_timeout=TIMEOUT, close_timeout=TIMEOUT) as client:
        yield client


def say(client: ClientConnection, message: Any) -> None:
    client.send(json.dumps(message))


def heard(client: ClientConnection) -> Any:
    return json.loads(client.recv(timeout=TIMEOUT))


def test_a_plain_websocket_speaks_v2(server: StartedServer) -> None:
    with connected(ws(server, "/socket/websocket?vsn=2.0.0")) as client:
        say(client, ["1", "1", "rooms:a", "phx_join", {"name": "Ann"}])
        assert heard(client) == ["1", None, "rooms:a", "welcome", {"topic": "a"}]
        expected = {"status": "ok", "response": {"joined": "a", "name": "Ann"}}
        assert heard(client) == ["1", "1", "rooms:a", "phx_reply", expected]
        say(client, ["1", "2", "rooms:a", "fail", {"n": 1}])
        expected = {"status": "error", "response": {"reason": "no", "sent": {"n": 1}}}
        assert heard(client) == ["1", "2", "rooms:a", "phx_reply", expected]
        say(client, ["1", None, "rooms:a", "shout", {"n": 2}])
        assert heard(client) == [None, None, "rooms:a", "shout", {"n": 2}]
        client.send(b"\x00\x01\x01\x07\x0513rooms:abytesxyz")
        assert client.recv(timeout=TIMEOUT) == b"\x02\x07\x05rooms:abytes\x00to all\xff"
        assert client.recv(timeout=TIMEOUT) == b"\x00\x01\x07\x0a1rooms:abytes:mine\x00to one\xff"
        assert client.recv(timeout=TIMEOUT) == b"\x01\x01\x01\x07\x0213rooms:aokzyx"
        say(client, [None, "4", "phoenix", "heartbeat", {}])
        assert heard(client) == [None, "4", "phoenix", "phx_reply", {"status": "ok", "response": {}}]
        say(client, ["1", "5", "rooms:a", "crash", {}])
        assert heard(client)[:4] == ["1", "1", "rooms:a", "phx_error"]


def test_a_plain_websocket_speaks_v1(server: StartedServer) -> None:
    with connected(ws(server, "/socket/websocket")) as client:
        say(client, {"topic": "rooms:a", "event": "phx_join", "payload": {}, "ref": "1"})
        assert heard(client) == {"topic": "rooms:a", "event": "welcome", "payload": {"topic": "a"}, "ref": None}
        expected = {"status": "ok", "response": {"joined": "a", "name": "nobody"}}
        assert heard(client) == {"topic": "rooms:a", "event": "phx_reply", "payload": expected, "ref": "1"}
        say(client, {"topic": "rooms:a", "event": "echo", "payload": {"n": 1}, "ref": "2"})
        expected = {"status": "ok", "response": {"n": 1}}
        assert heard(client) == {"topic": "rooms:a", "event": "phx_reply", "payload": expected, "ref": "2"}


def test_clients_of_all_generations_hear_each_other(server: StartedServer) -> None:
    with (
        connected(ws(server, "/socket")) as oldest,
        connected(ws(server, "/socket/websocket?vsn=1.0.0")) as old,
        connected(ws(server, "/socket/websocket?vsn=2.0.0")) as new,
    ):
        say(oldest, {"channel": "rooms", "topic": "mixed", "event": "join", "message": {}})
        expected = {"channel": "rooms", "topic": "mixed", "event": "welcome", "message": {"topic": "mixed"}}
        assert heard(oldest) == expected
        say(old, {"topic": "rooms:mixed", "event": "phx_join", "payload": {}, "ref": "1"})
        assert [heard(old)["event"], heard(old)["event"]] == ["welcome", "phx_reply"]
        say(new, ["1", "1", "rooms:mixed", "phx_join", {}])
        assert [heard(new)[3], heard(new)[3]] == ["welcome", "phx_reply"]
        speakers: list[Callable[[Any], None]] = [
            lambda said: say(oldest, {"channel": "rooms", "topic": "mixed", "event": "shout", "message": said}),
            lambda said: say(old, {"topic": "rooms:mixed", "event": "shout", "payload": said, "ref": None}),
            lambda said: say(new, ["1", None, "rooms:mixed", "shout", said]),
        ]
        for number, speak in enumerate(speakers):
            speak({"n": number})
            assert heard(oldest) == {"channel": "rooms", "topic": "mixed", "event": "shout", "message": {"n": number}}
            assert heard(old) == {"topic": "rooms:mixed", "event": "shout", "payload": {"n": number}, "ref": None}
            assert heard(new) == [None, None, "rooms:mixed", "shout", {"n": number}]


# --- 0.7, by hand -------------------------------------------------------------------------


def test_a_client_of_0_7_joins_pushes_is_refused_and_leaves(server: StartedServer) -> None:
    def old(topic: str, event: str, message: Any) -> dict[str, Any]:
        return {"channel": "rooms", "topic": topic, "event": event, "message": message}

    with connected(ws(server, "/socket")) as client, connected(ws(server, "/socket/websocket?vsn=2.0.0")) as watcher:
        say(watcher, ["1", "1", "watch:all", "phx_join", {}])
        assert heard(watcher)[4] == {"status": "ok", "response": {}}
        say(client, old("refused", "join", {}))
        say(client, old("refused", "shout", {"n": 0}))  # reaches nobody
        say(client, old("lobby", "join", {"name": "old", "present": "phone"}))
        state = heard(client)
        assert (state["event"], list(state["message"])) == ("presence_state", ["old"])
        assert heard(client) == old("lobby", "welcome", {"topic": "lobby"})
        say(client, old("lobby", "echo", {}))  # a reply, which 0.7 does not know
        say(client, old("lobby", "shout", {"n": 1}))
        assert heard(client) == old("lobby", "shout", {"n": 1})
        say(client, old("lobby", "leave", {}))
        assert heard(watcher)[3:] == ["end", {"name": "old", "reason": "left"}]


# --- The package `realtime`: V1 -----------------------------------------------------------


async def soon(condition: Awaitable[Any]) -> Any:
    return await asyncio.wait_for(condition, TIMEOUT)


def test_the_realtime_package_joins_broadcasts_is_present_and_leaves(server: StartedServer) -> None:
    from realtime import AsyncRealtimeClient, RealtimeSubscribeStates

    async def subscribed(client: Any, topic: str, key: str, *, prepare: Callable[[Any], object]) -> tuple[Any, Any]:
        broadcast, presence = {"ack": False, "self": False}, {"key": key, "enabled": True}
        config = {"broadcast": broadcast, "presence": presence, "private": False}
        channel = client.channel(topic, {"config": config})
        prepare(channel)
        state: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        await soon(channel.subscribe(lambda status, error: state.done() or state.set_result(status)))
        return channel, await soon(state)

    async def talk() -> None:
        url = ws(server, "/socket")
        clients = [AsyncRealtimeClient(url, "secret", auto_reconnect=False, hb_interval=1) for _ in range(2)]
        try:
            for client in clients:
                await soon(client.connect())
            messages: asyncio.Queue[Any] = asyncio.Queue()
            joined: asyncio.Queue[str] = asyncio.Queue()
            left: asyncio.Queue[str] = asyncio.Queue()

            def listen(channel: Any) -> None:
                channel.on_broadcast("said", messages.put_nowait)
                channel.on_presence_join(lambda key, *_: joined.put_nowait(key))
                channel.on_presence_leave(lambda key, *_: left.put_nowait(key))

            _, status = await subscribed(clients[0], "lobby", "Ann", prepare=listen)
            assert status == RealtimeSubscribeStates.SUBSCRIBED
            bob, status = await subscribed(clients[1], "lobby", "Bob", prepare=lambda channel: None)
            assert status == RealtimeSubscribeStates.SUBSCRIBED
            await bob.send_broadcast("said", {"body": "hello"})
            message = await soon(messages.get())
            assert (message["event"], message["payload"]) == ("said", {"body": "hello"})
            await bob.track({"device": "desk"})
            assert await soon(joined.get()) == "Bob"
            await bob.untrack()
            assert await soon(left.get()) == "Bob"
            await bob.track({"device": "desk"})
            assert await soon(joined.get()) == "Bob"
            await bob.unsubscribe()
            assert await soon(left.get()) == "Bob"
            _, status = await subscribed(clients[1], "refused", "Bob", prepare=lambda channel: None)
            assert status == RealtimeSubscribeStates.CHANNEL_ERROR
        finally:
            for client in clients:
                await client.close()

    asyncio.run(talk())


# --- The package `phoenix-channels-python-client`: V1 and V2, from Python 3.11 on ---------

if sys.version_info >= (3, 11):  # it cannot be installed on 3.10

    @pytest.mark.parametrize("version", ["1.0", "2.0"])
    def test_the_phoenix_channels_package_joins_hears_is_refused_and_leaves(
        server: StartedServer, version: str
    ) -> None:
        from phoenix_channels_python_client import PHXChannelsClient
        from phoenix_channels_python_client.exceptions import PHXTopicError

        async def talk() -> None:
            acknowledged = asyncio.Event()
            url = ws(server, "/socket/websocket")
            client = PHXChannelsClient(
                url, "secret", protocol_version=version, heartbeat_interval_s=0.2, on_heartbeat_ack=acknowledged.set
            )
            messages: asyncio.Queue[Any] = asyncio.Queue()
            async with client, websockets.connect(url + "?vsn=2.0.0") as other:
                await soon(client.subscribe_to_topic("rooms:package", messages.put))
                assert client.is_topic_joined("rooms:package")
                await other.send('["1","1","rooms:package","phx_join",{}]')
                # A push, since in V2 this client drops whatever lacks its join_ref, as broadcasts do.
                await other.send('["1","2","rooms:package","whisper",{"body":"hello"}]')

                async def whispered() -> Any:
                    while (message := await messages.get()).event != "whisper":
                        pass
                    return message.payload

                assert await soon(whispered()) == {"body": "hello"}
                with pytest.raises(PHXTopicError, match="unauthorized"):
                    await soon(client.subscribe_to_topic("rooms:refused"))
                await soon(acknowledged.wait())
                await soon(client.unsubscribe_from_topic("rooms:package"))
                assert not client.is_topic_joined("rooms:package")

        asyncio.run(talk())
