"""Run the Autobahn test suite against phoenix.py's WebSockets, and sum up what it found.

    python tests/conformance/autobahn.py                                 # sections 1-8 and 10: a few seconds
    python tests/conformance/autobahn.py "9.*"                           # limits and performance
    python tests/conformance/autobahn.py --compress "12.*" "13.*"        # compression: about eight minutes

The suite needs Python 2.7 (PYTHON27, python2.7 on the path, or one of pyenv's) and a C compiler; it is
installed from PyPI into its own virtual environment on first use. Only 127.0.0.1 is ever tested. Exit status
0 means that each case ended strictly OK (or INFORMATIONAL, which has no right answer).
"""

from __future__ import annotations

import argparse
import collections
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

QUICK = ["1.*", "2.*", "3.*", "4.*", "5.*", "6.*", "7.*", "8.*", "10.*"]  # there is no section 8 at present
VIRTUALENV = "virtualenv==16.7.12"
# The suite pins what it imports itself; the rest is what it was proved with.
PACKAGES = """
    autobahntestsuite==25.10.1 autobahn==0.10.9 Twisted==19.10.0 txaio==2.1.0 wsaccel==0.6.6 ujson==2.0.3
    attrs==21.4.0 Automat==22.10.0 cffi==1.15.1 constantly==15.1.0 cryptography==3.3.2 enum34==1.1.10
    hyperlink==21.0.0 idna==2.10 incremental==16.10.1 ipaddress==1.0.23 Jinja2==2.11.3 klein==17.10.0
    linecache2==1.0.0 MarkupSafe==1.1.1 pyasn1==0.5.1 pyasn1-modules==0.3.0 pycparser==2.21 PyHamcrest==1.10.1
    pyOpenSSL==19.1.0 service-identity==18.1.0 setuptools==44.0.0 six==1.16.0 traceback2==1.4.0
    typing==3.10.0.0 unittest2==1.1.0 Werkzeug==1.0.1 zope.interface==4.6.0
""".split()


def find_python27() -> str:
    pyenv = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv"))
    found = [
        os.environ.get("PYTHON27"),
        *map(str, pyenv.glob("versions/2.7.*/bin/python")),
        shutil.which("python2.7"),
    ]
    for python in filter(None, found):
        probe = subprocess.run(
            [python, "-c", "import ssl, sys; print(sys.version_info[:2])"], capture_output=True
        )
        if probe.stdout.strip() == b"(2, 7)":
            return python
    raise SystemExit("no Python 2.7 found: set PYTHON27 to one, or `pyenv install 2.7.18`")


def install(venv: Path) -> Path:
    """Make the virtual environment unless it is there; return its wstest."""
    wstest = venv / "bin" / "wstest"
    if (venv / ".complete").exists():
        return wstest
    python = find_python27()
    shutil.rmtree(venv, ignore_errors=True)
    quiet = dict(os.environ, PYTHONWARNINGS="ignore", PIP_DISABLE_PIP_VERSION_CHECK="1")
    with tempfile.TemporaryDirectory() as bootstrap:
        subprocess.run(
            [python, "-m", "pip", "install", "-q", "--target", bootstrap, VIRTUALENV], check=True, env=quiet
        )
        environment = dict(quiet, PYTHONPATH=bootstrap)
        subprocess.run([python, "-m", "virtualenv", "-q", str(venv)], check=True, env=environment)
    subprocess.run([venv / "bin" / "python", "-m", "pip", "install", "-q", *PACKAGES], check=True, env=quiet)
    (venv / ".complete").touch()
    return wstest


def run(
    wstest: Path, port: int, cases: list[str], outdir: Path, timeout: float
) -> dict[str, dict[str, object]]:
    """Let the suite's fuzzing client try *cases* on 127.0.0.1:*port*; return its verdict on each."""
    shutil.rmtree(outdir, ignore_errors=True)
    outdir.mkdir(parents=True)
    server = {"agent": "server", "url": f"ws://127.0.0.1:{port}"}
    spec = {"outdir": str(outdir), "servers": [server], "cases": cases, "exclude-cases": []}
    (outdir / "spec.json").write_text(json.dumps({**spec, "exclude-agent-cases": {}}))
    log = outdir / "wstest.log"
    with log.open("wb") as file:
        command = [str(wstest), "-m", "fuzzingclient", "-s", str(outdir / "spec.json")]
        # Its own directory, since wstest leaves files where it runs.
        subprocess.run(
            command, stdout=file, stderr=subprocess.STDOUT, timeout=timeout, check=True, cwd=outdir
        )
    started = re.findall(r"Running test case ID (\S+)", log.read_text("utf-8", "replace"))
    index: dict[str, dict[str, object]] = json.loads((outdir / "index.json").read_text())["server"]
    for case in started:
        index.setdefault(case, {"behavior": "MISSING", "behaviorClose": "MISSING"})
    return index


def summarise(index: dict[str, dict[str, object]]) -> bool:
    """Print the verdicts per section and every case that is not strictly OK; return whether all are well."""
    sections: dict[int, collections.Counter[str]] = collections.defaultdict(collections.Counter)
    well = bool(index)
    for case in sorted(index, key=lambda case: [int(part) for part in case.split(".")]):
        verdict, closing = str(index[case]["behavior"]), str(index[case]["behaviorClose"])
        sections[int(case.split(".")[0])][verdict if verdict != "OK" else closing] += 1
        if (verdict, closing) != ("OK", "OK"):
            print(f"  {case}: {verdict}, closing {closing}")
            well = well and {verdict, closing} <= {"OK", "INFORMATIONAL"}
    for section, verdicts in sorted(sections.items()):
        print(
            f"section {section:2}: "
            + ", ".join(f"{count} {verdict}" for verdict, count in verdicts.most_common())
        )
    total: collections.Counter[str] = sum(sections.values(), collections.Counter())
    print(
        f"all {len(index)} cases: "
        + ", ".join(f"{count} {verdict}" for verdict, count in total.most_common())
    )
    return well


def wait_for(port: int, seconds: float = 10) -> None:
    deadline = time.monotonic() + seconds
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
            return
        except OSError:
            if time.monotonic() > deadline:
                raise SystemExit(
                    f"nothing listens on 127.0.0.1:{port}: the echo did not start"
                ) from None
            time.sleep(0.05)


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "cases", nargs="*", default=QUICK, help="such as 6.* or 12.1.3; sections 1 to 8 and 10 if none"
    )
    parser.add_argument("--port", type=int, default=9001)
    parser.add_argument("--compress", action="store_true", help="agree to permessage-deflate")
    parser.add_argument("--venv", type=Path, default=Path(tempfile.gettempdir()) / "autobahn-venv")
    parser.add_argument("--outdir", type=Path, default=Path(tempfile.gettempdir()) / "autobahn-report")
    parser.add_argument("--timeout", type=float, default=3600, help="seconds for the whole run")
    options = parser.parse_args()
    wstest = install(options.venv.absolute())
    command = [sys.executable, str(Path(__file__).with_name("echo_app.py")), *(["--compress"] if options.compress else [])]
    server = subprocess.Popen(command, env={**os.environ, "PORT": str(options.port)})
    try:
        wait_for(options.port)
        index = run(wstest, options.port, options.cases, options.outdir.absolute(), options.timeout)
    finally:
        server.terminate()
        server.wait()
    return 0 if summarise(index) else 1


if __name__ == "__main__":
    sys.exit(main())
