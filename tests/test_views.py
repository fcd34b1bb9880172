"""Chapter 7, first half: a view turns a name and values into a body."""

from __future__ import annotations

import gc
import linecache
import logging
import os
import sys
import traceback
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from textwrap import dedent
from types import SimpleNamespace
from typing import Any

import pytest

import phoenix
from phoenix import (
    ArgumentError,
    Conn,
    Controller,
    DefinitionError,
    EExEngine,
    Endpoint,
    PhoenixError,
    Router,
    Safe,
    TemplateNotFoundError,
    TemplateSyntaxError,
    View,
    get,
    plug,
    post,
    raw,
    render,
    render_existing,
    render_many,
    render_one,
    render_to_string,
    resources,
    template,
)

GREETING = "Good day"  # a global of this module, for templates to read


def exclaim(text: str) -> str:
    """A function of this module, for templates to call."""
    return text + "!"


@pytest.fixture(autouse=True)
def no_views_or_engines_are_left_behind() -> Iterator[None]:
    engines = View.engines
    yield
    View.use_engines({**dict.fromkeys(View.engines), **engines})
    gc.collect()


def app(router: Any, **options: Any) -> Endpoint:
    return Endpoint(router, **{"log": False, "static": False, "env": "test", "secret_key_base": "s" * 64, **options})


def write(folder: Path, files: Mapping[str, str]) -> None:
    for name, source in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(source, "utf-8")


def router_with(shown: type[View]) -> type[Router]:
    """Return a router to an action that renders with the view *shown*."""

    class ShownController(Controller):
        view = shown

        def show(self, conn: Conn, params: Any) -> Conn:
            return conn.render("show.html")

    class ShownRouter(Router):
        get("/", ShownController, "show")

    return ShownRouter


def line_of(text: str) -> int:
    """Return the number of the one line of this file that holds *text* and is not this test's own."""
    lines = Path(__file__).read_text("utf-8").split("\n")
    found = [number for number, line in enumerate(lines, 1) if text in line and "line_of(" not in line]
    assert len(found) == 1, found
    return found[0]


# --- Templates in the class body and in files ---------------------------------------------


class PageView(View):
    template("show.html.eex", "<h1><%= @title %></h1>")
    template("show.text.eex", "Title: <%= @title %>")
    template("shout.html.eex", "<%= shout(@title) %>, <%= exclaim(GREETING) %>")

    def shout(self, text: str) -> str:
        return text.upper()


def test_a_template_of_the_class_body_is_rendered_by_its_name_and_format() -> None:
    assert render(PageView, "show.html", {"title": "<Hi>"}) == "<h1>&lt;Hi&gt;</h1>"
    assert render(PageView, "show.text", title="<Hi>") == "Title: <Hi>"


def test_a_view_renders_outside_of_a_request_with_a_mapping_or_with_keywords() -> None:
    assert render(PageView, "show.html", {"title": "a"}, title="b") == "<h1>b</h1>"
    assert render(PageView(), "show.html", {"title": "a"}) == "<h1>a</h1>"
    assert PageView.instance().render("show.html", {"title": "a"}) == "<h1>a</h1>"


def test_html_is_safe_and_other_formats_are_plain() -> None:
    assert isinstance(render(PageView, "show.html", title="x"), Safe)
    assert not isinstance(render(PageView, "show.text", title="x"), Safe)


@pytest.mark.parametrize("name", [None, 7, b"show.html", ["show.html"]])
def test_a_name_that_is_no_text_is_refused(name: Any) -> None:
    with pytest.raises(ArgumentError, match="render expects template to be a string, got: "):
        render(PageView, name)


@pytest.mark.parametrize("view", [None, "PageView", object, object()])
def test_what_is_no_view_is_refused(view: Any) -> None:
    with pytest.raises(ArgumentError, match="expected a View class, got: "):
        render(view, "show.html")


def test_files_of_the_folder_named_like_the_view_are_its_templates(tmp_path: Path) -> None:
    write(tmp_path, {
        "web/templates/user/show.html.eex": "<p><%= @name %></p>",
        "web/templates/user/show.text.eex": "<%= @name %>",
        "web/templates/user/data.json.exs": '{"name": @name, "more": [1, None]}',
        "web/templates/user/notes.txt": "not a template",
        "web/templates/user/readme.html.unknown": "<%= broken",
        "web/templates/user/noformat.eex": "<%= broken",
        "web/templates/user/.hidden.html.eex": "<%= broken",
        "web/templates/user/deeper/inner.html.eex": "<%= broken",
    })  # fmt: skip

    class UserView(View):
        root = str(tmp_path / "web/templates")

    assert sorted(UserView.templates()) == ["data.json", "show.html", "show.text"]
    assert UserView.template_directory() == str(tmp_path / "web/templates/user")
    assert render(UserView, "show.html", name="A&B") == "<p>A&amp;B</p>"
    assert render(UserView, "show.text", name="A&B") == "A&B"
    assert render(UserView, "data.json", name="Ann") == {"name": "Ann", "more": [1, None]}
    assert render_to_string(UserView, "data.json", name="Ann") == '{"name":"Ann","more":[1,null]}'


def test_the_folder_can_be_chosen_and_a_view_called_view_has_the_root_itself(tmp_path: Path) -> None:
    write(tmp_path, {"t/own.html.eex": "root", "t/people/list.html.eex": "people"})

    class UserView(View):
        root, path = str(tmp_path / "t"), "people"

    def base() -> type[View]:
        class View(phoenix.View):
            root = str(tmp_path / "t")

        return View

    assert list(UserView.templates()) == ["list.html"]
    assert list(base().templates()) == ["own.html"]


def test_a_view_without_its_folder_has_no_templates(tmp_path: Path) -> None:
    class LonelyView(View):
        root = str(tmp_path)

    assert (LonelyView.template_directory(), dict(LonelyView.templates())) == (None, {})


def test_the_root_is_looked_for_beside_the_module_above_it_and_in_the_working_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = "import phoenix\nclass PageView(phoenix.View):\n    root = 'web/templates'\n"
    write(tmp_path, {
        "app1/web/templates/page/x.html.eex": "beside", "app1/beside_view.py": source,
        "app1/web/views/deep/above_view.py": source,
        "cwd/web/templates/page/x.html.eex": "working directory", "elsewhere/cwd_view.py": source,
    })  # fmt: skip
    monkeypatch.chdir(tmp_path / "cwd")
    for folder, module, expected in (
        ("app1", "beside_view", "beside"), ("app1/web/views/deep", "above_view", "beside"), ("elsewhere", "cwd_view", "working directory"),
    ):  # fmt: skip
        monkeypatch.syspath_prepend(str(tmp_path / folder))
        view = __import__(module).PageView
        assert render(view, "x.html") == expected


def test_the_packages_below_views_are_folders_of_the_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path, {
        "spaced/views/admin/user_view.py": "import phoenix\nclass UserView(phoenix.View):\n    root = 'templates'\n",
        "spaced/views/user_view.py": "import phoenix\nclass UserView(phoenix.View):\n    root = 'templates'\n",
        "spaced/templates/admin/user/x.html.eex": "admin", "spaced/templates/user/x.html.eex": "user",
    })  # fmt: skip
    monkeypatch.syspath_prepend(str(tmp_path))
    from importlib import import_module

    assert render(import_module("spaced.views.admin.user_view").UserView, "x.html") == "admin"
    assert render(import_module("spaced.views.user_view").UserView, "x.html") == "user"


def test_all_is_compiled_once_and_nothing_is_read_when_rendering(tmp_path: Path) -> None:
    write(tmp_path, {"user/show.html.eex": "before"})

    class UserView(View):
        root = str(tmp_path)

    assert render(UserView, "show.html") == "before"
    write(tmp_path, {"user/show.html.eex": "after"})
    os.remove(tmp_path / "user/show.html.eex")
    assert render(UserView, "show.html") == "before"


def test_refresh_compiles_what_was_changed_added_or_removed(tmp_path: Path) -> None:
    write(tmp_path, {"user/a.html.eex": "a1", "user/b.html.eex": "b1"})

    class UserView(View):
        root = str(tmp_path)
        template("inline.html.eex", "stays")

    compiled = UserView.templates()
    UserView.refresh()
    assert UserView.templates() is compiled
    write(tmp_path, {"user/a.html.eex": "a2, longer", "user/c.html.eex": "c1"})
    os.utime(tmp_path / "user/a.html.eex", (1, 1))
    os.remove(tmp_path / "user/b.html.eex")
    View.refresh()
    assert {name: render(UserView, name) for name in UserView.templates()} == {
        "a.html": "a2, longer", "c.html": "c1", "inline.html": "stays",
    }  # fmt: skip


@pytest.mark.parametrize("env, second", [("dev", "two"), ("prod", "one")])
def test_a_changed_file_shows_at_the_next_request_in_dev_only(tmp_path: Path, env: str, second: str) -> None:
    write(tmp_path, {"page/show.html.eex": "<%= render(@other, 'row.html') %>", "row/row.html.eex": "one"})

    class RowView(View):
        root = str(tmp_path)

    class ShowView(View):
        root, path = str(tmp_path), "page"

    class ChangingRouter(Router):
        get("/", lambda conn, params: conn.put_view(ShowView).render("show.html", other=RowView))

    client = app(ChangingRouter, env=env).test(raise_errors=True)
    assert client.get("/").resp_body == "one"
    write(tmp_path, {"row/row.html.eex": "two"})
    os.utime(tmp_path / "row/row.html.eex", (1, 1))
    assert client.get("/").resp_body == second


def test_a_mistake_in_a_file_is_found_when_the_endpoint_is_made(tmp_path: Path) -> None:
    write(tmp_path, {"broken/show.html.eex": "<p>\n<%= if %>\n</p>"})

    class BrokenView(View):
        root = str(tmp_path)

    with pytest.raises(TemplateSyntaxError) as caught:
        app(router_with(BrokenView))
    assert str(caught.value).startswith(f"{tmp_path}/broken/show.html.eex:2:")
    app(Router)  # another app, which cannot render it


def test_the_views_that_a_view_may_render_are_compiled_with_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from importlib import import_module

    monkeypatch.syspath_prepend(str(tmp_path))
    write(tmp_path, {
        "bookshop/web.py": """
            import phoenix
            from bookshop.pages import PageView

            class PageController(phoenix.Controller):
                def show(self, conn, params):
                    return conn.render("show.html")

            class Router(phoenix.Router):
                phoenix.get("/", PageController, "show")
            """,
        "bookshop/pages.py": """
            from phoenix import View, template
            from bookshop.rows import RowView

            class PageView(View):
                template("show.html.eex", "<%= render(RowView, 'row.html') %>")
            """,
        "bookshop/rows.py": """
            import phoenix

            class RowView(phoenix.View):
                root = "templates"
            """,
        "bookshop/templates/row/row.html.eex": "<% end %>",
        "bookshop/error_view.py": """
            import phoenix

            class ErrorView(phoenix.View):
                root = "templates"
            """,
        "bookshop/templates/error/404.html.eex": "Nothing there",
    })  # fmt: skip
    for file in (tmp_path / "bookshop").glob("*.py"):
        file.write_text(dedent(file.read_text()))
    router = import_module("bookshop.web").Router
    with pytest.raises(TemplateSyntaxError, match=r"row\.html\.eex:1:1: unexpected end"):
        app(router)
    write(tmp_path, {"bookshop/templates/row/row.html.eex": "row", "bookshop/templates/error/404.html.eex": "<% end %>"})
    View.refresh()
    with pytest.raises(TemplateSyntaxError, match=r"404\.html\.eex:1:1: unexpected end"):
        app(router)


def test_a_mistake_in_the_class_body_is_found_when_the_class_is_made_at_its_own_line() -> None:
    with pytest.raises(TemplateSyntaxError) as caught:

        class BrokenView(View):
            template("fine.html.eex", "<p></p>")
            template(
                "show.html.eex",
                """
                <p>
                  <%= 1 + %> <!-- the line with the mistake -->
                </p>
                """,
            )

    line = line_of("<!-- the line with the mistake -->")
    assert (caught.value.file, caught.value.line) == (__file__, line)
    text = linecache.getline(__file__, line)
    assert text.index("<%") < caught.value.column <= text.index("%>") + 1
    assert "^" in caught.value.snippet


def test_a_template_in_the_class_body_is_written_as_it_would_stand_in_a_file() -> None:
    class IndentedView(View):
        template("show.html.eex", """
            <ul>
              <%= for row in @rows: %><li>
                <%= row %>
              </li><% end %>

            </ul>
            """)
        template("as_it_is.html.eex", """<pre>
            kept</pre>""")
        template("blank.text.eex", "\n")
        template("tabs.text.eex", "\n\t\ta\n\t b\n")
        template("show.json.exs", """
            {
              "rows": @rows,
            }
            """)  # fmt: skip

    shown = "<ul>\n  <li>\n    1\n  </li><li>\n    2\n  </li>\n\n</ul>\n"
    assert render(IndentedView, "show.html", rows=[1, 2]) == shown
    assert render(IndentedView, "as_it_is.html") == "<pre>\n            kept</pre>"
    assert render(IndentedView, "blank.text") == ""
    assert render(IndentedView, "tabs.text") == "\ta\n b\n"
    assert render(IndentedView, "show.json", rows=[1]) == {"rows": [1]}


@pytest.mark.parametrize("name", ["first.html", "later.html", "inside.html"])
def test_an_error_in_an_indented_template_points_at_its_place_in_the_file(name: str) -> None:
    class FailingView(View):
        template("first.html.eex", """
            <p><%= 1 / 0 %> first.html</p>
            """)
        template("later.html.eex", """
            <p>
              <b><%= 1 / 0 %></b> later.html</p>""")
        template("inside.html.eex", """
            <p>
              <%
              ä = "ü"
              x = 1 / 0 # inside.html
              %>""")  # fmt: skip

    with pytest.raises(ZeroDivisionError) as caught:
        render(FailingView, name)
    frame = traceback.extract_tb(caught.value.__traceback__)[-1]
    assert frame.lineno is not None
    line = linecache.getline(__file__, frame.lineno)
    assert (frame.filename, name in line) == (__file__, True)
    if sys.version_info >= (3, 11):
        assert line.encode()[frame.colno : frame.end_colno] == b"1 / 0"  # type: ignore[attr-defined]


def test_a_template_file_is_output_byte_for_byte(tmp_path: Path) -> None:
    write(tmp_path, {"user/show.html.eex": ""})
    (tmp_path / "user/show.html.eex").write_text("\n    <p>\n      <b>\n    </p>\n    ")

    class UserView(View):
        root = str(tmp_path)

    assert render(UserView, "show.html") == "\n    <p>\n      <b>\n    </p>\n    "


@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"])
def test_a_template_file_in_another_encoding_is_named_with_the_place(tmp_path: Path, mark: bytes) -> None:
    write(tmp_path, {"user/show.html.eex": ""})
    (tmp_path / "user/show.html.eex").write_bytes(mark + "<p>\r\n  é ".encode() + "ö".encode("latin-1") + b" <b>\r\n")

    class UserView(View):
        root = str(tmp_path)

    with pytest.raises(TemplateSyntaxError) as caught:
        UserView.templates()
    error = caught.value
    assert (error.file, error.line, error.column) == (str(tmp_path / "user/show.html.eex"), 2, 5)
    assert "a template is kept in UTF-8" in str(error)
    assert str(error).endswith("1 | <p>\n2 |   é \ufffd <b>\n  |     ^")


def test_the_mark_at_the_beginning_of_a_template_file_is_not_output(tmp_path: Path) -> None:
    write(tmp_path, {"user/show.html.eex": "\ufeff<p><%= 1 %></p>"})

    class UserView(View):
        root = str(tmp_path)

    assert render(UserView, "show.html") == "<p>1</p>"
    assert phoenix.eex_file(tmp_path / "user/show.html.eex") == "<p>1</p>"


@pytest.mark.parametrize("name", ["show", "show.eex", "showhtml"])
def test_the_name_of_a_template_says_format_and_engine(name: str) -> None:
    with pytest.raises(DefinitionError, match='needs a format and an engine: "show.html.eex"') as caught:

        class WrongView(View):
            template(name, "x")

    assert str(caught.value).startswith(f"{__file__}:")


def test_two_templates_of_one_name_are_a_mistake_in_a_class_body() -> None:
    with pytest.raises(DefinitionError, match=r"test_views.py:\d+: this view has a template 'show.html' already, at .+"):

        class UserView(View):
            template("show.html.eex", "one")
            template("show.text.eex", "text")
            template("show.html.eex", "two")


def test_an_engine_that_nobody_configures_is_reported_by_the_endpoint() -> None:
    class HamlView(View):
        template("show.html.exx", "%h1 title")

    with pytest.raises(DefinitionError, match=r"no template engine for 'show.html.exx'. Did you mean '\w+'\? There are: eex, exs"):
        app(router_with(HamlView))


def test_a_template_that_is_missing_is_missed_at_a_place_that_one_can_go_to(tmp_path: Path) -> None:
    class InlineView(View):  # the place of the missing template
        template("show.html.eex", "x")

    class FileView(View):
        root = "web/templates"

    with pytest.raises(TemplateNotFoundError, match="define a template in its class body, at ") as caught:
        render(InlineView, "shw.html")
    assert f" at {__file__}:{line_of('# the place of the missing template')}. Did you mean 'show.html'?" in str(caught.value)
    with pytest.raises(TemplateNotFoundError, match='define a template at "web/templates/file". No templates were compiled'):
        render(FileView, "show.html")


def test_template_belongs_into_the_body_of_a_view() -> None:
    with pytest.raises(DefinitionError, match=r"`template\(...\)` must be written in the body of a view"):
        template("x.html.eex", "x")


# --- Clauses by hand ----------------------------------------------------------------------


class HandView(View):
    template("show.html.eex", "template")
    template("other.html.eex", "other")

    def render(self, name: str, assigns: dict[str, Any]) -> Any:
        match name:
            case "show.html":
                return f"<b>{assigns['title']}</b>"
            case "show.json":
                return {"title": assigns["title"]}
            case "404.html":
                return "Page not found"
            case "show.text":
                return "text"
            case "via.html":
                return self.render("other.html", assigns)
        return super().render(name, assigns)


@pytest.mark.parametrize(
    "name, expected",
    [
        ("show.html", "<b>Hi</b>"),  # and not the template of that name
        ("show.json", {"title": "Hi"}),
        ("404.html", "Page not found"),
        ("show.text", "text"),
        ("via.html", "other"),
        ("other.html", "other"),
    ],
)
def test_a_clause_by_hand_comes_before_a_template_and_super_asks_the_templates(name: str, expected: Any) -> None:
    assert render(HandView, name, title="Hi") == expected


def test_what_a_clause_returns_for_html_is_html_and_is_not_escaped_again() -> None:
    class OuterView(View):
        template("outer.html.eex", "<%= render(HandView, 'show.html', title='x') %>")

    assert isinstance(render(HandView, "show.html", title="Hi"), Safe)
    assert render(OuterView, "outer.html") == "<b>x</b>"


def test_what_a_clause_returns_for_xml_is_xml_and_is_not_escaped_in_a_feed() -> None:
    class FeedView(View):
        template("feed.atom.eex", "<feed><%= @title %><%= render('entry.atom') %></feed>")

        def render(self, name: str, assigns: dict[str, Any]) -> Any:
            return "<entry/>" if name == "entry.atom" else super().render(name, assigns)

    assert render(FeedView, "feed.atom", title="<&>") == "<feed>&lt;&amp;&gt;<entry/></feed>"


def test_data_becomes_json_when_it_is_encoded() -> None:
    assert render_to_string(HandView, "show.json", title="Hi") == '{"title":"Hi"}'
    assert render_to_string(HandView, "show.html", title="Hi") == "<b>Hi</b>"


def test_encoders_can_be_added_and_taken_away() -> None:
    class CSVView(View):
        encoders = {**View.encoders, "csv": lambda rows: "\n".join(",".join(row) for row in rows), "json": None}  # type: ignore[dict-item]

        def render(self, name: str, assigns: dict[str, Any]) -> Any:
            return [["a", "b"], ["c", "d"]] if name == "rows.csv" else {"a": 1}

    assert render_to_string(CSVView, "rows.csv") == "a,b\nc,d"
    with pytest.raises(ArgumentError, match="rendered 'rows.json' as {'a': 1}, expected text: no encoder"):
        render_to_string(CSVView, "rows.json")
    with pytest.raises(ArgumentError, match="rendered 'rows.html' as {'a': 1}, expected text"):
        render_to_string(CSVView, "rows.html")


def test_a_clause_that_renders_its_own_name_again_is_an_error_and_no_endless_loop() -> None:
    class LoopView(View):
        template("itself.html.eex", "<%= render('itself.html') %>")
        template("ping.html.eex", "<%= render('pong.html') %>")
        template("pong.html.eex", "<%= render('ping.html') %>")

        def render(self, name: str, assigns: dict[str, Any]) -> Any:
            if name == "404.html":
                return self.render("404.html", assigns)
            if name == "500.html":
                return render(LoopView, "500.html", assigns)
            return super().render(name, assigns)

    for name in ("404.html", "500.html", "itself.html", "ping.html"):
        said = r"(?s)rendering '\w+.html' of .*LoopView does not end: it renders itself again.*super\(\).*<% if ...: %>"
        with pytest.raises(PhoenixError, match=said):
            render(LoopView, name)


def test_a_recursion_of_the_application_itself_stays_what_it_is() -> None:
    class DeepView(View):
        template("deep.html.eex", "<%= deep() %>")
        template("tree.html.eex", "(<%= for child in @children: %><%= render('tree.html', children=child) %><% end %>)")

        def deep(self) -> Any:
            return self.deep()

    with pytest.raises(RecursionError):
        render(DeepView, "deep.html")
    tree: list[Any] = []
    for _ in range(30):
        tree = [tree]
    assert render(DeepView, "tree.html", children=tree) == "(" * 31 + ")" * 31


# --- Not found ----------------------------------------------------------------------------


def test_a_template_that_is_not_there_is_named_with_those_that_are(tmp_path: Path) -> None:
    write(tmp_path, {"web/templates/user/index.html.eex": "", "web/templates/user/edit.html.eex": ""})

    class UserView(View):
        root = str(tmp_path / "web/templates")

    with pytest.raises(TemplateNotFoundError) as caught:
        render(UserView, "indx.html")
    assert str(caught.value) == (
        f'Could not render "indx.html" for {__name__}.{UserView.__qualname__}, please define a clause for render/2 or define a'
        f' template at "{tmp_path}/web/templates/user". Did you mean \'index.html\'? The following templates were compiled:\n\n'
        "* edit.html\n* index.html"
    )
    assert (caught.value.view, caught.value.name) == (UserView, "indx.html")


def test_a_view_without_templates_says_so() -> None:
    class EmptyView(View): ...

    with pytest.raises(TemplateNotFoundError, match="template in its class body, at .*test_views.py:[0-9]+. No templates were compiled for this module."):
        render(EmptyView, "x.html")


def test_a_view_can_answer_names_that_it_has_no_template_for() -> None:
    class ForgivingView(View):
        template("500.html.eex", "error <%= @code %>")

        def template_not_found(self, name: str, assigns: dict[str, Any]) -> Any:
            return self.render("500.html", {**assigns, "code": name.partition(".")[0]})

    assert render(ForgivingView, "404.html") == "error 404"


# --- Layouts ------------------------------------------------------------------------------


class LayoutView(View):
    template("application.html.eex", "<title><%= @title %><%= @layout %></title><%= @inner %>")
    template("modern.html.eex", "<main><%= @inner_content %></main>")
    template("explicit.html.eex", "<main><%= render(@view_module, @view_template, assigns) %></main>")
    template("changed.html.eex", "<%= render(@view_module, @view_template, {**assigns, 'title': 'other'}) %>|<%= @inner %>")
    template("own.html.eex", "<title><%= title() %></title><%= @inner %>")
    template("plain.text.eex", "-- <%= @inner %> --")

    def title(self) -> str:
        return "Welcome to Phoenix!"


@pytest.mark.parametrize(
    "layout, expected",
    [
        ("application.html", "<title>&lt;Hi&gt;</title><h1>&lt;Hi&gt;</h1>"),
        ("modern.html", "<main><h1>&lt;Hi&gt;</h1></main>"),
        ("explicit.html", "<main><h1>&lt;Hi&gt;</h1></main>"),
        ("changed.html", "<h1>other</h1>|<h1>&lt;Hi&gt;</h1>"),
        ("own.html", "<title>Welcome to Phoenix!</title><h1>&lt;Hi&gt;</h1>"),
    ],
)
def test_a_page_is_put_into_a_layout_once_and_both_see_the_same_assigns(layout: str, expected: str) -> None:
    assert render(PageView, "show.html", title="<Hi>", layout=(LayoutView, layout)) == expected


def test_other_formats_can_have_layouts_too() -> None:
    assert render(PageView, "show.text", title="<Hi>", layout=(LayoutView, "plain.text")) == "-- Title: <Hi> --"


@pytest.mark.parametrize("layout", [None, False])
def test_no_layout_is_no_layout(layout: Any) -> None:
    assert render(PageView, "show.html", title="x", layout=layout) == "<h1>x</h1>"


def test_a_layout_without_its_view_is_refused() -> None:
    with pytest.raises(ArgumentError, match="render expects layout to be a view and a name, got: 'application.html'"):
        render(PageView, "show.html", layout="application.html")


def test_the_page_is_rendered_once_in_whichever_way_the_layout_asks_for_it() -> None:
    class ListView(View):
        template("list.html.eex", "<%= for item in @items: %><%= item %>,<% end %>")

    for layout in ("modern.html", "explicit.html"):
        items = iter([1, 2, 3])  # which a second rendering would find empty
        assert render(ListView, "list.html", items=items, layout=(LayoutView, layout)) == "<main>1,2,3,</main>"


def test_the_layout_is_not_among_the_assigns_of_the_page() -> None:
    class AskView(View):
        template("ask.html.eex", "<%= sorted(assigns) %>")

    inner = render(AskView, "ask.html", a=1, layout=(LayoutView, "modern.html"))
    assert inner == "<main>a</main>"


# --- Partials -----------------------------------------------------------------------------


class PartialView(View):
    template("list.html.eex", "<ul><%= for item in @items: %><%= render('item.html', item=item) %><% end %></ul>")
    template("item.html.eex", "<li><%= @item %></li>")
    template("other.html.eex", "<%= render(PageView, 'show.html', title=@title) %>")
    template("mapping.html.eex", "<%= render('item.html', {'item': @title}) %>")
    template("many.html.eex", "<%= render_many(@items, ItemView, 'row.html', prefix='p') %>")
    template("existing.html.eex", "<%= render_existing(PageView, 'nothing.html') or 'none' %>")
    template("wrong.html.eex", "<%= render() %>")
    template("wrong_view.html.eex", "<%= render(PageView) %>")


class ItemView(View):
    template("row.html.eex", "[<%= @prefix %><%= @item %><%= @thing %>]")


def test_templates_render_templates_of_their_own_view_and_of_others() -> None:
    assert render(PartialView, "list.html", items=["<a>", "b"]) == "<ul><li>&lt;a&gt;</li><li>b</li></ul>"
    assert render(PartialView, "other.html", title="<x>") == "<h1>&lt;x&gt;</h1>"
    assert render(PartialView, "mapping.html", title="<x>") == "<li>&lt;x&gt;</li>"
    assert render(PartialView, "many.html", items=[1, 2]) == "[p1][p2]"
    assert render(PartialView, "existing.html") == "none"


@pytest.mark.parametrize("name", ["wrong.html", "wrong_view.html"])
def test_render_in_a_template_says_what_it_takes(name: str) -> None:
    with pytest.raises(ArgumentError, match="render in a template takes a name and values"):
        render(PartialView, name)


def test_render_existing_gives_none_for_what_is_not_there_and_only_for_that() -> None:
    class MaybeView(View):
        template("there.html.eex", "there")
        template("asks.html.eex", "<%= render('missing.html') %>")

        def render(self, name: str, assigns: dict[str, Any]) -> Any:
            return "by hand" if name == "hand.html" else super().render(name, assigns)

    assert render_existing(MaybeView, "there.html") == "there"
    assert render_existing(MaybeView, "hand.html") == "by hand"
    assert render_existing(MaybeView, "missing.html") is None
    with pytest.raises(TemplateNotFoundError, match="missing.html"):
        render_existing(MaybeView, "asks.html")


def test_render_many_and_one_name_the_item_after_the_view() -> None:
    assert render_many([1, 2], ItemView, "row.html") == ["[1]", "[2]"]
    assert render_many([1], ItemView, "row.html", {"prefix": "a"}, as_="thing") == ["[a1]"]
    assert render_many([], ItemView, "row.html") == []
    assert render_one(3, ItemView, "row.html", prefix="p") == "[p3]"
    assert render_one(None, ItemView, "row.html") is None


def test_views_render_json_of_views() -> None:
    class UserView(View):
        def render(self, name: str, assigns: dict[str, Any]) -> Any:
            match name:
                case "index.json":
                    return {"data": render_many(assigns["users"], UserView, "user.json")}
                case "user.json":
                    return {"name": assigns["user"]}
            return super().render(name, assigns)

    assert render_to_string(UserView, "index.json", users=["a", "b"]) == '{"data":[{"name":"a"},{"name":"b"}]}'


# --- Names in templates -------------------------------------------------------------------


def test_methods_globals_helpers_and_builtins_mean_something_in_a_template() -> None:
    assert render(PageView, "shout.html", title="hi") == "HI, Good day!"

    class NamesView(View):
        template("helpers.html.eex", "<%= link('x', to='/y') %><%= content_tag('b', 'z') %><%= raw('<i>') %>")
        template("builtins.html.eex", "<%= len(@items) %><%= sorted(@items)[0] %>")
        template("private.html.eex", "<%= _secret() %>")

        def _secret(self) -> str:
            return "s"

    assert render(NamesView, "helpers.html") == '<a href="/y">x</a><b>z</b><i>'
    assert render(NamesView, "builtins.html", items=[3, 1]) == "21"
    assert render(NamesView, "private.html") == "s"


def test_a_method_wins_over_a_global_and_a_global_over_a_helper(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.modules[__name__], "humanize", lambda text: f"global {text}", raising=False)

    class WinView(View):
        template("method.html.eex", "<%= exclaim('x') %>")
        template("global.html.eex", "<%= humanize('user_id') %>")

        def exclaim(self, text: str) -> str:
            return f"method {text}"

    assert render(WinView, "method.html") == "method x"
    assert render(WinView, "global.html") == "global user_id"


def test_globals_are_those_of_the_moment() -> None:
    class LateView(View):
        template("late.html.eex", "<%= GREETING %>")

    global GREETING
    before, GREETING = GREETING, "Good night"
    try:
        assert render(LateView, "late.html") == "Good night"
    finally:
        GREETING = before
    assert render(LateView, "late.html") == "Good day"


@pytest.mark.parametrize("name", ["page.html", "page.text"])
def test_a_method_that_is_not_called_is_a_mistake(name: str) -> None:
    class TitledView(View):
        template("page.html.eex", "<title><%= title %></title>")
        template("page.text.eex", "<%= title %>")

        def title(self) -> str:
            return "Home"

    with pytest.raises(ArgumentError, match=r"TitledView\.title is a function, which no page shows: write title\(\)"):
        render_to_string(TitledView, name, {})


def test_all_views_share_methods_templates_and_names_of_the_one_they_extend(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path, {
        "shared_app/__init__.py": "",
        "shared_app/i18n.py": "def t(key):\n    return {'hello': 'Hallo'}[key]\n",
        "shared_app/view.py": """
            import phoenix
            from phoenix import template
            from shared_app.i18n import t

            COLOUR = "red"

            def humanize(text):
                return text.title()

            class View(phoenix.View):
                template("menu.html.eex", "<nav><%= COLOUR %> <%= title() %></nav>")
                template("foot.html.eex", "foot")

                def title(self):
                    return "Welcome to Phoenix!"
            """,
        "shared_app/page_view.py": """
            from phoenix import template
            from shared_app.view import View

            COLOUR = "blue"

            class PageView(View):
                template("index.html.eex", "<%= title() %> <%= t('hello') %> <%= COLOUR %> <%= render('menu.html') %>")
                template("helpers.html.eex", "<%= humanize('x_id') %><%= link('a', to='/b') %>")
                template("foot.html.eex", "own foot")

            class LoudView(PageView):
                def title(self):
                    return super().title().upper()
            """,
    })  # fmt: skip
    for file in (tmp_path / "shared_app").glob("*view.py"):
        file.write_text(dedent(file.read_text()))
    monkeypatch.syspath_prepend(str(tmp_path))
    from importlib import import_module

    views = import_module("shared_app.page_view")
    assert render(views.PageView, "index.html") == "Welcome to Phoenix! Hallo blue <nav>red Welcome to Phoenix!</nav>"
    assert render(views.PageView, "helpers.html") == 'X_Id<a href="/b">a</a>'
    assert render(views.PageView, "foot.html") == "own foot"
    assert render(views.LoudView, "index.html") == "WELCOME TO PHOENIX! Hallo blue <nav>red WELCOME TO PHOENIX!</nav>"
    assert render(views.LoudView, "foot.html") == "own foot"


def test_files_of_a_view_are_inherited_and_overridden_too(tmp_path: Path) -> None:
    write(tmp_path, {"base/a.html.eex": "base a <%= who() %>", "base/b.html.eex": "base b", "child/b.html.eex": "child b"})

    class BaseView(View):
        root = str(tmp_path)
        template("c.html.eex", "base c")

        def who(self) -> str:
            return "base"

    class ChildView(BaseView):
        def who(self) -> str:
            return "child"

    assert [render(ChildView, name) for name in ("a.html", "b.html", "c.html")] == ["base a child", "child b", "base c"]
    assert [render(BaseView, name) for name in ("a.html", "b.html", "c.html")] == ["base a base", "base b", "base c"]


def test_a_name_that_nobody_knows_is_a_name_error_at_its_line() -> None:
    class UnknownView(View):
        template("x.html.eex", "<p>\n<%= nobody %>\n</p>")

    with pytest.raises(NameError, match="name 'nobody' is not defined"):
        render(UnknownView, "x.html")


def test_an_assign_without_its_at_sign_is_suggested() -> None:
    class ForgetfulView(View):
        template("x.html.eex", "<%= title %>")

    with pytest.raises(NameError, match="name 'title' is not defined. Did you mean '@title'"):
        render(ForgetfulView, "x.html", title="Hi")


def test_an_assign_that_is_missing_is_nothing() -> None:
    assert render(PageView, "show.html") == "<h1></h1>"


def test_in_dev_a_missing_assign_is_logged_once_with_its_line(caplog: pytest.LogCaptureFixture) -> None:
    class MissingView(View):
        template(
            "x.html.eex",
            """<p>
            <%= @nobody %><%= @title %> <!-- the line that misses -->
            <%= @nobody %></p>""",
        )

    class MissingRouter(Router):
        get("/", lambda conn, params: conn.put_view(MissingView).render("x.html", title="Hi"))

    for env, times in (("prod", 0), ("dev", 1), ("test", 0)):
        caplog.clear()
        client = app(MissingRouter, env=env).test(raise_errors=True)
        with caplog.at_level(logging.WARNING, "phoenix"):
            assert "<p>" in client.get("/").resp_body
            client.get("/")
        messages = [record.getMessage() for record in caplog.records if "@nobody" in record.getMessage()]
        line = line_of("<!-- the line that misses -->")
        expected = f"{__file__}:{line}: the template reads @nobody, which nobody has assigned: it is None; "
        expected += "where it may be absent, write assigns.get('nobody')"
        assert messages == [expected] * times


# --- Paths and forms in templates ---------------------------------------------------------


class ThingController(Controller):
    def index(self, conn: Conn, params: Any) -> Conn:
        return conn.render("index.html", things=[SimpleNamespace(id=1, name="<one>"), SimpleNamespace(id=2, name="two")])

    def show(self, conn: Conn, params: Any) -> Conn:
        return conn.render("show.html")

    def destroy(self, conn: Conn, params: Any) -> Conn:
        return conn.text("gone")


class ThingView(View):
    template("index.html.eex", "<%= render_many(@things, ThingView, 'row.html') %>")
    template("row.html.eex", """<a href="<%= thing_path(@conn, 'show', @thing) %>"><%= @thing.name %></a>""")
    template("show.html.eex", "<%= thing_url(@conn, 'index', page=2) %>|<%= static_path(@conn, '/a.css') %>")
    template("new.html.eex", "<%= render('form.html') %>")
    template(
        "form.html.eex",
        "<%= form_tag(thing_path(@conn, 'destroy', 7), method='delete') do %><%= link('x', to='/') %><% end %>",
    )
    template("lost.html.eex", "<%= thing_path('show', 7) %>")
    template("unknown.html.eex", "<%= thong_path(@conn, 'show', 7) %>")
    template("unused.html.eex", "<%= if False: %><%= nothing_path(1) %><% end %>fine")


class ThingRouter(Router):
    resources("/things", ThingController, only=["index", "show", "destroy"])
    get("/tell/:name", lambda conn, params: conn.put_view(ThingView).render(params["name"] + ".html"))


def test_path_helpers_work_in_templates_and_in_their_partials() -> None:
    client = app(ThingRouter, url={"host": "example.com", "port": 80}).test(raise_errors=True)
    body = client.get("/things").resp_body.removeprefix("<title></title>")  # of the layout of this module
    assert body == '<a href="/things/1">&lt;one&gt;</a><a href="/things/2">two</a>'
    assert client.get("/things/7").resp_body.endswith("http://example.com/things?page=2|/a.css")


def test_a_form_in_a_partial_carries_the_token_of_the_request() -> None:
    class FormRouter(Router):
        get("/form", lambda conn, params: conn.fetch_session().protect_from_forgery().put_view(ThingView).render("new.html"))
        resources("/things", ThingController, only=["destroy", "index"])

    conn = app(FormRouter).test(raise_errors=True, csrf=True).get("/form")
    assert '<input name="_method" type="hidden" value="delete"><input name="_csrf_token" type="hidden" value="' in conn.resp_body


def test_a_path_helper_needs_the_conn_and_says_so() -> None:
    client = app(ThingRouter).test(raise_errors=True)
    with pytest.raises(ArgumentError, match=r"thing_path\(@conn, ...\)"):
        client.get("/tell/lost")
    with pytest.raises(AttributeError, match="ThingRouter has no helper 'thong_path'. Did you mean 'thing_path'?"):
        client.get("/tell/unknown")
    assert client.get("/tell/unused").resp_body == "fine"


def test_path_helpers_work_without_a_request_when_given_the_endpoint() -> None:
    class MailView(View):
        template("mail.text.eex", "Look: <%= thing_url(@app, 'show', 7) %>")

    endpoint = app(ThingRouter, url={"host": "example.com", "port": 80})
    assert render(MailView, "mail.text", app=endpoint) == "Look: http://example.com/things/7"


# --- Errors point at the template ---------------------------------------------------------


def test_an_error_in_a_file_shows_the_line_of_the_file(tmp_path: Path) -> None:
    write(tmp_path, {"user/show.html.eex": "<p>\n  <%= 1 // @number %>\n</p>"})

    class UserView(View):
        root = str(tmp_path)

    with pytest.raises(ZeroDivisionError) as caught:
        render(UserView, "show.html", number=0)
    frame = traceback.extract_tb(caught.value.__traceback__)[-1]
    assert (frame.filename, frame.lineno, frame.line) == (f"{tmp_path}/user/show.html.eex", 2, "<%= 1 // @number %>")


class CrashView(View):
    template("one_line.html.eex", "<p><%= 1 // @number %></p>")  # the one line that crashes
    template("several.html.eex", """
        <p>
          <%= 2 // @number %> <!-- the second that crashes -->
        </p>""")  # fmt: skip
    template(
        "on_its_own.html.eex",
        """<p>
          <%= 3 // @number %> <!-- the third that crashes -->
        </p>
        """,
    )
    template("last.html.eex", """
        <p></p>
        <%= 4 // @number %> <!-- the fourth that crashes -->""")  # fmt: skip


@pytest.mark.parametrize(
    "name, marker",
    [
        ("one_line.html", "# the one line that crashes"),
        ("several.html", "<!-- the second that crashes -->"),
        ("on_its_own.html", "<!-- the third that crashes -->"),
        ("last.html", "<!-- the fourth that crashes -->"),
    ],
)
def test_an_error_in_a_template_of_the_class_body_shows_the_line_of_the_python_file(name: str, marker: str) -> None:
    with pytest.raises(ZeroDivisionError) as caught:
        render(CrashView, name, number=0)
    frame = traceback.extract_tb(caught.value.__traceback__)[-1]
    lines = Path(__file__).read_text("utf-8").split("\n")
    (line,) = (number for number, text in enumerate(lines, 1) if text.endswith(marker) or marker + '"""' in text)
    assert (frame.filename, frame.lineno) == (__file__, line)


def test_a_template_that_is_put_together_points_at_the_call() -> None:
    class JoinedView(View):
        template("x.html.eex", "<p>" * 3 + "<%= 1 // @number %>")  # the call that joins

    with pytest.raises(ZeroDivisionError) as caught:
        render(JoinedView, "x.html", number=0)
    frame = traceback.extract_tb(caught.value.__traceback__)[-1]
    assert (frame.filename, frame.lineno) == (__file__, line_of("# the call that joins"))


# --- Engines ------------------------------------------------------------------------------


class JinjaEngine:
    """Templates in Jinja2: all that an app has to write to use another engine, as the chapter shows it."""

    def compile(self, source: str, path: str, name: str, **place: int) -> Callable[..., str]:
        import jinja2

        env = jinja2.Environment(autoescape=name.endswith(".html"))
        made = env.template_class.from_code(env, env.compile(source, name, path), env.globals)
        return lambda assigns, scope: made.render({**scope, **assigns})


def test_an_engine_of_another_kind_makes_the_templates_with_its_extension(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("jinja2")
    monkeypatch.setattr(sys.modules[__name__], "humanize", lambda text: f"global {text}", raising=False)
    write(tmp_path, {"fruit/show.html.jinja": "<h1>{{ shout(name) }}</h1>{% for n in numbers %}{{ n }},{% endfor %}"})

    class FruitView(View):
        root = str(tmp_path)
        template("inline.html.jinja", "{{ render('show.html', name=name, numbers=[1]) }}{{ link(name, to='/x') }}{{ exclaim(GREETING) }}")
        template("global.html.jinja", "{{ humanize('user_id') }}")
        template("plain.text.jinja", """
            {{ name }}""")
        template("layout.html.eex", "<main><%= @inner %></main>")
        template("form.html.jinja", "{{ form_tag(conn.helpers.fruit_path('index')) }}")

        def shout(self, text: str) -> str:
            return text.upper()

    class FruitController(Controller):
        view = FruitView

        def index(self, conn: Conn, params: Any) -> Conn:
            return conn.fetch_session().protect_from_forgery().render("form.html")

    class FruitRouter(Router):
        get("/fruit", FruitController)

    endpoint = app(FruitRouter, template_engines={"jinja": JinjaEngine()})
    assert render(FruitView, "show.html", name="<fig>", numbers=[1, 2]) == "<h1>&lt;FIG&gt;</h1>1,2,"
    assert render(FruitView, "inline.html", name="<fig>") == '<h1>&lt;FIG&gt;</h1>1,<a href="/x">&lt;fig&gt;</a>Good day!'
    assert render(FruitView, "global.html") == "global user_id"
    assert render(FruitView, "plain.text", name="<fig>") == "<fig>"
    layout = (FruitView, "layout.html")
    assert render(FruitView, "show.html", name="<fig>", numbers=[], layout=layout) == "<main><h1>&lt;FIG&gt;</h1></main>"
    assert '<form accept-charset="UTF-8" action="/fruit" method="post"><input name="_csrf_token"' in (
        endpoint.test(raise_errors=True).get("/fruit").resp_body
    )
    with pytest.raises(TypeError) as raised:
        render(FruitView, "show.html", name="", numbers=1)
    last = traceback.extract_tb(raised.value.__traceback__)[-1]
    assert (last.filename, last.lineno) == (str(tmp_path / "fruit/show.html.jinja"), 1)


def test_eex_and_exs_are_built_in_and_an_engine_can_be_taken_away(tmp_path: Path) -> None:
    assert sorted(View.engines) == ["eex", "exs"]
    write(tmp_path, {"user/show.html.eex": "x", "user/data.json.exs": "{}"})

    class UserView(View):
        root = str(tmp_path)

    assert sorted(UserView.templates()) == ["data.json", "show.html"]
    View.use_engines({"exs": None})
    assert sorted(UserView.templates()) == ["show.html"]


def test_an_engine_can_be_replaced_for_all_views_or_for_some(tmp_path: Path) -> None:
    write(tmp_path, {"user/show.html.eex": "<p>\n\n\n<%= 1 %></p>"})

    class UserView(View):
        root = str(tmp_path)

    class TrimView(UserView):
        path = "user"
        engines = {"eex": EExEngine(trim=True)}

    assert render(UserView, "show.html") == "<p>\n\n\n1</p>"
    assert render(TrimView, "show.html") == "<p>\n1</p>"
    app(Router, template_engines={"eex": EExEngine(trim=True)})
    assert render(UserView, "show.html") == "<p>\n1</p>"


def test_another_endpoint_compiles_nothing_anew() -> None:
    app(Router)
    compiled = PageView.templates()
    app(Router)
    assert PageView.templates() is compiled


def test_rendered_text_can_hold_what_is_html_already() -> None:
    class SafeView(View):
        template("x.html.eex", "<%= @html %><%= raw(@html) %><%= @own %>")

    class Own:
        def __html__(self) -> str:
            return "<own>"

    assert render(SafeView, "x.html", html="<b>", own=Own()) == "&lt;b&gt;<b><own>"
    assert render(SafeView, "x.html", html=raw("<b>"), own=None) == "<b><b>"
