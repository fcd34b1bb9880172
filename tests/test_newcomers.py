"""What newcomers get wrong, and what they are told: the blog of the examples, each time with one mistake in it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import EXAMPLES, ROOT

import phoenix
from phoenix import Conn, Controller, Params, plug, resources

# Starts the blog of the current folder in this process, and asks for a page; prints the error, or the page.
DRIVER = """
import logging, sys, traceback
logging.disable()
try:
    import blog
    conn = blog.app.test(raise_errors=True).get(sys.argv[1])
    print(conn.status, conn.resp_body)
except Exception as error:
    print(type(error).__name__, error)
    for line in traceback.format_exception(error):
        print(line)
"""

NEW_SESSION = "class SessionController(Controller):\n    def new(self, conn: Conn, params: Params) -> Conn:\n        "

MISTAKES = [
    # what it is, what stands there, what the newcomer wrote, the page, what must be in the answer
    ("a pipeline that is not there", 'pipe_through("browser")', 'pipe_through("browsr")', "/",
     ["DefinitionError", "blog.py:", "unknown pipeline 'browsr'. Did you mean 'browser'?"]),
    ("a plug for an action that is not there", '"create", "edit", "update"', '"craete", "edit", "update"', "/",
     ["DefinitionError", "blog.py:", "'craete'", "Did you mean 'create'?"]),
    ("an action that is not there", 'PostController, "image")', 'PostController, "imag")', "/",
     ["DefinitionError", "blog.py:", "PostController has no action 'imag'. Did you mean 'image'?"]),
    ("a plug that is called, not plugged", "plug(fetch_user)", "plug(fetch_user, True)", "/",
     ["DefinitionError", "blog.py:", "fetch_user"]),
    ("a plug without return", "    return conn.assign(\"user\"", "    conn.assign(\"user\"", "/",
     ["PlugError", "fetch_user returned None", "`return conn`"]),
    ("an action without return", f"{NEW_SESSION}return conn.", f"{NEW_SESSION}conn.", "/session/new",
     ["SessionController.new", "ends without `return`"]),
    ("a block without end", "            <% end %>\n          </header>", "          </header>", "/",
     ["TemplateSyntaxError", "blog.py:", "<% end %>"]),
    ("an assign without its @", "<%= if @user: %>\n              <%= link(\"W", "<%= if user: %>\n              <%= link(\"W", "/",
     ["NameError", "Did you mean '@user'?"]),
    ("a path helper with a typing error", 'home_path(@conn, "index")', 'hoem_path(@conn, "index")', "/",
     ["hoem_path", "Did you mean 'home_path'?"]),
    ("a path of an action that is not there", 'post_path(@conn, "show", post["id"])', 'post_path(@conn, "shwo", post["id"])', "/",
     ["ArgumentError", "no action 'shwo'", 'post_path(conn_or_endpoint, "show", id, **query)']),
    ("a path without its id", 'post_path(@conn, "show", post["id"])', 'post_path(@conn, "show")', "/",
     ["ArgumentError", 'post_path(conn_or_endpoint, "show", id, **query)']),
    ("a template that is not there", 'conn.render("index"', 'conn.render("idnex"', "/",
     ["TemplateNotFoundError", '"idnex.html"', "Did you mean 'index.html'?", "* index.html"]),
    ("a view of another name", "class PostView(", "class PostsView(", "/",
     ["no PostView was found", "class PostView(View)"]),
    ("no secret", ", secret_key_base=set_up()", "", "/",
     ["SecretError", "blog.py:", "secret_key_base is not set", "secrets.token_urlsafe"]),
    ("a short secret", "secret_key_base=set_up()", 'secret_key_base="secret"', "/",
     ["SecretError", "expected at least 64 bytes"]),
    ("a session that was not fetched", "        plug(Conn.fetch_session)\n", "", "/",
     ["fetch_session"]),
    ("an option that is not there", "secret_key_base=set_up()", "secret_key=set_up()", "/",
     ["ConfigError", "'secret_key'", "Did you mean 'secret_key_base'?"]),
]  # fmt: skip


def run_blog(source: str, folder: Path, path: str) -> str:
    (folder / "blog.py").write_text(source)
    done = subprocess.run(
        [sys.executable, "-c", DRIVER, path], cwd=folder, capture_output=True, text=True, timeout=60, check=False,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(folder), str(ROOT)]), "BLOG_DATA": str(folder / "data"), "PHOENIX_ENV": "dev"},
    )  # fmt: skip
    return done.stdout + done.stderr


@pytest.mark.parametrize("right, wrong, path, told", [mistake[1:] for mistake in MISTAKES], ids=[mistake[0] for mistake in MISTAKES])
def test_a_mistake_is_named_with_its_mend(right: str, wrong: str, path: str, told: list[str], tmp_path: Path) -> None:
    source = (EXAMPLES / "blog.py").read_text()
    assert right in source, "the blog has changed: adapt this test"
    said = run_blog(source.replace(right, wrong, 1), tmp_path, path)
    for words in told:
        assert words in said


def test_a_file_in_a_form_that_sends_none_is_an_error(tmp_path: Path) -> None:
    source = (EXAMPLES / "blog.py").read_text().replace(", multipart=True", "").replace('.only("new", ', ".only(")
    assert "write form_for(..., multipart=True)" in run_blog(source, tmp_path, "/posts/new")


def test_without_a_mistake_the_page_is_there(tmp_path: Path) -> None:
    assert run_blog((EXAMPLES / "blog.py").read_text(), tmp_path, "/").startswith("200 ")


def test_the_traceback_of_a_template_shows_the_line_of_the_template(tmp_path: Path) -> None:
    source = (EXAMPLES / "blog.py").read_text()
    said = run_blog(source.replace('<%= day(post) %>', '<%= day(posts) %>', 1), tmp_path, "/")
    number = next(at for at, line in enumerate(source.splitlines(), 1) if "<%= day(post) %>" in line)
    assert f'blog.py", line {number}, in ' in said
    assert "<%= day(posts) %>" in said


@pytest.mark.parametrize("written", ["delete", "destroy"])
@pytest.mark.parametrize("guarded", ["delete", "destroy"])
def test_a_plug_guards_an_action_under_both_of_its_names(written: str, guarded: str) -> None:
    def refuse(conn: Conn) -> Conn:
        return conn.put_status(401).text("no").halt()

    def answer(self: Controller, conn: Conn, params: Params) -> Conn:
        return conn.text("done")

    class ThingController(Controller):
        plug(refuse).only(guarded)
        show = answer
        locals()[written] = answer

    class Router(phoenix.Router):
        resources("/things", ThingController, only=["show", "delete"])

    client = phoenix.Endpoint(Router).test()
    assert client.get("/things/1").status == 200
    assert client.delete("/things/1").status == 401
