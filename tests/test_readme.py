"""The README: every block of Python runs, and every command works."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text("utf-8")
BLOCKS = re.findall(r"^```(\w*)\n(.*?)^```", README, re.MULTILINE | re.DOTALL)
PYTHON = [code for language, code in BLOCKS if language == "python"]
COMMANDS = [
    line.partition("#")[0].strip()
    for language, code in BLOCKS
    if language == "sh"
    for line in code.splitlines()
    if line.strip()
]


def run(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.run([sys.executable, *arguments], cwd=cwd, env=environment, capture_output=True, text=True, timeout=60)


@pytest.mark.parametrize("code", PYTHON, ids=lambda code: code.strip().splitlines()[-1][:40])
def test_a_python_block_of_the_readme_runs_as_it_stands(code: str, tmp_path: Path) -> None:
    (tmp_path / "readme_app.py").write_text(code)
    done = run("-c", "import readme_app", cwd=tmp_path)
    assert done.returncode == 0, done.stderr


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


def test_the_test_command_of_the_readme_is_what_ci_runs() -> None:
    assert "bash tests/run" in COMMANDS
    assert "exec bash tests/run" in (ROOT / ".ci" / "run").read_text("utf-8")


def test_every_option_of_the_endpoint_stands_in_the_readme() -> None:
    import phoenix

    rows = [line for line in README.splitlines() if line.startswith("| `")]
    named = set(re.findall(r"`(\w+)`", "".join(row.split("|")[1] for row in rows)))
    assert set(phoenix._ENDPOINT_OPTIONS) <= named


def test_the_chapters_that_the_readme_lists_are_those_of_the_file() -> None:
    chapters = re.findall(r"^# (\d+)\. (.+?)  +depends on:", (ROOT / "phoenix.py").read_text("utf-8"), re.MULTILINE)
    section = README.partition("## How to read the source")[2].partition("\n## ")[0]
    listed = re.findall(r"\| (\d+) \| ([^:(,|]+)", section)
    assert len(listed) == len(chapters)
    for number, title in listed:
        assert any(number == n and t.startswith(title.strip().split(" and ")[0]) for n, t in chapters), (number, title)
