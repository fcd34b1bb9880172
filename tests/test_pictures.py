"""The pictures of the README, made anew with KEEP_PICTURES=1: what they show must still be there."""

from __future__ import annotations

import html
import os
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable
from pathlib import Path
from typing import Any

from conftest import EXAMPLES, StartedServer

ROOT = EXAMPLES.parent
BROKEN = '''
import sys
sys.path.insert(0, {root!r})
import phoenix
from phoenix import Controller, View, get, template

class PageController(Controller):
    def show(self, conn, params):
        return conn.render("show.html", title="Tea", price=3)

class PageView(View):
    template("show.html.eex", """
        <h1><%= @title %></h1>
        <p>
          costs <%= @price + " euros" %>
        </p>""")

class Router(phoenix.Router):
    get("/teas/:id", PageController, "show")

phoenix.Endpoint(Router).run()
'''


def keep(picture: bytes, name: str) -> None:
    kept = EXAMPLES / name
    if os.environ.get("KEEP_PICTURES"):
        kept.write_bytes(picture)
    assert kept.read_bytes()[:8] == picture[:8] == b"\x89PNG\r\n\x1a\n"


def test_the_debug_page_shows_the_line_of_the_template(
    start: Callable[..., StartedServer], page: Any, tmp_path: Path
) -> None:
    app = tmp_path / "teas.py"
    app.write_text(BROKEN.format(root=str(ROOT)))
    page.set_viewport_size({"width": 1000, "height": 640})
    inside = f"import os, runpy; os.chdir({str(tmp_path)!r}); runpy.run_path({str(app)!r}, run_name='__main__')"
    page.goto(start("-c", inside).url + "/teas/7")
    assert "costs <%= @price + \" euros\" %>" in page.inner_text("body")
    assert "TypeError" in page.title()
    keep(page.screenshot(), "debug.png")


def test_the_routes_of_the_blog_are_printed_as_in_the_picture(page: Any) -> None:
    done = subprocess.run(
        [sys.executable, "phoenix.py", "routes", "examples/blog.py"], cwd=ROOT, capture_output=True, text=True, timeout=60
    )
    assert "PostController.index" in done.stdout, done.stderr
    page.set_viewport_size({"width": 820, "height": 420})
    page.set_content(
        "<body style='margin: 0; background: #22252b; color: #dde'><pre style='padding: 16px; font: 13px/1.45 monospace'>"
        f"$ python phoenix.py routes examples/blog.py\n{html.escape(done.stdout)}"
    )
    keep(page.screenshot(), "routes.png")


def test_the_picture_of_a_requests_life_is_a_picture_that_names_the_chapters() -> None:
    words = "".join(ElementTree.parse(EXAMPLES / "request.svg").getroot().itertext())
    for chapter in ("Server", "HTTP", "Endpoint", "Router", "Controller", "View", "WebSocket", "Channel", "PubSub"):
        assert chapter in words
