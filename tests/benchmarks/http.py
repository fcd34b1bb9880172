"""HTTP benchmarks: phoenix.py and its peers side by side, in one run, as ratios.

    python tests/benchmarks/http.py                       # every row, about nine minutes
    python tests/benchmarks/http.py --quick               # every row, short and noisy
    python tests/benchmarks/http.py --only plaintext,page # some rows (--help lists them)
    python tests/benchmarks/http.py --all                 # more peers in the rows plaintext, json and param

The first run makes a virtual environment with the peers under ``.bench/``; the product itself runs from
the repository and needs nothing from there. ``wrk`` (Debian: ``apt-get install -y wrk``) makes the load.

What keeps the figures honest: each server is one process pinned to one core, the load is pinned to
another; all that a row compares is started first and then driven in turn, round after round (A, B, C,
A, B, C, ...), so that a slow minute of the machine hits everyone; a ratio is taken within each round,
and the table shows the median of the rounds with the lowest and highest. Every answer is checked
before it is measured, and a measurement in which a server answered with errors does not count.
"""

from __future__ import annotations

import os
import sys

# A script's own directory comes first on the path, where this file would hide the standard module `http`:
# it goes to the end. The servers are started with `-I`, which leaves it out, for the same reason.
_HERE = os.path.dirname(os.path.abspath(__file__))
sys.path[:] = [*(entry for entry in sys.path if entry != _HERE), _HERE]

import argparse
import contextlib
import datetime
import json as jsonlib
import platform
import re
import shutil
import signal
import socket
import statistics
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from http.client import HTTPConnection, HTTPException
from pathlib import Path

from engines import canonical, expected

HERE = Path(_HERE)
ROOT = HERE.parent.parent
BENCH = ROOT / ".bench"
STATIC = BENCH / "static"
PYTHON = BENCH / f"py{sys.version_info[0]}.{sys.version_info[1]}" / "bin" / "python"

PACKAGES = [
    "bottle", "flask", "gunicorn", "starlette", "uvicorn", "httptools", "uvloop", "h11", "fastapi", "aiohttp",
    "jinja2", "mako", "itsdangerous", "python-multipart",
]  # fmt: skip
MORE_PACKAGES = ["tornado", "sanic", "microdot", "falcon", "blacksheep"]

HOST = "127.0.0.1"
CONNECTIONS = 64


class Unmeasured(Exception):
    """A figure could not be taken; the message says why."""


# ------------------------------------------------------------------------------------------
# The rows
# ------------------------------------------------------------------------------------------

TEXT = b"Hello, world!"
DATA = {"id": 42, "name": "Ann", "tags": ["a", "b"], "active": True}
HELLO = b"Hello, Ann!"
FORM = (
    b"user%5Bname%5D=Ann+Lee&user%5Bemail%5D=ann%40example.com&user%5Baddress%5D%5Bcity%5D=Paris"
    b"&user%5Baddress%5D%5Bstreet%5D=Rue+de+Rivoli+1&commit=Save"
)
FILES = {"10k.bin": 10 * 1024, "1m.bin": 1024 * 1024}


@dataclass(frozen=True)
class Response:
    status: int
    headers: Mapping[str, str]
    body: bytes


@dataclass(frozen=True)
class Peer:
    """One server of a row, and how many times as fast as it the product has to be (``None``: shown only)."""

    label: str
    command: tuple[str, ...]  # the script in this directory, and its arguments
    target: float | None = None


@dataclass(frozen=True)
class Row:
    """One question: the request to send, what the answer must be, and who is asked."""

    key: str
    title: str
    product: Peer
    peers: tuple[Peer, ...]
    check: Callable[[Response], bool]
    path: str
    body: bytes | None = None
    headers: dict[str, str] = field(default_factory=dict)
    session: bool = False  # the load carries the session cookie of a first visit


def product(variant: str, label: str = "phoenix.py") -> Peer:
    return Peer(label, ("app_phoenix.py", variant))


def starlette(how: str, target: float) -> Peer:
    server = {"fast": "uvicorn, httptools, uvloop", "plain": "uvicorn, h11, asyncio"}[how]
    return Peer(f"Starlette ({server})", ("peers.py", f"starlette-{how}"), target)


def more(*names: str) -> tuple[Peer, ...]:
    return tuple(Peer(name, ("peers.py", name.lower())) for name in names)


def text(expected: bytes) -> Callable[[Response], bool]:
    return lambda r: r.headers["content-type"].startswith("text/plain") and r.body == expected


def is_data(response: Response) -> bool:
    return response.headers["content-type"].startswith("application/json") and jsonlib.loads(response.body) == DATA


def is_page(response: Response) -> bool:
    page = canonical(response.body.decode())
    return response.headers["content-type"].startswith("text/html") and page == canonical(expected())


def is_file(name: str) -> Callable[[Response], bool]:
    return lambda r: r.body == (STATIC / name).read_bytes()


def rows(everyone: bool) -> list[Row]:
    fast, plain = starlette("fast", 1.15), starlette("plain", 4.0)
    extra = more("aiohttp") + (more("Tornado", "Sanic", "microdot", "falcon", "blacksheep") if everyone else ())
    threads = (
        Peer("Bottle (its default server, wsgiref)", ("peers.py", "bottle"), 1.0),
        Peer("FastAPI, def (uvicorn, httptools, uvloop)", ("peers.py", "fastapi"), 2.0),
        Peer("Flask (gunicorn, sync worker)", ("peers.py", "flask")),
    )

    def bare(kind: str) -> Peer:
        return Peer("bare asyncio.Protocol, constant answer", ("peers.py", f"bare-{kind}"), 0.5)

    many = {
        shape: (product(f"{shape}-1000", "phoenix.py, 1,000 routes"),
                Peer("phoenix.py, one route", ("app_phoenix.py", f"{shape}-1"), 0.9))
        for shape in ("static", "param")
    }  # fmt: skip
    on_loop, in_threads = product("async"), product("def", "phoenix.py, def")
    return [
        Row("plaintext", "plaintext", on_loop, (fast, plain, bare("text"), *extra), text(TEXT), "/text"),
        Row("json", "JSON", on_loop, (fast, plain, bare("json"), *extra), is_data, "/json"),
        Row("param", "path parameter", on_loop, (fast, plain, bare("hello"), *extra), text(HELLO), "/hello/Ann"),
        Row("def-plaintext", "plaintext, plain `def`", in_threads, threads, text(TEXT), "/text"),
        Row("def-json", "JSON, plain `def`", in_threads, threads, is_data, "/json"),
        Row("def-param", "path parameter, plain `def`", in_threads, threads, text(HELLO), "/hello/Ann"),
        Row("routes-static", "last of 1,000 routes, static", many["static"][0], many["static"][1:], text(TEXT), "/last"),
        Row("routes-param", "last of 1,000 routes, two parameters", many["param"][0], many["param"][1:], text(TEXT),
            "/last/7/items/9"),
        Row("page", "page: layout, 20 rows, escaped", on_loop, (starlette("fast", 1.8),), is_page, "/page"),
        Row("session", "signed session, read and write", on_loop, (starlette("fast", 1.6),), text(b"2"), "/count",
            session=True),
        Row("form", "urlencoded form, 5 fields, nested names", on_loop, (starlette("fast", 1.2),),
            text(b"Ann Lee, Paris"), "/form", body=FORM,
            headers={"Content-Type": "application/x-www-form-urlencoded"}),
        Row("static-10k", "static file, 10 KB", on_loop, (Peer("aiohttp", ("peers.py", "aiohttp"), 1.0),),
            is_file("10k.bin"), "/static/10k.bin"),
        Row("static-1m", "static file, 1 MB", on_loop, (Peer("aiohttp", ("peers.py", "aiohttp"), 1.0),),
            is_file("1m.bin"), "/static/1m.bin"),
    ]  # fmt: skip


# ------------------------------------------------------------------------------------------
# Lines of the table
# ------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Line:
    """One line of the table, ready to print. *passed* is ``None`` where nothing is demanded."""

    what: str
    product: str
    against: str = ""
    figure: str = ""
    ratio: str = ""
    target: str = ""
    passed: bool | None = None

    def __str__(self) -> str:
        verdict = {True: "pass", False: "**FAIL**", None: ""}[self.passed]
        cells = (self.what, self.product, self.against, self.figure, self.ratio, self.target, verdict)
        return f"| {' | '.join(cells)} |"


HEADING = (
    "| what | phoenix.py | against | its figure | ratio, median (lowest to highest) | at least | |\n"
    "|---|--:|---|--:|--:|--:|---|"
)


def compare(what: str, ours: Sequence[float], theirs: Sequence[float], *, against: str, target: float | None,
            show: Callable[[float], str], faster_is: str) -> Line:  # fmt: skip
    """Make the line for two series of the same rounds. *faster_is* ``"more"`` (requests) or ``"less"`` (time)."""
    pairs = zip(ours, theirs)
    ratios = [a / b if faster_is == "more" else b / a for a, b in pairs]
    ratio = statistics.median(ratios)
    return Line(
        what,
        show(statistics.median(ours)),
        against,
        show(statistics.median(theirs)),
        f"{ratio:.2f}x ({min(ratios):.2f} to {max(ratios):.2f})",
        f"{target:g}x" if target else "",
        ratio >= target if target else None,
    )


UNMEASURED = "not measured"


def explain(what: str, who: str, why: object) -> None:
    """Say at once, beside the table, why a cell of it says that nothing was measured."""
    print(f"{what}, {who}: {why}", file=sys.stderr, flush=True)


def per_second(value: float) -> str:
    return f"{value:,.0f}/s"


def microseconds(value: float) -> str:
    return f"{value:.2f} µs"


def milliseconds(value: float) -> str:
    return f"{value:.1f} ms"


# ------------------------------------------------------------------------------------------
# Processes: pinned, bounded in time, always ended
# ------------------------------------------------------------------------------------------

SERVER_CORE, LOAD_CORE = 0, 0  # set by main()


def pin_to(core: int, lifetime: int) -> Callable[[], None]:
    """Return what a new process does before its program starts: take one core, and set an end to its life."""

    def prepare() -> None:
        os.sched_setaffinity(0, {core})
        signal.alarm(lifetime)  # the alarm survives exec: even an orphan does not outlive it

    return prepare


def run(command: Sequence[str], *, core: int, timeout: int) -> str:
    """Run *command* on *core* to its end and return what it printed. Raises ``Unmeasured`` if it failed."""
    try:
        done = subprocess.run(
            command, cwd=BENCH, check=False, capture_output=True, text=True, timeout=timeout,
            preexec_fn=pin_to(core, timeout + 5),
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        raise Unmeasured(f"`{Path(command[0]).name}` took more than {timeout} s") from None
    if done.returncode != 0:
        raise Unmeasured(last_line(done.stderr or done.stdout) or f"exit status {done.returncode}")
    return done.stdout


def script(name: str, *arguments: str) -> list[str]:
    return [str(PYTHON), "-I", str(HERE / name), *arguments]


def last_line(output: str) -> str:
    lines = [line.strip() for line in output.splitlines() if line.strip()]
    return lines[-1].replace("|", "/") if lines else ""


class Server:
    """A server process on a free port of this machine."""

    def __init__(self, command: tuple[str, ...], *, lifetime: int) -> None:
        with socket.create_server((HOST, 0)) as probe:
            self.port: int = probe.getsockname()[1]
        self.log = BENCH / "log" / f"{'-'.join(command)}.txt"
        self.log.parent.mkdir(exist_ok=True)
        environment = {**os.environ, "PORT": str(self.port), "PHOENIX_ENV": "prod"}
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                script(*command), stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd=BENCH, env=environment,
                start_new_session=True, preexec_fn=pin_to(SERVER_CORE, lifetime),  # noqa: PLW1509
            )  # fmt: skip

    def wait(self, seconds: float = 20) -> None:
        """Wait until the port is open. Raises ``Unmeasured`` with the server's last words."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            if self.process.poll() is not None:
                raise Unmeasured(f"did not start: {last_line(self.log.read_text(errors='replace'))}")
            with contextlib.suppress(OSError):
                socket.create_connection((HOST, self.port), timeout=1).close()
                return
            time.sleep(0.05)
        raise Unmeasured(f"did not listen on its port within {seconds:g} s (see {self.log})")

    def stop(self) -> None:
        """End the process and its children, which are a process group of their own."""
        for sign, patience in (signal.SIGTERM, 3), (signal.SIGKILL, 3):
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.process.pid, sign)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(patience)
                return

    def request(self, row: Row, headers: Mapping[str, str]) -> Response:
        connection = HTTPConnection(HOST, self.port, timeout=10)
        try:
            connection.request("POST" if row.body else "GET", row.path, row.body, {**row.headers, **headers})
            answer = connection.getresponse()
            # Lower-case names; of a repeated field the first counts.
            fields = {name.lower(): value for name, value in reversed(answer.getheaders())}
            return Response(answer.status, fields, answer.read())
        except (OSError, HTTPException) as error:
            raise Unmeasured(f"no answer to {row.path}: {error!r}") from None
        finally:
            connection.close()


# ------------------------------------------------------------------------------------------
# Checking and measuring over HTTP
# ------------------------------------------------------------------------------------------


def verify(server: Server, row: Row) -> dict[str, str]:
    """Raise ``Unmeasured`` unless *server* answers *row* rightly; return the header fields the load must carry."""
    headers = visit(server, row) if row.session else {}
    response = server.request(row, headers)
    if response.status != 200 or not correct(row, response):
        raise Unmeasured(f"wrong answer to {row.path}: {response.status} {response.body[:60]!r}")
    if row.session and "set-cookie" not in response.headers:
        raise Unmeasured("the session was read but not written")
    return headers


def correct(row: Row, response: Response) -> bool:
    try:
        return row.check(response)
    except (KeyError, ValueError):
        return False


def visit(server: Server, row: Row) -> dict[str, str]:
    """Begin a session and return its cookie, after seeing that a forged one is not believed."""
    first = server.request(row, {})
    if first.status != 200 or first.body != b"1" or "set-cookie" not in first.headers:
        raise Unmeasured(f"no session was begun: {first.status} {first.body[:60]!r}")
    cookie = first.headers["set-cookie"].partition(";")[0]
    forged = cookie[:-4] + ("AAAA" if cookie[-4:] != "AAAA" else "BBBB")
    if server.request(row, {"Cookie": forged}).body != b"1":
        raise Unmeasured("a session with a forged signature was believed")
    return {"Cookie": cookie}


def drive(server: Server, row: Row, headers: Mapping[str, str], seconds: int) -> float:
    """Let wrk ask for *seconds* and return the requests per second. Raises ``Unmeasured`` on any error."""
    command = ["wrk", "-t1", f"-c{CONNECTIONS}", f"-d{seconds}s", "--timeout", "10s"]
    for name, value in {**row.headers, **headers}.items():
        command += ["-H", f"{name}: {value}"]
    if row.body:
        command += ["-s", str(lua_script(row))]
    return requests_per_second(
        run([*command, f"http://{HOST}:{server.port}{row.path}"], core=LOAD_CORE, timeout=seconds + 20)
    )


def lua_script(row: Row) -> Path:
    """Write the method and body for wrk, which then formats the request once, before the load starts."""
    path = BENCH / f"{row.key}.lua"
    body = (row.body or b"").decode("ascii")
    path.write_text(f'wrk.method = "POST"\nwrk.body = [[{body}]]\n')
    return path


def requests_per_second(report: str) -> float:
    """Read wrk's report.

    Raises ``Unmeasured`` if it tells of any error status, for a refusal is quick to send, or of broken
    connections in more than one request of a thousand.

    >>> requests_per_second("  20 requests in 2.00s, 1KB read\\nRequests/sec:  12345.67\\n")
    12345.67
    """
    if bad := re.search(r"Non-2xx or 3xx responses: (\d+)", report):
        raise Unmeasured(f"{bad[1]} answers under load were errors")
    requests = re.search(r"(\d+) requests in ", report)
    rate = re.search(r"Requests/sec:\s*([\d.]+)", report)
    if not requests or not rate or not int(requests[1]):
        raise Unmeasured(f"wrk measured nothing: {last_line(report)}")
    trouble = re.search(r"Socket errors: connect (\d+), read (\d+), write (\d+), timeout (\d+)", report)
    if trouble and sum(map(int, trouble.groups())) * 1000 > int(requests[1]):
        raise Unmeasured(f"{trouble[0]} in {requests[1]} requests")
    return float(rate[1])


def measure(row: Row, rounds: int, seconds: int) -> Iterator[Line]:
    """Start all servers of *row*, check each, drive them in turn, and yield a line for each peer."""
    everyone = [row.product, *row.peers]
    lifetime = 60 + 2 * len(everyone) * (rounds + 1) * (seconds + 2)  # far more than it should take
    results: dict[Peer, list[float]] = {peer: [] for peer in everyone}
    failed: set[Peer] = set()
    ready: list[tuple[Peer, Server, dict[str, str]]] = []
    with contextlib.ExitStack() as stack:
        for peer in everyone:
            server = Server(peer.command, lifetime=lifetime)
            stack.callback(server.stop)
            try:
                server.wait()
                headers = verify(server, row)
                drive(server, row, headers, 1)  # warm-up: caches, specialised bytecode, the allocator
                ready.append((peer, server, headers))
            except Unmeasured as why:
                failed.add(peer)
                explain(row.title, peer.label, why)
        for _ in range(rounds):
            for peer, server, headers in ready:
                if peer in failed:
                    continue
                try:
                    results[peer].append(drive(server, row, headers, seconds))
                except Unmeasured as why:
                    failed.add(peer)
                    explain(row.title, peer.label, why)
    for peer in row.peers:
        yield line_for(row, peer, results, failed)


def line_for(row: Row, peer: Peer, results: Mapping[Peer, Sequence[float]], failed: set[Peer]) -> Line:
    if row.product not in failed and peer not in failed:
        return compare(row.title, results[row.product], results[peer], against=peer.label, target=peer.target,
                       show=per_second, faster_is="more")  # fmt: skip

    def cell(who: Peer) -> str:
        return UNMEASURED if who in failed else per_second(statistics.median(results[who]))

    target = f"{peer.target:g}x" if peer.target else ""
    return Line(row.title, cell(row.product), peer.label, cell(peer), "", target, False if peer.target else None)


# ------------------------------------------------------------------------------------------
# Measuring in one process: template engines, route matching, import
# ------------------------------------------------------------------------------------------


def rendering(rounds: int) -> Iterator[Line]:
    """Time one page in each template engine, in one process, in turn (engines.py)."""
    what = "template engine alone, the same page"
    times: dict[str, list[float]] = {}
    for name, series in jsonlib.loads(
        run(script("engines.py", str(rounds * 3)), core=SERVER_CORE, timeout=120)
    ).items():
        if isinstance(series, str):  # what went wrong, instead of figures
            explain(what, name, series)
        else:
            times[name] = series
    ours = times.get("phoenix.py")
    for name, target in ("Bottle SimpleTemplate", 1.3), ("Jinja2", 2.0), ("Mako", 2.0):
        theirs = times.get(name)
        if ours and theirs:
            yield compare(what, ours, theirs, against=name, target=target, show=microseconds, faster_is="less")
        else:
            mine, its = (microseconds(statistics.median(s)) if s else UNMEASURED for s in (ours, theirs))
            yield Line(what, mine, name, its, "", f"{target:g}x", False)


def matching(rounds: int) -> Iterator[Line]:
    """Time the router's match of the last route, in one process (``app_phoenix.py match``)."""
    times = jsonlib.loads(run(script("app_phoenix.py", "match", str(rounds * 3)), core=SERVER_CORE, timeout=300))
    for what, series in times.items():
        middle = statistics.median(series)
        spread = f"{min(series):.2f} to {max(series):.2f} µs"
        yield Line(f"one match, {what}", microseconds(middle), "", "", spread, "under 1.5 µs", middle < 1.5)


LATE_MODULES = ("ssl", "sqlite3", "email", "multiprocessing")
IMPORTS = {"nothing": "", "phoenix": "import phoenix", "bottle": "import bottle"}


def importing(rounds: int) -> Iterator[Line]:
    """Time fresh interpreters, in turn; what an empty one takes is subtracted in each round."""
    for name in IMPORTS:
        start(name)  # once unmeasured: writes the .pyc
    times: dict[str, list[float]] = {name: [] for name in IMPORTS}
    for _ in range(rounds * 4):
        for name, series in times.items():
            series.append(start(name))
    empty = statistics.median(times["nothing"])
    ours, bottle = (
        [took - nothing for took, nothing in zip(times[name], times["nothing"])] for name in ("phoenix", "bottle")
    )
    mine, its = statistics.median(ours), statistics.median(bottle)
    yield Line("`import phoenix`", milliseconds(mine), "an empty interpreter (not counted)", milliseconds(empty),
               f"{min(ours):.1f} to {max(ours):.1f} ms", "under 60 ms", mine < 60)  # fmt: skip
    yield Line("`import phoenix`", milliseconds(mine), "`import bottle`", milliseconds(its),
               f"{mine - its:+.1f} ms", "at most +15 ms", mine - its <= 15)  # fmt: skip
    loaded = run([*interpreter("phoenix"), *LATE_MODULES], core=SERVER_CORE, timeout=30).split()
    yield Line("imported too early", ", ".join(loaded) or "nothing", f"none of {', '.join(LATE_MODULES)}",
               passed=not loaded)  # fmt: skip


def interpreter(name: str) -> list[str]:
    """Return the command of a fresh interpreter that imports *name* and prints which of its arguments are loaded."""
    code = (
        f"import sys; sys.path.append({str(ROOT)!r}); {IMPORTS[name] or 'pass'}; "
        "print(*(m for m in sys.argv[1:] if m in sys.modules))"
    )
    return [str(PYTHON), "-I", "-c", code]


def start(name: str) -> float:
    """Return the milliseconds from starting an interpreter that imports *name* to its end."""
    before = time.perf_counter()
    run(interpreter(name), core=SERVER_CORE, timeout=30)
    return (time.perf_counter() - before) * 1000


# ------------------------------------------------------------------------------------------
# Getting ready
# ------------------------------------------------------------------------------------------


def prepare(everyone: bool) -> None:
    """Make the virtual environment, install what is missing there, and write the files to be served."""
    BENCH.mkdir(exist_ok=True)
    if not PYTHON.exists():
        print(f"making a virtual environment in {PYTHON.parent.parent} ...", file=sys.stderr)
        subprocess.run([sys.executable, "-m", "venv", str(PYTHON.parent.parent)], check=True, timeout=120)
    present = installed()
    if missing := [name for name in PACKAGES if name not in present]:
        install(missing)
    for name in MORE_PACKAGES if everyone else ():
        if name not in present:
            with contextlib.suppress(SystemExit):  # these may lag behind a new Python: their lines will say so
                install([name])
    STATIC.mkdir(exist_ok=True)
    for name, size in FILES.items():
        if not (STATIC / name).exists() or (STATIC / name).stat().st_size != size:
            (STATIC / name).write_bytes(os.urandom(size))


def installed() -> dict[str, str]:
    """Return the names, in small letters, and versions of what the virtual environment holds."""
    listing = subprocess.run(
        [str(PYTHON), "-m", "pip", "list", "--format=json", "--disable-pip-version-check"],
        capture_output=True, text=True, check=True, timeout=60,
    )  # fmt: skip
    return {package["name"].lower(): package["version"] for package in jsonlib.loads(listing.stdout)}


def install(names: Sequence[str]) -> None:
    print(f"installing {' '.join(names)} ...", file=sys.stderr)
    command = [str(PYTHON), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *names]
    done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=600)
    if done.returncode != 0:
        print(done.stderr.strip(), file=sys.stderr)
        raise SystemExit(f"could not install {' '.join(names)}: see the messages above")


def machine(rounds: int, seconds: int) -> str:
    """Return the sentence that goes with the table: where, when and how it was measured."""
    cpuinfo = Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").exists() else ""
    model = re.search(r"model name\s*:\s*(.+)", cpuinfo)
    versions = installed()
    names = [name for name in (*PACKAGES, *MORE_PACKAGES) if name in versions]
    return (
        f"{datetime.date.today()}, {model[1] if model else platform.machine()}, CPython {platform.python_version()}; "
        f"one core for the server (CPU {SERVER_CORE}), one for the load (CPU {LOAD_CORE}), {CONNECTIONS} kept-alive "
        f"connections, {rounds} interleaved rounds of {seconds} s; load average at the start "
        f"{os.getloadavg()[0]:.1f}. " + ", ".join(f"{name} {versions[name]}" for name in names) + "."
    )


def choose_cores() -> tuple[int, int]:
    if not hasattr(os, "sched_setaffinity"):
        raise SystemExit("these benchmarks pin processes to cores, which needs Linux")
    cores = sorted(os.sched_getaffinity(0))
    if len(cores) < 2:
        print("warning: only one core: server and load share it, so ratios are squeezed together", file=sys.stderr)
    return cores[0], cores[-1]


def arguments(keys: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description="Compare phoenix.py with its peers over HTTP, as ratios.", epilog=f"rows: {', '.join(keys)}"
    )
    parser.add_argument("--rounds", type=int, default=5, help="interleaved rounds (default 5)")
    parser.add_argument("--seconds", type=int, default=2, help="seconds per measurement (default 2)")
    parser.add_argument("--only", metavar="ROW", action="append", default=[], help="only these rows; commas or repeats")
    parser.add_argument("--quick", action="store_true", help="two rounds of one second: to see that all runs")
    parser.add_argument("--all", action="store_true", help=f"more peers: {', '.join(MORE_PACKAGES)}")
    options = parser.parse_args()
    options.only = [name for given in options.only for name in given.split(",")] or list(keys)
    if unknown := set(options.only) - set(keys):
        parser.error(f"unknown row {', '.join(sorted(unknown))}; there are {', '.join(keys)}")
    if options.quick:
        options.rounds, options.seconds = 2, 1
    if not (1 <= options.rounds <= 100 and 1 <= options.seconds <= 60):
        parser.error("--rounds goes from 1 to 100, --seconds from 1 to 60")
    return options


def main() -> int:
    """Print the table line by line. The exit status is 1 if a target was missed or could not be measured."""
    global SERVER_CORE, LOAD_CORE
    in_process = {"match": matching, "engine": rendering, "import": importing}
    options = arguments([*(row.key for row in rows(everyone=False)), *in_process])
    over_http = {row.key: row for row in rows(options.all)}
    if not shutil.which("wrk"):
        raise SystemExit("wrk, which makes the load, is missing. On Debian or Ubuntu: apt-get install -y wrk")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # so that the servers are stopped as well
    SERVER_CORE, LOAD_CORE = choose_cores()
    os.sched_setaffinity(0, {LOAD_CORE})
    prepare(options.all)
    print(machine(options.rounds, options.seconds), HEADING, sep="\n\n", flush=True)
    failed = False
    for key in options.only:
        if key in over_http:
            lines = measure(over_http[key], options.rounds, options.seconds)
        else:
            lines = in_process[key](options.rounds)
        try:
            for line in lines:
                print(line, flush=True)
                failed |= line.passed is False
        except Unmeasured as why:
            explain(key, "phoenix.py", why)
            print(Line(key, UNMEASURED, passed=False), flush=True)
            failed = True
    return failed


if __name__ == "__main__":
    sys.exit(main())
