"""Code reload and live reload, with real processes, sockets and a real browser."""

from __future__ import annotations

import asyncio
import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.parse
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import phoenix
from conftest import ROOT, StartedServer, free_port
from phoenix import Conn, get
from serving import Serving

TIMEOUT = 15  # seconds that anything may take

APP = '''
import asyncio, os, sys, time
sys.path.insert(0, {root!r})
import phoenix
from phoenix import Channel, Controller, View, channel, get, plug, socket, websocket
from web.words import WORD

STARTED = str(time.time_ns())

class PageView(View):
    root = "templates"

class PageController(Controller):
    def index(self, conn, params):
        return conn.render("index.html", word=WORD)

async def word(conn, params):
    return conn.text(WORD)

async def process(conn, params):
    return conn.json({{"pid": os.getpid(), "started": STARTED, "argv": sys.argv[1:], "main": __name__}})

async def slow(conn, params):
    await asyncio.sleep(float(params["seconds"]))
    return conn.text(WORD)

async def events(conn, params):
    async def parts():
        while True:
            yield "data: tick\\n\\n"
            await asyncio.sleep(0.05)
    return conn.put_resp_content_type("text/event-stream").send_chunked(200, parts())

def stop_here(conn, params):
    answer = WORD
    breakpoint()
    return conn.text(answer)

async def chat_page(conn, params):
    return conn.html("<!DOCTYPE html><body><script src=/js/phoenix.js></script></body>")

async def deaf(ws):
    await asyncio.Event().wait()

class RoomChannel(Channel):
    async def join(self, socket, topic, message):
        return socket.ok({{"word": WORD}})

class Router(phoenix.Router):
    get("/", PageController, "index")
    get("/word", word)
    get("/process", process)
    get("/slow", slow)
    get("/events", events)
    get("/stop", stop_here)
    get("/chat", chat_page)
    websocket("/deaf", deaf)
    with socket("/ws"):
        channel("rooms", RoomChannel)

app = phoenix.Endpoint(Router)

if __name__ == "__main__":
    app.run()
'''

PAGE = """<!DOCTYPE html><html><head><title>page</title>
<link rel="stylesheet" href="<%= static_path(@conn, "/css/app.css") %>"></head>
<body><h1><%= @word %></h1></body></html>
"""


class Project:
    """An app in a folder of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.write("app.py", APP.format(root=str(ROOT)))
        self.write("web/__init__.py", "")
        self.say("one")
        self.write("templates/page/index.html.eex", PAGE)
        self.write("priv/static/css/app.css", "h1 { color: rgb(255, 0, 0) }")

    def write(self, name: str, text: str) -> None:
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)

    def say(self, word: str) -> None:
        self.write("web/words.py", f'WORD = "{word}"\n')


@pytest.fixture
def project(tmp_path: Path) -> Project:
    return Project(tmp_path / "project")


@pytest.fixture
def started(project: Project, start: Callable[..., StartedServer]) -> StartedServer:
    return start(project.folder / "app.py", "--word", "two words", PYTHONDONTWRITEBYTECODE="")


def word(server: StartedServer) -> str:
    answer = server.request("/word")
    assert answer.status == 200, answer.text
    return answer.text


def until(happened: Callable[[], Any], what: str) -> Any:
    """Wait until something that nobody announces has happened."""
    ends = time.monotonic() + TIMEOUT
    while time.monotonic() < ends:
        if found := happened():
            return found
        time.sleep(0.02)
    raise AssertionError(f"{what}: not within {TIMEOUT} s")


def address(server: StartedServer) -> tuple[str, int]:
    parts = urllib.parse.urlsplit(server.url)
    return parts.hostname or "", parts.port or 0


# --- Code ---------------------------------------------------------------------------------


def test_the_next_request_runs_what_was_saved_in_any_module_of_the_app(
    project: Project, started: StartedServer
) -> None:
    assert word(started) == "one"
    project.say("two")
    assert word(started) == "two"
    project.write("app.py", APP.format(root=str(ROOT)).replace("conn.text(WORD)", "conn.text(WORD.upper())"))
    assert word(started) == "TWO"


def test_the_program_stays_the_same_process_with_its_arguments(project: Project, started: StartedServer) -> None:
    before = started.request("/process").json
    project.say("two")
    after = started.request("/process").json
    assert after["pid"] == before["pid"] == started.process.pid
    assert after["started"] != before["started"]
    assert after["argv"] == before["argv"] == ["--word", "two words"]
    assert after["main"] == "__main__"


def test_saves_in_quick_succession_are_all_seen(project: Project, started: StartedServer) -> None:
    for number in range(10, 16):  # of one length, and mostly within a second: Python's bytecode files cannot tell
        project.say(f"word {number}")
        assert word(started) == f"word {number}"


def test_a_module_that_is_imported_late_is_looked_after_too(project: Project, started: StartedServer) -> None:
    project.write("web/late.py", "LATE = 'a'\n")
    project.say('" + __import__("web.late").late.LATE + "')
    assert word(started) == "a"
    project.write("web/late.py", "LATE = 'b'\n")
    assert word(started) == "b"


def test_other_files_and_modules_that_are_not_imported_start_nothing(project: Project, started: StartedServer) -> None:
    before = started.request("/process").json
    project.write("tests/test_words.py", "assert False")
    project.write("notes.txt", "nothing")
    project.write("web/unused.py", "this is no Python")
    time.sleep(0.6)  # two looks of the thread
    assert started.request("/process").json == before


BROKEN = {
    "a syntax error": ('WORD = "one', "SyntaxError", "words.py"),
    "an error at import": ("WORD = 1 / 0", "ZeroDivisionError", "WORD = 1 / 0"),
    "an exit": ("raise SystemExit('no database')", "CompilationError", "no database"),
    "an error of definition": ("import phoenix\nphoenix.Endpoint(None, prot=1)\nWORD = 1", "ConfigError", "prot"),
    "a module that is missing": ("from web.missing import WORD", "ModuleNotFoundError", "web.missing"),
}


@pytest.mark.parametrize("source, error, told", BROKEN.values(), ids=BROKEN)
def test_code_that_does_not_start_shows_why_until_the_next_save(
    project: Project, started: StartedServer, source: str, error: str, told: str
) -> None:
    project.write("web/words.py", source)
    for _ in range(2):
        answer = started.request("/word", headers={"accept": "text/html"})
        assert answer.status == 500
        assert "<title>CompilationError at GET /word</title>" in answer.text
        assert error in answer.text and told in answer.text
    assert "waiting for the next save" in started.log
    project.say("two")
    assert word(started) == "two"
    assert started.stop() == 0


def test_a_broken_program_is_mended_by_a_file_that_is_new(project: Project, started: StartedServer) -> None:
    project.write("web/words.py", "from web.missing import WORD")
    assert started.request("/word").status == 500
    project.write("web/missing.py", "WORD = 'found'")
    until(lambda: started.request("/word").status == 200, "the new module was seen")
    assert word(started) == "found"


def test_a_broken_main_module_and_a_broken_template_recover(project: Project, started: StartedServer) -> None:
    whole = (project.folder / "app.py").read_text()
    project.write("app.py", whole + "\n)")
    answer = started.request("/word", headers={"accept": "text/html"})
    assert answer.status == 500 and "unmatched" in answer.text and "app.py" in answer.text
    project.write("templates/page/index.html.eex", "<%= if %>")
    project.write("app.py", whole + "\n")
    answer = started.request("/word", headers={"accept": "text/html"})
    assert answer.status == 500 and "index.html.eex" in answer.text
    project.write("templates/page/index.html.eex", PAGE)
    until(lambda: started.request("/word").status == 200, "the template was seen")


def test_interrupted_in_its_broken_state_the_program_ends_with_0(project: Project, started: StartedServer) -> None:
    project.write("web/words.py", "WORD = ")
    assert started.request("/").status == 500
    started.process.send_signal(signal.SIGINT)
    assert started.process.wait(TIMEOUT) == 0


def test_interrupted_after_a_reload_the_program_ends_with_0(project: Project, started: StartedServer) -> None:
    project.say("two")
    assert word(started) == "two"
    started.process.send_signal(signal.SIGINT)
    assert started.process.wait(TIMEOUT) == 0
    assert "Traceback" not in started.log


# --- Nobody is refused --------------------------------------------------------------------


def test_requests_that_hammer_while_files_are_saved_are_all_answered_by_the_newest_code(
    project: Project, started: StartedServer
) -> None:
    saved = 0
    over = threading.Event()
    problems: list[str] = []
    answered: list[int] = []

    def hammer(keeps: bool) -> None:
        connection = http.client.HTTPConnection(*address(started), timeout=TIMEOUT)
        while not over.is_set():
            least = saved
            try:
                connection.request("GET", "/word")
                answer = connection.getresponse()
                text = answer.read().decode()
                if answer.status != 200 or int(text) < least:
                    problems.append(f"{answer.status} {text[:80]}, after {least} was saved")
                answered.append(least)
            except Exception as error:  # noqa: BLE001
                problems.append(repr(error))
                connection.close()
            if not keeps:
                connection.close()
        connection.close()

    project.say("0")
    assert word(started) == "0"
    threads = [threading.Thread(target=hammer, args=(keeps,)) for keeps in (True, True, False, False)]
    for thread in threads:
        thread.start()
    for number in range(1, 6):
        path = project.folder / "web" / "words.py"
        path.with_suffix(".new").write_text(f'WORD = "{number}"\n')
        os.replace(path.with_suffix(".new"), path)
        saved = number
        until(lambda n=number: n in answered[-4:], "the new code answers")  # type: ignore[misc]
    over.set()
    for thread in threads:
        thread.join(TIMEOUT)
    assert not problems, problems[:5]
    assert len(answered) > 20


def test_an_open_request_ends_with_the_code_it_began_with(project: Project, started: StartedServer) -> None:
    answers: list[str] = []
    thread = threading.Thread(target=lambda: answers.append(started.request("/slow?seconds=0.7").text))
    thread.start()
    until(lambda: "/slow" in started.log, "the slow request began")
    project.say("two")
    assert word(started) == "two"
    thread.join(TIMEOUT)
    assert answers == ["one"]


def test_a_connection_goes_along_with_the_half_of_a_request(project: Project, started: StartedServer) -> None:
    with socket.create_connection(address(started), timeout=TIMEOUT) as client:
        client.sendall(b"GET /word HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert client.recv(65536).endswith(b"one")
        client.sendall(b"GET /word HTTP/1.1\r\nHo")
        time.sleep(0.1)
        project.say("two")
        assert word(started) == "two"
        client.sendall(b"st: localhost\r\nConnection: close\r\n\r\n")
        assert b"".join(iter(lambda: client.recv(65536), b"")).endswith(b"two")


def test_a_body_that_comes_slowly_is_still_taken(project: Project, started: StartedServer) -> None:
    with socket.create_connection(address(started), timeout=TIMEOUT) as client:
        client.sendall(b"POST /word HTTP/1.1\r\nHost: localhost\r\nContent-Length: 3\r\n")
        time.sleep(0.1)
        project.say("two")
        assert word(started) == "two"
        client.sendall(b"Content-Type: application/x-www-form-urlencoded\r\n\r\na=1")
        assert client.recv(65536).startswith(b"HTTP/1.1 405 ")


@pytest.mark.parametrize("path", ["/deaf", "/ws/websocket?vsn=2.0.0"])
def test_an_open_websocket_is_told_to_come_again_and_holds_nothing_up(
    project: Project, started: StartedServer, path: str
) -> None:
    import websockets

    async def run() -> Any:
        async with websockets.connect(started.url.replace("http", "ws") + path) as client:
            project.say("two")
            return await asyncio.wait_for(asyncio.to_thread(word, started), TIMEOUT), client.close_code

    began = time.monotonic()
    assert asyncio.run(run()) == ("two", 1001)
    assert time.monotonic() - began < 8


def test_a_stream_of_events_ends_so_that_its_client_comes_again(project: Project, started: StartedServer) -> None:
    connection = http.client.HTTPConnection(*address(started), timeout=TIMEOUT)
    connection.request("GET", "/events")
    answer = connection.getresponse()
    assert answer.read(4) == b"data"
    project.say("two")
    began = time.monotonic()
    assert word(started) == "two"
    assert time.monotonic() - began < 8
    with pytest.raises(http.client.IncompleteRead):
        answer.read()
    connection.close()


def test_told_to_end_while_it_waits_for_a_request_the_program_does_not_start_again(
    project: Project, started: StartedServer
) -> None:
    answers: list[str] = []
    thread = threading.Thread(target=lambda: answers.append(started.request("/slow?seconds=1.5").text))
    thread.start()
    until(lambda: "/slow" in started.log, "the slow request began")
    project.say("two")
    until(lambda: "starting again" in started.log, "the change was seen")
    assert started.stop() == 0
    thread.join(TIMEOUT)
    assert answers == ["one"]


# --- Terminals and debuggers --------------------------------------------------------------


def test_a_debugger_in_an_action_reads_the_terminal_and_is_not_interrupted(project: Project, tmp_path: Path) -> None:
    environment = {**os.environ, "PORT": "0", "PYTHONUNBUFFERED": "1"}
    environment.pop("PHOENIX_ENV", None)
    log = tmp_path / "log"
    with open(log, "wb") as output:
        process = subprocess.Popen(
            [sys.executable, str(project.folder / "app.py")], env=environment,
            stdin=subprocess.PIPE, stdout=output, stderr=subprocess.STDOUT,
        )  # fmt: skip
    try:
        until(lambda: "Running" in log.read_text(), "the server runs")
        port = int(log.read_text().partition("localhost:")[2].split()[0])

        def ask(path: str, answers: list[str]) -> None:
            connection = http.client.HTTPConnection("localhost", port, timeout=TIMEOUT)
            connection.request("GET", path)
            answers.append(connection.getresponse().read().decode())
            connection.close()

        for before, after in (("one", "two"), ("two", "six")):  # before a reload, and in the process after it
            answers: list[str] = []
            thread = threading.Thread(target=ask, args=("/stop", answers))
            old = len(log.read_text())
            thread.start()
            until(lambda n=old: "(Pdb)" in log.read_text()[n:], "the debugger waits")  # type: ignore[misc]
            project.say(after)
            time.sleep(0.6)
            assert process.stdin is not None
            process.stdin.write(b"p 6 * 7000\n")
            process.stdin.flush()
            until(lambda n=old: "42000" in log.read_text()[n:], "the debugger answers")  # type: ignore[misc]
            process.stdin.write(b"c\n")
            process.stdin.flush()
            thread.join(TIMEOUT)
            assert answers == [before]
            ask("/word", answers)
            assert answers == [before, after]
    finally:
        process.send_signal(signal.SIGINT)
        if process.stdin is not None:
            process.stdin.close()
        assert process.wait(TIMEOUT) == 0


def test_under_a_debugger_code_is_not_reloaded_but_pages_are(
    project: Project, start: Callable[..., StartedServer]
) -> None:
    source = (project.folder / "app.py").read_text()
    project.write("app.py", "import sys\nsys.settrace(lambda *each: None)\n" + source)
    server = start(project.folder / "app.py")
    assert "code is not reloaded" in server.log
    before = server.request("/process").json
    project.say("two")
    project.write("templates/page/index.html.eex", "<body>new <%= @word %></body>")
    page = server.request("/").text
    assert page.startswith("<body>new one") and "live_reload" in page
    assert server.request("/process").json == before


def test_in_a_thread_and_in_a_program_that_is_not_the_apps_code_is_not_reloaded() -> None:
    class Router(phoenix.Router):
        get("/", lambda conn, params: conn.text("hi"))

    app = phoenix.Endpoint(Router, env="dev")
    assert app.reloads_code
    assert not phoenix._runs_the_app(app)  # this program is pytest
    found: list[Any] = []
    thread = threading.Thread(target=lambda: found.append(phoenix._reloader_for([app], True)))
    thread.start()
    thread.join(TIMEOUT)
    assert not found[0].has_code


def test_what_watches_the_files_ends_with_the_server() -> None:
    def watchers() -> list[str]:
        return [each.name for each in threading.enumerate() if each.name == "phoenix-reloader"]

    async def stop() -> None:
        while not app.server.urls or not watchers():
            await asyncio.sleep(0.01)
        ended.append(asyncio.ensure_future(app.server.stop()))

    ended: list[Any] = []
    app = phoenix.Endpoint(lambda conn: conn.text("hi"), env="dev", children=[stop])
    thread = threading.Thread(target=lambda: app.run(port=0))
    thread.start()
    thread.join(TIMEOUT)
    until = time.monotonic() + TIMEOUT
    while watchers() and time.monotonic() < until:
        time.sleep(0.01)
    assert not thread.is_alive() and ended and not watchers()


@pytest.mark.parametrize(
    "options, env, code, live",
    [
        ({}, "dev", True, True),
        ({}, "prod", False, False),
        ({}, "test", False, False),
        ({"code_reloader": False}, "dev", False, True),
        ({"code_reloader": True}, "prod", True, False),
        ({"live_reload": False}, "dev", True, False),
    ],
)
def test_what_is_reloaded_where(options: dict[str, Any], env: str, code: bool, live: bool) -> None:
    app = phoenix.Endpoint(lambda conn: conn, env=env, **options)
    assert (app.reloads_code, app.live_reload) == (code, live)
    if not code and not live:
        assert phoenix._reloader_for([app], None) is None


def test_the_engines_of_the_app_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(phoenix.View, "engines", phoenix.View.engines)
    own = phoenix.EExEngine()
    app = phoenix.Endpoint(lambda conn: conn, env="dev", template_engines={"eex": own})
    assert phoenix._reloader_for([app], False) is not None and phoenix.View.engines["eex"] is own


@pytest.mark.parametrize("live", [{"pattern": ["a"]}, {"patterns": "*.css"}, True, 3])
def test_live_reload_takes_patterns_and_nothing_else(live: Any) -> None:
    with pytest.raises(phoenix.ConfigError, match="live_reload"):
        phoenix.Endpoint(lambda conn: conn, live_reload=live)


# --- The command --------------------------------------------------------------------------


def serve(start: Callable[..., StartedServer], project: Project, *words: str, **environment: str) -> StartedServer:
    return start(ROOT / "phoenix.py", "server", *words, PYTHONPATH=str(project.folder), **environment)


def test_the_server_command_reloads_in_dev(project: Project, start: Callable[..., StartedServer]) -> None:
    server = serve(start, project, "app")
    project.say("two")
    assert word(server) == "two"
    project.write("web/words.py", "WORD = 1 / 0")
    answer = server.request("/word", headers={"accept": "text/html"})
    assert answer.status == 500 and "ZeroDivisionError" in answer.text
    project.say("three")
    assert word(server) == "three"
    assert server.stop() == 0


def test_no_reload_turns_it_off_and_reload_turns_it_on(project: Project, start: Callable[..., StartedServer]) -> None:
    still = serve(start, project, "app", "--no-reload")
    moved = serve(start, project, "app", "--reload", PHOENIX_ENV="prod")
    project.say("two")
    assert word(moved) == "two"
    assert word(still) == "one"
    assert "live_reload" not in moved.request("/").text


def test_reload_waits_even_at_the_first_start(project: Project, start: Callable[..., StartedServer]) -> None:
    project.write("web/words.py", "WORD =")
    there = f"import os, runpy, sys; os.chdir({str(project.folder)!r}); sys.argv[0] = {str(ROOT / 'phoenix.py')!r}"
    server = start("-c", f"{there}; runpy.run_path(sys.argv[0], run_name='__main__')", "server", "app", "--reload")
    assert server.request("/word").status == 500
    assert "waiting for the next save" in server.log and server.announced.startswith("Running app on ")
    project.say("two")
    assert word(server) == "two"
    assert server.stop() == 0


def test_without_a_reload_before_a_broken_app_ends_the_command(project: Project) -> None:
    project.write("web/words.py", "WORD =")
    command = [sys.executable, str(ROOT / "phoenix.py"), "server", "app"]
    done = subprocess.run(command, cwd=project.folder, capture_output=True, text=True, timeout=TIMEOUT)
    assert done.returncode == 1 and "SyntaxError" in done.stderr


def test_two_apps_keep_their_ports(project: Project, start: Callable[..., StartedServer], tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as first, socket.create_server(("127.0.0.1", 0)) as second:
        ports = [each.getsockname()[1] for each in (first, second)]
    source = (project.folder / "app.py").read_text()
    project.write("app.py", source.replace("Endpoint(Router)", f'Endpoint(Router, http={{"port": {ports[0]}}})'))
    project.write("admin.py", source.replace("Endpoint(Router)", f'Endpoint(Router, http={{"port": {ports[1]}}})'))
    serve(start, project, "app", "admin")

    def ask(port: int) -> bytes:
        connection = http.client.HTTPConnection("localhost", port, timeout=TIMEOUT)
        connection.request("GET", "/word")
        found = connection.getresponse().read()
        connection.close()
        return found

    until(lambda: socket.socket().connect_ex(("127.0.0.1", ports[1])) == 0, "the second app listens")
    assert [ask(port) for port in ports] == [b"one", b"one"]
    project.say("two")
    assert [ask(port) for port in ports] == [b"two", b"two"]


# --- Templates and the client in pages ----------------------------------------------------


def test_a_changed_template_is_shown_without_a_new_process(project: Project, started: StartedServer) -> None:
    before = started.request("/process").json
    project.write("templates/page/index.html.eex", PAGE.replace("<h1>", "<h1>now "))
    assert "<h1>now one</h1>" in started.request("/").text
    assert started.request("/process").json == before


class _Pages:
    """An app whose pages are served as in dev, with what reloads them."""

    def __init__(self, app: Any) -> None:
        self.reloader = phoenix._reloader_for([app], False)
        make = app.make_server

        def make_server(**options: Any) -> Any:
            server = make(**options)
            start = server.start

            async def started(*arguments: Any) -> None:
                if self.reloader is not None:
                    self.reloader.attach(app, server, lambda: None)
                await start(*arguments)

            server.start = started
            return server

        app.make_server = make_server
        self.serving = Serving(app)

    def __enter__(self) -> Serving:
        return self.serving.__enter__()

    def __exit__(self, *about: Any) -> None:
        self.serving.__exit__(*about)


FRAME = '<iframe hidden height="0" width="0" src="/phoenix/live_reload/frame?version='


def _pages(**options: Any) -> Any:
    def policy(value: str) -> Callable[..., Any]:
        return lambda conn, params: conn.put_resp_header("content-security-policy", value).html("<body></body>")

    def file(conn: Conn, params: Any) -> Any:
        return conn.put_resp_content_type("text/html").send_file(200, conn.assigns["file"])

    def packed(conn: Conn, params: Any) -> Any:
        return conn.put_resp_header("content-encoding", "x").html("<body></body>")

    class Router(phoenix.Router):
        get("/page", lambda conn, params: conn.html("<body>a</body> <pre></body></pre><p></BODY>\n</html>"))
        get("/bytes", lambda conn, params: conn.put_resp_content_type("text/html").send_resp(200, b"<body>\xff</body>"))
        get("/fragment", lambda conn, params: conn.html("<tr><td>1</td></tr>"))
        get("/json", lambda conn, params: conn.json("</body>"))
        get("/text", lambda conn, params: conn.text("</body>"))
        get("/missing", lambda conn, params: conn.put_status(404).html("<body></body>"))
        get("/stream", lambda conn, params: conn.put_resp_content_type("text/html").send_chunked(200, ["</body>"]))
        get("/file", file)
        get("/packed", packed)
        get("/closed", policy("default-src 'none'"))
        get("/self", policy("default-src 'none'; frame-src 'self'"))
        get("/open", policy("base-uri 'self'; frame-ancestors 'none'"))
        get("/error", lambda conn, params: 1 / 0)

    return phoenix.Endpoint(Router, static=False, **{"env": "dev", **options})


@pytest.fixture(scope="module")
def pages(tmp_path_factory: Any) -> Iterator[Serving]:
    file = tmp_path_factory.mktemp("pages") / "page.html"
    file.write_text("<body></body>")
    with _Pages(_pages(plugs=[lambda conn: conn.assign("file", file)])) as serving:
        yield serving


def test_the_client_stands_before_the_last_end_of_the_body(pages: Serving) -> None:
    page = pages.get("/page").text
    assert page.startswith("<body>a</body> <pre></body></pre><p>" + FRAME)
    assert page.endswith('"></iframe>\n</BODY>\n</html>')
    assert page.count("<iframe") == 1
    assert b"\xff" + FRAME.encode() in pages.get("/bytes").body


@pytest.mark.parametrize("path", ["/self", "/open"])
def test_pages_whose_policy_allows_frames_hold_the_client(pages: Serving, path: str) -> None:
    assert FRAME in pages.get(path).text


@pytest.mark.parametrize(
    "path", ["/fragment", "/json", "/text", "/missing", "/stream", "/file", "/packed", "/closed"]
)
def test_what_is_no_whole_page_is_left_as_it_is(pages: Serving, path: str) -> None:
    body = pages.get(path).text
    assert "live_reload" not in body and (path == "/fragment" or "</body>" in body)


def test_the_error_page_holds_the_client_too_so_that_it_goes_when_the_error_is_mended(pages: Serving) -> None:
    for path in ("/error", "/nowhere"):
        answer = pages.get(path, {"accept": "text/html"})
        assert FRAME in answer.text
        assert "frame-src 'self'" in answer.headers["content-security-policy"][0]


def test_a_head_request_tells_the_length_of_the_same_page(pages: Serving) -> None:
    with pages.client() as client:
        length = client.send("HEAD", "/page").headers["content-length"]
        assert length == [str(len(client.get("/page").body))]


def test_the_path_of_the_site_stands_before_that_of_the_client() -> None:
    with _Pages(_pages(url={"path": "/shop"})) as serving:
        assert 'src="/shop/phoenix/live_reload/frame?' in serving.get("/page").text


@pytest.mark.parametrize("options", [{"env": "prod"}, {"env": "test"}, {"live_reload": False}])
def test_pages_hold_no_client_outside_of_dev_or_when_it_is_off(options: dict[str, Any]) -> None:
    with _Pages(_pages(**options)) as serving:
        assert "live_reload" not in serving.get("/page").text
        assert serving.get("/phoenix/live_reload/frame").status == 404


def test_the_test_client_sees_the_page_as_the_app_wrote_it() -> None:
    assert "live_reload" not in _pages().test().get("/page").resp_body


# --- The socket ---------------------------------------------------------------------------


def joined(server: StartedServer, act: Callable[[], object], events: int) -> list[Any]:
    """Join the reload socket, do something, and return what was heard: the reply, then *events* of them."""
    import websockets

    async def run() -> list[Any]:
        url = server.url.replace("http", "ws") + "/phoenix/live_reload/socket/websocket?vsn=2.0.0"
        async with websockets.connect(url) as client:
            await client.send(json.dumps(["1", "1", "phoenix:live_reload", "phx_join", {}]))
            heard = [json.loads(await asyncio.wait_for(client.recv(), TIMEOUT))]
            act()
            for _ in range(events):
                heard.append(json.loads(await asyncio.wait_for(client.recv(), TIMEOUT)))
            return heard

    return asyncio.run(run())


def css_event(kind: str) -> list[Any]:
    return [None, None, "phoenix:live_reload", "assets_change", {"asset_type": kind}]


@pytest.fixture(params=["polling", "watchfiles"])
def watched(
    request: Any, project: Project, start: Callable[..., StartedServer], tmp_path: Path
) -> StartedServer:
    """A server whose files are watched by looking at them, or by the package."""
    environment = {}
    if request.param == "polling":
        (tmp_path / "without").mkdir()
        (tmp_path / "without" / "watchfiles.py").write_text("raise ImportError")
        environment["PYTHONPATH"] = str(tmp_path / "without")
    return start(project.folder / "app.py", **environment)


def test_a_changed_style_sheet_is_told_with_its_kind(project: Project, watched: StartedServer) -> None:
    reply, event = joined(watched, lambda: project.write("priv/static/css/app.css", "h1 {}"), 1)
    assert reply[3] == "phx_reply" and reply[4]["status"] == "ok"
    assert event == css_event("css")


def test_a_changed_and_a_new_template_are_told(project: Project, watched: StartedServer) -> None:
    before, event = joined(watched, lambda: project.write("templates/page/index.html.eex", "new"), 1)
    assert event == css_event("eex")
    after, event = joined(watched, lambda: project.write("templates/other/show.html.eex", "new"), 1)
    assert event == css_event("eex")
    assert before[4]["response"]["version"] != after[4]["response"]["version"]
    _, event = joined(watched, lambda: project.write("templates/other/show.html.eex", "newer"), 1)
    assert event == css_event("eex")


def test_code_is_seen_without_a_request(project: Project, watched: StartedServer) -> None:
    project.say("two")
    until(lambda: "starting again" in watched.log, "the change was seen")
    assert word(watched) == "two"


def test_patterns_say_which_files_are_told(project: Project, start: Callable[..., StartedServer]) -> None:
    source = (project.folder / "app.py").read_text()
    live = 'Endpoint(Router, live_reload={"patterns": ["docs/*.md"]})'
    project.write("app.py", source.replace("Endpoint(Router)", live))
    server = start(project.folder / "app.py")

    def save() -> None:
        project.write("priv/static/css/app.css", "h1 {}")
        project.write("docs/deep/intro.md", "# hi")

    assert joined(server, save, 1)[1] == css_event("md")


def test_what_is_saved_before_the_first_look_is_told_too(tmp_path: Path) -> None:
    (tmp_path / "old.html.eex").touch()
    os.utime(tmp_path / "old.html.eex", (1, 1))
    reloader = phoenix._reloader_for([_pages()], False)
    reloader._folders = [str(tmp_path)]
    told: list[Any] = []
    reloader._occasions = lambda: iter([None])
    reloader._call_soon = lambda call, *arguments: told.append(arguments)
    reloader._watch()
    assert told == []
    (tmp_path / "new.html.eex").touch()
    os.utime(tmp_path / "new.html.eex", ns=(reloader._started + 1, reloader._started + 1))
    reloader._files = None
    reloader._watch()
    assert told == [(["eex"],)]


def test_a_folder_that_is_gone_before_it_is_watched_ends_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    def watch(*folders: str, **options: Any) -> Iterator[Any]:
        raise FileNotFoundError

    monkeypatch.setitem(sys.modules, "watchfiles", SimpleNamespace(watch=watch))
    occasions = phoenix._reloader_for([_pages()], False)._occasions()
    assert [next(occasions) for _ in range(5)] == [None] * 5


def test_libraries_and_tools_are_not_watched(tmp_path: Path) -> None:
    for name in (
        "app.py", "web/page.py", "priv/static/css/app.css", ".git/HEAD", "node_modules/a/b.js", ".venv/pyvenv.cfg",
        "env/pyvenv.cfg", "env/lib/a.py", "web/__pycache__/page.pyc", "lib/site-packages/x.py", ".hidden",
    ):  # fmt: skip
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("")
    (tmp_path / "again").symlink_to(tmp_path)
    files: dict[str, Any] = {}
    folders: list[str] = []
    phoenix._look_at(str(tmp_path), files, folders)
    assert {os.path.relpath(file, tmp_path) for file in files} == {"app.py", "web/page.py", "priv/static/css/app.css"}
    assert phoenix._lies_in(str(tmp_path / "web/page.py"), [str(tmp_path)])
    assert not phoenix._lies_in(str(tmp_path / "lib/site-packages/x.py"), [str(tmp_path)])


def test_looking_at_two_thousand_files_takes_less_than_a_hundredth_of_the_time(tmp_path: Path) -> None:
    for folder in range(20):
        (tmp_path / str(folder)).mkdir()
        for file in range(100):
            (tmp_path / str(folder) / f"{file}.html").touch()
    reloader = phoenix._reloader_for([_pages()], False)
    reloader._folders = [str(tmp_path)]
    rounds = reloader._occasions()
    looks = [0.0]

    def occasions() -> Iterator[None]:
        for _ in range(3):
            before = time.thread_time()
            yield
            looks.append(time.thread_time() - before)
            assert reloader._pause >= max(0.25, 100 * looks[-1])

    reloader._occasions = occasions
    reloader._watch()
    assert next(rounds) is None
    assert len(looks) == 4 and max(looks) < 0.5


# --- A browser ----------------------------------------------------------------------------

COLOR = "getComputedStyle(document.querySelector('h1')).color"


@pytest.fixture
def shown(started: StartedServer, page: Any) -> Any:
    """The page in a browser, joined to the reload socket, with a mark that a load of the page would wipe out."""
    with page.expect_websocket(lambda ws: "/phoenix/live_reload/" in ws.url) as found:
        page.goto(started.url)
    found.value.wait_for_event("framereceived")
    page.evaluate("window.mark = 'kept'")
    return page


def test_a_style_sheet_is_swapped_without_a_load(project: Project, shown: Any) -> None:
    assert shown.evaluate(COLOR) == "rgb(255, 0, 0)"
    for color in ("rgb(0, 128, 0)", "rgb(0, 0, 255)"):
        project.write("priv/static/css/app.css", f"h1 {{ color: {color} }}")
        shown.wait_for_function(f"{COLOR} === '{color}'")
        shown.wait_for_function("document.querySelectorAll('link').length === 1")
    assert shown.evaluate("window.mark") == "kept"


def test_a_changed_template_loads_the_page_again(project: Project, shown: Any) -> None:
    project.write("templates/page/index.html.eex", PAGE.replace("<h1>", "<h1>now "))
    shown.wait_for_function("document.querySelector('h1').textContent === 'now one'")
    assert shown.evaluate("window.mark") is None


def test_changed_code_loads_the_page_again_and_an_error_goes_by_itself(project: Project, shown: Any) -> None:
    project.say("two")
    shown.wait_for_selector("h1:text-is('two')")
    project.write("web/words.py", "WORD = nothing")
    shown.wait_for_selector("h1:has-text('CompilationError at GET /')")
    assert "NameError" in shown.inner_text("body")
    project.say("three")
    shown.wait_for_selector("h1:text-is('three')")


def test_the_page_of_a_server_that_was_down_loads_again_when_it_is_back(
    project: Project, start: Callable[..., StartedServer], page: Any
) -> None:
    port = str(free_port())
    first = start(project.folder / "app.py", PORT=port)
    page.goto(first.url)
    page.wait_for_selector("iframe", state="attached")
    assert first.stop() == 0
    project.say("back")
    start(project.folder / "app.py", PORT=port)
    page.wait_for_function("document.querySelector('h1')?.textContent === 'back'")


def test_the_channels_of_phoenix_js_join_again_after_a_reload(
    project: Project, started: StartedServer, page: Any
) -> None:
    page.goto(started.url + "/chat")
    page.evaluate("""() => {
        document.querySelector("iframe").remove()
        window.words = []
        const socket = new Phoenix.Socket("/ws")
        socket.connect()
        socket.channel("rooms:lobby").join().receive("ok", reply => words.push(reply.word))
    }""")
    page.wait_for_function("words.join() === 'one'")
    project.say("two")
    page.wait_for_function("words.join() === 'one,two'")
