"""A copy in somebody's project, and the examples, under the strictest settings of type checkers and linters."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent

WRONG = '''
import phoenix
from phoenix import get, plug, scope

def locale(conn: phoenix.Conn, default: str = "en") -> phoenix.Conn:
    return conn.put_status("teapot", 3)

class Router(phoenix.Router):
    with phoenix.pipeline("browser"):
        plug(locale, defualt="en")
    get(7, locale)

app = phoenix.Endpoint(Router, secret_key_bse="x" * 64, threads="many")
'''


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project with a copy of phoenix.py, all examples, and strict settings."""
    folder = tmp_path_factory.mktemp("project")
    shutil.copy(ROOT / "phoenix.py", folder)
    shutil.copytree(ROOT / "examples", folder / "examples", ignore=shutil.ignore_patterns("*.db", "__pycache__"))
    (folder / "pyrightconfig.json").write_text('{"typeCheckingMode": "strict"}')
    (folder / "wrong.py").write_text(WRONG)
    return folder


def check(folder: Path, *command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", *command], cwd=folder, capture_output=True, text=True, timeout=300, check=False
    )


def test_mypy_strict_finds_nothing_in_the_file_and_the_examples(project: Path) -> None:
    done = check(project, "mypy", "--strict", "phoenix.py", *map(str, sorted(project.glob("examples/*.py"))))
    assert "Success: no issues found" in done.stdout, done.stdout


def test_pyright_strict_finds_nothing_in_the_file_and_the_examples(project: Path) -> None:
    done = check(project, "pyright", "phoenix.py", "examples")
    assert "0 errors, 0 warnings" in done.stdout, done.stdout


def test_ruff_finds_nothing_in_the_file_and_the_examples(project: Path) -> None:
    done = check(project, "ruff", "check", "--isolated", "phoenix.py", "examples")
    assert "All checks passed" in done.stdout, done.stdout


def test_ruff_finds_no_mistakes_behind_the_comment_that_calls_it_off() -> None:
    done = check(ROOT, "ruff", "check", "--isolated", "--ignore-noqa", "--select", "E4,E7,E9,F", "phoenix.py")
    assert "All checks passed" in done.stdout, done.stdout


@pytest.mark.parametrize("checker", [("mypy", "--strict"), ("pyright",)], ids=["mypy", "pyright"])
def test_type_checkers_find_the_mistakes_of_an_app(project: Path, checker: tuple[str, ...]) -> None:
    done = check(project, *checker, "wrong.py")
    for line, what in ((6, "put_status"), (10, "defualt"), (11, "get"), (13, "secret_key_bse")):
        assert f"wrong.py:{line}:" in done.stdout, f"{what} was not found\n{done.stdout}"
