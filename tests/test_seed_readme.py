"""The examples of Phoenix's own early README, and what notes on later versions say, in Python: each has a test named after it.

The headings are those of the README.
"""

from __future__ import annotations

import gc
import re
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping
from importlib import import_module
from pathlib import Path
from textwrap import dedent
from typing import Any

import pytest

import phoenix
from phoenix import (
    ActionClauseError,
    Conn,
    Controller,
    Endpoint,
    NoRouteError,
    NotAcceptableError,
    PhoenixError,
    Router,
    RouterWarning,
    SecretError,
    View,
    format_routes,
    get,
    patch,
    pipe_through,
    pipeline,
    plug,
    post,
    put,
    render,
    render_to_string,
    resource,
    resources,
    scope,
    template,
)
from phoenix import delete as delete_route
from phoenix import TestClient as Client

SECRET = "s" * 64


def app(router: Any, **options: Any) -> Endpoint:
    defaults = {"log": False, "static": False, "env": "test", "secret_key_base": SECRET, "url": {"host": "example.com", "port": 80}}
    return Endpoint(router, **{**defaults, **options})


def client(router: Any, **options: Any) -> Client:
    return app(router, **options).test(raise_errors=True)


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder that an app is written into and imported from; its modules are forgotten afterwards."""
    before = set(sys.modules)
    monkeypatch.syspath_prepend(str(tmp_path))
    yield tmp_path
    added = {name: sys.modules[name] for name in set(sys.modules) - before}
    for name in [name for name, module in added.items() if str(tmp_path) in places_of(module)]:
        del sys.modules[name]
    gc.collect()


def places_of(module: Any) -> str:
    return str(getattr(module, "__file__", None) or list(getattr(module, "__path__", [])))


def write(folder: Path, files: Mapping[str, str]) -> None:
    for name, source in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(dedent(source).lstrip("\n"), "utf-8")


class EveryAction(Controller):
    def index(self, conn: Conn, params: Any) -> Conn:
        return self.told(conn, params)

    new = edit = show = create = update = destroy = index

    def told(self, conn: Conn, params: Any) -> Conn:
        return conn.json([type(self).__name__, conn.action_name, dict(params)])


class UserController(EveryAction): ...


class CommentController(EveryAction): ...


class FileController(EveryAction): ...


class ApiUserController(EveryAction): ...


class CardController(EveryAction): ...


class SessionController(EveryAction): ...


# ==========================================================================================
# Getting started, Configuration
# ==========================================================================================


def test_setup_environment_and_port_of_production_come_from_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PHOENIX_ENV", raising=False)
    monkeypatch.setenv("MIX_ENV", "prod")
    monkeypatch.setenv("PORT", "4001")
    endpoint = Endpoint(Router, secret_key_base=SECRET)
    assert (endpoint.env, endpoint.port, endpoint.debug_errors) == ("prod", 4001, False)


def test_configuration_the_environment_is_dev_where_the_variable_does_not_exist(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("PHOENIX_ENV", "MIX_ENV"):
        monkeypatch.delenv(name, raising=False)
    assert Endpoint(Router).env == "dev"


def test_documentation_every_public_name_has_a_docstring() -> None:
    assert [name for name in phoenix.__all__ if not (getattr(phoenix, name).__doc__ or "").strip()] == []


# ==========================================================================================
# Router example
# ==========================================================================================


class PagesController(EveryAction): ...


class MyRouter(Router):
    with pipeline("browser"):
        plug(Conn.accepts, "html")
        plug(Conn.fetch_session)

    with pipeline("api"):
        plug(Conn.accepts, "json")

    with scope("/"):
        pipe_through("browser")

        get("/pages/:page", PagesController, "show", as_="page")
        get("/files/*path", FileController, "show")

        with resources("/users", UserController):
            resources("/comments", CommentController)

    with scope("/api", as_="api"):
        pipe_through("api")

        resources("/users", ApiUserController, as_="user")


def test_router_example() -> None:
    asked = client(MyRouter)
    for verb, path, expected in (
        ("GET", "/pages/about", ["PagesController", "show", {"page": "about"}]),
        ("GET", "/files/a/b.txt", ["FileController", "show", {"path": ["a", "b.txt"]}]),
        ("GET", "/users/7", ["UserController", "show", {"id": "7"}]),
        ("GET", "/users/7/comments/8", ["CommentController", "show", {"user_id": "7", "id": "8"}]),
        ("DELETE", "/api/users/7", ["ApiUserController", "destroy", {"id": "7"}]),
    ):
        assert asked.json_response(asked.request(verb, path)) == expected


def test_router_example_the_pipelines_of_a_scope_run_before_its_routes() -> None:
    asked = client(MyRouter)
    assert asked.get("/users").format == "html"
    assert asked.get("/api/users").format == "json"
    assert asked.get("/users").session == {}
    with pytest.raises(PhoenixError, match="session not fetched"):
        asked.get("/api/users").session  # noqa: B018
    with pytest.raises(NotAcceptableError):
        asked.get("/api/users", headers={"accept": "text/html"})


def test_router_example_routes_respond_to_the_corresponding_http_method() -> None:
    class VerbRouter(Router):
        get("/thing", UserController, "index")
        post("/thing", UserController, "create")
        patch("/thing", UserController, "update")
        delete_route("/thing", UserController, "destroy")

    asked = client(VerbRouter)
    told = {verb: asked.json_response(asked.request(verb, "/thing"))[1] for verb in ("GET", "POST", "PATCH", "DELETE")}
    assert told == {"GET": "index", "POST": "create", "PATCH": "update", "DELETE": "destroy"}


# --- Resources ----------------------------------------------------------------------------


class ResourceRouter(Router):
    with resources("/users", UserController):
        resources("/comments", CommentController)


EQUIVALENT = [
    (get, "/users", "index"),
    (get, "/users/:id", "show"),
    (get, "/users/new", "new"),
    (post, "/users", "create"),
    (get, "/users/:id/edit", "edit"),
    (patch, "/users/:id", "update"),
    (delete_route, "/users/:id", "destroy"),
]


def test_resources_are_the_equivalent_of_writing_their_routes() -> None:
    written = {(word.__name__.upper(), path, action) for word, path, action in EQUIVALENT}  # type: ignore[attr-defined]
    routes = {(route.verb, route.path, route.action) for route in ResourceRouter.routes[:8]}
    assert routes - written == {("PUT", "/users/:id", "update")}
    assert written <= routes


def test_resources_put_new_before_show_where_the_list_of_the_readme_would_hide_it() -> None:
    with pytest.warns(RouterWarning, match="GET /users/new can never match"):

        class AsPrinted(Router):
            for word, path, action in EQUIVALENT:
                word(path, UserController, action)

    asked = client(AsPrinted)
    assert asked.json_response(asked.get("/users/new")) == ["UserController", "show", {"id": "new"}]
    asked = client(ResourceRouter)
    assert asked.json_response(asked.get("/users/new")) == ["UserController", "new", {}]


ENDPOINT = app(ResourceRouter)
HELPED: list[tuple[str, tuple[Any, ...], dict[str, Any], str]] = [
    ("user_url", ("index",), {}, "http://example.com/users"),
    ("user_path", ("index",), {}, "/users"),
    ("user_path", ("show", 123), {}, "/users/123"),
    ("user_path", ("show", 123), {"page": 5}, "/users/123?page=5"),
    ("user_path", ("edit", 123), {}, "/users/123/edit"),
    ("user_path", ("destroy", 123), {}, "/users/123"),
    ("user_path", ("new",), {}, "/users/new"),
    ("user_comment_path", ("show", 99, 100), {}, "/users/99/comments/100"),
    ("user_comment_path", ("index", 99), {"foo": "bar"}, "/users/99/comments?foo=bar"),
    ("user_comment_path", ("edit", 88, 2, []), {}, "/users/88/comments/2/edit"),
    ("user_comment_path", ("new", 88), {}, "/users/88/comments/new"),
]


@pytest.mark.parametrize("name, arguments, query, expected", HELPED)
def test_resources_generate_named_routes(name: str, arguments: tuple[Any, ...], query: dict[str, Any], expected: str) -> None:
    conn = Conn(endpoint=ENDPOINT)
    for context in (ENDPOINT, conn):
        assert getattr(ResourceRouter.helpers, name)(context, *arguments, **query) == expected


def test_resources_paths_become_urls_by_the_endpoint() -> None:
    path = ResourceRouter.helpers.user_comment_path(Conn(endpoint=ENDPOINT), "index", 99)
    assert ENDPOINT.url(path) == "http://example.com/users/99/comments"


# --- Method overrides ---------------------------------------------------------------------


class PostController(Controller):
    def show(self, conn: Conn, params: Any) -> Conn:
        return conn.render("show.html", post={"id": params["id"]}, layout=None)

    def destroy(self, conn: Conn, params: Any) -> Conn:
        return conn.text(f"destroyed {params['id']}")

    def update(self, conn: Conn, params: Any) -> Conn:
        return conn.text(f"updated {params['id']}")


class PostView(View):
    template("show.html.eex", """
        <form action="<%= post_path(@conn, "destroy", @post["id"]) %>" method="post">
          <input type="hidden" name="_method" value="DELETE">
          <input type="submit" value="Delete Post">
        </form>""")  # fmt: skip


class PostRouter(Router):
    resources("/posts", PostController, only=["show", "update", "destroy"])


def test_method_overrides_a_form_can_send_delete() -> None:
    asked = client(PostRouter)
    form = asked.get("/posts/7").resp_body
    assert '<form action="/posts/7" method="post">' in form
    assert asked.post("/posts/7", {"_method": "DELETE"}).resp_body == "destroyed 7"
    assert asked.post("/posts/7", {"_method": "patch"}).resp_body == "updated 7"


def test_method_overrides_a_header_can_do_the_same() -> None:
    asked = client(PostRouter)
    assert asked.post("/posts/7", {}, headers={"x-http-method-override": "DELETE"}).resp_body == "destroyed 7"
    assert asked.post("/posts/7", {}, headers={"x-http-method-override": "PUT"}).resp_body == "updated 7"


# ==========================================================================================
# Controller examples
# ==========================================================================================


def test_controller_examples_the_clauses_of_show() -> None:
    class PageView(View):
        template("show.html.eex", "<h1><%= @title %></h1>")

    class PageController(Controller):
        view = PageView

        def show(self, conn: Conn, params: Any) -> Any:
            match params:
                case {"page": "admin"}:
                    return conn.redirect(to=conn.helpers.page_path("show", "unauthorized"))
                case {"page": page}:
                    return conn.assign("title", f"Showing page {page}").render("show.html", layout=None)

    class PageRouter(Router):
        get("/pages/:page", PageController, "show")

    asked = client(PageRouter)
    assert asked.redirected_to(asked.get("/pages/admin")) == "/pages/unauthorized"
    assert asked.html_response(asked.get("/pages/about")) == "<h1>Showing page about</h1>"


def test_controller_examples_a_plug_with_options_before_the_action() -> None:
    class UserView(View):
        template("index.html.eex", "<%= @locale %> <%= @user_id %>")

    class LocaleController(Controller):
        view = UserView

        plug("locale", default="en")
        plug("action")

        def show(self, conn: Conn, params: Any) -> Conn:
            return conn.assign("user_id", params["id"]).render("index.html", layout=None)

        def locale(self, conn: Conn, default: str) -> Conn:
            wanted = conn.params.get("locale")
            return conn.assign("locale", wanted if wanted in ("en", "fr", "de") else default)

    class LocaleRouter(Router):
        get("/users/:id", LocaleController, "show")

    asked = client(LocaleRouter)
    assert [asked.get(path).resp_body for path in ("/users/7", "/users/7?locale=fr", "/users/7?locale=xx")] == ["en 7", "fr 7", "en 7"]


# ==========================================================================================
# Flash examples
# ==========================================================================================


class FlashController(Controller):
    def index(self, conn: Conn, params: Any) -> Conn:
        return conn.render("index.html", layout=(FlashView, params.get("layout", "one")))

    def create(self, conn: Conn, params: Any) -> Conn:
        return conn.put_flash("notice", "Created successfully").redirect("/")

    def create_two(self, conn: Conn, params: Any) -> Conn:
        conn = phoenix.Flash.put(conn, "notice", "First")
        return phoenix.Flash.put(conn, "notice", "Second").redirect(to="/?layout=all")


class FlashView(View):
    template("index.html.eex", "page")
    template("one.html.eex", """
        <%= if notice := Flash.get(@conn, "notice") do %>
          <div class="container">
            <div class="row">
              <p><%= notice %></p>
            </div>
          </div>
        <% end %>
        <%= @inner %>""")  # fmt: skip
    template("all.html.eex", """
        <%= for notice in Flash.get_all(@conn, "notice") do %>
          <div class="container">
            <div class="row">
              <p><%= notice %></p>
            </div>
          </div>
        <% end %>""")  # fmt: skip


class FlashRouter(Router):
    with pipeline("browser"):
        plug(Conn.accepts, "html")
        plug(Conn.fetch_session)
        plug(Conn.fetch_flash)
    with scope("/"):
        pipe_through("browser")
        get("/", FlashController, "index")
        post("/", FlashController, "create")
        post("/two", FlashController, "create_two")


def test_flash_examples_a_message_persists_across_the_redirect_and_is_shown_once() -> None:
    asked = client(FlashRouter)
    assert "<p>" not in asked.get("/").resp_body
    assert asked.redirected_to(asked.post("/", {})) == "/"
    assert "<p>Created successfully</p>" in asked.get("/").resp_body
    assert "<p>" not in asked.get("/").resp_body


def test_flash_examples_multiple_messages() -> None:
    asked = client(FlashRouter)
    to = asked.redirected_to(asked.post("/two", {}))
    assert re.findall("<p>(.*)</p>", asked.get(to).resp_body) == ["First", "Second"]


# ==========================================================================================
# Views & Templates, and Rendering from the controller
# ==========================================================================================

MY_APP = {
    "my_app/i18n.py": """
        def t(key):
            return {"hello": "Hallo"}[key]
        """,
    "my_app/web/view.py": """
        import phoenix

        # What is imported here can be used in all views and templates.
        from my_app.i18n import t

        class View(phoenix.View):
            root = "web/templates"

            # Functions defined here are available to all other views and templates.
            def title(self):
                return "Welcome to Phoenix!"
        """,
    "my_app/web/views/page_view.py": """
        from my_app.web.view import View

        class PageView(View):
            def display(self, something):
                return something.upper()

            def render(self, name, assigns):
                match name:
                    case "show.json":
                        return {"title": assigns["page"].title, "url": assigns["page"].url}
                return super().render(name, assigns)
        """,
    "my_app/web/views/layout_view.py": """
        from my_app.web.view import View

        class LayoutView(View):
            pass
        """,
    "my_app/web/controllers/page_controller.py": """
        from types import SimpleNamespace
        from phoenix import Controller

        class PageController(Controller):
            def index(self, conn, params):
                return conn.render("index", message="hello")

            def show(self, conn, params):
                return conn.render("show", page=SimpleNamespace(title="Home", url="/"))

            def sitemap(self, conn, params):
                return conn.put_resp_content_type("text/xml").render("sitemap")

            def plain(self, conn, params):
                return conn.put_layout("plain").render("index.html", message="hello")

            def bare(self, conn, params):
                return conn.put_layout("none").render("index", message="hello")
        """,
    "my_app/web/router.py": """
        import phoenix
        from phoenix import Conn, get, pipe_through, pipeline, plug, scope
        from my_app.web.controllers.page_controller import PageController

        class Router(phoenix.Router):
            with pipeline("browser"):
                plug(Conn.accepts, "html", "json")
            with scope("/"):
                pipe_through("browser")
                for action in ("index", "show", "sitemap", "plain", "bare"):
                    get("/" + action, PageController, action)
        """,
    "my_app/web/templates/page/index.html.eex": "<p><%= display(@message) %>, <%= title() %> <%= t('hello') %></p>\n",
    "my_app/web/templates/page/index.json.exs": '{"message": @message}',
    "my_app/web/templates/page/sitemap.xml.eex": "<urlset></urlset>",
    "my_app/web/templates/page/sitemap.html.eex": "not this one",
    "my_app/web/templates/layout/application.html.eex": "<title><%= title() %></title><%= @inner %>",
    "my_app/web/templates/layout/plain.html.eex": "plain: <%= @inner %>",
}


@pytest.fixture
def my_app(place: Path) -> Client:
    write(place, MY_APP)
    return client(import_module("my_app.web.router").Router)


PAGE = "<p>HELLO, Welcome to Phoenix! Hallo</p>\n"


def test_rendering_from_the_controller_the_name_of_the_controller_decides(my_app: Client) -> None:
    """PageController: PageView renders page/index.html.eex within layout/application.html.eex."""
    conn = my_app.get("/index")
    assert conn.resp_body == f"<title>Welcome to Phoenix!</title>{PAGE}"
    assert (conn.view_module.__name__, conn.view_template) == ("PageView", "index.html")


def test_rendering_from_the_controller_functions_of_views_are_shared(my_app: Client) -> None:
    body = my_app.get("/index").resp_body
    assert "HELLO" in body  # a function of PageView
    assert body.count("Welcome to Phoenix!") == 2  # one of the View that all views extend, in layout and page
    assert "Hallo" in body  # and one that its module imports


def test_rendering_from_the_controller_render_can_be_defined_by_hand(my_app: Client) -> None:
    assert my_app.json_response(my_app.get("/show?format=json")) == {"title": "Home", "url": "/"}


@pytest.mark.parametrize(
    "path, headers, format",
    [
        ("/index?format=json", {"accept": "text/html"}, "json"),
        ("/index", {"accept": "text/html"}, "html"),
        ("/index", {"accept": "application/json"}, "json"),
        ("/index", {}, "html"),
    ],
)
def test_more_on_request_format_the_query_then_the_header_then_html(
    my_app: Client, path: str, headers: dict[str, str], format: str
) -> None:
    conn = my_app.get(path, headers=headers)
    assert conn.resp_body == {"json": '{"message":"hello"}', "html": f"<title>Welcome to Phoenix!</title>{PAGE}"}[format]


def test_more_on_request_format_an_explicit_content_type_chooses_the_template(my_app: Client) -> None:
    conn = my_app.get("/sitemap")
    assert (conn.resp_body, conn.get_resp_header("content-type")) == ("<urlset></urlset>", ["text/xml; charset=utf-8"])


def test_more_on_layouts(my_app: Client) -> None:
    assert my_app.get("/plain").resp_body == f"plain: {PAGE}"
    assert my_app.get("/bare").resp_body == PAGE


# ==========================================================================================
# Template engine configuration
# ==========================================================================================


class HamlEngine:
    """As much of Haml as fits into three lines."""

    def compile(self, source: str, path: str, name: str, *, line: int = 1, column: int = 1) -> Callable[..., str]:
        tag, _, key = source.strip().removeprefix("%").partition("= @")
        return lambda assigns, scope: f"<{tag}>{phoenix.escape(assigns[key])}</{tag}>"


def test_template_engine_configuration(place: Path) -> None:
    write(place, {"templates/page/show.html.haml": "%h1= @title\n", "templates/page/other.html.slim": "h1 = title\n"})

    class PageView(View):
        root = str(place / "templates")

    assert sorted(PageView.templates()) == []
    engines = View.engines
    try:
        app(Router, template_engines={"haml": HamlEngine()})
        assert render(PageView, "show.html", title="<Hi>") == "<h1>&lt;Hi&gt;</h1>"
        assert sorted(PageView.templates()) == ["show.html"]
    finally:
        View.use_engines({**dict.fromkeys(View.engines), **engines})


# ==========================================================================================
# Configuration for sessions
# ==========================================================================================


class FooController(Controller):
    plug(Conn.fetch_session)

    def show(self, conn: Conn, params: Any) -> Conn:
        conn = conn.put_session("foo", "bar")
        foo = conn.get_session("foo")
        return conn.text(foo)

    def later(self, conn: Conn, params: Any) -> Conn:
        return conn.text(conn.get_session("foo", "nothing"))


class FooRouter(Router):
    get("/", FooController, "show")
    get("/later", FooController, "later")


def test_configuration_for_sessions() -> None:
    asked = client(FooRouter, secret_key_base=SECRET, session={"store": "cookie", "key": "_your_app_key"})
    assert asked.get("/later").resp_body == "nothing"
    assert asked.get("/").resp_body == "bar"
    assert list(asked.cookies) == ["_your_app_key"]
    assert asked.get("/later").resp_body == "bar"


def test_configuration_for_sessions_the_secret_is_required() -> None:
    with pytest.raises(SecretError, match="secret_key_base"):
        app(FooRouter, secret_key_base=None)


# ==========================================================================================
# Custom not found and error pages
# ==========================================================================================


class MyErrorView(View):
    def render(self, name: str, assigns: dict[str, Any]) -> Any:
        match name:
            case "404.html":
                return "Page not found - 404"
            case "500.json":
                return {"error": f"Server internal error - {assigns['status']}"}
        return "Server internal error - 500"


class ErrorController(Controller):
    def crash(self, conn: Conn, params: Any) -> Conn:
        raise RuntimeError("a secret detail")

    def mine(self, conn: Conn, params: Any) -> Conn:
        raise GoneError("it is gone")

    def foreign(self, conn: Conn, params: Any) -> Conn:
        raise NotSingleResult("more than one")


class GoneError(Exception):
    plug_status = 410


class TeapotError(Exception):
    status = 418


class NotSingleResult(Exception):
    """What a database library raises, which knows nothing of HTTP."""


class ErrorRouter(Router):
    for action in ("crash", "mine", "foreign"):
        get(f"/{action}", ErrorController, action, as_=None)


def test_custom_not_found_and_error_pages() -> None:
    asked = app(ErrorRouter, render_errors=MyErrorView, debug_errors=False).test()
    for path, headers, status, body in (
        ("/nobody", {}, 404, "Page not found - 404"),
        ("/crash", {}, 500, "Server internal error - 500"),
        ("/crash", {"accept": "application/json"}, 500, '{"error":"Server internal error - 500"}'),
        ("/crash?format=json", {}, 500, '{"error":"Server internal error - 500"}'),
    ):
        conn = asked.get(path, headers=headers)
        assert (conn.status, conn.resp_body) == (status, body)


def test_custom_not_found_and_error_pages_the_error_view_is_found_beside_the_router(place: Path) -> None:
    write(place, {
        "shop/web/views/error_view.py": """
            from phoenix import View

            class ErrorView(View):
                def render(self, name, assigns):
                    return f"our own page for {name}"
            """,
        "shop/web/router.py": "import phoenix\n\nclass Router(phoenix.Router):\n    pass\n",
    })  # fmt: skip
    asked = app(import_module("shop.web.router").Router, env="prod").test()
    assert asked.get("/nobody").resp_body == "our own page for 404.html"


def test_custom_not_found_and_error_pages_debug_errors_show_details_and_are_off_otherwise() -> None:
    shown = app(ErrorRouter, debug_errors=True).test().get("/crash", headers={"accept": "text/html"})
    assert shown.status == 500
    assert "RuntimeError" in shown.resp_body and "a secret detail" in shown.resp_body
    hidden = app(ErrorRouter, env="prod").test().get("/crash", headers={"accept": "text/html"})
    assert hidden.status == 500
    assert "a secret detail" not in hidden.resp_body


def test_plug_exception_an_exception_says_its_status() -> None:
    asked = app(ErrorRouter, env="prod").test()
    assert NoRouteError.status == 404
    assert asked.get("/nobody").status == 404
    assert asked.get("/mine").status == 410

    class TeaRouter(Router):
        def brew(conn: Conn, params: Any) -> Conn:  # type: ignore[misc] # noqa: N805
            raise TeapotError

        get("/tea", brew)

    assert app(TeaRouter, env="prod").test().get("/tea").status == 418


def test_plug_exception_the_status_of_an_existing_exception_is_registered() -> None:
    assert app(ErrorRouter, env="prod").test().get("/foreign").status == 500
    assert app(ErrorRouter, env="prod", error_statuses={NotSingleResult: 404}).test().get("/foreign").status == 404


# ==========================================================================================
# Static assets
# ==========================================================================================

STATIC_APP = {
    "static_app/router.py": "import phoenix\n\nclass Router(phoenix.Router):\n    pass\n",
    "static_app/priv/static/js/phoenix.js": "// the client\n",
}


def test_static_assets_are_served_from_priv_static_at_the_root(place: Path) -> None:
    write(place, STATIC_APP)
    router = import_module("static_app.router").Router
    options = {"secret_key_base": SECRET, "log": False, "env": "prod"}
    conn = Endpoint(router, **options).test().get("/js/phoenix.js")
    assert (conn.status, conn.get_resp_header("content-type")[0].partition(";")[0]) == (200, "text/javascript")
    assert Endpoint(router, static=False, **options).test().get("/js/phoenix.js").status == 404
    mounted = Endpoint(router, static={"at": "/assets"}, **options).test()
    assert [mounted.get(path).status for path in ("/assets/js/phoenix.js", "/js/phoenix.js")] == [200, 404]


# ==========================================================================================
# Notes on later versions: routes
# ==========================================================================================


def test_notes_a_verb_is_one_clause_and_resources_are_eight() -> None:
    class Counted(Router):
        get("/", CardController, "index")
        resources("/users", UserController)

    assert len(Counted.routes) == 1 + 8


def test_notes_resources_are_restricted_by_only_and_except() -> None:
    class Restricted(Router):
        resources("/a", UserController, only=["index", "show"], as_="a")
        resources("/b", UserController, except_=["index", "show"], as_="b")

    assert [(route.path, route.action) for route in Restricted.routes if route.path.startswith("/a")] == [("/a", "index"), ("/a/:id", "show")]
    assert {route.action for route in Restricted.routes if route.path.startswith("/b")} == {"edit", "new", "create", "update", "destroy"}


def test_notes_any_of_these_routes_may_be_nested_and_scoped() -> None:
    class Nested(Router):
        with scope("/v1"):
            with resources("/users", UserController, only=["show"]):
                get("/cards", CardController)
                resources("/comments", CommentController, only=["show"])

    assert [route.path for route in Nested.routes] == ["/v1/users/:id", "/v1/users/:user_id/cards", "/v1/users/:user_id/comments/:id"]


def test_notes_as_in_a_scope_reduces_duplication() -> None:
    class Versions(Router):
        with scope("/v1", as_="v1"):
            get("/cards", CardController)
            resources("/users", UserController, only=["show"])

    assert [route.helper for route in Versions.routes] == ["v1_card", "v1_user"]
    assert Versions.helpers.v1_card_path(None, "index") == "/v1/cards"


def test_notes_as_for_a_single_route() -> None:
    class Single(Router):
        with scope("/v1"):
            get("/cards", CardController, as_="v1")

    assert Single.helpers.v1_path(None, "index") == "/v1/cards"


def test_notes_as_for_scoped_routes_eliminates_unreachable_paths() -> None:
    with pytest.warns(RouterWarning, match="has the same helper as /cards"):

        class Unreachable(Router):
            get("/cards", CardController)
            with scope("/v1"):
                get("/cards", CardController)

    assert Unreachable.helpers.card_path(None, "index") == "/cards"
    with warnings.catch_warnings():
        warnings.simplefilter("error")

        class Reachable(Router):
            get("/cards", CardController)
            with scope("/v1", as_="v1"):
                get("/cards", CardController)

    assert Reachable.helpers.v1_card_path(None, "index") == "/v1/cards"


def test_notes_singleton_routes() -> None:
    class Singleton(Router):
        resources("/sessions", SessionController, singleton=True)

    class Same(Router):
        resource("/sessions", SessionController)

    assert format_routes(Singleton) == format_routes(Same) == (
        "session_path  GET     /sessions/edit  SessionController.edit/2\n"
        "session_path  GET     /sessions/new   SessionController.new/2\n"
        "session_path  GET     /sessions       SessionController.show/2\n"
        "session_path  POST    /sessions       SessionController.create/2\n"
        "session_path  PATCH   /sessions       SessionController.update/2\n"
        "              PUT     /sessions       SessionController.update/2\n"
        "session_path  DELETE  /sessions       SessionController.destroy/2\n"
    )


def test_notes_a_scope_without_a_slash_works_and_warns() -> None:
    with pytest.warns(RouterWarning, match=re.escape('router paths should begin with a forward slash, got: "v1"')):

        class Warned(Router):
            with pipeline("api"):
                plug(Conn.accepts, "json")
            with scope("/"):
                pipe_through("api")
                with scope("v1"):
                    get("/cards", CardController)

    assert [route.path for route in Warned.routes] == ["/v1/cards"]


# --- The accepts plug ---------------------------------------------------------------------


def test_notes_accepts_looks_at_accept_and_not_at_the_content_type() -> None:
    class Accepting(Router):
        with pipeline("api"):
            plug(Conn.accepts, "json")
        with scope("/"):
            pipe_through("api")
            post("/cards", CardController, "create")

    asked = client(Accepting)
    assert asked.post("/cards", {"a": "1"}, headers={"accept": "application/json"}).format == "json"
    assert asked.post("/cards", {"a": "1"}).format == "json"  # no Accept header: rendered as usual
    with pytest.raises(NotAcceptableError) as caught:
        asked.post("/cards", {"a": "1"}, headers={"accept": "application/html"})
    assert str(caught.value).startswith(
        "no supported media type in accept header.\n\n"
        'Expected one of ["json"] but got the following formats:\n\n'
        '  * "application/html" with extensions: []'
    )
    assert app(Accepting, env="prod").test().post("/cards", {}, headers={"accept": "application/html"}).status == 406


# --- Plugs --------------------------------------------------------------------------------


def test_notes_one_connection_passes_through_function_plugs_and_module_plugs() -> None:
    made: list[str] = []

    class ModulePlug:
        def __init__(self, default: str) -> None:  # init/1, once
            made.append(default)
            self.default = default

        def __call__(self, conn: Conn) -> Conn:  # call/2, at each request
            return conn.assign("locale", conn.params.get("locale", self.default))

    def function_plug(conn: Conn, suffix: str) -> Conn:
        return conn.assign("locale", conn.assigns["locale"] + suffix)

    class Plugged(Router):
        with pipeline("browser"):
            plug(ModulePlug, "en")
            plug(function_plug, suffix="!")
        with scope("/"):
            pipe_through("browser")
            get("/", lambda conn, params: conn.text(conn.assigns["locale"]))

    asked = client(Plugged)
    assert [asked.get(path).resp_body for path in ("/", "/?locale=de")] == ["en!", "de!"]
    assert made == ["en"]


def test_notes_controllers_are_themselves_plugs() -> None:
    class Through(Router):
        with pipeline("cards"):
            plug(CardController, "show")
        with scope("/"):
            pipe_through("cards")
            get("/cards/:id", lambda conn: conn)

    asked = client(Through)
    assert asked.json_response(asked.get("/cards/7")) == ["CardController", "show", {"id": "7"}]


# --- Controllers --------------------------------------------------------------------------


def answering(action: Any, accepts: tuple[str, ...] = ("html", "json")) -> Client:
    class Answering(Router):
        with pipeline("browser"):
            plug(Conn.accepts, *accepts)
        with scope("/"):
            pipe_through("browser")
            get("/", action)
            post("/", action, as_=None)
            put("/", action, as_=None)

    return client(Answering)


def test_notes_text_json_and_html_need_neither_view_nor_template() -> None:
    assert answering(lambda conn, params: conn.text("hi")).get("/").resp_body == "hi"
    assert answering(lambda conn, params: conn.json({"id": 1})).get("/").resp_body == '{"id":1}'
    assert answering(lambda conn, params: conn.html("<b>hi</b>")).get("/").resp_body == "<b>hi</b>"


def test_notes_the_format_changes_with_the_format_parameter_and_is_else_the_first_accepted() -> None:
    def tell(conn: Conn, params: Any) -> Conn:
        return conn.text(conn.format)

    assert answering(tell).get("/?_format=json").resp_body == "json"
    assert answering(tell).get("/").resp_body == "html"
    assert answering(tell, ("json", "html")).get("/").resp_body == "json"


def test_notes_all_keys_and_values_of_params_are_strings() -> None:
    conn = answering(lambda conn, params: conn.json(params)).post("/?a=1", {"b": "2", "c": {"d": ["3"]}})
    assert conn.resp_body == '{"a":"1","b":"2","c":{"d":["3"]}}'


def test_notes_scrubbing_params() -> None:
    class Scrubbing(Controller):
        plug(Conn.scrub_params, "user")

        def create(self, conn: Conn, params: Any) -> Conn:
            return conn.json(params["user"])

    class ScrubRouter(Router):
        post("/users", Scrubbing, "create")

    assert client(ScrubRouter).post("/users", {"user": {"name": "", "city": "  ", "job": "x"}}).resp_body == '{"name":null,"city":null,"job":"x"}'
    with pytest.raises(phoenix.MissingParamError):
        client(ScrubRouter).post("/users", {"other": "1"})


@pytest.mark.parametrize("status, code", [("ok", 200), ("no_content", 204), ("accepted", 202)])
def test_notes_an_empty_response_and_its_status(status: str, code: int) -> None:
    conn = answering(lambda conn, params: conn.send_resp(status, "")).put("/")
    assert (conn.status, conn.resp_body) == (code, "")


def test_notes_params_that_no_clause_takes_are_a_bad_request() -> None:
    def show(conn: Conn, params: Any) -> Any:
        match params:
            case {"page": page}:
                return conn.text(page)

    with pytest.raises(ActionClauseError):
        answering(show).get("/")


# --- Views --------------------------------------------------------------------------------


class HelloLayoutView(View):
    template("app.html.eex", "<title><%= title() %></title><%= render(@view_module, @view_template, assigns) %>")

    def title(self) -> str:
        return "Awesome New Title!"


class HelloPageView(View):
    template("test.html.eex", "<p><%= @user %>, <%= assigns['user'] %></p>")
    template("other.html.eex", "other")

    def render(self, name: str, assigns: dict[str, Any]) -> Any:
        match name:
            case "index.html":  # instead of a template page/index.html.eex
                return f"<h1>Hello {assigns['name']}</h1>"
            case "different.html":
                return self.render("other.html", assigns)
            case "404.html":
                return "Page not found"
            case "500.html":
                return self.render("500.html", assigns)
            case "index.json":
                return {"data": [self.render("page.json", {"page": page}) for page in assigns["pages"]]}
            case "page.json":
                return {"title": assigns["page"]}
        return super().render(name, assigns)


def test_notes_a_function_of_the_layout_view_is_a_local_call_in_the_layout() -> None:
    body = render(HelloPageView, "index.html", name="Ann", layout=(HelloLayoutView, "app.html"))
    assert body == "<title>Awesome New Title!</title><h1>Hello Ann</h1>"


def test_notes_render_clauses_by_hand_are_the_same_as_templates() -> None:
    assert render(HelloPageView, "index.html", name="Ann") == "<h1>Hello Ann</h1>"
    assert render(HelloPageView, "different.html") == "other"
    assert render(HelloPageView, "404.html") == "Page not found"


def test_notes_a_clause_that_renders_itself_does_not_loop_for_ever() -> None:
    with pytest.raises(PhoenixError, match="rendering '500.html' of .*HelloPageView does not end"):
        render(HelloPageView, "500.html")


def test_notes_any_template_renders_in_the_shell() -> None:
    assert render(HelloPageView, "test.html", {"user": "<Ann>"}) == "<p>&lt;Ann&gt;, &lt;Ann&gt;</p>"


def test_notes_an_assign_is_looked_up_in_the_map_and_is_nothing_when_missing() -> None:
    class MapView(View):
        template("x.html.eex", "[<%= @user %>]")

    assert render(MapView, "x.html", {}) == "[]"


def test_notes_views_format_data_and_the_framework_encodes_it() -> None:
    assert render_to_string(HelloPageView, "index.json", pages=["a", "b"]) == '{"data":[{"title":"a"},{"title":"b"}]}'


def test_notes_several_endpoints_live_in_one_application() -> None:
    class OneRouter(Router):
        get("/", lambda conn, params: conn.text(conn.endpoint.url("/")))

    one, two = app(OneRouter, url={"host": "one.example", "port": 80}), app(OneRouter, url={"host": "two.example", "port": 80})
    assert [each.test(raise_errors=True).get("/").resp_body for each in (one, two)] == ["http://one.example/", "http://two.example/"]
