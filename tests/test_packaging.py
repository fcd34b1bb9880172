"""setup.cfg: the metadata, and what pip installs, tried in a fresh environment."""

from __future__ import annotations

import configparser
import os
import re
import shutil
import subprocess
import sys
import venv
import zipfile
from pathlib import Path

import pytest

import phoenix
from conftest import ROOT

SETUP = configparser.ConfigParser()
SETUP.read(ROOT / "setup.cfg", encoding="utf-8")

HELLO = """
import phoenix
from phoenix import get

class Router(phoenix.Router):
    get("/hello", lambda conn, params: conn.text("hello"), as_="hello")

app = phoenix.Endpoint(Router)
"""


def run(*command: str | Path, cwd: Path) -> str:
    """Run a command without anything of this environment that Python would listen to; return what it printed."""
    variables = {
        name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "PHOENIX", "PIP_"))
    }
    done = subprocess.run(
        [str(word) for word in command], cwd=cwd, env=variables, stdin=subprocess.DEVNULL, capture_output=True,
        text=True, timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, f"{command}: {done.stdout}{done.stderr}"
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel that the repository builds, with the setuptools that is here: nothing is fetched."""
    pytest.importorskip("setuptools.command.bdist_wheel", reason='needs setuptools: pip install "setuptools >= 70.1"')
    source = tmp_path_factory.mktemp("source")
    for name in ("phoenix.py", "phoenix.js", "setup.cfg", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    shutil.copytree(ROOT / "tests" / "stubs", source / "tests" / "stubs", symlinks=True)
    return build_wheel(source)


def build_wheel(source: Path) -> Path:
    build = "import setuptools.build_meta as backend; print(backend.build_wheel('.'))"
    return source / run(sys.executable, "-c", build, cwd=source).splitlines()[-1]


@pytest.fixture(scope="module")
def environment(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A fresh environment with the wheel in it; the folder of its programs."""
    folder = tmp_path_factory.mktemp("environment")
    venv.create(folder, with_pip=True)
    programs = folder / ("Scripts" if os.name == "nt" else "bin")
    run(
        programs / "python",
        "-m",
        "pip",
        "install",
        "-q",
        "--no-index",
        "--disable-pip-version-check",
        wheel,
        cwd=folder,
    )
    return programs


def test_the_version_is_written_down_once() -> None:
    assert SETUP["metadata"]["version"] == "attr: phoenix.__version__"
    assert re.fullmatch(r"\d+\.\d+\.\d+", phoenix.__version__)


def test_nothing_is_required_but_python() -> None:
    assert "install_requires" not in SETUP["options"]
    assert SETUP["options"]["python_requires"] == ">=3.10"


def test_the_newest_python_of_the_classifiers_is_not_older_than_the_one_that_runs_this() -> None:
    listed = re.findall(r":: 3\.(\d+)$", SETUP["metadata"]["classifiers"], re.MULTILINE)
    assert str(sys.version_info.minor) in listed


def test_the_wheel_holds_the_module_its_types_and_the_client_and_nothing_else(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = [name for name in archive.namelist() if ".dist-info/" not in name]
        metadata = next(
            archive.read(name).decode() for name in archive.namelist() if name.endswith(".dist-info/METADATA")
        )
        for name in ("phoenix.py", "phoenix-stubs/__init__.pyi"):
            assert archive.read(name) == (wheel.parent / "phoenix.py").read_bytes()
    assert [re.sub(r"^phoenix[^/]*\.data/", "", name) for name in names] == [
        "phoenix.py",
        "phoenix-stubs/__init__.pyi",
        "data/share/phoenix/phoenix.js",
    ]
    assert f"Version: {phoenix.__version__}\n" in metadata and "Requires-Dist" not in metadata
    assert "Description-Content-Type: text/markdown" in metadata


def test_a_wheel_can_be_built_from_the_source_archive(wheel: Path, tmp_path: Path) -> None:
    build = "import setuptools.build_meta as backend; print(backend.build_sdist('.'))"
    built = run(sys.executable, "-c", build, cwd=wheel.parent).splitlines()[-1]
    listed = run(sys.executable, "-m", "tarfile", "-l", built, cwd=wheel.parent)
    for name in ("phoenix.py", "phoenix.js", "setup.cfg", "pyproject.toml", "README.md", "LICENSE"):
        assert re.search(rf"/{re.escape(name)}\b", listed), name
    shutil.unpack_archive(wheel.parent / built, tmp_path)
    with zipfile.ZipFile(build_wheel(next(tmp_path.iterdir()))) as again, zipfile.ZipFile(wheel) as archive:
        assert again.namelist() == archive.namelist()
        assert again.read("phoenix-stubs/__init__.pyi") == archive.read("phoenix.py")


TYPED = """
import phoenix
from phoenix import Conn, Controller, Params, get

class PageController(Controller):
    def show(self, conn: Conn, params: Params) -> Conn:
        return conn.put_status(200).text(params["id"])

class Router(phoenix.Router):
    get("/:id", PageController, "show")

app = phoenix.Endpoint(Router, threads=4)
"""


@pytest.mark.parametrize("checker", ["mypy", "pyright"])
def test_type_checkers_read_the_types_of_the_installed_module(environment: Path, tmp_path: Path, checker: str) -> None:
    there: tuple[str | Path, ...] = ("--python-executable", environment / "python", "--strict")
    if checker == "pyright":
        there = ("--pythonpath", environment / "python")
        (tmp_path / "pyrightconfig.json").write_text('{"typeCheckingMode": "strict"}')
    for name, text in (("good.py", TYPED), ("bad.py", TYPED.replace("threads=4", "thread=4"))):
        (tmp_path / name).write_text(text)
    run(sys.executable, "-m", checker, *there, "good.py", cwd=tmp_path)
    done = subprocess.run([sys.executable, "-m", checker, *there, "bad.py"], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 1 and '"thread"' in done.stdout


def test_the_command_is_installed(environment: Path, tmp_path: Path) -> None:
    (tmp_path / "app.py").write_text(HELLO)
    expected = "hello_path  GET  /hello  <lambda>/2\n"
    assert run(environment / "phoenix", "routes", "app:Router", cwd=tmp_path) == expected
    assert run(environment / "python", "-m", "phoenix", "routes", cwd=tmp_path) == expected
    assert run(environment / "phoenix", "--version", cwd=tmp_path) == f"phoenix {phoenix.__version__}\n"


def test_the_command_names_itself_in_its_answers(environment: Path, tmp_path: Path) -> None:
    done = subprocess.run([environment / "phoenix", "rotes"], cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert done.returncode == 2 and "\n    phoenix routes\n" in done.stderr


def test_an_installed_command_makes_an_app_that_needs_no_installation(
    environment: Path, wheel: Path, tmp_path: Path
) -> None:
    run(environment / "phoenix", "new", "shop", cwd=tmp_path)
    shop = tmp_path / "shop"
    assert (shop / "priv/static/js/phoenix.js").read_bytes() == (wheel.parent / "phoenix.js").read_bytes()
    assert (shop / "phoenix.py").read_bytes() == (wheel.parent / "phoenix.py").read_bytes()
    run(sys.executable, "-S", "-m", "unittest", cwd=shop)


def test_the_installed_client_is_found(environment: Path, wheel: Path, tmp_path: Path) -> None:
    run(environment / "phoenix", "js", "client.js", cwd=tmp_path)
    assert (tmp_path / "client.js").read_bytes() == (wheel.parent / "phoenix.js").read_bytes()


def test_an_installed_endpoint_with_channels_serves_the_client(environment: Path, wheel: Path, tmp_path: Path) -> None:
    mount = 'with phoenix.socket("/ws"):\n        phoenix.channel("rooms", phoenix.Channel)\n'
    (tmp_path / "app.py").write_text(HELLO.replace('get("/hello', f'{mount}    get("/hello'))
    code = "import app; c = app.app.test(); print(len(c.response(c.get('/js/phoenix.js'))))"
    assert int(run(environment / "python", "-c", code, cwd=tmp_path)) == len(
        (wheel.parent / "phoenix.js").read_text("utf-8")
    )


@pytest.mark.parametrize("option", ["--target", "--prefix"])
def test_the_client_is_found_wherever_pip_has_put_it(
    environment: Path, wheel: Path, tmp_path: Path, option: str
) -> None:
    pip: list[str | Path] = [
        environment / "python",
        "-m",
        "pip",
        "install",
        "-q",
        "--no-index",
        "--disable-pip-version-check",
    ]
    run(*pip, "--ignore-installed", option, tmp_path / "there", wheel, cwd=tmp_path)
    found = next((tmp_path / "there").rglob("phoenix.py"))
    code = f"import sys; sys.path.insert(0, {str(found.parent)!r}); import phoenix; phoenix.main(['js', 'client.js'])"
    run(sys.executable, "-S", "-c", code, cwd=tmp_path)
    assert (tmp_path / "client.js").read_bytes() == (wheel.parent / "phoenix.js").read_bytes()


def test_an_app_with_a_copy_of_its_own_uses_that_copy(environment: Path, tmp_path: Path) -> None:
    shutil.copy(ROOT / "phoenix.py", tmp_path)
    (tmp_path / "app.py").write_text(HELLO + "\nprint(phoenix.__file__)\n")
    printed = run(environment / "python", "-m", "phoenix", "routes", cwd=tmp_path)
    assert printed.splitlines()[0] == str(tmp_path / "phoenix.py")
