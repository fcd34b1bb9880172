"""Chapter 17: the command line, as it is typed, and the apps that it makes."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import socket
import stat
import subprocess
import sys
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import phoenix
from conftest import ROOT, StartedServer, free_port

HELLO = """
import phoenix
from phoenix import get

def hello(conn, params):
    return conn.text("hello")

class Router(phoenix.Router):
    get("/hello", hello)

app = phoenix.Endpoint(Router)
"""

ROUTES_OF_HELLO = "hello_path  GET  /hello  hello/2\n"


def environment(**more: str) -> dict[str, str]:
    outside = ("PHOENIX_ENV", "MIX_ENV", "SECRET_KEY_BASE", "PORT", "NO_COLOR", "TERM")
    return {**{name: value for name, value in os.environ.items() if name not in outside}, **more}


def run(*arguments: str | Path, cwd: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run Python with these arguments."""
    command = [sys.executable, *map(str, arguments)]
    return subprocess.run(
        command, cwd=cwd, env=environment(**variables), stdin=subprocess.DEVNULL, capture_output=True, text=True,
        timeout=60,
    )  # fmt: skip


def phoenix_command(*words: str | Path, cwd: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run ``python -m phoenix`` in a folder that holds no copy of it."""
    return run("-m", "phoenix", *words, cwd=cwd, PYTHONPATH=str(ROOT), **variables)


@pytest.fixture
def hello(tmp_path: Path) -> Path:
    """A folder with an app in ``app.py``."""
    (tmp_path / "app.py").write_text(HELLO)
    return tmp_path


# --- routes -------------------------------------------------------------------------------

IMAGES = """
import phoenix
from phoenix import Controller, forward, resource, resources

class ImageController(Controller):
    def index(self, conn, params): return conn
    new = edit = show = create = update = destroy = index

class Router(phoenix.Router):
    resources("/images", ImageController)
"""

ROUTES_OF_IMAGES = """\
image_path  GET     /images           ImageController.index/2
image_path  GET     /images/:id/edit  ImageController.edit/2
image_path  GET     /images/new       ImageController.new/2
image_path  GET     /images/:id       ImageController.show/2
image_path  POST    /images           ImageController.create/2
image_path  PATCH   /images/:id       ImageController.update/2
            PUT     /images/:id       ImageController.update/2
image_path  DELETE  /images/:id       ImageController.destroy/2
"""


ROUTES_OF_IMAGE = """\
image_path  GET     /image/edit  ImageController.edit/2
image_path  GET     /image/new   ImageController.new/2
image_path  GET     /image       ImageController.show/2
image_path  POST    /image       ImageController.create/2
image_path  PATCH   /image       ImageController.update/2
            PUT     /image       ImageController.update/2
image_path  DELETE  /image       ImageController.destroy/2
            *       /admin       Router []
"""


def test_readme_mix_tasks_routes(tmp_path: Path) -> None:
    """``mix phoenix.routes MyApp.Router`` prints the routes: helper, verb, path, action."""
    (tmp_path / "images.py").write_text(IMAGES)
    done = phoenix_command("routes", "images:Router", cwd=tmp_path)
    assert (done.returncode, done.stdout, done.stderr) == (0, ROUTES_OF_IMAGES, "")


def test_a_forward_is_listed_with_what_stands_behind_it(tmp_path: Path) -> None:
    main = "\nclass Main(phoenix.Router):\n    resource('/image', ImageController)\n    forward('/admin', Router)\n"
    (tmp_path / "images.py").write_text(IMAGES + main)
    assert phoenix_command("routes", "images:Main", cwd=tmp_path).stdout == ROUTES_OF_IMAGE


@pytest.mark.parametrize("words", [["app:Router"], ["app:app"], ["app"], []])
def test_routes_finds_the_router(hello: Path, words: list[str]) -> None:
    done = phoenix_command("routes", *words, cwd=hello)
    assert (done.returncode, done.stdout, done.stderr) == (0, ROUTES_OF_HELLO, "")


def test_routes_takes_the_router_of_the_endpoint_where_a_module_has_several(hello: Path) -> None:
    (hello / "app.py").write_text(HELLO + "\nclass Other(phoenix.Router):\n    get('/other', hello)\n")
    assert phoenix_command("routes", "app", cwd=hello).stdout == ROUTES_OF_HELLO


def test_routes_prints_all_routers_where_no_endpoint_tells_which(tmp_path: Path) -> None:
    other = "class Other(phoenix.Router):\n    get('/other', hello, as_=None)"
    source = HELLO.replace("app = phoenix.Endpoint(Router)", other)
    (tmp_path / "app.py").write_text(source + "\nfrom phoenix import Router as Base\n")
    assert phoenix_command("routes", "app", cwd=tmp_path).stdout == (
        f"app.Router:\n{ROUTES_OF_HELLO}\napp.Other:\n  GET  /other  hello/2\n"
    )


def test_routes_of_a_router_without_routes_says_so(tmp_path: Path) -> None:
    (tmp_path / "app.py").write_text("import phoenix\nclass Router(phoenix.Router):\n    pass\n")
    done = phoenix_command("routes", "app:Router", cwd=tmp_path)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "app.Router has no routes.\n")


def test_an_app_in_a_package_is_named_with_dots(hello: Path) -> None:
    (hello / "shop" / "web").mkdir(parents=True)
    shutil.move(hello / "app.py", hello / "shop" / "web" / "app.py")
    assert phoenix_command("routes", "shop.web.app:Router", cwd=hello).stdout == ROUTES_OF_HELLO


@pytest.mark.parametrize("typed", ["app.py", "./app.py", ".", "app.py:app", "./app:Router", "{}/app.py", "{}"])
def test_an_app_may_be_named_by_its_file_or_folder(hello: Path, typed: str) -> None:
    done = phoenix_command("routes", typed.format(hello), cwd=hello)
    assert (done.returncode, done.stdout, done.stderr) == (0, ROUTES_OF_HELLO, "")


def test_a_file_imports_what_lies_beside_it_and_what_lies_here(hello: Path) -> None:
    (hello / "my-shop").mkdir()
    source = "import beside, here\n" + HELLO
    (hello / "my-shop" / "the-app.py").write_text(source)
    for file in ("my-shop/beside.py", "here.py"):
        (hello / file).write_text("")
    assert phoenix_command("routes", "my-shop/the-app.py", cwd=hello).stdout == ROUTES_OF_HELLO


def test_a_file_in_a_package_is_imported_as_a_part_of_it(hello: Path) -> None:
    (hello / "lib" / "shop").mkdir(parents=True)
    (hello / "lib" / "shop" / "__init__.py").write_text("")
    (hello / "lib" / "shop" / "names.py").write_text("")
    (hello / "lib" / "shop" / "app.py").write_text("from . import names\n" + HELLO)
    assert phoenix_command("routes", "lib/shop/app.py", cwd=hello).stdout == ROUTES_OF_HELLO


def test_the_working_directory_comes_before_all_other_places(hello: Path, tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "app.py").write_text("raise AssertionError('the wrong app')")
    done = run("-m", "phoenix", "routes", cwd=hello, PYTHONPATH=f"{elsewhere}{os.pathsep}{ROOT}")
    assert done.stdout == ROUTES_OF_HELLO
    done = run(ROOT / "phoenix.py", "routes", cwd=hello, PYTHONPATH=str(elsewhere))
    assert done.stdout == ROUTES_OF_HELLO


def test_output_that_nobody_reads_is_no_error_to_speak_of(hello: Path) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run(
        [sys.executable, "-m", "phoenix", "routes"], cwd=hello, env=environment(PYTHONPATH=str(ROOT)),
        stdout=writer, stderr=subprocess.PIPE, timeout=60,
    )  # fmt: skip
    os.close(writer)
    assert (done.returncode, done.stderr) == (1, b"")


# --- routes: which of them ----------------------------------------------------------------

SHOP = """
import phoenix
from phoenix import *

class UserController(Controller):
    def index(self, conn, params): return conn.text("users")
    show = index

class Admin(phoenix.Router):
    with pipeline("admin"):
        plug(Conn.accepts, "html")
    with scope("/"):
        pipe_through("admin")
        get("/stats/:day", UserController, "show")
        match("MOVE", "/stats/:day", UserController, "show", as_=None)

async def echo(ws):
    pass

class Rooms(Channel):
    async def join(self, socket, topic, message): return socket.ok()

class Router(phoenix.Router):
    with pipeline("browser"):
        plug(Conn.accepts, "html")
    with scope("/"):
        pipe_through("browser")
        resources("/users", UserController, only=["index", "show"])
        post("/login", UserController, "index", as_="login")
        forward("/admin", Admin)
    get("/about", UserController, "index", as_="about")
    with scope("/", host="api."):
        get("/v1", UserController, "index", as_=None)
    websocket("/echo", echo)
    with socket("/ws"):
        channel("rooms", Rooms)
        channel("system:clock", Rooms)

app = Endpoint(Router)
"""


def line_in_shop(text: str) -> int:
    return next(number for number, line in enumerate(SHOP.splitlines(), 1) if text in line)


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("shop")
    (folder / "app.py").write_text(SHOP)
    return folder


@pytest.fixture
def routes(
    shop: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., tuple[int | None, str, str]]:
    """Run ``routes`` with these words: exit code, standard output and error."""
    monkeypatch.chdir(shop)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setattr(sys, "modules", {name: found for name, found in sys.modules.items() if name != "app"})

    def run_routes(words: str) -> tuple[int | None, str, str]:
        code = phoenix.main(["routes", *shlex.split(words)])
        return code, *capsys.readouterr()

    return run_routes


Routes = Callable[[str], "tuple[int | None, str, str]"]


def test_websockets_are_listed_as_such_with_their_channels(routes: Routes) -> None:
    assert routes("app ws")[1].splitlines() == [
        "           *   /admin         Admin []",
        "echo_path  WS  /echo          echo/1",
        "           WS  /ws            SocketHandler [rooms:*, system:clock]",
        "           WS  /ws/websocket  SocketHandler [rooms:*, system:clock]",
    ]


@pytest.mark.parametrize(
    "words, paths",
    [
        ("app users", "/users /users/:id"),
        ("app user_path", "/users /users/:id"),
        ("app UserController.show", "/users/:id"),
        ("app users show", "/users/:id"),
        ("app POST browser", "/login /admin"),
        ("app post", "/login /admin /ws/longpoll /ws/poll"),
        ("app /users/", "/users/:id"),
        ("POST login", "/login"),
        ("/users show", "/users/:id"),
        ("get About", "/about"),
        ("app:Admin move", "/stats/:day"),
    ],
)
def test_routes_are_filtered_by_words(routes: Routes, words: str, paths: str) -> None:
    code, out, _ = routes(words)
    assert (code, [re.split(r" {2,}", line.strip())[-2].split()[-1] for line in out.splitlines()]) == (None, paths.split())


def test_words_that_no_route_has_are_an_error(routes: Routes) -> None:
    code, out, error = routes("app zebra GET")
    assert (code, out) == (1, "") and "no route has 'zebra' 'GET' in its helper" in error and " routes app\n" in error


@pytest.mark.parametrize("words", ["app --json show", "--json app show", "app show --json"])
def test_routes_as_json(routes: Routes, shop: Path, words: str) -> None:
    code, out, _ = routes(words)
    assert (code, json.loads(out)) == (None, [{
        "router": "app.Router", "helper": "user_path", "verb": "GET", "path": "/users/:id",
        "answered_by": "UserController.show/2", "action": "show", "pipelines": ["browser"], "hosts": [],
        "file": str(shop / "app.py"), "line": line_in_shop("resources("),
    }])  # fmt: skip


@pytest.mark.parametrize("words", ["GET /users/7?page=2", "get /users/7?page=2", "/users/7?page=2", "HEAD /users/7?page=2"])
def test_match_tells_what_answers_a_request(routes: Routes, words: str) -> None:
    code, out, error = routes(f"app --match {words}")
    assert (code, error, out.splitlines()) == (None, "", [
        f"GET /users/:id  (app.py:{line_in_shop('resources(')})",
        "",
        f"    answered by  UserController.show/2  (app.py:{line_in_shop('def index')})",
        "    pipelines    browser",
        "    params       page = '2', id = '7'",
        "    helper       user_path",
        "    router       app.Router",
    ])  # fmt: skip


@pytest.mark.parametrize(
    "words, path, params, pipelines",
    [
        ("/admin/stats/3", "/admin/stats/:day", {"day": "3"}, ["browser", "admin"]),
        ("http://api.example.com/v1", "/v1", {}, []),
        ("WS /ws/websocket", "/ws/websocket", {}, []),
        ("/users/J%C3%B6rg/", "/users/:id", {"id": "Jörg"}, ["browser"]),
        ("POST /login?a[b]=1", "/login", {"a": {"b": "1"}}, ["browser"]),
        ("move /admin/stats/3", "/admin/stats/:day", {"day": "3"}, ["browser", "admin"]),
    ],
)
def test_match_follows_forwards_hosts_and_escapes(
    routes: Routes, words: str, path: str, params: dict[str, Any], pipelines: list[str]
) -> None:
    code, out, _ = routes(f"--json --match {words}")
    found = json.loads(out)
    assert (code, found["path"], found["params"], found["pipelines"]) == (None, path, params, pipelines)


@pytest.mark.parametrize(
    "words, said, line",
    [
        ("DELETE /users/7", "405: DELETE is not allowed for /users/7, its routes take GET, HEAD.", "app --match GET /users/7"),
        ("PUT /admin/stats/3", "405: PUT is not allowed for /admin/stats/3", "app --match GET /admin/stats/3"),
        ("/user/7", "404: no route answers GET /user/7. The nearest is GET /users/:id (app.py:", "app /users/:id"),
        ("/v1", "404: no route answers GET /v1. The nearest is GET /v1 of api. (app.py:", "app /v1"),
        ("/admin/zzz", "404: no route answers GET /admin/zzz. All routes:", "app"),
        ("/x/y/z", "404: no route answers GET /x/y/z. All routes:", "app"),
    ],
)
def test_a_miss_is_answered_with_the_verbs_or_the_nearest(routes: Routes, words: str, said: str, line: str) -> None:
    code, out, error = routes(f"app --match {words}")
    assert (code, out) == (1, "") and said in error
    assert re.findall(r"^    \S+ -m phoenix routes (.+)$", error, re.MULTILINE) == [line]
    shown = routes(line)
    assert shown[0] is None and shown[1]  # the line that it proposes works


def test_a_path_that_cannot_be_read_is_an_error_of_one_line(routes: Routes) -> None:
    code, _, error = routes("--match /%zz")
    assert code == 1 and error.startswith("BadRequestError: the path segment '%zz'") and error.count("\n") == 1


@pytest.mark.skipif(os.name == "nt", reason="needs a pseudo-terminal")
@pytest.mark.parametrize("variables, seen", [({}, b"  \x1b[32mPOST\x1b[0m  /login"), ({"NO_COLOR": "1"}, b"  POST  /login")])
def test_verbs_have_colours_on_a_terminal(shop: Path, variables: dict[str, str], seen: bytes) -> None:
    parent, child = os.openpty()
    try:
        command = [sys.executable, "-m", "phoenix", "routes", "app", "POST", "/login"]
        subprocess.run(
            command, cwd=shop, env=environment(PYTHONPATH=str(ROOT), TERM="xterm", **variables), stdout=child, timeout=60
        )  # fmt: skip
        assert seen in os.read(parent, 10_000)
    finally:
        os.close(parent)
        os.close(child)


# --- shell --------------------------------------------------------------------------------


def shell(*words: str | Path, cwd: Path, typed: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "phoenix", "shell", *map(str, words)], cwd=cwd, env=environment(PYTHONPATH=str(ROOT)),
        input=typed, capture_output=True, text=True, timeout=60,
    )  # fmt: skip


@pytest.mark.parametrize("words", [["app:app"], ["app:Router"], ["app.py"], []])
def test_a_shell_runs_what_is_piped_into_it(shop: Path, words: list[str]) -> None:
    typed = (
        "assert isinstance(app, phoenix.Endpoint) and router is Router is app.router\n"
        "print(helpers.user_path(app, 'show', 7), conn.helpers.user_path('show', 8))\n"
        "for path in ['/users', '/about']:\n    print(path, client.get(path).resp_body)\n"
        "def double(n): return n * 2\n"
        "print([double(n) for n in (1, 2)], UserController.__name__, run_plug(conn, lambda conn: conn.text('hi')).resp_body)"
    )
    done = shell(*words, cwd=shop, typed=typed)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == "/users/7 /users/8\n/users users\n/about users\n[2, 4] UserController hi\n"


@pytest.mark.parametrize(
    "typed, code, said",
    [
        ("x = 1\n1 / 0\n", 1, 'File "<stdin>", line 2, in <module>\nZeroDivisionError: division by zero\n'),
        ("if x\n", 1, "SyntaxError: expected ':'"),
        ("helpers.nope", 1, "nope"),
        ("exit(3)", 3, ""),
        ("", 0, ""),
    ],
)
def test_a_shell_ends_as_what_is_piped_into_it_does(shop: Path, typed: str, code: int, said: str) -> None:
    done = shell("app", cwd=shop, typed=typed)
    assert done.returncode == code and said in done.stderr and "in main" not in done.stderr


@pytest.mark.skipif(os.name == "nt", reason="needs a pseudo-terminal")
def test_a_shell_on_a_terminal_has_a_banner_and_completes_names(shop: Path) -> None:
    parent, child = os.openpty()
    process = subprocess.Popen(
        [sys.executable, "-m", "phoenix", "shell", "app"], cwd=shop, stdin=child, stdout=child, stderr=child,
        env=environment(PYTHONPATH=str(ROOT), TERM="dumb"), start_new_session=True,
    )  # fmt: skip
    os.close(child)
    try:
        seen = read_until(parent, b">>> ")
        assert b"client    calls the app" in seen and b"app.Router, with" in seen and b"\x1b" not in seen
        os.write(parent, b"conn.metho\t.lower()\n")
        assert b"'get'" in read_until(parent, b">>> ")
        os.write(parent, b"exit(4)\n")
        assert process.wait(30) == 4
    finally:
        process.kill()
        os.close(parent)


def read_until(terminal: int, *ends: bytes) -> bytes:
    """Read from a terminal until one of *ends* is there; what does not come in 30 s does not come."""
    import select

    seen = b""
    while not any(end in seen for end in ends):
        assert select.select([terminal], [], [], 30)[0], seen
        seen += os.read(terminal, 10_000)
    return seen


# --- What was typed wrong -----------------------------------------------------------------

MISTAKES = [
    # what was typed, what the answer says, the line it proposes
    ("rotes app", "unknown command 'rotes'. Did you mean 'routes'?", "routes app"),
    ("sever app:app --port 1", "unknown command 'sever'. Did you mean 'server'?", "server app:app --port 1"),
    ("phoenix.server", "unknown command 'phoenix.server'", "server"),
    ("phx.routes app", "unknown command 'phx.routes'", "routes app"),
    ("frobnicate", "unknown command 'frobnicate'", "--help"),
    ("routes ap:Router", "there is no module 'ap' in {}, but there is:", "routes app:Router"),
    ("server shop", "there is no module 'shop' in {}, but there is:", "server app"),
    ("routes two.Router", "there is no module 'two.Router' in {}, but there is:", "routes two:Router"),
    ("routes tow.Router", "there is no module 'tow.Router' in {}, but there is:", "routes two"),
    ("server web.router", "there is no module 'web.router' in {}, but there is:", "server app"),
    ("routes app:Ruter", "app has no 'Ruter'. Did you mean 'Router'?", "routes app:Router"),
    ("server app:ap", "app has no 'ap'. Did you mean 'app'?", "server app:app"),
    ("routes app:xyz", "app has no 'xyz'.", "routes app"),
    ("routes app:hello", "app:hello is <function hello at", "routes app"),
    ("server app:phoenix", "app:phoenix is <module 'phoenix'", "server app"),
    ("routes ap.py", "there is no file ap.py, but there is:", "routes app.py"),
    ("server ./ap.py:Router", "there is no file ./ap.py, but there is:", "server ./app.py:Router"),
    ("server shop/app.py:app", "there is no file shop/app.py, nor another app. To make one type:", "new my_app"),
    ("server shop/", "there is no file shop.py, but there is:", "server app.py"),
    ("server app.py:ap", "app.py has no 'ap'. Did you mean 'app'?", "server app.py:app"),
    ("routes ./app.py:hello", "./app.py:hello is <function hello at", "routes ./app.py"),
    ("server re.py", "re.py is hidden by another module 're', ", ""),
    ("routes :Router", "':Router' is not the name of a module or file", "routes app"),
    ("routes empty", "empty has no router and no endpoint", "routes app:Router"),
    ("server empty", "empty has no endpoint: write `app = phoenix.Endpoint(Router)`", ""),
    ("server router_only --port 99999", "99999 is not a port", "server router_only --port 4000"),
    ("--prot", "unknown argument '--prot'.", "--help"),
    ("--verison", "unknown argument '--verison'. Did you mean '--version'?", "--help"),
    ("--", "unknown argument '--'.", "--help"),
    ("server app --lop uvloop", "unknown argument '--lop'. Did you mean '--loop'?", "server app:app --port 4000"),
    ("server app --loop uvlop", "argument --loop: invalid choice: 'uvlop' (choose from ", "server app:app --port 4000"),
    ("routes --jsn", "unknown argument '--jsn'. Did you mean '--json'?", "routes app:Router"),
    ("routes --match", "argument --match: expected at least one argument", "routes app:Router"),
    ("routes --match GET hello", "--match takes a verb and a path, as in:", "routes app --match GET /users/1"),
    ("routes app --match FETCH /a", "--match takes a verb and a path, as in:", "routes app --match GET /users/1"),
    ("shell ap", "there is no module 'ap' in {}, but there is:", "shell app"),
    ("sever app 'a b'", "unknown command 'sever'.", "server app 'a b'"),
    ("server --prot 4001", "unknown argument '--prot'. Did you mean '--port'?", "server app:app --port 4000"),
    ("server --port abc", "argument --port: invalid int value: 'abc'", "server app:app --port 4000"),
    ("server app two", "two of these apps listen on port 4000", "server app two --port 4000"),
    ("new", "the following arguments are required: name", "new my_app"),
    ("new my-app", "'my-app' cannot be the name of an app", "new my_app"),
    ("new MyApp ../shop", "'MyApp' cannot be the name of an app", "new my_app ../shop"),
    ("new apps/shop --one-file", "'apps/shop' cannot be the name of an app", "new shop apps/shop --one-file"),
    ("new 2048", "'2048' cannot be the name of an app", "new my_app"),
    ("new class", "'class' cannot be the name of an app", "new my_app"),
    ("new phoenix", "'phoenix' cannot be the name of an app", "new my_app"),
    ("gen", "the following arguments are required: what", "gen secret"),
    ("gen secert", "invalid choice: 'secert'", "gen secret"),
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with apps that is not changed."""
    folder = tmp_path_factory.mktemp("apps")
    (folder / "app.py").write_text(HELLO)
    for name in ("two.py", "re.py"):
        (folder / name).write_text(HELLO)
    (folder / "empty.py").write_text("")
    (folder / ".#app.py").symlink_to("somebody@editing.1234")  # as Emacs does
    (folder / "router_only.py").write_text(HELLO.replace("app = phoenix.Endpoint(Router)", ""))
    return folder


@pytest.mark.parametrize("typed, said, line", MISTAKES, ids=[typed for typed, _, _ in MISTAKES])
def test_a_mistake_is_answered_with_the_line_to_type(
    folder: Path, typed: str, said: str, line: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(folder)
    monkeypatch.delenv("PORT", raising=False)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setattr(sys, "modules", dict(sys.modules))  # those that are imported now are forgotten
    assert phoenix.main(shlex.split(typed)) == 2
    printed = capsys.readouterr()
    assert printed.out == "" and printed.err.startswith("phoenix: ") and "Traceback" not in printed.err
    assert said.format(folder) in printed.err
    python = Path(sys.executable).name
    assert re.findall(r"^    (.+)$", printed.err, re.MULTILINE) == ([f"{python} -m phoenix {line}"] if line else [])


def test_a_copy_of_the_framework_is_not_taken_for_an_app(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "inner").mkdir()
    shutil.copy(ROOT / "phoenix.py", tmp_path)
    done = phoenix_command("server", "..", cwd=tmp_path / "inner")
    assert done.returncode == 2 and "there is no file ../app.py, nor another app. To make one type:" in done.stderr


def test_a_host_that_is_none_is_told_so(hello: Path) -> None:
    done = phoenix_command("server", "app", "--host", "no such host", "--port", "0", cwd=hello)
    assert done.returncode == 1 and done.stderr.startswith("cannot listen on no such host:0: ")
    assert "Traceback" not in done.stderr


def test_where_there_is_no_app_one_can_be_made(tmp_path: Path) -> None:
    done = phoenix_command("server", cwd=tmp_path)
    assert done.returncode == 2
    assert f"there is no module 'app' in {tmp_path}, nor another app." in done.stderr
    assert "phoenix new my_app" in done.stderr


@pytest.mark.parametrize(
    "source, said",
    [
        ("import there_is_no_such_module", "ModuleNotFoundError: No module named 'there_is_no_such_module'"),
        ("import app.part", "ModuleNotFoundError: No module named 'app.part'; 'app' is not a package"),
        ("def f(:\n    pass", "SyntaxError: "),
        (HELLO + "\n1 / 0", "ZeroDivisionError: division by zero"),
        (HELLO + "\nraise phoenix.PhoenixError('mine')", "PhoenixError: mine"),
    ],
)
def test_an_app_that_fails_shows_its_own_traceback(tmp_path: Path, source: str, said: str) -> None:
    (tmp_path / "app.py").write_text(source)
    done = phoenix_command("routes", cwd=tmp_path)
    assert done.returncode == 1 and done.stdout == ""
    assert said in done.stderr and done.stderr.endswith("phoenix: app could not be imported.\n")
    assert set(re.findall(r'File "(.+?)"', done.stderr)) == {str(tmp_path / "app.py")}


def test_a_mistake_in_a_definition_points_at_the_app_and_nowhere_else(tmp_path: Path) -> None:
    (tmp_path / "app.py").write_text(HELLO.replace('get("/hello", hello)', 'get("/:a/:a", hello)'))
    done = phoenix_command("server", cwd=tmp_path)
    assert done.returncode == 1 and "DefinitionError" in done.stderr and "two parameters" in done.stderr
    assert set(re.findall(r'File "(.+?)"', done.stderr)) == {str(tmp_path / "app.py")}


def test_an_app_that_lacks_a_secret_is_told_so_in_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "app.py").write_text(
        "import phoenix\nfrom phoenix import *\nclass Router(phoenix.Router):\n"
        "    with scope('/'):\n        pipe_through(Conn.fetch_session)\n        get('/', lambda conn, params: conn)\n"
    )
    done = phoenix_command("server", "app:Router", cwd=tmp_path)
    assert done.returncode == 1 and "Traceback" not in done.stderr
    assert done.stderr.startswith("SecretError: ") and "secret_key_base is not set" in done.stderr


def test_an_app_may_end_the_command_itself(tmp_path: Path) -> None:
    (tmp_path / "app.py").write_text("import sys\nsys.exit('no database')")
    done = phoenix_command("routes", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (1, "no database\n")


# --- Help, and how it looks ---------------------------------------------------------------


def test_readme_mix_tasks_help(capsys: pytest.CaptureFixture[str]) -> None:
    """``mix phoenix --help`` lists the commands."""
    with pytest.raises(SystemExit) as exit:
        phoenix.main(["--help"])
    assert exit.value.code == 0
    printed = capsys.readouterr().out
    for command in ("new", "server (start)", "routes", "shell", "gen", "gettext", "js"):
        assert re.search(rf"^    {re.escape(command)}\s", printed, re.MULTILINE), command


@pytest.mark.parametrize("command", ["new", "server", "start", "routes", "shell", "gen", "gettext", "js"])
@pytest.mark.parametrize("words", ["{} --help", "help {}", "{} -h"])
def test_every_command_has_help_with_an_example(capsys: pytest.CaptureFixture[str], command: str, words: str) -> None:
    with pytest.raises(SystemExit) as exit:
        phoenix.main(words.format(command).split())
    name, printed = command.replace("start", "server"), capsys.readouterr().out
    assert exit.value.code == 0 and f" {name} [-h]" in printed
    assert re.search(rf"^example:\n  \S+ -m phoenix {name}", printed, re.MULTILINE)


def test_no_command_prints_the_help_as_an_error(capsys: pytest.CaptureFixture[str]) -> None:
    assert phoenix.main([]) == 2
    printed = capsys.readouterr()
    assert printed.out == "" and "COMMAND" in printed.err


def test_the_version_is_that_of_the_module(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exit:
        phoenix.main(["--version"])
    assert exit.value.code == 0 and capsys.readouterr().out == f"phoenix {phoenix.__version__}\n"


def test_gen_secret_prints_another_secret_each_time(capsys: pytest.CaptureFixture[str]) -> None:
    assert phoenix.main(["gen", "secret"]) is None and phoenix.main(["gen", "secret"]) is None
    one, other = capsys.readouterr().out.split()
    assert one != other
    phoenix.Endpoint(phoenix.Router, secret_key_base=[one, other], env="test")  # which checks their length


@pytest.mark.skipif(os.name == "nt", reason="needs a pseudo-terminal")
@pytest.mark.parametrize(
    "variables, coloured",
    [({"TERM": "xterm"}, True), ({"TERM": "xterm", "NO_COLOR": "1"}, False), ({"TERM": "dumb"}, False)],
)
def test_colours_are_for_terminals_that_want_them(tmp_path: Path, variables: dict[str, str], coloured: bool) -> None:
    parent, child = os.openpty()
    try:
        subprocess.run(
            [sys.executable, "-m", "phoenix", "rotes"], cwd=tmp_path,
            env=environment(PYTHONPATH=str(ROOT), **variables), stderr=child, timeout=60,
        )  # fmt: skip
        assert (b"\x1b[" in os.read(parent, 10_000)) is coloured
    finally:
        os.close(parent)
        os.close(child)


def test_the_parser_of_command_lines_is_imported_late(tmp_path: Path) -> None:
    done = run("-c", "import phoenix, sys; print('argparse' in sys.modules)", cwd=tmp_path, PYTHONPATH=str(ROOT))
    assert done.stdout == "False\n", done.stderr


# --- One module, however it is started ----------------------------------------------------

COPIES = """
import sys
print(sorted(n for n, m in sys.modules.items() if n != "__main__" and m.__dict__.get("Endpoint", phoenix) is not phoenix
             and m.__dict__["Endpoint"].__module__ == n))
"""


@pytest.fixture
def package(tmp_path: Path) -> Path:
    """A folder with a package that holds its own copy of phoenix.py."""
    (tmp_path / "shop").mkdir()
    shutil.copy(ROOT / "phoenix.py", tmp_path / "shop")
    (tmp_path / "shop" / "__init__.py").touch()
    source = HELLO.replace("import phoenix\nfrom phoenix ", "from . import phoenix\nfrom .phoenix ")
    (tmp_path / "shop" / "app.py").write_text(source + COPIES)
    return tmp_path


@pytest.mark.parametrize(
    "arguments, prefix",
    [
        (["phoenix.py"], "phoenix.py"),
        (["./phoenix.py"], "./phoenix.py"),
        (["-m", "phoenix"], "-m phoenix"),
        (["-P", "phoenix.py"], "phoenix.py"),
    ],
)
def test_a_copy_beside_the_app_is_one_module(hello: Path, arguments: list[str], prefix: str) -> None:
    if sys.version_info < (3, 11):
        arguments = [each for each in arguments if each != "-P"]  # which says: no folder of the script in sys.path
    shutil.copy(ROOT / "phoenix.py", hello)
    (hello / "app.py").write_text(HELLO + COPIES)
    done = run(*arguments, "routes", "app:Router", cwd=hello)
    assert done.stdout == f"['phoenix']\n{ROUTES_OF_HELLO}", done.stderr
    assert f"{Path(sys.executable).name} {prefix} routes" in run(*arguments, "rotes", cwd=hello).stderr


def test_a_copy_under_another_name_is_one_module(hello: Path) -> None:
    shutil.copy(ROOT / "phoenix.py", hello / "px.py")
    (hello / "app.py").write_text(
        HELLO.replace("import phoenix\nfrom phoenix", "import px as phoenix\nfrom px") + COPIES
    )
    assert run("px.py", "routes", cwd=hello).stdout == f"['px']\n{ROUTES_OF_HELLO}"


def test_a_copy_in_another_folder_is_one_module(hello: Path) -> None:
    (hello / "app.py").write_text(HELLO + COPIES)
    assert run(ROOT / "phoenix.py", "routes", cwd=hello).stdout == f"['phoenix']\n{ROUTES_OF_HELLO}"


@pytest.mark.parametrize(
    "arguments, cwd",
    [
        (["shop/phoenix.py"], "."),
        (["-m", "shop.phoenix"], "."),
        (["phoenix.py"], "shop"),
        (["../shop/phoenix.py"], "elsewhere"),
    ],
)
def test_a_copy_in_a_package_is_one_module(package: Path, arguments: list[str], cwd: str) -> None:
    (package / "elsewhere").mkdir()
    done = run(*arguments, "routes", "shop.app:Router", cwd=package / cwd)
    assert done.stdout == f"['shop.phoenix']\n{ROUTES_OF_HELLO}", done.stderr


@pytest.mark.parametrize("imports", ["import phoenix", "import web.phoenix as phoenix", "import web.phoenix; phoenix = web.phoenix"])
def test_a_copy_in_a_folder_is_one_module_under_both_its_names(tmp_path: Path, imports: str) -> None:
    (tmp_path / "web").mkdir()
    shutil.copy(ROOT / "phoenix.py", tmp_path / "web")
    words = "from phoenix import get" if imports == "import phoenix" else "from web.phoenix import get"
    app = HELLO.replace("import phoenix\nfrom phoenix import get", f"{imports}\n{words}")
    (tmp_path / "app.py").write_text(app + COPIES)
    done = run("web/phoenix.py", "routes", "app:Router", cwd=tmp_path)
    assert done.stdout == f"['web.phoenix']\n{ROUTES_OF_HELLO}", done.stderr


@pytest.mark.skipif(os.name == "nt", reason="needs symbolic links")
def test_a_link_to_a_copy_in_a_package_is_one_module(package: Path) -> None:
    (package / "bin").mkdir()
    (package / "bin" / "phoenix").symlink_to("../shop/phoenix.py")
    done = run("bin/phoenix", "routes", "shop.app", cwd=package)
    assert done.stdout == f"['shop.phoenix']\n{ROUTES_OF_HELLO}", done.stderr


def test_a_command_serves_an_app_that_stands_on_another_copy(package: Path) -> None:
    done = phoenix_command("routes", "shop.app:Router", cwd=package)
    assert done.stdout == f"['phoenix', 'shop.phoenix']\n{ROUTES_OF_HELLO}", done.stderr
    for target in ("shop.app", "shop.app:app"):
        assert phoenix_command("routes", target, cwd=package).stdout.endswith(ROUTES_OF_HELLO)


# --- server -------------------------------------------------------------------------------

START_IN = "import os, sys; os.chdir(sys.argv[1]); os.execv(sys.executable, [sys.executable, *sys.argv[2:]])"


@pytest.fixture
def start_in(start: Callable[..., StartedServer]) -> Callable[..., StartedServer]:
    """Start servers as ``start`` does, in a folder: ``start_in(folder, "app.py")``."""
    return lambda folder, *arguments, **variables: start("-c", START_IN, folder, *arguments, **variables)


@pytest.mark.skipif(os.name == "nt", reason="needs exec and signals")
@pytest.mark.parametrize("words", ["server app:app", "server app", "server", "server app:Router", "start app"])
def test_readme_mix_tasks_server(hello: Path, start_in: Callable[..., StartedServer], words: str) -> None:
    """``mix phoenix.server [MyApp.Router]`` starts the server, as ``phoenix.start`` did before."""
    server = start_in(hello, "-m", "phoenix", *words.split(), PYTHONPATH=str(ROOT))
    assert server.request("/hello").text == "hello"
    assert server.stop() == 0


@pytest.mark.skipif(os.name == "nt", reason="needs exec and signals")
def test_host_and_port_can_be_chosen(hello: Path, start_in: Callable[..., StartedServer]) -> None:
    port = free_port()
    words = ["server", "--host", "127.0.0.2", "--port", str(port)]
    server = start_in(hello, "-m", "phoenix", *words, PYTHONPATH=str(ROOT), PORT="1")
    assert server.url == f"http://127.0.0.2:{port}" and server.request("/hello").status == 200


@pytest.mark.skipif(os.name == "nt", reason="needs exec and signals")
def test_the_event_loop_can_be_chosen(hello: Path, start_in: Callable[..., StartedServer]) -> None:
    source = HELLO.replace('def hello(conn, params):\n    return conn.text("hello")', (
        "import asyncio\nasync def hello(conn, params):\n    return conn.text(type(asyncio.get_running_loop()).__module__)"
    ))  # fmt: skip
    (hello / "app.py").write_text(source)
    server = start_in(hello, ROOT / "phoenix.py", "server", "app.py", "--loop", "uvloop")
    assert server.request("/hello").text == "uvloop"
    assert server.stop() == 0


def test_an_event_loop_that_is_not_installed_is_named(hello: Path) -> None:
    done = phoenix_command("server", "app", "--loop", "winloop", cwd=hello)
    assert done.returncode == 1 and "Install it (`pip install winloop`), or go without." in done.stderr


def test_several_apps_are_served_and_stopped_together(hello: Path, start_in: Callable[..., StartedServer]) -> None:
    (hello / "two.py").write_text(HELLO.replace('"hello"', '"hello from two"'))
    server = start_in(hello, "-m", "phoenix", "server", "app", "--no-reload", "two:app", PYTHONPATH=str(ROOT))
    second = server._lines.get(timeout=20)
    url = second.split()[3].strip(",")
    assert url.startswith("http://localhost:") and url != server.url
    assert server.request("/hello").text == "hello"
    with urllib.request.urlopen(f"{url}/hello", timeout=10) as answer:
        assert answer.read() == b"hello from two"
    assert server.stop() == 0


@pytest.mark.skipif(os.name == "nt", reason="needs exec and signals")
def test_all_endpoints_of_a_module_are_served(hello: Path, start_in: Callable[..., StartedServer]) -> None:
    (hello / "app.py").write_text(HELLO + "\nadmin = phoenix.Endpoint(Router)\nsame = app\n")
    server = start_in(hello, "-m", "phoenix", "server", PYTHONPATH=str(ROOT))
    assert "Running Router on http://localhost:" in server._lines.get(timeout=20)
    assert server.stop() == 0
    assert server._lines.get(timeout=20) == ""  # two, not three


def test_a_port_that_is_taken_is_an_error_of_one_line(hello: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        done = phoenix_command("server", "--port", str(port), cwd=hello)
    assert done.returncode == 1 and done.stderr.count("\n") == 1
    assert done.stderr.startswith(f"Port {port} is already in use")


@pytest.mark.parametrize("words", ["app:Router", "app --reload"])
def test_an_app_that_cannot_be_configured_is_told_why(hello: Path, words: str) -> None:
    done = phoenix_command("server", *words.split(), cwd=hello, PORT="abc")
    assert done.returncode == 1 and "ConfigError: the port of http is 'abc', expected" in done.stderr


# --- js -----------------------------------------------------------------------------------


def test_js_writes_the_client_where_the_app_serves_it(tmp_path: Path) -> None:
    done = phoenix_command("js", cwd=tmp_path)
    assert (done.returncode, done.stdout) == (0, "* created   priv/static/js/phoenix.js\n")
    written = tmp_path / "priv" / "static" / "js" / "phoenix.js"
    assert written.read_bytes() == (ROOT / "phoenix.js").read_bytes()
    assert phoenix_command("js", cwd=tmp_path).stdout == "* unchanged priv/static/js/phoenix.js\n"


@pytest.mark.parametrize("path", ["static/js", "static/js/", "static/js/phoenix.js"])
def test_js_takes_a_folder_or_a_file(tmp_path: Path, path: str) -> None:
    done = phoenix_command("js", path, cwd=tmp_path)
    assert (done.returncode, done.stdout) == (0, "* created   static/js/phoenix.js\n")


def test_js_keeps_a_file_that_differs_unless_forced(tmp_path: Path) -> None:
    (tmp_path / "phoenix.js").write_text("mine")
    done = phoenix_command("js", ".", cwd=tmp_path)
    assert done.returncode == 0 and "* kept      ./phoenix.js (it differs)" in done.stdout
    assert "phoenix js . --force" in done.stdout and (tmp_path / "phoenix.js").read_text() == "mine"
    assert "* replaced  ./phoenix.js" in phoenix_command("js", ".", "--force", cwd=tmp_path).stdout
    assert (tmp_path / "phoenix.js").read_bytes() == (ROOT / "phoenix.js").read_bytes()


def test_js_says_when_there_is_no_client_to_write(hello: Path) -> None:
    shutil.copy(ROOT / "phoenix.py", hello)
    done = run("phoenix.py", "js", cwd=hello)
    assert done.returncode == 1 and "phoenix.js is not beside" in done.stderr
    done = run("phoenix.py", "new", "shop", cwd=hello)  # which needs it less
    assert done.returncode == 0 and "phoenix.js was not found" in done.stdout
    assert not (hello / "shop" / "priv" / "static" / "js").exists()


# --- new ----------------------------------------------------------------------------------

STRUCTURE = """
.gitignore README.md app.py config/config.py config/dev.py config/prod.py config/test.py phoenix.py
priv/static/css/phoenix.css priv/static/images/phoenix.svg priv/static/js/phoenix.js tests/__init__.py
tests/test_error_view.py tests/test_page_controller.py web/__init__.py
web/channels/__init__.py web/controllers/__init__.py web/controllers/page_controller.py web/models/__init__.py
web/router.py web/templates/layout/application.html.eex web/templates/page/index.html.eex web/view.py
web/views/__init__.py web/views/error_view.py web/views/layout_view.py web/views/page_view.py
""".split()


def files_below(folder: Path) -> list[str]:
    found = (path for path in folder.rglob("*") if path.is_file() and "__pycache__" not in path.parts)
    return sorted(str(path.relative_to(folder)) for path in found)


@pytest.fixture(scope="module", params=["structured", "one-file"])
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def new_app(tmp_path_factory: pytest.TempPathFactory, kind: str) -> Path:
    """An app that ``new`` has made; tests leave it as it is."""
    folder = tmp_path_factory.mktemp("new")
    done = phoenix_command("new", "photo_blog", *(["--one-file"] if kind == "one-file" else []), cwd=folder)
    assert (done.returncode, done.stderr) == (0, "")
    return folder / "photo_blog"


@pytest.fixture
def made(tmp_path: Path) -> Path:
    """An app that ``new`` has made, for a test that changes it."""
    assert phoenix_command("new", "shop", cwd=tmp_path).returncode == 0
    return tmp_path / "shop"


@pytest.mark.parametrize("path", [None, "made/here", "../beside", ".", "/absolute"])
def test_readme_setup_new(tmp_path: Path, path: str | None) -> None:
    """``mix phoenix.new my_app path`` makes an app of the known structure, at a path that may be relative."""
    path = str(tmp_path / "absolute") if path == "/absolute" else path
    (tmp_path / "work").mkdir()
    done = phoenix_command("new", "my_app", *([path] if path else []), cwd=tmp_path / "work")
    assert (done.returncode, done.stderr) == (0, "")
    folder = (tmp_path / "work" / (path or "my_app")).resolve()
    assert files_below(folder) == STRUCTURE
    created = sorted(os.path.normpath(each) for each in re.findall(r"^\* created   (.+)$", done.stdout, re.MULTILINE))
    assert created == sorted(os.path.normpath(os.path.join(path or "my_app", each)) for each in STRUCTURE)
    assert ("    cd " in done.stdout) is (path != ".")


def test_an_absolute_path_is_taken_as_it_is(tmp_path: Path) -> None:
    assert phoenix_command("new", "my_app", "--one-file", tmp_path / "there", cwd=tmp_path).returncode == 0
    expected = [".gitignore", "app.py", "phoenix.py", "priv/static/js/phoenix.js", "test_app.py"]
    assert files_below(tmp_path / "there") == expected


def test_the_framework_and_its_client_are_copied_as_they_are(new_app: Path) -> None:
    assert (new_app / "phoenix.py").read_bytes() == (ROOT / "phoenix.py").read_bytes()
    assert (new_app / "priv/static/js/phoenix.js").read_bytes() == (ROOT / "phoenix.js").read_bytes()


def test_the_name_of_the_app_stands_where_it_belongs(new_app: Path) -> None:
    source = (new_app / "app.py").read_text()
    config = new_app / "config" / "config.py"
    assert '"""PhotoBlog' in source and '"_photo_blog_key"' in (config.read_text() if config.exists() else source)
    for path in files_below(new_app):
        if not path.endswith(("phoenix.py", "phoenix.js")):
            assert not re.search("my_app|MyApp", (new_app / path).read_text()), path


def test_its_tests_pass_with_nothing_installed(new_app: Path) -> None:
    done = run("-S", "-s", "-W", "error", "-m", "unittest", cwd=new_app)  # -S: without site-packages
    assert done.returncode == 0 and re.search(r"Ran [1-9] tests?", done.stderr), done.stderr


def test_its_tests_pass_with_pytest(new_app: Path) -> None:
    done = run("-m", "pytest", "-q", "-p", "no:cacheprovider", cwd=new_app)
    assert done.returncode == 0 and re.search(r"[1-9] passed", done.stdout), done.stdout


def test_its_tests_can_fail(made: Path) -> None:
    (made / "web/templates/page/index.html.eex").write_text("<h1>Something else</h1>")
    done = run("-m", "unittest", cwd=made)
    assert done.returncode == 1 and "FAILED (failures=1)" in done.stderr


def test_its_routes_are_printed(new_app: Path) -> None:
    done = run("phoenix.py", "routes", cwd=new_app)
    assert (done.stdout, done.stderr) == ("page_path  GET  /  PageController.index/2\n", "")


@pytest.mark.skipif(os.name == "nt", reason="needs exec and signals")
@pytest.mark.parametrize("arguments", [["app.py"], ["phoenix.py", "server"], ["-m", "phoenix", "server"]])
def test_readme_setup_start(new_app: Path, start_in: Callable[..., StartedServer], arguments: list[str]) -> None:
    server = start_in(new_app, *arguments)
    page = server.request("/")
    assert page.status == 200 and "Welcome to Phoenix!" in page.text and "PhotoBlog" in page.text
    assert server.request("/js/phoenix.js").body == (ROOT / "phoenix.js").read_bytes()
    for path in ("/.secret_key_base", "/app.py", "/../app.py", "/nowhere"):
        assert server.request(path).status in (400, 404)
    assert server.stop() == 0


@pytest.mark.skipif(os.name == "nt", reason="needs exec and signals")
def test_in_production_it_answers_with_its_error_pages(
    new_app: Path, kind: str, start_in: Callable[..., StartedServer]
) -> None:
    server = start_in(new_app, "app.py", PHOENIX_ENV="prod", SECRET_KEY_BASE="s" * 64)
    missing = server.request("/nowhere")
    assert missing.status == 404 and ("<h1>Not Found" if kind == "one-file" else "Page not found - 404") in missing.text
    assert server.request("/nowhere", headers={"accept": "application/json"}).json == {
        "errors": {"detail": "Not Found"}
    }
    assert server.request("/").status == 200


@pytest.mark.parametrize(
    "comments, begins", [(slice(0, 0), "http"), (slice(0, 3), "https"), (slice(3, 6), "https")],
    ids=["as it is", "behind a proxy", "without a proxy"],
)  # fmt: skip
def test_its_links_have_the_port_of_their_scheme(made: Path, comments: slice, begins: str) -> None:
    file = made / "config" / "prod.py"
    text = file.read_text()
    lines = re.findall(r"^    # (\w+=.*)$", text, re.MULTILINE)
    assert len(lines) == 6
    for line in lines[comments]:  # it stands in place of the option of the same name
        text = re.sub(rf"^    {line.partition('=')[0]}=.*\n", "", text, flags=re.MULTILINE)
        text = text.replace("config(\n", f"config(\n    {line}\n")
    file.write_text(text)
    done = run("-c", "import app; print(app.app.url('/a'))", cwd=made, PHOENIX_ENV="prod", SECRET_KEY_BASE="s" * 64)
    assert done.stdout == f"{begins}://example.com/a\n", done.stderr


def test_in_production_it_needs_a_secret(new_app: Path) -> None:
    done = run("app.py", cwd=new_app, PHOENIX_ENV="prod")
    assert done.returncode == 1 and "secret_key_base is not set" in done.stderr and "SECRET_KEY_BASE" in done.stderr


def test_in_development_it_makes_a_secret_and_keeps_it(made: Path) -> None:
    code = "import app; print(app.app.config('secret_key_base'))"
    first, second = (run("-c", code, cwd=made).stdout for _ in range(2))
    assert len(first) >= 64 and first == second
    file = made / ".secret_key_base"
    assert file.read_text() == first.strip()
    if os.name != "nt":
        assert stat.S_IMODE(file.stat().st_mode) == 0o600
    own = "of the environment " * 4
    assert run("-c", code, cwd=made, SECRET_KEY_BASE=own).stdout == f"{own}\n"


@pytest.mark.skipif(shutil.which("git") is None, reason="needs git")
def test_its_secret_stays_out_of_the_repository(made: Path) -> None:
    assert run("-m", "unittest", cwd=made).returncode == 0  # it makes the secret, and files of bytecode
    subprocess.run(["git", "init", "-q"], cwd=made, check=True, timeout=30)
    listed = subprocess.check_output(
        ["git", "ls-files", "--others", "--exclude-standard"], cwd=made, text=True, timeout=30
    )
    assert sorted(listed.split()) == STRUCTURE


def test_an_app_that_is_there_is_brought_up_to_date_and_nothing_is_lost(made: Path) -> None:
    (made / "web" / "router.py").write_text("# mine\n")
    (made / "web" / "view.py").unlink()
    (made / "phoenix.py").write_text("# an older one\n")
    done = phoenix_command("new", "shop", cwd=made.parent)
    assert done.returncode == 0
    said = {path: word for word, path in re.findall(r"^\* (\w+) +(.+)$", done.stdout, re.MULTILINE)}
    assert said["shop/web/view.py"] == "created" and said["shop/app.py"] == "unchanged"
    assert said["shop/web/router.py (it differs)"] == "kept" and said["shop/phoenix.py (it differs)"] == "kept"
    assert "2 files that differ were kept" in done.stdout and "phoenix new shop shop --force" in done.stdout
    assert (made / "web" / "router.py").read_text() == "# mine\n" and (made / "web" / "view.py").exists()

    forced = phoenix_command("new", "shop", "shop", "--force", cwd=made.parent)
    assert "* replaced  shop/web/router.py\n" in forced.stdout and "* unchanged shop/app.py\n" in forced.stdout
    assert (made / "phoenix.py").read_bytes() == (ROOT / "phoenix.py").read_bytes()
    assert "kept" not in forced.stdout


def test_files_of_the_user_are_never_touched(made: Path) -> None:
    (made / "notes.txt").write_text("mine")
    phoenix_command("new", "shop", "--force", cwd=made.parent)
    assert (made / "notes.txt").read_text() == "mine"


def test_a_folder_that_cannot_be_made_is_an_error_of_one_line(hello: Path) -> None:
    done = phoenix_command("new", "shop", "app.py/shop", cwd=hello)
    assert done.returncode == 1 and done.stderr == "phoenix: cannot write app.py/shop/app.py: Not a directory\n"


def test_a_folder_where_a_file_is_meant_to_be_is_an_error_of_one_line(tmp_path: Path) -> None:
    (tmp_path / "shop" / "app.py").mkdir(parents=True)
    done = phoenix_command("new", "shop", cwd=tmp_path)
    assert done.returncode == 1 and done.stderr == "phoenix: cannot write shop/app.py: Is a directory\n"


def test_an_app_can_make_the_next_one(made: Path) -> None:
    done = run("phoenix.py", "new", "next", "../next", cwd=made)
    assert done.returncode == 0 and files_below(made.parent / "next") == STRUCTURE


@pytest.mark.skipif(os.name == "nt", reason="needs exec and signals")
def test_its_first_page_looks_as_it_should(
    new_app: Path, kind: str, start_in: Callable[..., StartedServer], page: Any
) -> None:
    server = start_in(new_app, "app.py")
    failed: list[str] = []
    page.on("requestfailed", lambda request: failed.append(request.url))
    page.on("response", lambda response: failed.append(response.url) if response.status >= 400 else None)
    page.goto(server.url, wait_until="networkidle")
    title = page.locator("h1")
    assert title.inner_text() == "Welcome to Phoenix!" and page.title() == "Hello Phoenix!"
    assert float(title.evaluate("e => parseFloat(getComputedStyle(e).fontSize)")) > 40  # the stylesheet applies
    if kind == "structured":
        assert page.evaluate("[...document.images].every(image => image.naturalWidth > 0)")
        assert failed == []
    page.set_viewport_size({"width": 320, "height": 640})
    assert page.evaluate("document.documentElement.scrollWidth") <= 320


@pytest.mark.skipif(os.name == "nt", reason="needs exec and signals")
def test_its_pages_can_be_changed_while_it_runs(made: Path, start_in: Callable[..., StartedServer]) -> None:
    server = start_in(made, "app.py")
    assert "Welcome to Phoenix!" in server.request("/").text
    (made / "web/templates/page/index.html.eex").write_text("<h1><%= title() + ' Again' %></h1>")
    assert "<h1>Hello Phoenix! Again</h1>" in server.request("/").text
