"""Chapter 9, Controllers: actions, what they answer with, and in which format."""

from __future__ import annotations

import asyncio
import gc
import json
import re
import sys
from collections.abc import Callable, Iterator, Mapping
from importlib import import_module
from pathlib import Path
from textwrap import dedent
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import phoenix
from phoenix import (
    MIME,
    ActionClauseError,
    AlreadySentError,
    ArgumentError,
    BadRequestError,
    Conn,
    Controller,
    DefinitionError,
    Endpoint,
    MissingParamError,
    NotAcceptableError,
    PhoenixError,
    PlugError,
    Router,
    TemplateNotFoundError,
    TemplateSyntaxError,
    View,
    delete,
    forward,
    get,
    negotiate,
    pipe_through,
    pipeline,
    plug,
    post,
    put,
    resources,
    scope,
    template,
)
from phoenix import TestClient as Client


def app(router: Any, **options: Any) -> Endpoint:
    return Endpoint(router, **{"log": False, "static": False, "env": "test", "secret_key_base": "s" * 64, **options})


def client(router: Any, **options: Any) -> Client:
    """Return a client of an app of *router*, which raises what the app raises."""
    return app(router, **options).test(raise_errors=True)


def routing(controller: Any, *actions: str) -> type[Router]:
    """Return a router with a route ``/<action>/:id`` and one without id for each action."""

    class OneRouter(Router):
        for action in actions:
            get(f"/{action}", controller, action, as_=None)
            get(f"/{action}/:id", controller, action, as_=None)

    return OneRouter


def calling(action: Callable[[Conn, Any], Any], path: str = "/", **options: Any) -> Conn:
    """Answer a GET of *path* with *action*."""

    class ActionRouter(Router):
        get("/*rest", action, as_=None)

    return client(ActionRouter).get(path, **options)


def content_type(conn: Conn) -> str:
    (value,) = conn.get_resp_header("content-type")
    return value


# --- Actions ------------------------------------------------------------------------------


class UserController(Controller):
    def show(self, conn: Conn, params: Any) -> Conn:
        return conn.text(f"{conn.action_name} {params['id']}")

    async def slow(self, conn: Conn, params: Any) -> Conn:
        await asyncio.sleep(0)
        return conn.text(f"slow {params['id']}")

    @staticmethod
    def static(conn: Conn, params: Any) -> Conn:
        return conn.text("static")

    @classmethod
    def of_class(cls, conn: Conn, params: Any) -> Conn:
        return conn.text(cls.__name__)


def test_an_action_takes_the_conn_and_its_params_and_returns_the_conn() -> None:
    asked = client(routing(UserController, "show", "slow", "static", "of_class"))
    assert [asked.get(path).resp_body for path in ("/show/7", "/slow/8", "/static", "/of_class")] == [
        "show 7", "slow 8", "static", "UserController",
    ]  # fmt: skip
    conn = asked.get("/show/7")
    assert (conn.controller, conn.action_name, conn.halted, conn.state) == (UserController, "show", False, "sent")


def test_keys_and_values_of_params_are_text() -> None:
    conn = calling(lambda conn, params: conn.json([list(params), params["page"], params["rest"]]), "/a?page=5")
    assert json.loads(conn.resp_body) == [["page", "rest"], "5", ["a"]]


def test_a_missing_param_is_a_bad_request() -> None:
    with pytest.raises(MissingParamError) as caught:
        calling(lambda conn, params: conn.text(params["nobody"]))
    assert caught.value.status == 400


class ClauseController(Controller):
    def show(self, conn: Conn, params: Any) -> Any:
        match params:
            case {"page": "admin"}:
                return conn.text("admin")
            case {"page": page}:
                return conn.text(f"page {page}")

    def forgets(self, conn: Conn, params: Any) -> Any:
        conn.text("sent, and not returned")

    def wrong(self, conn: Conn, params: Any) -> Any:
        return "text"


def test_the_clauses_of_an_action_match_its_params() -> None:
    asked = client(routing(ClauseController, "show"))
    assert [asked.get(f"/show?page={page}").resp_body for page in ("admin", "7")] == ["admin", "page 7"]


def test_params_that_no_clause_takes_are_a_bad_request_that_names_the_action() -> None:
    with pytest.raises(ActionClauseError, match=r"no clause of ClauseController.show takes the params {'other': '1'}") as caught:
        client(routing(ClauseController, "show")).get("/show?other=1")
    assert caught.value.status == 400
    assert app(routing(ClauseController, "show"), env="prod").test().get("/show?other=1").status == 400


def test_no_clause_of_a_function_names_the_function() -> None:
    def hello(conn: Conn, params: Any) -> Any:
        match params:
            case {"name": name}:
                return conn.text(name)

    with pytest.raises(ActionClauseError, match=r"no clause of \S*hello takes the params"):
        calling(hello)


@pytest.mark.parametrize(
    "action, told",
    [
        ("forgets", "ClauseController.forgets must return the conn. It sent a response, but ends without `return`"),
        ("wrong", "ClauseController.wrong must return the conn. It returned 'text'."),
    ],
)
def test_an_action_that_does_not_return_the_conn_is_named(action: str, told: str) -> None:
    with pytest.raises(PlugError, match=re.escape(told)):
        client(routing(ClauseController, action)).get(f"/{action}")


def test_an_action_is_called_by_a_method_that_can_be_overridden() -> None:
    class CurrentUserController(Controller):
        def action(self, conn: Conn) -> Any:
            return getattr(self, str(conn.action_name))(conn, conn.params, "ann")

        def show(self, conn: Conn, params: Any, user: str) -> Conn:
            return conn.text(f"{user} {params['id']}")

        async def slow(self, conn: Conn, params: Any, user: str) -> Conn:
            await asyncio.sleep(0)
            return conn.text(f"slow {user}")

    asked = client(routing(CurrentUserController, "show", "slow"))
    assert [asked.get(path).resp_body for path in ("/show/7", "/slow")] == ["ann 7", "slow ann"]


def test_the_method_that_calls_actions_can_be_extended() -> None:
    class LoggedController(UserController):
        def action(self, conn: Conn) -> Any:
            return super().action(conn.put_resp_header("x-logged", "yes"))

    conn = client(routing(LoggedController, "show")).get("/show/7")
    assert (conn.resp_body, conn.get_resp_header("x-logged")) == ("show 7", ["yes"])


def test_there_is_one_object_of_a_controller() -> None:
    seen: list[Any] = []

    class OneController(Controller):
        def show(self, conn: Conn, params: Any) -> Conn:
            seen.append(self)
            return conn.text("")

    asked = client(routing(OneController, "show"))
    asked.get("/show")
    asked.get("/show/1")
    assert seen == [OneController.instance()] * 2


def test_a_controller_is_a_plug_with_its_action_as_option() -> None:
    class AnyRouter(Router):
        with pipeline("user"):
            plug(UserController, "show")
        with scope("/"):
            pipe_through("user")
            get("/users/:id", lambda conn, params: conn)
        get("/direct/:id", UserController("show"), as_="direct")

    asked = client(AnyRouter)
    assert asked.get("/users/7").resp_body == "show 7"
    conn = asked.get("/direct/8")
    assert (conn.resp_body, conn.controller, conn.action_name) == ("show 8", UserController, "show")
    with pytest.raises(DefinitionError, match="UserController has no action 'shwo'. Did you mean 'show'?"):
        UserController("shwo")


# --- destroy and delete -------------------------------------------------------------------


class DestroyController(Controller):
    def destroy(self, conn: Conn, params: Any) -> Conn:
        return conn.text("destroy")


class DeleteController(Controller):
    def delete(self, conn: Conn, params: Any) -> Conn:
        return conn.text(f"delete as {conn.action_name}")


class BothController(DestroyController, DeleteController):
    plug(lambda conn: conn.put_resp_header("x-guarded", "yes")).only("destroy")


def test_destroy_and_delete_are_one_action() -> None:
    class SynonymRouter(Router):
        resources("/a", DestroyController, only=["delete"], as_="a")
        resources("/b", DeleteController, only=["destroy"], as_="b")
        delete("/c", DestroyController, "delete", as_="c")
        delete("/d", DeleteController, "destroy", as_="d")

    asked = client(SynonymRouter)
    assert [asked.delete(path).resp_body for path in ("/a/1", "/b/1", "/c", "/d")] == [
        "destroy", "delete as delete", "destroy", "delete as delete",
    ]  # fmt: skip
    helpers = SynonymRouter.helpers
    for name in ("destroy", "delete"):
        assert (helpers.a_path(None, name, 1), helpers.b_path(None, name, 1), helpers.d_path(None, name)) == ("/a/1", "/b/1", "/d")


def test_a_controller_that_has_both_gets_what_it_asks_for() -> None:
    class BothRouter(Router):
        get("/ask", BothController, "delete", as_="ask")
        delete("/do", BothController, "destroy", as_="do")

    asked = client(BothRouter)
    shown, done = asked.get("/ask"), asked.delete("/do")
    assert (shown.resp_body, shown.get_resp_header("x-guarded")) == ("delete as delete", [])
    assert (done.resp_body, done.get_resp_header("x-guarded")) == ("destroy", ["yes"])


@pytest.mark.parametrize("guard", ["destroy", "delete"])
@pytest.mark.parametrize("base", [DestroyController, DeleteController])
def test_a_guard_knows_both_words(guard: str, base: type[Controller]) -> None:
    class GuardedController(base):  # type: ignore[misc,valid-type]
        plug(lambda conn: conn.put_status(401).text("no").halt()).only(guard)

    class GuardedRouter(Router):
        resources("/x", GuardedController, only=["destroy"])

    assert client(GuardedRouter).delete("/x/1").status == 401


# --- Plugs of a controller ----------------------------------------------------------------


def note(conn: Conn, word: str = "default") -> Conn:
    return conn.assign("notes", [*conn.assigns.get("notes", []), word])


class NoteClass:
    def __init__(self, word: str) -> None:
        self.word = word

    def __call__(self, conn: Conn) -> Conn:
        return note(conn, self.word)


class PluggedController(Controller):
    plug(note, "first")
    plug(note)
    plug("own_by_name", "by name")
    plug(note, "show only").only("show")
    plug(note, "not show").except_("show")
    plug(NoteClass, "class")

    def own(self, conn: Conn, word: str = "own") -> Conn:
        return note(conn, f"{type(self).__name__} {word}")

    plug(own)

    def own_by_name(self, conn: Conn, word: str) -> Conn:
        return note(conn, word)

    def show(self, conn: Conn, params: Any) -> Conn:
        return conn.json(conn.assigns["notes"])

    index = show


@pytest.mark.parametrize(
    "action, notes",
    [
        ("show", ["first", "default", "by name", "show only", "class", "PluggedController own"]),
        ("index", ["first", "default", "by name", "not show", "class", "PluggedController own"]),
    ],
)
def test_plugs_run_before_the_actions_they_are_for_in_the_order_of_writing(action: str, notes: list[str]) -> None:
    conn = client(routing(PluggedController, action)).get(f"/{action}")
    assert json.loads(conn.resp_body) == notes


def test_plugs_are_inherited_and_run_before_those_of_the_class_itself() -> None:
    class ChildController(PluggedController):
        plug(note, "child")

    conn = client(routing(ChildController, "index")).get("/index")
    assert json.loads(conn.resp_body) == ["first", "default", "by name", "not show", "class", "ChildController own", "child"]


def test_a_halting_plug_keeps_the_action_from_running() -> None:
    class HaltController(Controller):
        plug(lambda conn: conn.put_status(403).text("no").halt())

        def show(self, conn: Conn, params: Any) -> Conn:
            raise AssertionError("this action must not run")

    conn = client(routing(HaltController, "show")).get("/show")
    assert (conn.status, conn.resp_body) == (403, "no")


def test_the_position_of_the_action_may_be_written_and_changes_nothing() -> None:
    class MarkedController(Controller):
        plug(note, "a")
        plug("action")
        plug(note, "b")

        def show(self, conn: Conn, params: Any) -> Conn:
            return conn.json(conn.assigns["notes"])

    assert json.loads(client(routing(MarkedController, "show")).get("/show").resp_body) == ["a", "b"]


def test_responses_do_not_halt() -> None:
    for respond in (
        lambda conn: conn.text("x"), lambda conn: conn.json(1), lambda conn: conn.html("x"), lambda conn: conn.redirect("/"),
        lambda conn: conn.put_view(PageView).render("show.html"),
    ):  # fmt: skip
        conn = calling(lambda conn, params: respond(conn))  # noqa: B023
        assert (conn.halted, conn.state) == (False, "sent")


@pytest.mark.parametrize(
    "define, told",
    [
        ("plug('lcoale')\n    def locale(self, conn): ...", "has no method 'lcoale' to plug. Did you mean 'locale'?"),
        ("plug(note).only('shwo')", "note is for the action 'shwo', which MyController does not have. Did you mean 'show'?"),
        ("plug(note).except_('nobody')", "is for the action 'nobody', which MyController does not have. It has: show."),
        ("plug(note, wrong=1)", "cannot be called with a conn"),
        ("plug(7)", "cannot plug 7"),
    ],
)
def test_a_mistake_in_a_plug_of_a_controller_is_found_when_the_router_is_defined(define: str, told: str) -> None:
    source = f"class MyController(Controller):\n    {define}\n    def show(self, conn, params): return conn\n"
    with pytest.raises(DefinitionError, match=re.escape(told)) as caught:
        names = dict(globals())
        exec(compile(source, "web/my_controller.py", "exec"), names)
        routing(names["MyController"], "show")
    assert str(caught.value).startswith("web/my_controller.py:2: ")


# --- Fallback -----------------------------------------------------------------------------


def told_by_function(conn: Conn, value: Any) -> Conn:
    return conn.text(f"function {value} {conn.assigns.get('notes')}")


async def told_later(conn: Conn, value: Any) -> Conn:
    await asyncio.sleep(0)
    return conn.text(f"later {value}")


class ToldByClass:
    def __call__(self, conn: Conn, value: Any) -> Conn:
        return conn.text(f"class {value}")


class FallbackController(Controller):
    plug(note, "x")
    action_fallback = told_by_function

    def show(self, conn: Conn, params: Any) -> Any:
        return ("error", "not_found")

    async def slow(self, conn: Conn, params: Any) -> Any:
        await asyncio.sleep(0)
        return "slow"

    def fine(self, conn: Conn, params: Any) -> Any:
        return conn.text("fine")

    def nothing(self, conn: Conn, params: Any) -> Any:
        return None


class LaterController(FallbackController):
    action_fallback = told_later


class ClassFallbackController(FallbackController):
    action_fallback = ToldByClass


class NamedFallbackController(FallbackController):
    action_fallback = "told"

    def told(self, conn: Conn, value: Any) -> Conn:
        return conn.text(f"{type(self).__name__} {value}")


class MethodFallbackController(FallbackController):
    def action_fallback(self, conn: Conn, value: Any) -> Conn:  # type: ignore[override]
        return conn.text(f"{type(self).__name__} method {value}")


class LambdaFallbackController(FallbackController):
    action_fallback = lambda conn, value: conn.text(f"lambda {value}")  # noqa: E731


@pytest.mark.parametrize(
    "controller, path, expected",
    [
        (FallbackController, "/show", "function ('error', 'not_found') ['x']"),
        (FallbackController, "/slow", "function slow ['x']"),
        (FallbackController, "/fine", "fine"),
        (LaterController, "/show", "later ('error', 'not_found')"),
        (LaterController, "/slow", "later slow"),
        (ClassFallbackController, "/slow", "class slow"),
        (NamedFallbackController, "/slow", "NamedFallbackController slow"),
        (MethodFallbackController, "/slow", "MethodFallbackController method slow"),
        (LambdaFallbackController, "/slow", "lambda slow"),
    ],
)
def test_the_fallback_answers_what_an_action_returns_instead_of_the_conn(controller: Any, path: str, expected: str) -> None:
    assert client(routing(controller, "show", "slow", "fine")).get(path).resp_body == expected


def test_nothing_at_all_is_no_value_for_a_fallback_but_a_match_that_fell_through() -> None:
    with pytest.raises(ActionClauseError):
        client(routing(FallbackController, "nothing")).get("/nothing")


def test_a_fallback_must_answer_with_the_conn() -> None:
    class BadFallbackController(FallbackController):
        action_fallback = lambda conn, value: "no conn"  # noqa: E731

    told = "lambda.* returned 'no conn', expected the conn"
    with pytest.raises(PlugError, match=told):
        client(routing(BadFallbackController, "show")).get("/show")


# --- text, html, json ---------------------------------------------------------------------


@pytest.mark.parametrize(
    "respond, kind, body",
    [
        (lambda conn: conn.text("hi <b>"), "text/plain; charset=utf-8", "hi <b>"),
        (lambda conn: conn.text(42), "text/plain; charset=utf-8", "42"),
        (lambda conn: conn.text(b"bytes"), "text/plain; charset=utf-8", b"bytes"),
        (lambda conn: conn.html("<b>hi</b>"), "text/html; charset=utf-8", "<b>hi</b>"),
        (lambda conn: conn.json({"a": [1, None, True, "é"]}), "application/json; charset=utf-8", '{"a":[1,null,true,"é"]}'),
        (lambda conn: conn.json("x"), "application/json; charset=utf-8", '"x"'),
    ],
)
def test_responses_have_their_content_type_and_status_200(respond: Any, kind: str, body: Any) -> None:
    conn = calling(lambda conn, params: respond(conn))
    assert (conn.status, content_type(conn), conn.resp_body) == (200, kind, body)


def test_responses_honour_the_status_and_the_content_type_that_were_put_before() -> None:
    conn = calling(lambda conn, params: conn.put_status("bad_request").json({}))
    assert conn.status == 400
    conn = calling(lambda conn, params: conn.put_resp_content_type("application/vnd.api+json").json({}))
    assert content_type(conn) == "application/vnd.api+json; charset=utf-8"


def test_an_empty_answer_with_a_status_is_one_call() -> None:
    conn = calling(lambda conn, params: conn.send_resp("no_content", ""))
    assert (conn.status, conn.resp_body) == (204, "")


def test_what_has_no_form_in_json_is_refused() -> None:
    with pytest.raises(ArgumentError, match="cannot encode as JSON"):
        calling(lambda conn, params: conn.json({"a": object()}))


def test_nothing_can_be_sent_twice() -> None:
    for again in (lambda conn: conn.text("b"), lambda conn: conn.redirect("/"), lambda conn: conn.put_view(PageView),
                  lambda conn: conn.put_layout("x"), lambda conn: conn.put_layout_formats("html"),
                  lambda conn: conn.render("show.html")):  # fmt: skip
        with pytest.raises(AlreadySentError):
            calling(lambda conn, params: again(conn.text("a")))  # noqa: B023


JSONP_BAD = ["alert(1)", "a b", "a;b", "<script>", "a-b", "café"]


def test_jsonp_wraps_json_for_a_callback_and_escapes_what_javascript_would_break_at() -> None:
    def answer(conn: Conn, params: Any) -> Conn:
        return conn.allow_jsonp().json({"a": "\u2028\u2029"})

    conn = calling(answer, "/?callback=cb.x[0]")
    assert conn.resp_body == "/**/ typeof cb.x[0] === 'function' && cb.x[0]({\"a\":\"\\u2028\\u2029\"});"
    assert content_type(conn) == "text/javascript; charset=utf-8"
    for path in ("/", "/?callback="):
        assert content_type(calling(answer, path)) == "application/json; charset=utf-8"
    assert calling(lambda conn, params: conn.allow_jsonp(callback="cb").json(1), "/?cb=f").resp_body.endswith("f(1);")
    for name in JSONP_BAD:
        with pytest.raises(BadRequestError, match="the JSONP callback name contains invalid characters"):
            calling(answer, "/?" + phoenix.encode_query({"callback": name}))


# --- Redirects ----------------------------------------------------------------------------


def test_a_redirect_sends_the_client_to_a_path_of_this_site() -> None:
    for redirect in (lambda conn: conn.redirect("/foo?a=1&b=<2>"), lambda conn: conn.redirect(to="/foo?a=1&b=<2>")):
        conn = calling(lambda conn, params: redirect(conn))  # noqa: B023
        assert conn.status == 302
        assert conn.get_resp_header("location") == ["/foo?a=1&b=%3C2%3E"]
        assert content_type(conn) == "text/html; charset=utf-8"
        assert conn.resp_body == (
            '<html><body>You are being <a href="/foo?a=1&amp;b=&lt;2&gt;">redirected</a>.</body></html>'
        )


def test_a_redirect_keeps_a_status_that_was_put_and_replaces_the_content_type() -> None:
    conn = calling(lambda conn, params: conn.put_status(301).put_resp_content_type("application/json").redirect("/"))
    assert (conn.status, content_type(conn)) == (301, "text/html; charset=utf-8")


def test_an_external_redirect_goes_anywhere() -> None:
    conn = calling(lambda conn, params: conn.redirect(external="https://example.com/a b?c=d#e"))
    assert conn.get_resp_header("location") == ["https://example.com/a%20b?c=d#e"]


NO_PATHS = ["http://example.com", "//example.com", "///example.com", "example.com", "", " /x", "javascript:alert(1)", "\\example.com"]


@pytest.mark.parametrize("to", NO_PATHS)
def test_a_redirect_to_what_is_no_path_is_refused(to: str) -> None:
    with pytest.raises(ArgumentError, match=re.escape(f'the :to option in redirect expects a path but was "{to}"')):
        calling(lambda conn, params: conn.redirect(to=to))


@pytest.mark.parametrize("to", ["/\\example.com", "/%09/example.com", "/\t/example.com", "/\n/example.com", "/\r\nset-cookie: a=b", "/\0"])
def test_a_path_that_a_browser_could_read_as_another_host_is_refused(to: str) -> None:
    with pytest.raises(ArgumentError, match=re.escape(f"unsafe characters detected for local redirect in URL {json.dumps(to)}")):
        calling(lambda conn, params: conn.redirect(to=to))


def test_a_redirect_needs_to_know_where_to() -> None:
    with pytest.raises(ArgumentError, match="expected :to or :external option in redirect"):
        calling(lambda conn, params: conn.redirect())


@given(st.text(st.characters(exclude_categories=["Cs"])))
def test_a_location_never_leaves_this_site_nor_its_line(to: str) -> None:
    from urllib.parse import urljoin, urlsplit

    try:
        conn = Conn().redirect(to=to)
    except ArgumentError:
        return
    (location,) = conn.get_resp_header("location")
    assert location.isascii() and location.isprintable()
    assert urlsplit(urljoin("http://own.example/x", location)).netloc == "own.example"


# --- Negotiation --------------------------------------------------------------------------

NEGOTIATED: list[tuple[str, list[str], str]] = [
    # Nothing, or anything, is asked for: the first
    ("", ["json", "html"], "json"),
    ("*/*", ["json", "html"], "json"),
    ("*/*", ["html", "json"], "html"),
    (" */* ", ["json"], "json"),
    # What browsers send: html where it is offered
    ("application/json, */*", ["json", "html"], "html"),
    ("text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8", ["json", "html"], "html"),
    ("image/png, */*;q=0.1", ["json", "xml"], "json"),
    ("text/html,*/*;q=0.8", ["json"], "json"),
    # One after the other
    ("application/json", ["html", "json"], "json"),
    ("text/html, application/json", ["json", "html"], "html"),
    ("application/xml, application/json", ["html", "json"], "json"),
    ("application/xml", ["html", "xml"], "xml"),
    ("text/xml", ["html", "xml"], "xml"),
    ("TEXT/HTML", ["json", "html"], "html"),
    ("text/html; charset=utf-8", ["json", "html"], "html"),
    ("text/html;level=1", ["json", "html"], "html"),
    ("application/vnd.api+json", ["json-api", "json"], "json-api"),
    ("application/vnd.thing+json", ["html", "json"], "json"),
    ("text/plain", ["html", "text"], "text"),
    ("text/plain", ["html", "txt"], "txt"),
    ("text/*", ["json", "html"], "html"),
    ("text/*", ["json", "txt", "html"], "txt"),
    ("application/*", ["html", "json"], "json"),
    # By quality
    ("application/json;q=0.9, text/html;q=0.8", ["html", "json"], "json"),
    ("text/html;q=0.8, application/json;q=0.9", ["html", "json"], "json"),
    ("text/html;q=0.9, application/json", ["html", "json"], "json"),
    ("text/html;q=0.9, application/json;q=1.0", ["html", "json"], "json"),
    ("text/html;q=1, application/json;q=1", ["json", "html"], "html"),
    ("text/html;q=oops, application/json", ["json", "html"], "html"),
    ("text/html;q=nan, application/json", ["json", "html"], "html"),
    ("text/html;q=, application/json;q=0.5", ["json", "html"], "html"),
    ("text/html; Q=0.1, application/json;q=0.5", ["json", "html"], "json"),
    ("text/html;q=0, application/json;q=0.1", ["html", "json"], "json"),
    ("text/html;q=0.5, application/json;q=0.5", ["html", "json"], "json"),  # a tie: by the letters of the header
    ("image/png;q=0.9, text/html;q=0.1", ["html"], "html"),
    ("nonsense, text, /, text/html;q=0.2", ["html"], "html"),
]


@pytest.mark.parametrize("accept, formats, chosen", NEGOTIATED)
def test_the_accept_header_chooses_among_the_formats(accept: str, formats: list[str], chosen: str) -> None:
    assert negotiate(accept, formats) == chosen
    conn = Conn(req_headers={"accept": [accept]}).accepts(*formats)
    assert conn.format == chosen


@pytest.mark.parametrize("accept", ["application/html", "text/html;q=0", "image/png, image/jpeg", "nonsense"])
def test_a_client_that_accepts_nothing_of_what_there_is_gets_406(accept: str) -> None:
    with pytest.raises(NotAcceptableError) as caught:
        negotiate(accept, ["html", "json"])
    assert (caught.value.status, caught.value.accepts) == (406, ["html", "json"])


def test_the_message_of_406_lists_what_was_asked_for_and_what_there_is() -> None:
    with pytest.raises(NotAcceptableError) as caught:
        negotiate("application/html, text/html;q=0.5", ["json"])
    assert str(caught.value).startswith(
        "no supported media type in accept header.\n\n"
        'Expected one of ["json"] but got the following formats:\n\n'
        '  * "application/html" with extensions: []\n'
        '  * "text/html" with extensions: ["html", "htm"]\n'
    )
    assert "MIME.register(" in str(caught.value)


@given(st.text(max_size=40), st.lists(st.sampled_from(["html", "json", "xml", "txt"]), min_size=1, unique=True))
def test_whatever_a_client_accepts_the_answer_is_one_of_the_formats_or_406(accept: str, formats: list[str]) -> None:
    try:
        assert negotiate(accept, formats) in formats
    except NotAcceptableError as error:
        assert error.accepts == formats


def accepting(*formats: Any) -> type[Router]:
    def tell(conn: Conn, params: Any) -> Conn:
        return conn.text(conn.format)

    class AcceptRouter(Router):
        with pipeline("browser"):
            plug(Conn.accepts, *formats)
        with scope("/"):
            pipe_through("browser")
            get("/tell", tell)
            post("/tell", tell)
            get("/books/:format", tell, as_="books")
            get("/as/:_format", tell, as_="as")

    return AcceptRouter


def test_without_an_accept_header_the_first_format_is_taken() -> None:
    assert client(accepting("json", "html")).get("/tell").resp_body == "json"
    assert client(accepting(["json", "html"])).get("/tell").resp_body == "json"


@pytest.mark.parametrize(
    "query, accept, chosen",
    [
        ("?_format=json", "text/html", "json"),
        ("?format=json", "text/html", "json"),
        ("?_format=json&format=html", "text/html", "json"),
        ("?_format=&format=json", "text/html", "json"),
        ("?other=1", "application/json", "json"),
        ("?format=html", "nonsense", "html"),
    ],
)
def test_a_format_in_the_query_decides_and_the_header_is_not_read(query: str, accept: str, chosen: str) -> None:
    assert client(accepting("html", "json")).get("/tell" + query, headers={"accept": accept}).resp_body == chosen


@pytest.mark.parametrize("query, shown", [("?_format=xml", '"xml"'), ("?format=xml", '"xml"'), ("?_format[]=json", "\"['json']\"")])
def test_a_format_that_is_not_offered_is_406(query: str, shown: str) -> None:
    with pytest.raises(NotAcceptableError, match=re.escape(f'unknown format {shown}, expected one of ["html", "json"]')):
        client(accepting("html", "json")).get("/tell" + query)


def test_a_field_of_a_form_or_of_a_path_that_is_called_format_is_no_format() -> None:
    asked = client(accepting("html", "json"))
    assert asked.post("/tell", {"format": "paperback"}).resp_body == "html"
    assert asked.post("/tell?format=json", {"format": "paperback"}).resp_body == "json"
    assert asked.get("/books/paperback").resp_body == "html"
    assert asked.post("/tell", {"_format": "json"}).resp_body == "json"
    assert asked.get("/as/json").resp_body == "json"


def test_the_content_type_of_a_request_says_nothing_about_the_answer() -> None:
    asked = client(accepting("html", "json"))
    assert asked.post("/tell", json={"a": 1}).resp_body == "html"
    assert client(accepting("json")).post("/tell", {"a": "1"}).resp_body == "json"


def test_accepts_needs_a_format() -> None:
    with pytest.raises(ArgumentError, match="accepts needs a format"):
        client(accepting()).get("/tell")


def test_the_format_without_accepts_is_the_one_asked_for_or_html() -> None:
    def tell(conn: Conn, params: Any) -> Conn:
        return conn.text(conn.format)

    assert [calling(tell, path).resp_body for path in ("/", "/?_format=json", "/?format=xml", "/?_format=nobody")] == [
        "html", "json", "xml", "html",
    ]  # fmt: skip
    assert calling(lambda conn, params: conn.put_format("json").text(conn.format)).resp_body == "json"


# --- Rendering ----------------------------------------------------------------------------


class LayoutView(View):
    template("application.html.eex", "<title><%= @title %></title><%= @inner %>")
    template("plain.html.eex", "plain <%= @inner %>")
    template("print.html.eex", "print <%= @inner %>")
    template("application.text.eex", "text layout <%= @inner %>")


class OtherLayoutView(View):
    template("application.html.eex", "other <%= @inner %>")
    template("app.html.eex", "app <%= @inner %>")


class PageView(View):
    template("show.html.eex", "<h1><%= @title %></h1>")
    template("show.text.eex", "<%= @title %>")
    template("sitemap.xml.eex", "<urlset><%= @title %></urlset>")
    template("sitemap.html.eex", "html sitemap")
    template("info.html.eex", "<%= @conn.method %> <%= @view_module.__name__ %> <%= @view_template %> <%= @message %>")

    def render(self, name: str, assigns: dict[str, Any]) -> Any:
        if name == "show.json":
            return {"title": assigns["title"]}
        return super().render(name, assigns)


class JSONPageView(View):
    def render(self, name: str, assigns: dict[str, Any]) -> Any:
        return {"json view": name}


class PageController(Controller):
    """Each action returns what the test wants it to."""

    answer: Callable[[Conn], Conn]

    def show(self, conn: Conn, params: Any) -> Conn:
        return PageController.answer(conn.assign("title", "Hi"))

    sitemap = info = show


def rendering(answer: Callable[[Conn], Conn], path: str = "/show", accepts: tuple[str, ...] = ("html", "json", "text", "xml"), **options: Any) -> Conn:
    PageController.answer = staticmethod(answer)  # type: ignore[assignment,method-assign]

    class PageRouter(Router):
        with pipeline("browser"):
            plug(Conn.accepts, *accepts)
        with scope("/"):
            pipe_through("browser")
            for action in ("show", "sitemap", "info"):
                get(f"/{action}", PageController, action)

    return client(PageRouter).get(path, **options)


IN_LAYOUT = "<title>Hi</title><h1>Hi</h1>"
RENDERED: list[tuple[str, Callable[[Conn], Conn], str]] = [
    ("name with format", lambda conn: conn.render("show.html"), IN_LAYOUT),
    ("name without format", lambda conn: conn.render("show"), IN_LAYOUT),
    ("nothing: the action's name", lambda conn: conn.render(), IN_LAYOUT),
    ("values only", lambda conn: conn.render(title="Ho"), "<title>Ho</title><h1>Ho</h1>"),
    ("a mapping only", lambda conn: conn.render({"title": "Ho"}), "<title>Ho</title><h1>Ho</h1>"),
    ("name and values", lambda conn: conn.render("show.html", title="Ho"), "<title>Ho</title><h1>Ho</h1>"),
    ("name and a mapping", lambda conn: conn.render("show", {"title": "Ho"}), "<title>Ho</title><h1>Ho</h1>"),
    ("a mapping and values", lambda conn: conn.render("show", {"title": "Ha"}, title="Ho"), "<title>Ho</title><h1>Ho</h1>"),
    ("values are escaped", lambda conn: conn.render(title="<&>"), "<title>&lt;&amp;&gt;</title><h1>&lt;&amp;&gt;</h1>"),
    ("another format has no layout", lambda conn: conn.render("show.text"), "Hi"),
    ("json comes from a clause", lambda conn: conn.render("show.json"), '{"title":"Hi"}'),
    ("what a template knows", lambda conn: conn.render("info.html", message="m"), "<title>Hi</title>GET PageView info.html m"),
    ("put_layout with a name", lambda conn: conn.put_layout("plain").render(), "plain <h1>Hi</h1>"),
    ("put_layout with name and format", lambda conn: conn.put_layout("print.html").render(), "print <h1>Hi</h1>"),
    ("put_layout twice", lambda conn: conn.put_layout("print").put_layout("plain").render(), "plain <h1>Hi</h1>"),
    ("put_layout with view and name", lambda conn: conn.put_layout((OtherLayoutView, "app")).render(), "app <h1>Hi</h1>"),
    ("put_layout with view and file", lambda conn: conn.put_layout((OtherLayoutView, "app.html")).render(), "app <h1>Hi</h1>"),
    ("no layout", lambda conn: conn.put_layout(None).render(), "<h1>Hi</h1>"),
    ("no layout, as False", lambda conn: conn.put_layout(False).render(), "<h1>Hi</h1>"),
    ("no layout, as a word", lambda conn: conn.put_layout("none").render(), "<h1>Hi</h1>"),
    ("a layout after none", lambda conn: conn.put_layout(None).put_layout((LayoutView, "plain")).render(), "plain <h1>Hi</h1>"),
    ("no layout this time", lambda conn: conn.render(layout=None), "<h1>Hi</h1>"),
    ("no layout this time, as False", lambda conn: conn.render("show.html", layout=False), "<h1>Hi</h1>"),
    ("no layout this time, as a word", lambda conn: conn.render("show.html", layout="none"), "<h1>Hi</h1>"),
    ("a layout this time", lambda conn: conn.render("show.html", layout="plain"), "plain <h1>Hi</h1>"),
    ("a layout and its view this time", lambda conn: conn.render(layout=(OtherLayoutView, "app.html")), "app <h1>Hi</h1>"),
    ("a layout this time after none", lambda conn: conn.put_layout(None).render(layout="plain"), "plain <h1>Hi</h1>"),
    ("layouts by format", lambda conn: conn.put_layout({"html": "plain", "text": None}).render(), "plain <h1>Hi</h1>"),
    ("no layout for a format", lambda conn: conn.put_layout({"text": "plain"}).render(), "<h1>Hi</h1>"),
    ("no layout for a format, as None", lambda conn: conn.put_layout({"html": None}).render(), "<h1>Hi</h1>"),
    ("formats with layouts", lambda conn: conn.put_layout_formats("text").render("show.text"), "text layout Hi"),
    ("formats with layouts, as a list", lambda conn: conn.put_layout_formats(["html", "text"]).render("show.text"), "text layout Hi"),  # type: ignore[arg-type]
    ("no formats with layouts", lambda conn: conn.put_layout_formats().render(), "<h1>Hi</h1>"),
    ("no formats with layouts, as a list", lambda conn: conn.put_layout_formats([]).render(), "<h1>Hi</h1>"),  # type: ignore[arg-type]
    ("another view", lambda conn: conn.put_view(JSONPageView).render("x.json"), '{"json view":"x.json"}'),
    ("views by format", lambda conn: conn.put_view({"html": PageView, "json": JSONPageView}).render("show.json"), '{"json view":"show.json"}'),
    ("put_format", lambda conn: conn.put_format("json").render("show"), '{"title":"Hi"}'),
    ("the content type decides", lambda conn: conn.put_resp_content_type("text/xml").render("sitemap"), "<urlset>Hi</urlset>"),
]  # fmt: skip


@pytest.mark.parametrize("answer, body", [case[1:] for case in RENDERED], ids=[case[0] for case in RENDERED])
def test_render(answer: Callable[[Conn], Conn], body: str) -> None:
    assert rendering(answer).resp_body == body


@pytest.mark.parametrize(
    "path, headers, body, kind",
    [
        ("/show", {}, IN_LAYOUT, "text/html; charset=utf-8"),
        ("/show", {"accept": "application/json"}, '{"title":"Hi"}', "application/json; charset=utf-8"),
        ("/show?_format=json", {}, '{"title":"Hi"}', "application/json; charset=utf-8"),
        ("/show?format=text", {"accept": "text/html"}, "Hi", "text/plain; charset=utf-8"),
        ("/sitemap?format=xml", {}, "<urlset>Hi</urlset>", "text/xml; charset=utf-8"),
    ],
)
def test_a_name_without_a_format_is_rendered_as_the_client_wants_it(path: str, headers: Any, body: str, kind: str) -> None:
    conn = rendering(lambda conn: conn.render(), path, headers=headers)
    assert (conn.resp_body, content_type(conn), conn.status) == (body, kind, 200)


def test_an_explicit_content_type_wins_over_what_the_client_accepts_and_stays() -> None:
    conn = rendering(
        lambda conn: conn.put_resp_content_type("text/xml").render("sitemap"),
        "/sitemap",
        headers={"accept": "text/html"},
    )
    assert (conn.resp_body, content_type(conn)) == ("<urlset>Hi</urlset>", "text/xml; charset=utf-8")


def test_a_format_in_the_name_wins_over_all_and_a_content_type_that_was_put_stays() -> None:
    conn = rendering(lambda conn: conn.put_resp_content_type("application/vnd.x+json").render("show.json"), headers={"accept": "text/html"})
    assert (conn.resp_body, content_type(conn)) == ('{"title":"Hi"}', "application/vnd.x+json; charset=utf-8")


def test_a_status_that_was_put_is_kept() -> None:
    assert rendering(lambda conn: conn.put_status("created").render()).status == 201
    assert rendering(lambda conn: conn.put_status(404).put_layout("plain").render()).status == 404


def test_what_render_is_given_wins_and_stays_in_the_conn_but_for_the_layout() -> None:
    conn = rendering(lambda conn: conn.render("show.html", title="new", extra=1, layout=None))
    assert conn.assigns == {"title": "new", "extra": 1}


def test_the_conn_tells_what_it_rendered() -> None:
    conn = rendering(lambda conn: conn.put_layout("plain").put_layout_formats("html", "text").render("show.html"))
    assert (conn.view_module, conn.view_template, conn.layout, conn.layout_formats) == (PageView, "show.html", "plain", ("html", "text"))
    conn = rendering(lambda conn: conn.render("show.html"))
    assert (conn.view_template, conn.layout, conn.layout_formats) == ("show.html", None, ("html",))


FAILURES: list[tuple[str, Callable[[Conn], Conn], type[Exception], str]] = [
    ("no such template", lambda conn: conn.render("shwo.html"), TemplateNotFoundError, 'Could not render "shwo.html"'),
    ("no view for the format", lambda conn: conn.put_view({"html": PageView}).render("show.print"), PhoenixError,
     "no view was found for the format: 'print'. The supported formats are: ['html']"),
    ("a layout by name after none", lambda conn: conn.put_layout(None).put_layout("plain"), ArgumentError,
     "cannot use put_layout('plain') when layout is false, use put_layout((LayoutView, 'plain')) instead"),
    ("a layout that is not there", lambda conn: conn.put_layout("nobody").render(), TemplateNotFoundError, 'Could not render "nobody.html"'),
    ("a layout that is none", lambda conn: conn.put_layout(7), ArgumentError, "put_layout(7): expected a name"),
    ("a view that is none", lambda conn: conn.put_view("PageView").render("show.html"), ArgumentError, "expected a View class, got: 'PageView'"),
]  # fmt: skip


@pytest.mark.parametrize("answer, error, told", [case[1:] for case in FAILURES], ids=[case[0] for case in FAILURES])
def test_render_says_what_is_wrong(answer: Callable[[Conn], Conn], error: type[Exception], told: str) -> None:
    with pytest.raises(error, match=re.escape(told)):
        rendering(answer)


def test_a_function_has_neither_view_nor_template_of_its_own() -> None:
    with pytest.raises(PhoenixError, match="a view module was not specified, set one with put_view"):
        calling(lambda conn, params: conn.render("show.html"))
    with pytest.raises(ArgumentError, match="render\\(\\) without a template needs an action"):
        calling(lambda conn, params: conn.put_view(PageView).render())
    with pytest.raises(PhoenixError, match="no LayoutView was found for the layout 'plain'"):
        calling(lambda conn, params: conn.put_view(PageView).put_layout("plain").render("show.html"))
    conn = calling(lambda conn, params: conn.put_view(PageView).render("show.html", title="x"))
    assert conn.resp_body == "<h1>x</h1>"


def test_view_and_layout_can_be_set_in_the_controller() -> None:
    class OwnController(Controller):
        view, layout_view, layout = PageView, OtherLayoutView, "app"

        def show(self, conn: Conn, params: Any) -> Conn:
            return conn.render(title="x")

    class BareController(OwnController):
        layout = False

    class TupleController(OwnController):
        layout = (LayoutView, "plain")

    for controller, expected in ((OwnController, "app <h1>x</h1>"), (BareController, "<h1>x</h1>"), (TupleController, "plain <h1>x</h1>")):
        assert client(routing(controller, "show")).get("/show").resp_body == expected


def test_views_and_layouts_can_be_plugged() -> None:
    class PluggedViews(Controller):
        plug(Conn.put_view, PageView)
        plug(Conn.put_layout, (LayoutView, "print"))

        def show(self, conn: Conn, params: Any) -> Conn:
            return conn.render(title="x")

    assert client(routing(PluggedViews, "show")).get("/show").resp_body == "print <h1>x</h1>"


def test_a_layout_view_may_answer_by_hand_or_not_at_all() -> None:
    class HandLayout(View):
        def render(self, name: str, assigns: dict[str, Any]) -> Any:
            return f"by hand: {name} {assigns['inner']}"

    class EmptyLayout(View): ...

    class HandController(Controller):
        view, layout_view = PageView, HandLayout

        def show(self, conn: Conn, params: Any) -> Conn:
            return conn.render(title="x")

    class EmptyController(HandController):
        layout_view = EmptyLayout

    assert client(routing(HandController, "show")).get("/show").resp_body == "by hand: application.html <h1>x</h1>"
    assert client(routing(EmptyController, "show")).get("/show").resp_body == "<h1>x</h1>"


# --- Views found by name ------------------------------------------------------------------


def write(folder: Path, files: Mapping[str, str]) -> None:
    for name, source in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(dedent(source), "utf-8")


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder that modules are imported from, and forgotten again."""
    before = set(sys.modules)
    monkeypatch.syspath_prepend(str(tmp_path))
    yield tmp_path
    added = {name: sys.modules[name] for name in set(sys.modules) - before}
    for name in [name for name, module in added.items() if str(tmp_path) in places_of(module)]:
        del sys.modules[name]
    gc.collect()


def places_of(module: Any) -> str:
    return str(getattr(module, "__file__", None) or list(getattr(module, "__path__", [])))


def controller_source(name: str = "PageController") -> str:
    return f"""
        from phoenix import Controller

        class {name}(Controller):
            def index(self, conn, params):
                return conn.render("index.html")
        """


def view_source(text: str, name: str = "PageView") -> str:
    return f"""
        from phoenix import View, template

        class {name}(View):
            template("index.html.eex", "{text}")
        """


def layout_source(text: str) -> str:
    return f"""
        from phoenix import View, template

        class LayoutView(View):
            template("application.html.eex", "{text} <%= @inner %>")
        """


def index_of(controller: Any) -> Any:
    class IndexRouter(Router):
        get("/", controller, "index")

    return client(IndexRouter).get("/").resp_body


@pytest.mark.parametrize(
    "controller, view, layout",
    [
        ("web1/controllers/page_controller", "web1/views/page_view", "web1/views/layout_view"),
        ("web2/page_controller", "web2/page_view", "web2/layout_view"),
        ("web3/controllers/page_controller", "web3/controllers/page_view", "web3/views/layout_view"),
        ("web4/controllers/page_controller", "web4/controllers/views/page_view", "web4/layout_view"),
        ("web5/controllers", "web5/views", "web5/views"),
        ("web6/controllers", "web6/views/page_view", "web6/views/layout_view"),
        ("web7/controllers", "web7/page_view", "layout_view"),
        ("web8/controllers/admin/page_controller", "web8/views/admin/page_view", "web8/views/layout_view"),
        ("web9/controllers/admin/page_controller", "web9/views/admin/page_view", "web9/views/admin/layout_view"),
        ("my_app/web/controllers/page_controller", "my_app/web/views/page_view", "my_app/web/views/layout_view"),
        ("own_app/controllers/page_controller", "own_app/views/__init__", "own_app/views/__init__"),
        ("top_controllers", "page_view", "layout_view"),
        ("top_controllers2", "views/page_view", "views/layout_view"),
        ("top_controllers3", "views", "views"),
    ],
)  # fmt: skip
def test_the_view_and_the_layout_are_found_in_modules_beside_the_controller(place: Path, controller: str, view: str, layout: str) -> None:
    sources = {controller + ".py": controller_source(), view + ".py": view_source("index")}
    sources[layout + ".py"] = dedent(sources.get(layout + ".py", "")) + dedent(layout_source("layout"))
    write(place, sources)
    assert index_of(import_module(controller.replace("/", ".")).PageController) == "layout index"


def test_the_module_of_the_controller_comes_first(place: Path) -> None:
    write(place, {
        "own/controllers/page_controller.py": dedent(controller_source()) + dedent(view_source("own module")),
        "own/views/page_view.py": view_source("views"),
    })  # fmt: skip
    assert index_of(import_module("own.controllers.page_controller").PageController) == "own module"


def test_the_view_of_another_namespace_is_not_taken(place: Path) -> None:
    write(place, {
        "spaces/controllers/admin/user_controller.py": controller_source("UserController"),
        "spaces/views/user_view.py": view_source("not for admins", "UserView"),
    })  # fmt: skip
    told = "UserController renders, and no UserView was found in spaces.controllers.admin.user_controller or in the modules beside it"
    with pytest.raises(PhoenixError, match=re.escape(told)) as caught:
        index_of(import_module("spaces.controllers.admin.user_controller").UserController)
    assert "class UserView(View)" in str(caught.value)


def test_a_view_that_is_written_after_the_error_said_where_is_found(place: Path) -> None:
    write(place, {"late/controllers/task_controller.py": controller_source("TaskController")})
    controller = import_module("late.controllers.task_controller").TaskController
    with pytest.raises(PhoenixError, match="no TaskView was found") as caught:
        index_of(controller)
    assert ", in late/views/task_view.py, or" in str(caught.value)
    write(place, {"late/views/task_view.py": view_source("late", "TaskView")})
    assert index_of(controller) == "late"


def test_a_module_of_somebody_else_is_not_imported_for_its_name(place: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    elsewhere = tmp_path_factory.mktemp("site_packages")
    write(elsewhere, {"page_view.py": "raise AssertionError('this is a module of somebody else')"})
    write(elsewhere, {"views/__init__.py": "raise AssertionError('and so is this')"})
    monkeypatch.syspath_prepend(str(elsewhere))
    write(place, {"lonely_controllers.py": controller_source()})
    with pytest.raises(PhoenixError, match="no PageView was found"):
        index_of(import_module("lonely_controllers").PageController)


def test_an_import_error_inside_a_view_module_is_shown_as_it_is(place: Path) -> None:
    write(place, {
        "importing/controllers/page_controller.py": controller_source(),
        "importing/views/page_view.py": "import nobody_has_this_module\n",
    })  # fmt: skip
    with pytest.raises(ModuleNotFoundError, match="nobody_has_this_module"):
        index_of(import_module("importing.controllers.page_controller").PageController)
    write(place, {
        "packaged/controllers/page_controller.py": controller_source(),
        "packaged/views/__init__.py": "import nobody_has_this_module\n",
    })  # fmt: skip
    with pytest.raises(ModuleNotFoundError, match="nobody_has_this_module"):
        index_of(import_module("packaged.controllers.page_controller").PageController)


def test_a_controller_that_no_file_stands_behind_finds_what_is_in_its_own_module() -> None:
    from types import ModuleType

    made = ModuleType("made_by_hand")
    sys.modules["made_by_hand"] = made
    try:
        exec(dedent(controller_source()), vars(made))
        with pytest.raises(PhoenixError, match="no PageView was found in made_by_hand"):
            index_of(made.PageController)
        exec(dedent(controller_source()) + dedent(view_source("by hand")), vars(made))
        assert index_of(made.PageController) == "by hand"
    finally:
        del sys.modules["made_by_hand"]


def test_a_module_without_a_file_is_no_module_beside(place: Path) -> None:
    from types import ModuleType

    write(place, {"filed_controllers.py": controller_source()})
    sys.modules["page_view"] = ModuleType("page_view")
    try:
        with pytest.raises(PhoenixError, match="no PageView was found in filed_controllers"):
            index_of(import_module("filed_controllers").PageController)
    finally:
        del sys.modules["page_view"]


def test_views_are_found_and_compiled_when_the_endpoint_is_made(place: Path) -> None:
    write(place, {
        "early/controllers/page_controller.py": controller_source(),
        "early/views/page_view.py": "import phoenix\nclass PageView(phoenix.View):\n    root = 'templates'\n",
        "early/templates/page/index.html.eex": "<%= if %>",
    })  # fmt: skip

    class EarlyRouter(Router):
        get("/", import_module("early.controllers.page_controller").PageController, "index")

    class OuterRouter(Router):
        forward("/", EarlyRouter)

    for router in (EarlyRouter, OuterRouter):
        with pytest.raises(TemplateSyntaxError, match="early/templates/page/index.html.eex:1:"):
            app(router)


@pytest.mark.parametrize(
    "source, error, told",
    [
        (view_source("<%= if %>"), TemplateSyntaxError, "soon/views/page_view.py:5:33: "),
        ("import nobody_has_this_module", ModuleNotFoundError, "nobody_has_this_module"),
        ("1 / 0", ZeroDivisionError, "division"),
    ],
)
def test_a_mistake_in_a_view_module_is_found_when_the_endpoint_is_made(place: Path, source: str, error: type[Exception], told: str) -> None:
    write(place, {"soon/controllers/page_controller.py": controller_source(), "soon/views/page_view.py": source})

    class SoonRouter(Router):
        get("/", import_module("soon.controllers.page_controller").PageController, "index")

    with pytest.raises(error, match=told):
        app(SoonRouter)


def test_a_view_may_import_the_endpoint_for_which_it_is_found(place: Path) -> None:
    write(place, {
        "circle/controllers/page_controller.py": controller_source(),
        "circle/views/page_view.py": dedent(view_source("<%= app.url('/') %>")) + "\nfrom circle.endpoint import app\n",
        "circle/endpoint.py": """
            import phoenix
            from phoenix import get
            from circle.controllers.page_controller import PageController

            class Router(phoenix.Router):
                get("/", PageController, "index")

            app = phoenix.Endpoint(Router, env="test", static=False, log=False, url={"host": "example.com", "port": 80})
            """,
    })  # fmt: skip
    endpoint = import_module("circle.endpoint").app
    assert endpoint.test(raise_errors=True).get("/").resp_body == "http://example.com/"


def test_a_controller_that_extends_another_has_its_own_view_or_that_of_the_other(place: Path) -> None:
    write(place, {"kinds.py": dedent(controller_source()) + dedent(view_source("page")) + dedent(view_source("admin", "AdminView")) + dedent("""
        class AdminController(PageController): ...
        class PlainController(PageController): ...
        class ChosenController(PageController):
            view = AdminView
        class BelowController(ChosenController): ...
        """)})  # fmt: skip
    kinds = import_module("kinds")
    assert index_of(kinds.PageController) == "page"  # asked first: it must not decide for the others
    assert [index_of(getattr(kinds, f"{name}Controller")) for name in ("Admin", "Plain", "Chosen", "Below")] == [
        "admin", "page", "admin", "admin",
    ]  # fmt: skip


# --- The conn for templates and links -----------------------------------------------------


def test_urls_of_this_request_can_begin_differently() -> None:
    def tell(conn: Conn, params: Any) -> Conn:
        return conn.put_router_url("https://other.example/").text(conn.helpers.tell_url() + " " + conn.current_url())

    class URLRouter(Router):
        get("/tell", tell)

    assert client(URLRouter).get("/tell?a=1").resp_body == "https://other.example/tell https://other.example/tell?a=1"


def test_a_custom_format_is_registered_rendered_and_negotiated() -> None:
    class BookView(View):
        template("show.book.eex", "book <%= @title %>")

    class BookController(Controller):
        view = BookView

        def show(self, conn: Conn, params: Any) -> Conn:
            return conn.render(title="x")

    class BookRouter(Router):
        with pipeline("book"):
            plug(Conn.accepts, "html", "book")
        with scope("/"):
            pipe_through("book")
            get("/", BookController, "show")

    types, extensions = dict(MIME._types), dict(MIME._extensions)
    try:
        MIME.register("application/x-book", "book")
        conn = client(BookRouter).get("/", headers={"accept": "application/x-book"})
        assert (conn.resp_body, content_type(conn)) == ("book x", "application/x-book; charset=utf-8")
    finally:
        MIME._types, MIME._extensions = types, extensions


def test_status_codes_for_changes_are_one_word_away() -> None:
    class ChangeController(Controller):
        def update(self, conn: Conn, params: Any) -> Conn:
            return conn.put_status("ok").json({})

        def destroy(self, conn: Conn, params: Any) -> Conn:
            return conn.send_resp("no_content" if params["id"] == "1" else "accepted", "")

    class ChangeRouter(Router):
        put("/x/:id", ChangeController, "update")
        delete("/x/:id", ChangeController, "destroy")

    asked = client(ChangeRouter)
    assert [asked.put("/x/1").status, asked.delete("/x/1").status, asked.delete("/x/2").status] == [200, 204, 202]
