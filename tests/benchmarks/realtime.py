"""Realtime benchmarks: phoenix.py and its peers side by side, in one run, as ratios.

    python tests/benchmarks/realtime.py                    # every row
    python tests/benchmarks/realtime.py --only echo,fan    # some of: echo, push, fan, memory, join, order

The server is one process on one core, the load another process on the other core. A figure is what the server did
per second of its own processor time, so that neither a slow client nor a busy machine flatters or harms it. Servers
take turns, round after round; a ratio is taken within each round, and the median of the rounds is shown. Peers come
from PyPI into ``.bench/`` at the first run.
"""

from __future__ import annotations

import os
import sys

_HERE = os.path.dirname(os.path.abspath(__file__))
sys.path[:] = [entry for entry in sys.path if entry != _HERE]  # http.py would hide the standard module

import argparse
import asyncio
import json
import random
import resource
import signal
import socket
import statistics
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from glob import glob
from typing import Any
from urllib.request import urlopen

ROOT = os.path.dirname(os.path.dirname(_HERE))
PYTHON = os.path.join(ROOT, ".bench", f"py{sys.version_info[0]}.{sys.version_info[1]}", "bin", "python")
PACKAGES = [
    "websockets", "starlette", "uvicorn", "httptools", "uvloop", "aiohttp", "microdot", "django", "channels", "daphne",
    "python-socketio",
]  # fmt: skip
HOST = "127.0.0.1"
CORES = sorted(os.sched_getaffinity(0))


# --- Processes ----------------------------------------------------------------------------


def prepare() -> None:
    """Make the virtual environment of the peers if something is missing in it."""
    if not os.path.exists(PYTHON):
        subprocess.run([sys.executable, "-m", "venv", os.path.dirname(os.path.dirname(PYTHON))], check=True)
    subprocess.run([PYTHON, "-m", "pip", "install", "-q", "--disable-pip-version-check", *PACKAGES], check=True)


@contextmanager
def served(name: str) -> Iterator[tuple[int, int]]:
    """Start a server of realtime_servers.py; give its port and process id."""
    with socket.socket() as free:
        free.bind((HOST, 0))
        port = free.getsockname()[1]

    def pin() -> None:
        os.sched_setaffinity(0, {CORES[0]})
        signal.alarm(300)

    process = subprocess.Popen(
        [PYTHON, "-I", os.path.join(_HERE, "realtime_servers.py"), name],
        env={**os.environ, "PORT": str(port)}, preexec_fn=pin, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        deadline = time.monotonic() + 20
        while True:
            try:
                socket.create_connection((HOST, port), timeout=1).close()
                break
            except OSError:
                if time.monotonic() > deadline or process.poll() is not None:
                    raise RuntimeError(f"{name} does not start") from None
                time.sleep(0.05)
        yield port, process.pid
    finally:
        process.kill()
        process.wait()


def cpu_seconds(pid: int) -> float:
    with open(f"/proc/{pid}/stat") as stat:
        fields = stat.read().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def resident_bytes(pid: int) -> int:
    with open(f"/proc/{pid}/statm") as statm:
        return int(statm.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


# --- The load -----------------------------------------------------------------------------


def frame(text: str) -> bytes:
    """Return a masked text frame."""
    data, mask = text.encode(), b"\x12\x34\x56\x78"
    head = bytes([0x81, 0x80 | len(data)]) if len(data) < 126 else bytes([0x81, 0xFE]) + len(data).to_bytes(2, "big")
    return head + mask + bytes(byte ^ mask[at % 4] for at, byte in enumerate(data))


class Client(asyncio.Protocol):
    """A WebSocket client that knows what it sends, and counts what comes."""

    def __init__(self, path: str, opening: list[bytes], heard: Callable[[Client, int], None]) -> None:
        self.path, self.opening, self.heard = path, opening, heard
        self.ready: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.upgraded = False
        self.size = 0  # of the answers, once known
        self.left = b""

    def connection_made(self, transport: Any) -> None:
        self.transport = transport
        transport.write(
            f"GET {self.path} HTTP/1.1\r\nHost: {HOST}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n".encode()
        )

    def connection_lost(self, error: Exception | None) -> None:
        if not self.ready.done():
            self.ready.set_exception(ConnectionError("closed before it was ready"))

    def data_received(self, data: bytes) -> None:
        if self.ready.done():
            self.heard(self, len(data))
            return
        self.left += data
        if not self.upgraded:
            head, end, rest = self.left.partition(b"\r\n\r\n")
            if not end:
                return
            if not head.startswith(b"HTTP/1.1 101"):
                self.ready.set_exception(ConnectionError(repr(head[:60])))
                return
            self.upgraded, self.left = True, rest
            if not self.opening:
                self.ready.set_result(None)
                return
            self.transport.write(self.opening.pop(0))
        elif self.left:
            self.left = b""
            if self.opening:
                self.transport.write(self.opening.pop(0))
            else:
                self.ready.set_result(None)


async def connect(port: int, path: str, opening: list[bytes], heard: Callable[[Client, int], None]) -> Client:
    loop = asyncio.get_running_loop()
    _, client = await loop.create_connection(lambda: Client(path, list(opening), heard), HOST, port)
    await asyncio.wait_for(client.ready, 30)
    return client


async def ping_pong(port: int, pid: int, path: str, opening: list[bytes], message: bytes, size: int, seconds: float) -> float:
    """Let 50 clients send, and send again at each answer of *size* bytes; return messages per second of the server's CPU."""
    count = 0

    def heard(client: Client, length: int) -> None:
        nonlocal count
        client.size += length
        if client.size >= size:
            client.size -= size
            count += 1
            client.transport.write(message)

    clients = [await connect(port, path, opening, heard) for _ in range(50)]
    for client in clients:
        client.transport.write(message)
    await asyncio.sleep(0.3)
    before, started = cpu_seconds(pid), count
    await asyncio.sleep(seconds)
    result = (count - started) / max(0.01, cpu_seconds(pid) - before)
    for client in clients:
        client.transport.abort()
    return result


async def fan_out(port: int, pid: int, path: str, opening: list[bytes], message: bytes, size: int, seconds: float) -> float:
    """Let one of 1,000 clients send as soon as all have got what it sent before; return deliveries per CPU second."""
    total = 0
    sender: Client

    def heard(client: Client, length: int) -> None:
        nonlocal total
        total += length
        if total % (size * 1000) == 0:
            sender.transport.write(message)

    clients = [await connect(port, path, opening, heard) for _ in range(1000)]
    await asyncio.sleep(0.2)
    total = 0
    sender = clients[0]
    sender.transport.write(message)
    await asyncio.sleep(0.5)
    before, started = cpu_seconds(pid), total
    await asyncio.sleep(seconds)
    result = (total - started) / size / max(0.01, cpu_seconds(pid) - before)
    for client in clients:
        client.transport.abort()
    return result


async def join_many(port: int, pid: int, path: str, opening: list[bytes], number: int) -> tuple[float, float]:
    """Connect and join *number* clients as fast as possible; return joins per CPU second and bytes for each."""
    memory, before = resident_bytes(pid), cpu_seconds(pid)
    gate = asyncio.Semaphore(200)

    async def one() -> Client:
        async with gate:
            return await connect(port, path, opening, lambda client, length: None)

    clients = await asyncio.gather(*(one() for _ in range(number)))
    rate = number / max(0.01, cpu_seconds(pid) - before)
    await asyncio.sleep(1)
    each = (resident_bytes(pid) - memory) / number
    for client in clients:
        client.transport.abort()
    return rate, each


def longest_block(port: int) -> float:
    """Ask phoenix.py for how long its loop was blocked since the last time, in milliseconds."""
    with urlopen(f"http://{HOST}:{port}/longest-block", timeout=30) as answer:
        return float(answer.read()) * 1000


async def block_while_joining(port: int, pid: int, path: str, opening: list[bytes], number: int) -> float:
    """Connect and join *number* clients, all at once; return the longest block of the loop meanwhile."""
    longest_block(port)
    clients = await asyncio.gather(*(connect(port, path, opening, lambda client, length: None) for _ in range(number)))
    longest = await asyncio.to_thread(longest_block, port)
    for client in clients:
        client.transport.abort()
    return longest


# --- Rows ---------------------------------------------------------------------------------

TEXT = "x" * 64
JOIN = frame('["1","1","rooms:bench","phx_join",{}]')
PUSH = '["1","2","rooms:bench","ping",{"text":"hello"}]'
PUSHED = len('["1","2","rooms:bench","phx_reply",{"status":"ok","response":{"text":"hello"}}]') + 2
BODY = {"body": "x" * 89}  # 100 bytes of JSON
SAID = json.dumps([None, None, "rooms:bench", "said", BODY], separators=(",", ":"))
WS = "/ws/websocket?vsn=2.0.0"


def server_frame(text: str) -> int:
    return len(text) + (2 if len(text) < 126 else 4)


def echo(name: str, seconds: float) -> float:
    return drive(name, lambda port, pid: ping_pong(port, pid, "/echo", [], frame(TEXT), 66, seconds))


def push(name: str, seconds: float) -> float:
    if name == "phoenix":
        return drive(name, lambda port, pid: ping_pong(port, pid, WS, [JOIN], frame(PUSH), PUSHED, seconds))
    if name == "socketio":
        path, opening = "/socket.io/?EIO=4&transport=websocket", [frame("40")]
        message = '42["ping",{"text":"hello"}]'
        return drive(name, lambda port, pid: ping_pong_after_hello(port, pid, path, opening, message, seconds))
    return drive(name, lambda port, pid: ping_pong(port, pid, "/json", [], frame(PUSH), PUSHED, seconds))


async def ping_pong_after_hello(port: int, pid: int, path: str, opening: list[bytes], message: str, seconds: float) -> float:
    """Socket.IO greets first: wait for that, answer, and wait again."""
    return await ping_pong(port, pid, path, [b"", *opening], frame(message), len(message) + 2, seconds)


def fan(name: str, seconds: float) -> float:
    if name == "phoenix":
        say = frame(json.dumps(["1", None, "rooms:bench", "say", BODY], separators=(",", ":")))
        return drive(name, lambda port, pid: fan_out(port, pid, WS, [JOIN], say, server_frame(SAID), seconds))
    text = "x" * 100
    return drive(name, lambda port, pid: fan_out(port, pid, "/fan", [], frame(text), server_frame(text), seconds))


def joins(name: str, number: int) -> tuple[float, float]:
    opening = [JOIN] if name == "phoenix" else [frame("hello")] if name != "bare" else []
    path = WS if name == "phoenix" else "/join"
    return drive(name, lambda port, pid: join_many(port, pid, path, opening, number))


def drive(name: str, load: Callable[[int, int], Any]) -> Any:
    import uvloop  # the load must not be slower than what it measures

    with served(name) as (port, pid):
        return uvloop.run(asyncio.wait_for(load(port, pid), 150))


def compare(title: str, measure: Callable[[str], float], peers: dict[str, float | None], rounds: int) -> bool:
    """Measure the product and its peers in turn; print a line for each peer."""
    figures: dict[str, list[float]] = {name: [] for name in ("phoenix", *peers)}
    for _ in range(rounds):
        for name in figures:
            try:
                figures[name].append(measure(name))
            except Exception as error:  # noqa: BLE001 - a peer that fails is a line of the table
                print(f"<!-- {name}: {type(error).__name__}: {error} -->", file=sys.stderr)
    good = True
    own = statistics.median(figures["phoenix"]) if figures["phoenix"] else 0.0
    for name, target in peers.items():
        if not figures[name] or not figures["phoenix"]:
            print(f"| {title} | {own:,.0f} | {name} | not measured | | {target or ''} | FAIL |", flush=True)
            good = False
            continue
        ratio = statistics.median(a / b for a, b in zip(figures["phoenix"], figures[name]))
        passed = target is None or ratio >= target
        good = good and passed
        verdict = "" if target is None else "pass" if passed else "**FAIL**"
        print(
            f"| {title} | {own:,.0f} | {name} | {statistics.median(figures[name]):,.0f} | {ratio:.2f}x"
            f" | {f'{target}x' if target else ''} | {verdict} |",
            flush=True,
        )
    return good


def order(messages: int) -> bool:
    """Send messages from 100 threads' worth of senders to 100 topics with subscribers that come and go."""
    sys.path.insert(0, ROOT)
    import phoenix

    async def main() -> tuple[int, int]:
        pubsub = phoenix.PubSub()
        pubsub._serve_on(asyncio.get_running_loop())
        stay = {topic: pubsub.subscribe(f"t{topic}") for topic in range(100)}
        for mailbox in stay.values():
            mailbox.limit = messages
        counters = [0] * 100
        chance = random.Random(7)

        def broken(message: Any) -> None:
            raise RuntimeError("a subscriber that crashes")

        import logging

        logging.getLogger("phoenix").setLevel(logging.CRITICAL)
        wrong = got = 0
        seen: dict[tuple[int, int], int] = {}
        sent: dict[tuple[int, int], int] = {}
        for number in range(messages):
            sender, topic = chance.randrange(100), chance.randrange(100)
            counters[sender] += 1
            sent[sender, topic] = sent.get((sender, topic), 0) + 1
            pubsub.broadcast(f"t{topic}", (sender, counters[sender]))
            if number % 1000 == 0:
                pubsub.subscribe(f"t{topic}", broken)
                pubsub.subscribe(f"t{topic}").close()
                pubsub.unsubscribe(broken, f"t{topic}")
        totals: dict[tuple[int, int], int] = {}
        for topic, mailbox in stay.items():
            while len(mailbox):
                sender, number = await mailbox.get()
                wrong += number <= seen.get((sender, topic), 0)
                seen[sender, topic] = number
                totals[sender, topic] = totals.get((sender, topic), 0) + 1
                got += 1
        return got, wrong + (totals != sent)

    started = time.perf_counter()
    got, wrong = asyncio.run(main())
    took = time.perf_counter() - started
    passed = got == messages and wrong == 0
    print(f"| {messages:,} messages, 100 senders, 100 topics | {got:,} delivered, {wrong} out of order or doubled, {took:.1f} s"
          f" | | | | none lost | {'pass' if passed else '**FAIL**'} |")  # fmt: skip
    return passed


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", default="echo,push,fan,memory,join,order")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=2)
    parser.add_argument("--connections", type=int, default=10_000)
    chosen = parser.parse_args()
    wanted = set(chosen.only.split(","))
    prepare()
    sys.path.append(glob(os.path.join(os.path.dirname(os.path.dirname(PYTHON)), "lib", "python*", "site-packages"))[0])
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    os.sched_setaffinity(0, {CORES[-1]})
    good = True
    print("\n| what | phoenix.py | against | its figure | ratio | at least | |\n|---|--:|---|--:|--:|--:|---|")
    if "echo" in wanted:
        peers = {"websockets": 1.3, "starlette": 1.1, "bare": 0.65, "aiohttp": None}
        good &= compare("echo of 64 bytes, messages per CPU second", lambda name: echo(name, chosen.seconds), peers, chosen.rounds)
    if "push" in wanted:
        own: dict[str, float | None] = {"websockets": 1.0, "channels": 3.0, "socketio": 3.0}
        good &= compare("channel push with reply, per CPU second", lambda name: push(name, chosen.seconds), own, chosen.rounds)
        pairs = [(push("phoenix", chosen.seconds), echo("phoenix", chosen.seconds)) for _ in range(chosen.rounds)]
        ratio = statistics.median(pushes / echoes for pushes, echoes in pairs)
        figures = [statistics.median(each) for each in zip(*pairs)]
        verdict = "pass" if ratio >= 0.55 else "**FAIL**"
        good &= ratio >= 0.55
        print(f"| channel push with reply | {figures[0]:,.0f} | its own raw echo | {figures[1]:,.0f} | {ratio:.2f}x | 0.55x | {verdict} |")
    if "fan" in wanted:
        peers = {"starlette": 1.15, "bare": 0.85, "channels": 30.0, "websockets": None}
        good &= compare("deliveries to 1,000 subscribers, per CPU second", lambda name: fan(name, chosen.seconds), peers, chosen.rounds)
    if "join" in wanted:
        peers = {"websockets": 1.0, "starlette": None}
        title = f"{chosen.connections:,} connections with join, per CPU second"
        good &= compare(title, lambda name: joins(name, chosen.connections)[0], peers, min(2, chosen.rounds))
        blocks = [
            drive("phoenix", lambda port, pid: block_while_joining(port, pid, WS, [JOIN], chosen.connections))
            for _ in range(chosen.rounds)
        ]
        verdict = "pass" if statistics.median(blocks) < 100 else "**FAIL**"
        good &= verdict == "pass"
        longest = f"{statistics.median(blocks):.0f} ms ({min(blocks):.0f} to {max(blocks):.0f})"
        print(f"| longest block of the loop while {chosen.connections:,} join | {longest} | | | | under 100 ms | {verdict} |")
    if "memory" in wanted:
        for name in ("phoenix", "microdot", "aiohttp", "starlette", "websockets"):
            try:
                each = joins(name, chosen.connections)[1]
            except Exception as error:  # noqa: BLE001
                print(f"<!-- {name}: {type(error).__name__}: {error} -->", file=sys.stderr)
                continue
            verdict = "" if name != "phoenix" else "pass" if each < 10_000 else "**FAIL**"
            good &= verdict != "**FAIL**"
            print(f"| memory of an idle joined connection, {name} | {each / 1000:.1f} KB | | | | under 10 KB | {verdict} |", flush=True)
    if "order" in wanted:
        good &= order(1_000_000)
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
