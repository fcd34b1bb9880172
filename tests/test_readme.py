"""The README: every block of Python runs, and every command works."""

from __future__ import annotations

import ast
import inspect
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from configparser import ConfigParser
from pathlib import Path
from typing import Any

import pytest
from conftest import StartedServer

import phoenix


def python_blocks(text: str) -> list[str]:
    return re.findall(r"^```python\n(.*?)^```", text, re.MULTILINE | re.DOTALL)


ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text("utf-8")
BLOCKS = re.findall(r"^```(\w*)\n(.*?)^```", README, re.MULTILINE | re.DOTALL)
GROWING = ("A guest book in six steps", "Coming from Phoenix")  # sections whose blocks are steps of one app
SECTIONS = {section.partition("\n")[0]: section for section in README.split("\n## ")[1:]}
BLOCKS_OF_PYTHON = [code for title, text in SECTIONS.items() if title not in GROWING for code in python_blocks(text)]
CONFIG = "# config/prod.py\n"
PYTHON = [code for code in BLOCKS_OF_PYTHON if not code.startswith(CONFIG)]
COMMANDS = [
    line.partition("#")[0].strip()
    for language, code in BLOCKS
    if language == "sh"
    for line in code.splitlines()
    if line.strip()
]


def run(*arguments: str, cwd: Path, env: str = "test") -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PHOENIX_ENV": env}
    return subprocess.run([sys.executable, *arguments], cwd=cwd, env=environment, capture_output=True, text=True, timeout=60)


@pytest.mark.parametrize("code", PYTHON, ids=lambda code: code.strip().splitlines()[-1][:40])
def test_a_python_block_of_the_readme_runs_as_it_stands(code: str, tmp_path: Path) -> None:
    (tmp_path / "readme_app.py").write_text(code)
    done = run("-c", "import readme_app", cwd=tmp_path)
    assert done.returncode == 0, done.stderr


def grown(before: str, step: str) -> str:
    """Return an app after a step: what has the name of something before takes its place, the rest goes above the router."""
    parts: dict[tuple[int, str], str] = {}
    for source in (before, step):
        for node in ast.parse(source).body:
            text = ast.get_source_segment(source, node) or ""
            name = getattr(node, "name", "")
            if isinstance(node, (ast.Import, ast.ImportFrom)):
                place = (0, text)
            elif name == "Router":
                place = (2, name)
            elif isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "app":
                place = (3, "app")
            else:
                place = (4, "main") if isinstance(node, ast.If) else (1, name or text)
            parts[place] = text
    return "\n\n".join(parts[place] for place in sorted(parts, key=lambda place: place[0])) + "\n"


ASK_FOR_THE_PAGE = """
import guests
client = guests.app.test()
assert "I was &lt;here&gt;." in client.html_response(client.get("/"))
if {step} > 1:
    assert client.json_response(client.get("/?_format=json"))["guests"][0]["name"] == "Ann"
"""


def test_the_guest_book_works_after_each_of_its_steps(tmp_path: Path) -> None:
    app = ""
    steps = python_blocks(SECTIONS[GROWING[0]])
    assert len(steps) == 5
    for number, step in enumerate(steps, 1):
        app = grown(app, step)
        (tmp_path / "guests.py").write_text(app)
        done = run("-c", ASK_FOR_THE_PAGE.format(step=number), cwd=tmp_path)
        assert done.returncode == 0, f"step {number}\n{done.stderr}"
    done = run("-m", "unittest", "guests", cwd=tmp_path)
    assert done.returncode == 0 and "Ran 1 test" in done.stderr, done.stderr


def test_the_guest_book_shows_in_one_window_what_is_written_in_another(
    start: Callable[..., StartedServer], page: Any, tmp_path: Path
) -> None:
    app = ""
    for step in python_blocks(SECTIONS[GROWING[0]])[:4]:
        app = grown(app, step)
    (tmp_path / "guests.py").write_text(app)
    page.goto(start(tmp_path / "guests.py", PYTHONPATH=str(ROOT)).url)
    other = page.context.new_page()
    other.goto(page.url)
    for window in (page, other):
        window.wait_for_function("room.state === 'joined'")
    page.fill("#guest_name", "Bob")
    page.fill("#guest_body", "Me <too>")
    page.click("text=Write")
    assert page.inner_text(".notice") == "Thank you, Bob!"
    assert page.inner_text("#guests p:last-child") == "Bob Me <too>"
    other.wait_for_function("document.querySelectorAll('#guests p').length === 2")
    assert other.inner_text("#guests p:last-child") == "Bob Me <too>"


PARTS = {
    "controllers": """
from phoenix import Controller

class GuestController(Controller):
    def index(self, conn, params):
        return conn.render("index.html", guests=["Ann"])
""",
    "views": """
from web.view import View

class GuestView(View):
    pass
""",
    "templates": "<%= for guest in @guests: %><p><%= guest %></p><% end %>",
    "tests": """
import unittest
from app import app

class GuestControllerTest(unittest.TestCase):
    def test_the_guests_are_there(self):
        client = app.test()
        self.assertIn("<p>Ann</p>", client.html_response(client.get("/guests")))
""",
}


def test_a_resource_is_added_by_hand_where_the_readme_says(tmp_path: Path) -> None:
    done = run(str(ROOT / "phoenix.py"), "new", "my_app", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    router, *files = re.findall(r"`([\w/.]+/[\w/.]+)`", README.partition("Guests would be a line in ")[2].partition("[")[0])
    assert len(files) == len(PARTS)
    for file in files:
        (tmp_path / "my_app" / file).parent.mkdir(exist_ok=True)
        (tmp_path / "my_app" / file).write_text(next(text for folder, text in PARTS.items() if folder in file.split("/")))
    before = '        get("/", PageController, "index")\n'
    after = '        resources("/guests", GuestController, only=["index"])\n'
    imports = "from phoenix import resources\nfrom web.controllers.guest_controller import GuestController\n\nclass Router"
    path = tmp_path / "my_app" / router
    path.write_text(path.read_text().replace(before, before + after).replace("\nclass Router", imports))
    done = run("-m", "unittest", cwd=tmp_path / "my_app")
    assert done.returncode == 0 and "Ran 6 tests" in done.stderr, done.stderr


def test_the_page_of_the_readme_joins_the_channel_above_it(
    start: Callable[..., StartedServer], page: Any, tmp_path: Path
) -> None:
    [html] = [code for language, code in BLOCKS if language == "html"]
    [app] = [code for code in PYTHON if "class RoomChannel" in code]
    (tmp_path / "priv" / "static").mkdir(parents=True)
    (tmp_path / "priv" / "static" / "page.html").write_text("<!DOCTYPE html>\n" + html)
    (tmp_path / "rooms.py").write_text(app + "app.run()\n")
    server = start(tmp_path / "rooms.py", PYTHONPATH=str(ROOT))
    with page.expect_console_message(lambda said: said.text == "ann hi"):
        page.goto(server.url + "/page.html")
    with page.expect_console_message(lambda said: said.text == "curl hello"):
        assert server.request("/say", "POST", form={"body": "hello"}).text == "said"


NAMES_OF_PHOENIX = "import phoenix\nfrom phoenix import " + (
    "Channel, Conn, Controller, Endpoint, View, channel, get, member, pipe_through, pipeline, plug, post, resources, "
    "scope, socket, template\n"
)
ASK_THE_APP = """
import phoenix, translated
from phoenix import build_conn
client = translated.app.test()
page = client.html_response(client.get("/pages/tea"))
assert "<title>Welcome</title>" in page and "<h1>PAGE TEA</h1>" in page and 'href="/users"' in page
assert client.redirected_to(client.get("/pages/admin")) == "/pages/unauthorized"
assert client.text_response(client.get("/files/text")) == "hello"
assert client.text_response(client.get("/profile")) == "bar"
assert client.html_response(client.get("/nowhere"), 404) == "Page not found"
flashed = phoenix.Session(key="k")(build_conn(endpoint=translated.app)).fetch_session().fetch_flash().put_flash("notice", "Created")
assert "<p>Created</p>" in phoenix.render_to_string(translated.FlashView, "messages.html", conn=flashed)
with client.connect("/ws") as browser:
    room = browser.join("rooms:lobby", {"token": "ann's secret"})
    room.push("new:msg", {"body": "hi"})
    room.assert_push("new:msg", {"user": "ann", "body": "hi"})
conn = build_conn(endpoint=translated.app)
conn.private["phoenix_router"] = translated.Router
assert translated.paths(conn) == [
    "/users/123?page=5", "/users/99/comments", "http://example.com/users", "http://example.com/users",
]
assert "<title>Welcome</title>" in translated.in_the_shell()
"""


def test_the_python_beside_the_elixir_is_an_app_that_works(tmp_path: Path) -> None:
    app = NAMES_OF_PHOENIX
    for code in python_blocks(SECTIONS[GROWING[1]]):
        app = grown(app, code)
    (tmp_path / "translated.py").write_text(app)
    done = run("-c", ASK_THE_APP, cwd=tmp_path)
    assert done.returncode == 0, done.stderr


ASK_THE_CONFIGURED_APP = """
import phoenix
class Router(phoenix.Router):
    phoenix.get("/", lambda conn, params: conn.text("here"))
class AdminRouter(Router):
    pass
app, admin = phoenix.Endpoint(Router), phoenix.Endpoint(AdminRouter)
assert (app.port, admin.port) == (4000, 4001)
assert app.url("/a") == "https://example.com/a"
assert app.config("settings")["page_size"] == 50
asked = app.test().get("http://example.com/")
assert (asked.status, asked.get_resp_header("location")) == (301, ["https://example.com/"])
"""


def test_the_config_file_of_the_readme_configures_an_app(tmp_path: Path) -> None:
    [file] = [code for code in BLOCKS_OF_PYTHON if code.startswith(CONFIG)]
    (tmp_path / "config").mkdir()
    (tmp_path / "config" / "prod.py").write_text(file)
    (tmp_path / "app.py").write_text(ASK_THE_CONFIGURED_APP)
    done = run("-c", "import os; os.environ.pop('PORT', None); import app", cwd=tmp_path, env="prod")
    assert done.returncode == 0, done.stderr


def test_a_new_app_behind_nginx_is_configured_as_the_readme_says(tmp_path: Path) -> None:
    done = run(str(ROOT / "phoenix.py"), "new", "my_app", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    [options] = re.findall(r"in place of\s+its `url`: `(.*?)`", README)
    file = tmp_path / "my_app" / "config" / "prod.py"
    text, times = re.subn(r"^    url=.*$", f"    {options},", file.read_text(), flags=re.MULTILINE)
    assert times == 1
    file.write_text(text)
    ask = """
import os
os.environ["SECRET_KEY_BASE"] = "x" * 64
from app import app
assert app.url("/a") == "https://example.com/a", app.url("/a")
asked = app.test().get("http://example.com/a")
assert (asked.status, asked.get_resp_header("location")) == (301, ["https://example.com/a"])
"""
    done = run("-c", ask, cwd=tmp_path / "my_app", env="prod")
    assert done.returncode == 0, done.stderr


def test_the_units_of_the_readme_serve_an_app_at_a_socket() -> None:
    units = [ConfigParser() for language, _ in BLOCKS if language == "ini"]
    for unit, text in zip(units, [text for language, text in BLOCKS if language == "ini"]):
        unit.optionxform = str  # type: ignore[assignment,method-assign]
        unit.read_string(text)
    socket, service = units
    assert f"unix:{socket['Socket']['ListenStream']};" in README
    assert service["Unit"]["Requires"] == "my_app.socket"
    python, file, *words = service["Service"]["ExecStart"].split()
    assert (Path(python).name, file) == ("python3", "phoenix.py")
    done = run("phoenix.py", *words[:1], "--help", cwd=ROOT)
    assert done.returncode == 0 and f"server {words[1]}" in done.stdout


def test_the_readme_has_the_blocks_that_are_tested_here() -> None:
    assert len(PYTHON) >= 5 and len(COMMANDS) >= 5


@pytest.mark.parametrize("command", [each for each in COMMANDS if each.startswith("python phoenix.py")])
def test_a_command_of_the_readme_works_in_a_fresh_folder(command: str, tmp_path: Path) -> None:
    for name in ("phoenix.py", "phoenix.js"):
        shutil.copy(ROOT / name, tmp_path)
    shutil.copytree(ROOT / "examples", tmp_path / "examples", ignore=shutil.ignore_patterns("*.db", "__pycache__"))
    done = run(*command.split()[1:], cwd=tmp_path)
    assert done.returncode == 0, done.stderr


def test_the_showcases_of_the_readme_are_examples_that_the_tests_start() -> None:
    started = [each.split()[1] for each in COMMANDS if each.startswith("python examples/")]
    assert started and all((ROOT / path).is_file() for path in started)


def test_the_readme_names_the_course_from_its_first_lesson_to_its_last() -> None:
    lessons = ["hello.py", *sorted(path.name for path in (ROOT / "examples").glob("[0-9][0-9]_*.py"))]
    numbers = "ten eleven twelve thirteen fourteen fifteen".split()
    assert f"course of {numbers[len(lessons) - 10]} lessons, from" in README
    assert all(f"`{lesson}`" in README for lesson in (*lessons[:2], lessons[-1]))


def test_the_test_command_of_the_readme_is_what_ci_runs() -> None:
    assert "bash tests/run" in COMMANDS
    assert "exec bash tests/run" in (ROOT / ".ci" / "run").read_text("utf-8")


def test_every_option_of_the_endpoint_stands_in_the_readme() -> None:
    rows = [line for line in README.splitlines() if line.startswith("| `")]
    named = set(re.findall(r"`(\w+)`", "".join(row.split("|")[1] for row in rows)))
    assert set(phoenix._ENDPOINT_OPTIONS) <= named
    assert set(phoenix._ENDPOINT_OPTIONS) <= set(re.findall(r"``(\w+)``", phoenix.Endpoint.__doc__ or ""))


def test_the_limits_of_the_readme_are_the_defaults_and_stand_where_it_says() -> None:
    class Router(phoenix.Router):
        pass

    table = README.partition("| limit | ")[2].partition("\n## ")[0]
    kinds = {"limits": phoenix.HTTPLimits, "timeouts": phoenix.Timeouts, "parsers": phoenix.Parsers}
    given = re.findall(r"`(limits|timeouts|parsers)=(\{.*?\})`", table)
    assert {name for name, _ in given} == kinds.keys()
    for name, text in given:
        options = ast.literal_eval(text)
        phoenix.Endpoint(Router, **{name: options})  # raises for what it does not know
        defaults = inspect.signature(kinds[name]).parameters
        assert options == {key: defaults[key].default for key in options}
    [call] = re.findall(r"`(socket\(.*?\))`", table)
    keywords = ast.parse(call, mode="eval").body.keywords  # type: ignore[attr-defined]

    class SocketRouter(phoenix.Router):
        phoenix.socket("/ws", **{each.arg: ast.literal_eval(each.value) for each in keywords})  # raises for what it does not know

    assert SocketRouter.routes


def test_the_chapters_that_the_readme_lists_are_those_of_the_file() -> None:
    chapters = re.findall(r"^# (\d+)\. (.+?)  +depends on:", (ROOT / "phoenix.py").read_text("utf-8"), re.MULTILINE)
    section = README.partition("## How to read the source")[2].partition("\n## ")[0]
    rows = re.findall(r"^\| (\d+) \| ([^:(,|]+)[^|]*\| ([^|]*)\|", section, re.MULTILINE)
    assert len(rows) == len(chapters)
    for number, title, _ in rows:
        assert any(number == n and t.startswith(title.strip().split(" and ")[0]) for n, t in chapters), (number, title)
    named = [name for *_, names in rows for name in re.findall(r"\w+", names)]
    assert sorted(named) == sorted(name for name in phoenix.__all__ if not name.endswith("Error"))
