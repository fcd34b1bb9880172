"""Two processes of one app, connected by Redis: how much goes across, and how much later than within one.

    python tests/benchmarks/cluster.py

It starts a Redis of its own (Debian's redis-server) and two processes of a chat; the clients are in this process. Local
delivery is measured in the same run, with the adapter and without it. The package redis goes into ``.bench/`` at the
first run. Four programs share the machine's cores, so that rates are below what each of them could do alone: the
processor time of each, per message, tells where it goes.
"""

from __future__ import annotations

from realtime import BODY, HOST, JOIN, PYTHON, ROOT, SAID, WS, Client, connect, cpu_seconds, frame, server_frame

# isort: split - that module takes this folder off the path, where http.py would hide the standard module

import asyncio
import json
import os
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

SAY = frame(json.dumps(["1", None, "rooms:bench", "say", BODY], separators=(",", ":")))
SIZE = server_frame(SAID)
SECONDS = 4.0  # of each measurement
IN_FLIGHT = 200  # messages


# --- A process of the app -----------------------------------------------------------------


def serve() -> None:
    sys.path.insert(0, ROOT)
    import phoenix
    from phoenix import Channel, PubSub, Redis, channel, socket

    class RoomChannel(Channel):
        async def join(self, socket, topic, message):  # type: ignore[no-untyped-def]
            return socket.ok()

        async def event(self, socket, event, message):  # type: ignore[no-untyped-def]
            socket.broadcast("said", message)

    class Router(phoenix.Router):
        with socket("/ws"):
            channel("rooms", RoomChannel)

    url = os.environ["REDIS_URL"]
    pubsub = PubSub(adapter=Redis(url, heartbeat=0.5)) if url else PubSub()
    phoenix.Endpoint(Router, pubsub=pubsub, env="prod", log=False).run()


# --- Processes ----------------------------------------------------------------------------


def free_port() -> int:
    with socket.socket() as free:
        free.bind((HOST, 0))
        port: int = free.getsockname()[1]
        return port


@contextmanager
def started(command: list[str], port: int, environment: dict[str, str]) -> Iterator[int]:
    """Start a program that listens on *port*; give its process id."""
    process = subprocess.Popen(
        command, env={**os.environ, **environment}, preexec_fn=lambda: signal.alarm(300),
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        deadline = time.monotonic() + 20
        while True:
            try:
                socket.create_connection((HOST, port), timeout=1).close()
                break
            except OSError:
                if time.monotonic() > deadline or process.poll() is not None:
                    raise RuntimeError(f"{command[0]} does not start") from None
                time.sleep(0.05)
        yield process.pid
    finally:
        process.kill()
        process.wait()


def start_redis(stack: ExitStack) -> tuple[str, int]:
    port, folder = free_port(), stack.enter_context(tempfile.TemporaryDirectory())
    command = ["redis-server", "--port", str(port), "--bind", HOST, "--save", "", "--dir", folder]
    return f"redis://{HOST}:{port}/0", stack.enter_context(started(command, port, {}))


def start_node(stack: ExitStack, url: str) -> tuple[int, int]:
    port = free_port()
    environment = {"PORT": str(port), "REDIS_URL": url}
    return port, stack.enter_context(started([PYTHON, os.path.abspath(__file__), "serve"], port, environment))


# --- Measuring ----------------------------------------------------------------------------


async def connect_when_linked(sender_port: int, port: int) -> None:
    """Wait until what is said in one process is heard in the other."""
    heard = asyncio.Event()
    listener = await connect(port, WS, [JOIN], lambda client, length: heard.set())
    sender = await connect(sender_port, WS, [JOIN], lambda client, length: None)
    while not heard.is_set():
        sender.transport.write(SAY)
        await asyncio.sleep(0.1)
    await asyncio.sleep(0.2)
    for client in (listener, sender):
        client.transport.abort()


async def rate(sender_port: int, port: int, receivers: int, pids: list[int]) -> tuple[float, list[float]]:
    """Keep messages in flight to *receivers* clients on *port*; return messages per second, and µs of CPU for each."""
    await connect_when_linked(sender_port, port)
    size = 0

    def heard(client: Client, length: int) -> None:
        nonlocal size
        before, size = size, size + length
        if more := size // (SIZE * receivers) - before // (SIZE * receivers):
            sender.transport.write(SAY * more)  # all of them have got so many

    clients = [await connect(port, WS, [JOIN], heard) for _ in range(receivers)]
    sender = await connect(sender_port, WS, [JOIN], lambda client, length: None)
    size = 0
    sender.transport.write(SAY * IN_FLIGHT)
    await asyncio.sleep(0.5)
    start, size_before, cpu_before = time.perf_counter(), size, [cpu_seconds(pid) for pid in pids]
    await asyncio.sleep(SECONDS)
    messages = (size - size_before) / SIZE / receivers
    spent = [cpu_seconds(pid) - before for pid, before in zip(pids, cpu_before)]
    seconds = time.perf_counter() - start
    for client in (*clients, sender):
        client.transport.abort()
    return messages / seconds, [each / messages * 1e6 for each in spent]


async def latency(sender_port: int, port: int, count: int = 500) -> list[float]:
    """Send one message after the other; return after how many µs a client on *port* had each of them."""
    await connect_when_linked(sender_port, port)
    times: list[float] = []
    has_it = asyncio.Event()
    sent = 0.0

    def heard(client: Client, length: int) -> None:
        times.append((time.perf_counter() - sent) * 1e6)
        has_it.set()

    client = await connect(port, WS, [JOIN], heard)
    sender = await connect(sender_port, WS, [JOIN], lambda client, length: None)
    await asyncio.sleep(0.2)
    for _ in range(count):
        has_it.clear()
        sent = time.perf_counter()
        sender.transport.write(SAY)
        await asyncio.wait_for(has_it.wait(), 10)
        await asyncio.sleep(0.0005)
    for each in (client, sender):
        each.transport.abort()
    return times[count // 10 :]


def main() -> None:
    if not os.path.exists(PYTHON):
        subprocess.run([sys.executable, "-m", "venv", os.path.dirname(os.path.dirname(PYTHON))], check=True)
    subprocess.run([PYTHON, "-m", "pip", "install", "-q", "--disable-pip-version-check", "redis"], check=True)
    with ExitStack() as stack:
        url, redis = start_redis(stack)
        here, here_pid = start_node(stack, url)
        there, there_pid = start_node(stack, url)
        alone, alone_pid = start_node(stack, "")

        paths = {
            "in one process, no adapter": (alone, alone),
            "in one process, with the adapter": (here, here),
            "to the other process": (here, there),
        }
        times: dict[str, list[float]] = {title: [] for title in paths}
        for _ in range(5):  # in turns, since other work on the machine comes and goes
            for title, ports in paths.items():
                times[title] += asyncio.run(latency(*ports))
        print("| latency from client to client, µs | median | 99th | median over the first line |\n|---|--:|--:|--:|")
        base = statistics.median(times["in one process, no adapter"])
        for title, values in times.items():
            median, most = statistics.median(values), sorted(values)[len(values) * 99 // 100]
            print(f"| {title} | {median:,.0f} | {most:,.0f} | {median - base:+,.0f} |", flush=True)

        print("\n| path | receivers | messages/s | deliveries/s | CPU µs per message: sender, receiver, Redis |")
        print("|---|--:|--:|--:|---|", flush=True)
        for receivers in (1, 100):
            messages, spent = asyncio.run(rate(alone, alone, receivers, [alone_pid]))
            print(f"| in one process | {receivers} | {messages:,.0f} | {messages * receivers:,.0f} | {spent[0]:.0f} |")
            messages, spent = asyncio.run(rate(here, there, receivers, [here_pid, there_pid, redis]))
            cost = ", ".join(f"{each:.0f}" for each in spent)
            print(f"| across | {receivers} | {messages:,.0f} | {messages * receivers:,.0f} | {cost} |", flush=True)


if __name__ == "__main__":
    serve() if sys.argv[1:] == ["serve"] else main()
