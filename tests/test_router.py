"""Chapter 8, Router: a table of routes, read forward to find what answers, and backward to write paths."""

from __future__ import annotations

import re
import sys
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from wsgiref.validate import validator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import phoenix
from phoenix import (
    ArgumentError,
    BadRequestError,
    Conn,
    Controller,
    DefinitionError,
    Endpoint,
    MethodNotAllowedError,
    NoRouteError,
    Pipeline,
    PlugError,
    Router,
    RouterWarning,
    View,
    collection,
    connect,
    delete,
    format_routes,
    forward,
    get,
    head,
    match,
    member,
    options,
    patch,
    pipe_through,
    pipeline,
    plug,
    post,
    put,
    resource,
    resources,
    scope,
    template,
    trace,
)
from phoenix import TestClient as Client


def client(router: Any, **settings: Any) -> Client:
    """Return a client of an app of *router*, which raises what the app raises."""
    return Endpoint(router, **{"log": False, "static": False, "env": "test", **settings}).test(raise_errors=True)


def answer(conn: Conn, params: dict[str, Any]) -> Conn:
    """An action that tells what it was asked."""
    return conn.json({"params": params, "path_params": conn.path_params})


def named(name: str) -> Callable[[Conn, Any], Conn]:
    """Return an action that answers with *name*."""

    def action(conn: Conn, params: Any) -> Conn:
        return conn.text(name)

    action.__name__ = name
    return action


def body(conn: Conn) -> Any:
    return conn.resp_body


class EveryAction(Controller):
    """Each action of a resource answers with its own name and the params."""

    def index(self, conn: Conn, params: Any) -> Conn:
        return self.told(conn, params)

    def new(self, conn: Conn, params: Any) -> Conn:
        return self.told(conn, params)

    def edit(self, conn: Conn, params: Any) -> Conn:
        return self.told(conn, params)

    def show(self, conn: Conn, params: Any) -> Conn:
        return self.told(conn, params)

    def create(self, conn: Conn, params: Any) -> Conn:
        return self.told(conn, params)

    def update(self, conn: Conn, params: Any) -> Conn:
        return self.told(conn, params)

    def destroy(self, conn: Conn, params: Any) -> Conn:
        return self.told(conn, params)

    def told(self, conn: Conn, params: Any) -> Conn:
        values = ",".join(f"{key}={value}" for key, value in params.items())
        return conn.text(f"{type(self).__name__}.{conn.action_name} {values}".rstrip())


class UserController(EveryAction):
    def search(self, conn: Conn, params: Any) -> Conn:
        return self.told(conn, params)

    def ban(self, conn: Conn, params: Any) -> Conn:
        return self.told(conn, params)

    def _hidden(self, conn: Conn, params: Any) -> Conn:
        return self.told(conn, params)


class CommentController(EveryAction): ...


class FileController(EveryAction): ...


class ImageController(EveryAction): ...


class PageController(EveryAction):
    product = root = prefixed = spaced = EveryAction.told


class CardController(EveryAction): ...


class PostController(EveryAction):
    file = skip = top = EveryAction.told


# --- Verbs and dispatch -------------------------------------------------------------------


def test_each_verb_has_a_word_and_a_route_answers_only_its_own() -> None:
    words = {"GET": get, "POST": post, "PUT": put, "PATCH": patch, "DELETE": delete, "OPTIONS": options}

    class VerbRouter(Router):
        for verb, word in words.items():
            word("/thing", named(verb), as_=None)

    for verb in words:
        assert body(client(VerbRouter).request(verb, "/thing")) == verb
    with pytest.raises(MethodNotAllowedError):
        client(VerbRouter).request("TRACE", "/thing")


@pytest.mark.parametrize("word, verb", [(connect, "CONNECT"), (trace, "TRACE"), (head, "HEAD")])
def test_the_rare_verbs_have_words_too(word: Any, verb: str) -> None:
    class RareRouter(Router):
        word("/thing", named("rare"))

    assert [route.verb for route in RareRouter.routes] == [verb]
    info = RareRouter.route_info(verb, "/thing")
    assert info is not None and info["route"] == "/thing"


def test_words_are_typed_and_documented_functions() -> None:
    assert get.__name__ == "get" and "GET" in (get.__doc__ or "")  # type: ignore[attr-defined]
    assert delete.__name__ == "delete"  # type: ignore[attr-defined]


def test_an_action_gets_the_conn_and_its_params() -> None:
    class ShowRouter(Router):
        get("/users/:id", UserController, "show")

    assert body(client(ShowRouter).get("/users/7?page=2")) == "UserController.show page=2,id=7"


def test_without_an_action_a_controller_answers_with_index() -> None:
    class CardRouter(Router):
        get("/cards", CardController)

    assert body(client(CardRouter).get("/cards")) == "CardController.index"
    assert CardRouter.routes[0].action == "index"


def test_functions_plugs_and_plug_classes_answer_routes() -> None:
    def with_params(conn: Conn, params: Any) -> Conn:
        return conn.text("params " + params["id"])

    def as_plug(conn: Conn) -> Conn:
        return conn.text("plug")

    async def asynchronous(conn: Conn, params: Any) -> Conn:
        return conn.text("async")

    class PlugClass:
        def __init__(self, greeting: str = "hello") -> None:
            self.greeting = greeting

        def __call__(self, conn: Conn) -> Conn:
            return conn.text(self.greeting)

    class MixedRouter(Router):
        get("/params/:id", with_params)
        get("/plug", as_plug)
        get("/async", asynchronous)
        get("/class", PlugClass)
        get("/class-with-option", PlugClass, "good day", as_="option")
        get("/object", PlugClass("hi"), as_="object")
        get("/lambda", lambda conn, params: conn.text("lambda"))

    asked = client(MixedRouter)
    expected = {
        "/params/7": "params 7", "/plug": "plug", "/async": "async", "/class": "hello",
        "/class-with-option": "good day", "/object": "hi", "/lambda": "lambda",
    }  # fmt: skip
    assert {path: body(asked.get(path)) for path in expected} == expected


def test_the_first_route_in_the_order_of_writing_wins() -> None:
    class OrderRouter(Router):
        get("/users/:id", named("param"))
        get("/:section/7", named("late"))
        get("/*rest", named("rest"))

    asked = client(OrderRouter)
    assert [body(asked.get(path)) for path in ("/users/7", "/posts/7", "/posts/8", "/")] == ["param", "late", "rest", "rest"]


def test_an_earlier_general_route_wins_over_a_later_special_one() -> None:
    with pytest.warns(RouterWarning):

        class GeneralFirst(Router):
            get("/*rest", named("rest"))
            get("/users", named("users"))

    assert body(client(GeneralFirst).get("/users")) == "rest"


def test_match_takes_any_verb_several_or_all() -> None:
    class MatchRouter(Router):
        match("MOVE", "/move", named("moved"))
        match(["get", "POST"], "/both", named("both"))
        match("*", "/any", named("any"))

    asked = client(MatchRouter)
    assert body(asked.request("MOVE", "/move")) == "moved"
    assert [body(asked.request(verb, "/both")) for verb in ("GET", "POST")] == ["both", "both"]
    assert [body(asked.request(verb, "/any")) for verb in ("GET", "BREW", "DELETE")] == ["any"] * 3
    with pytest.raises(MethodNotAllowedError):
        asked.get("/move")


def test_a_route_for_every_verb_keeps_its_place_in_the_order() -> None:
    with pytest.warns(RouterWarning):

        class StarRouter(Router):
            get("/a", named("first"), as_=None)
            match("*", "/a", named("any"), as_=None)
            get("/b", named("hides nothing"), as_=None)
            match("*", "/c", named("any c"), as_=None)
            get("/c", named("hidden"), as_=None)

    asked = client(StarRouter)
    assert [body(asked.get("/a")), body(asked.post("/a", {})), body(asked.get("/c"))] == ["first", "any", "any c"]


def test_head_is_answered_by_the_get_route() -> None:
    class HeadRouter(Router):
        get("/page", named("page"))

    assert client(HeadRouter).head("/page").status == 200


# --- Paths --------------------------------------------------------------------------------

PATHS: list[tuple[str, str, dict[str, Any] | None]] = [
    ("/", "/", {}),
    ("/about", "/about", {}),
    ("/users/:id", "/users/7", {"id": "7"}),
    ("/users/:id", "/users/a-b_c.d~e", {"id": "a-b_c.d~e"}),
    ("/users/:id", "/users", None),
    ("/users/:id", "/users/7/edit", None),
    ("/users/:user_id/posts/:id", "/users/1/posts/2", {"user_id": "1", "id": "2"}),
    ("/:a/:b", "/x/y", {"a": "x", "b": "y"}),
    ("/profiles/profile-:id", "/profiles/profile-7", {"id": "7"}),
    ("/profiles/profile-:id", "/profiles/profile-a-b", {"id": "a-b"}),
    ("/profiles/profile-:id", "/profiles/profile-", None),
    ("/profiles/profile-:id", "/profiles/other-7", None),
    ("/bar:username", "/barjosé", {"username": "josé"}),
    ("/files/*path", "/files/a/b/c", {"path": ["a", "b", "c"]}),
    ("/files/*path", "/files/a", {"path": ["a"]}),
    ("/files/*path", "/files", {"path": []}),
    ("/files/*path", "/", None),
    ("/*path", "/", {"path": []}),
    ("/*path", "/a/b", {"path": ["a", "b"]}),
    ("/files/v*path", "/files/v1/x", {"path": ["1", "x"]}),
    ("/files/v*path", "/files/v", {"path": [""]}),
    ("/files/v*path", "/files", None),
    ("/files/v*path", "/files/w/x", None),
    ("/:user/*rest", "/ann/a/b", {"user": "ann", "rest": ["a", "b"]}),
    (r"/feed\:all", "/feed:all", {}),
    (r"/feed\:all", "/feedx", None),
    (r"/star\*", "/star*", {}),
    (r"/a\:b:id", "/a:b7", {"id": "7"}),
    ("/foo/", "/foo", {}),
    ("/foo", "/foo/", {}),
    ("//foo///bar/", "/foo/bar", {}),
    ("/admin/:id/files", "//admin//1/files///", {"id": "1"}),
    ("/hello matey", "/hello%20matey", {}),
    ("/hello/:name", "/hello/hello%20matey", {"name": "hello matey"}),
    ("/hello/:name", "/hello/a%2Fb", {"name": "a/b"}),
    ("/hello/:name", "/hello/a+b", {"name": "a+b"}),
    ("/hello/:name", "/hello/caf%C3%A9", {"name": "café"}),
    ("/café", "/caf%C3%A9", {}),
    ("/files/*path", "/files/a%2Fb/c%20d", {"path": ["a/b", "c d"]}),
    ("/Case", "/case", None),
]


@pytest.mark.parametrize("route, path, params", PATHS)
def test_a_path_matches_and_gives_its_params(route: str, path: str, params: dict[str, Any] | None) -> None:
    class PathRouter(Router):
        get(route, answer)

    if params is None:
        with pytest.raises(NoRouteError):
            client(PathRouter).get(path)
    else:
        asked = client(PathRouter)
        assert asked.json_response(asked.get(path)) == {"params": params, "path_params": params}


@pytest.mark.parametrize("path", ["/hello/%zz", "/hello/%", "/hello/%4", "/hello/%FF"])
def test_a_path_that_cannot_be_decoded_is_a_bad_request(path: str) -> None:
    class PathRouter(Router):
        get("/hello/:name", answer)

    with pytest.raises(BadRequestError, match="segment"):
        client(PathRouter).get(path)


WRONG_PATHS = [
    (":bar.:baz", 'only one dynamic entry (:var or *glob) per path segment is allowed, got: ":bar.:baz"'),
    ("/foo/:bar.baz", 'invalid dynamic path. Only letters, numbers, and underscore are allowed after : in "/foo/:bar.baz"'),
    ("/:", "invalid dynamic path. The characters : and * must be immediately followed by lowercase letters or underscore, got: :"),
    ("/:Name", "must be immediately followed by lowercase letters or underscore, got: :Name"),
    ("/foo/:1", "must be immediately followed by lowercase letters or underscore, got: :1"),
    ("/*bar/baz", 'globs (*var) must always be in the last path, got glob in: "*bar"'),
    ("/*bar-baz", 'globs (*var) cannot be followed by suffixes, got: "*bar-baz"'),
    ("/:id/x/:id", 'two parameters of the path "/:id/x/:id" have one name'),
]


async def asgi_app(scope: Any, receive: Any, send: Any) -> None: ...


class ASGIApp:
    async def __call__(self, scope: Any, receive: Any, send: Any) -> None: ...


@pytest.mark.parametrize(
    "define, message",
    [
        (lambda: get("/", UserController.search), 'Write `get("/", UserController, "search")`.'),
        (lambda: get("/", asgi_app), 'Write `forward("/", app)` for ASGI.'),
        (lambda: get("/", ASGIApp()), 'Write `forward("/", app)` for ASGI.'),
        (lambda: get("/", UserController(), "index"), "an instance of one: write `UserController`, not `UserController()`"),
        (lambda: resources("/", UserController()), "write `UserController`, not `UserController()`"),
    ],
)
def test_what_cannot_answer_a_route_is_refused_with_what_to_write(define: Callable[[], Any], message: str) -> None:
    with pytest.raises(DefinitionError, match=re.escape(message)) as caught:

        class WrongRouter(Router):
            define()

    assert str(caught.value).startswith(f"{__file__}:")


@pytest.mark.filterwarnings("ignore::phoenix.RouterWarning")
@pytest.mark.parametrize("path, message", WRONG_PATHS)
def test_a_path_that_means_nothing_is_refused_when_the_router_is_defined(path: str, message: str) -> None:
    with pytest.raises(DefinitionError, match=re.escape(message)) as caught:

        class WrongRouter(Router):
            get(path, answer)

    assert str(caught.value).startswith(f"{__file__}:")


@pytest.mark.parametrize("foreign", ["<id>", "{id}"])
def test_a_param_written_as_in_other_frameworks_is_warned_of(foreign: str) -> None:
    with pytest.warns(RouterWarning, match=re.escape(f"takes {foreign} as it stands: a param is written :id")):

        class ForeignRouter(Router):
            get(f"/users/{foreign}", answer)


def test_a_path_without_its_slash_works_and_is_warned_of() -> None:
    with pytest.warns(RouterWarning, match=re.escape('router paths should begin with a forward slash, got: "v1"')) as caught:

        class V1Router(Router):
            with scope("v1"):
                get("/users", answer)

    assert caught[0].filename == __file__
    assert len(caught) == 1
    assert V1Router.routes[0].path == "/v1/users"


def test_the_slash_is_asked_for_once_for_each_path_that_lacks_it() -> None:
    with pytest.warns(RouterWarning) as caught:

        class SlashRouter(Router):
            with resources("users", UserController, only=["index", "show"]):
                get("extra", answer)

    assert [str(each.message)[-7:] for each in caught] == ['"users"', '"extra"']
    assert [route.path for route in SlashRouter.routes] == ["/users", "/users/:id", "/users/:user_id/extra"]


@pytest.mark.parametrize("path", [None, 7, ["/a"], b"/a"])
def test_a_path_that_is_no_string_is_refused(path: Any) -> None:
    with pytest.raises(DefinitionError, match=re.escape(f"router paths must be strings, got: {path!r}")):

        class WrongRouter(Router):
            get(path, answer)


# --- Not found, not allowed ---------------------------------------------------------------


class SmallRouter(Router):
    get("/users", UserController, "index")
    post("/users", UserController, "create")
    delete("/users/:id", UserController, "destroy")


def test_an_unknown_path_is_404_and_named() -> None:
    with pytest.raises(NoRouteError) as caught:
        client(SmallRouter).get("/nobody/here/?x=1")
    assert str(caught.value) == f"no route found for GET /nobody/here ({__name__}.SmallRouter)"
    assert caught.value.status == 404
    assert caught.value.router is SmallRouter


def test_the_root_is_named_in_the_message_too() -> None:
    with pytest.raises(NoRouteError, match="no route found for GET / "):
        client(SmallRouter).get("/")


def test_a_known_path_with_a_wrong_verb_is_405_and_says_which_are_right() -> None:
    with pytest.raises(MethodNotAllowedError) as caught:
        client(SmallRouter).put("/users")
    assert caught.value.status == 405
    assert caught.value.allowed == ["GET", "HEAD", "POST"]
    assert str(caught.value) == "PUT is not allowed for /users, its routes take GET, HEAD, POST"


def test_the_answer_to_a_wrong_verb_has_an_allow_header() -> None:
    app = Endpoint(SmallRouter, log=False, static=False, env="prod")
    wrong = app.test().put("/users")
    assert (wrong.status, wrong.get_resp_header("allow")) == (405, ["GET, HEAD, POST"])
    wrong = app.test().get("/users/7")
    assert (wrong.status, wrong.get_resp_header("allow")) == (405, ["DELETE"])
    unknown = app.test().get("/nobody")
    assert (unknown.status, unknown.get_resp_header("allow")) == (404, [])


def test_a_path_of_another_host_is_not_there_rather_than_not_allowed() -> None:
    class HostRouter(Router):
        with scope("/", host="api."):
            post("/users", answer)

    with pytest.raises(NoRouteError):
        client(HostRouter).get("/users", host="www.example.com")
    with pytest.raises(MethodNotAllowedError):
        client(HostRouter).get("/users", host="api.example.com")


def test_a_catch_all_route_answers_in_place_of_404() -> None:
    class CatchAll(Router):
        get("/users", named("users"))
        get("/*path", answer)

    asked = client(CatchAll)
    assert asked.json_response(asked.get("/not/here"))["params"] == {"path": ["not", "here"]}


# --- Scopes -------------------------------------------------------------------------------


def test_scopes_nest_and_join_their_paths_and_names() -> None:
    class ScopeRouter(Router):
        with scope("/api", as_="api"):
            with scope("/v1", as_="v1"):
                get("/users/:id", UserController, "show")
            get("/status", UserController, "index")
        get("/users", UserController, "index")

    assert [(route.path, route.helper) for route in ScopeRouter.routes] == [
        ("/api/v1/users/:id", "api_v1_user"), ("/api/status", "api_user"), ("/users", "user"),
    ]  # fmt: skip


def test_a_scope_needs_no_path() -> None:
    class NamedRouter(Router):
        with scope(as_="admin"):
            get("/users", UserController, "index")

    assert (NamedRouter.routes[0].path, NamedRouter.routes[0].helper) == ("/users", "admin_user")


def test_a_scope_can_hold_a_parameter() -> None:
    class LocaleRouter(Router):
        with scope("/:locale"):
            get("/users/:id", answer)

    asked = client(LocaleRouter)
    assert asked.json_response(asked.get("/de/users/7"))["params"] == {"locale": "de", "id": "7"}


def test_the_name_of_a_route_replaces_its_own_name_and_none_leaves_it_without() -> None:
    class NameRouter(Router):
        with scope("/v1"):
            get("/cards", CardController, as_="v1")
        with scope("/v2", as_="v2"):
            get("/cards", CardController)
            get("/plain", CardController, "show", as_=None)
            with scope("/v3", as_=False):
                get("/cards", CardController)
            with scope("/v4", as_=None):
                get("/cards", CardController, "show")

    assert [route.helper for route in NameRouter.routes] == ["v1", "v2_card", None, "card", "v2_card"]


HOSTS: list[tuple[Any, str, bool]] = [
    ("foobar.com", "foobar.com", True),
    ("foobar.com", "www.foobar.com", False),
    ("foobar.com", "foobar.com.evil", False),
    ("baz.", "baz.pang.com", True),
    ("baz.", "baz.com", True),
    ("baz.", "www.baz.com", False),
    ("baz.", "bazz.com", False),
    (["a.com", "b."], "a.com", True),
    (["a.com", "b."], "b.org", True),
    (["a.com", "b."], "c.org", False),
    ("API.Example.com", "api.example.com", True),
    ("api.example.com", "API.example.COM", True),
    ("[::1]", "[::1]", True),
]


@pytest.mark.parametrize("host, asked_for, found", HOSTS)
def test_a_scope_can_be_for_a_host(host: Any, asked_for: str, found: bool) -> None:
    class HostRouter(Router):
        with scope("/", host=host):
            get("/where", named("here"))
        get("/where", named("elsewhere"), as_="elsewhere")

    assert body(client(HostRouter).get("/where", host=asked_for)) == ("here" if found else "elsewhere")


def test_the_innermost_host_decides() -> None:
    class InnerRouter(Router):
        with scope("/", host="a.com"):
            with scope("/", host="b.com"):
                get("/where", named("b"))

    assert body(client(InnerRouter).get("/where", host="b.com")) == "b"
    with pytest.raises(NoRouteError):
        client(InnerRouter).get("/where", host="a.com")


def test_a_path_without_parameters_respects_an_earlier_route_for_a_host() -> None:
    class HostFirst(Router):
        with scope("/", host="api."):
            get("/x", named("api"), as_=None)
            get("/:any/y", named("api any"), as_=None)
        get("/x", named("all"), as_=None)
        get("/z/y", named("all z"), as_=None)

    asked = client(HostFirst)
    assert [body(asked.get("/x", host=host)) for host in ("api.example.com", "example.com")] == ["api", "all"]
    assert [body(asked.get("/z/y", host=host)) for host in ("api.example.com", "example.com")] == ["api any", "all z"]


@pytest.mark.parametrize("host", [7, [], [None], "", [""], ["a.com", 7], "https://a.com", "a.com:80", "*.a.com"])
def test_a_host_that_is_none_is_refused(host: Any) -> None:
    with pytest.raises(DefinitionError, match="expected router scope host= to be a string or list of strings, got: "):

        class WrongRouter(Router):
            with scope("/", host=host):
                get("/", answer)


def test_scopes_and_routes_put_assigns_and_private_values_into_the_conn() -> None:
    seen: list[Any] = []

    def look(conn: Conn, params: Any) -> Conn:
        seen.append((conn.assigns, conn.private["a"]))
        return conn.text("")

    class AssignRouter(Router):
        with scope("/", assigns={"x": 1, "y": 1}, private={"a": 1}):
            with scope("/", assigns={"y": 2, "z": 2}):
                get("/inner", look, assigns={"z": 3}, private={"a": 2})
            get("/outer", look, as_="outer")

    client(AssignRouter).get("/inner")
    client(AssignRouter).get("/outer")
    assert seen == [({"x": 1, "y": 2, "z": 3}, 2), ({"x": 1, "y": 1}, 1)]


# --- Pipelines ----------------------------------------------------------------------------


def note(conn: Conn, word: str) -> Conn:
    return conn.assign("notes", [*conn.assigns.get("notes", []), word])


def note_here(conn: Conn) -> Conn:
    return note(conn, "function")


class NoteClass:
    def __call__(self, conn: Conn) -> Conn:
        return note(conn, "class")


def tell_notes(conn: Conn, params: Any) -> Conn:
    return conn.json(conn.assigns.get("notes", []))


class PipeRouter(Router):
    with pipeline("first"):
        plug(note, "1a")
        plug(note, word="1b")
    with pipeline("second"):
        plug(note, "2")

    get("/root", tell_notes, as_=None)
    with scope("/one"):
        get("/before", tell_notes, as_=None)
        pipe_through("first")
        get("/after", tell_notes, as_=None)
        with scope("/two"):
            pipe_through("second", note_here, NoteClass)
            get("/inner", tell_notes, as_=None)
        get("/again", tell_notes, as_=None)


@pytest.mark.parametrize(
    "path, notes",
    [
        ("/root", []),
        ("/one/before", []),
        ("/one/after", ["1a", "1b"]),
        ("/one/two/inner", ["1a", "1b", "2", "function", "class"]),
        ("/one/again", ["1a", "1b"]),
    ],
)
def test_the_pipelines_of_a_scope_run_from_the_outside_in(path: str, notes: list[str]) -> None:
    asked = client(PipeRouter)
    assert asked.json_response(asked.get(path)) == notes


def test_pipelines_run_only_when_a_route_has_matched() -> None:
    def fail(conn: Conn) -> Conn:
        raise AssertionError("this pipeline must not run")

    class StrictRouter(Router):
        with pipeline("browser"):
            plug(fail)
        with scope("/"):
            pipe_through("browser")
            get("/here", answer)

    with pytest.raises(NoRouteError):
        client(StrictRouter).get("/nowhere")
    with pytest.raises(AssertionError, match="must not run"):
        client(StrictRouter).get("/here")


def test_a_halted_conn_goes_no_further_neither_to_the_next_pipeline_nor_to_the_action() -> None:
    def stop(conn: Conn) -> Conn:
        return conn.put_status(401).text("stopped").halt()

    def fail(conn: Conn) -> Conn:
        raise AssertionError("this plug must not run")

    class HaltRouter(Router):
        with pipeline("first"):
            plug(stop)
            plug(fail)
        with pipeline("second"):
            plug(fail)
        with scope("/"):
            pipe_through("first", "second")
            get("/", lambda conn, params: fail(conn))

    conn = client(HaltRouter).get("/")
    assert (conn.status, body(conn), conn.halted) == (401, "stopped", True)


def test_pipelines_see_the_params_of_the_path() -> None:
    def look(conn: Conn) -> Conn:
        return conn.assign("seen", (dict(conn.params), dict(conn.path_params)))

    class EarlyRouter(Router):
        with pipeline("look"):
            plug(look)
        with scope("/"):
            pipe_through("look")
            get("/users/:id", answer)

    conn = client(EarlyRouter).get("/users/7?page=2&id=8")
    assert conn.assigns["seen"] == ({"page": "2", "id": "7"}, {"id": "7"})


def test_params_that_were_read_before_the_router_get_those_of_the_path_too() -> None:
    def early(conn: Conn) -> Conn:
        return conn.assign("before", dict(conn.params))

    class LateRouter(Router):
        get("/users/:id", answer)

    asked = client(LateRouter, plugs=[early])
    conn = asked.get("/users/7?id=8&x=1")
    assert conn.assigns["before"] == {"id": "8", "x": "1"}
    assert asked.json_response(conn)["params"] == {"id": "7", "x": "1"}


def test_a_pipeline_class_can_be_plugged_and_piped_through() -> None:
    class Notes(Pipeline):
        plug(note, "p1")
        plug(note, "p2")

    class ClassRouter(Router):
        with pipeline("browser"):
            plug(Notes)
            plug(note, "b")
        with scope("/a"):
            pipe_through("browser")
            get("/", tell_notes)
        with scope("/b"):
            pipe_through(Notes)
            get("/", tell_notes, as_="b")

    asked = client(ClassRouter)
    assert asked.json_response(asked.get("/a")) == ["p1", "p2", "b"]
    assert asked.json_response(asked.get("/b")) == ["p1", "p2"]


def test_the_conn_knows_its_router_route_and_pipelines() -> None:
    class KnownRouter(Router):
        with pipeline("first"):
            plug(note, "1")
        get("/root", UserController, "index")
        with scope("/in"):
            pipe_through("first", note_here)
            get("/", UserController, "show")

    root, inner = client(KnownRouter).get("/root"), client(KnownRouter).get("/in")
    assert root.private["phoenix_router"] is KnownRouter is root.router
    assert root.private["phoenix_pipelines"] == []
    assert inner.private["phoenix_pipelines"] == ["first", f"{__name__}.note_here"]
    assert inner.private["phoenix_route"] is KnownRouter.routes[1]
    assert (inner.controller, inner.action_name) == (UserController, "show")


# --- Resources ----------------------------------------------------------------------------


def table(router: type[Router]) -> list[tuple[str | None, str, str, str | None]]:
    return [(route.helper, route.verb, route.path, route.action) for route in router.routes]


class UserRoutes(Router):
    with resources("/users", UserController):
        resources("/comments", CommentController)


def test_resources_are_eight_routes_in_the_order_of_matching() -> None:
    class ImageRoutes(Router):
        resources("/images", ImageController)

    assert table(ImageRoutes) == [
        ("image", "GET", "/images", "index"),
        ("image", "GET", "/images/:id/edit", "edit"),
        ("image", "GET", "/images/new", "new"),
        ("image", "GET", "/images/:id", "show"),
        ("image", "POST", "/images", "create"),
        ("image", "PATCH", "/images/:id", "update"),
        (None, "PUT", "/images/:id", "update"),
        ("image", "DELETE", "/images/:id", "destroy"),
    ]


@pytest.mark.parametrize(
    "verb, path, expected",
    [
        ("GET", "/users", "UserController.index"),
        ("GET", "/users/7/edit", "UserController.edit id=7"),
        ("GET", "/users/new", "UserController.new"),
        ("GET", "/users/7", "UserController.show id=7"),
        ("POST", "/users", "UserController.create"),
        ("PATCH", "/users/7", "UserController.update id=7"),
        ("PUT", "/users/7", "UserController.update id=7"),
        ("DELETE", "/users/7", "UserController.destroy id=7"),
        ("GET", "/users/1/comments", "CommentController.index user_id=1"),
        ("GET", "/users/1/comments/2/edit", "CommentController.edit user_id=1,id=2"),
        ("GET", "/users/1/comments/new", "CommentController.new user_id=1"),
        ("GET", "/users/1/comments/2", "CommentController.show user_id=1,id=2"),
        ("POST", "/users/1/comments", "CommentController.create user_id=1"),
        ("PATCH", "/users/1/comments/2", "CommentController.update user_id=1,id=2"),
        ("PUT", "/users/1/comments/2", "CommentController.update user_id=1,id=2"),
        ("DELETE", "/users/1/comments/2", "CommentController.destroy user_id=1,id=2"),
    ],
)
def test_resources_answer_and_nest(verb: str, path: str, expected: str) -> None:
    assert body(client(UserRoutes).request(verb, path)) == expected


def test_only_and_except_choose_and_the_order_stays_that_of_matching() -> None:
    class ChosenRoutes(Router):
        resources("/a", UserController, only=["show", "new"], as_="a")
        resources("/b", UserController, except_=["index", "destroy", "update"], as_="b")
        resources("/c", UserController, only=[], as_="c")
        resources("/d", UserController, only=["delete"], as_="d")
        resources("/e", UserController, only="index", as_="e")
        resources("/f", UserController, only=["index", "show"], except_=["show"], as_="f")

    chosen: dict[str, list[str | None]] = {}
    for route in ChosenRoutes.routes:
        chosen.setdefault(route.path[1], []).append(route.action)
    assert chosen == {
        "a": ["new", "show"], "b": ["edit", "new", "show", "create"], "d": ["destroy"], "e": ["index"], "f": ["index"],
    }  # fmt: skip
    assert body(client(ChosenRoutes).get("/a/new")) == "UserController.new"


@pytest.mark.parametrize("option", ["only", "except_"])
def test_an_action_that_resources_do_not_have_is_refused(option: str) -> None:
    expected = (
        f"invalid {option}= action(s) passed to resources.\n\nsupported actions: ['index', 'edit', 'new', 'show', 'create',"
        " 'update', 'destroy']\n\ngot: ['show', 'updat'] Did you mean 'update'?"
    )
    with pytest.raises(DefinitionError, match=re.escape(expected)):

        class WrongRoutes(Router):
            resources("/users", UserController, **{option: ["show", "updat"]})


def test_the_index_of_a_singleton_is_refused() -> None:
    with pytest.raises(DefinitionError, match=re.escape("supported singleton actions: ['edit', 'new', 'show', 'create'")):

        class WrongRoutes(Router):
            resource("/account", UserController, only=["index"])


def test_a_singleton_has_neither_index_nor_id() -> None:
    class AccountController(EveryAction): ...

    class AccountRoutes(Router):
        with resources("/account", AccountController, singleton=True):
            resources("/comments", CommentController, only=["show"])

    assert table(AccountRoutes) == [
        ("account", "GET", "/account/edit", "edit"),
        ("account", "GET", "/account/new", "new"),
        ("account", "GET", "/account", "show"),
        ("account", "POST", "/account", "create"),
        ("account", "PATCH", "/account", "update"),
        (None, "PUT", "/account", "update"),
        ("account", "DELETE", "/account", "destroy"),
        ("account_comment", "GET", "/account/comments/:id", "show"),
    ]

    class SameRoutes(Router):
        with resource("/account", AccountController):
            resources("/comments", CommentController, only=["show"])

    assert table(SameRoutes) == table(AccountRoutes)


def test_the_parameter_and_the_names_of_resources_can_be_chosen() -> None:
    class NamedRoutes(Router):
        with resources("/admin", UserController, param="slug", name="admin", only=["show"]):
            resources("/files", FileController, only=["show"], as_="document")
        with resources("/people", UserController, as_="person", only=["show"]):
            resources("/files", FileController, only=["show"], name="paper")
            with resources("/papers", FileController, only=[], name="paper"):
                get("/sheets/:id", FileController, "edit")

    assert [(route.helper, route.path) for route in NamedRoutes.routes] == [
        ("admin", "/admin/:slug"),
        ("admin_document", "/admin/:admin_slug/files/:id"),
        ("person", "/people/:id"),
        ("person_paper", "/people/:user_id/files/:id"),
        ("person_paper_file", "/people/:user_id/papers/:paper_id/sheets/:id"),
    ]


def test_any_route_nests_in_resources_and_afterwards_the_outer_scope_is_back() -> None:
    class NestedRoutes(Router):
        with scope("/api", as_="api"):
            with resources("/users", UserController, only=["show"]):
                with resources("/comments", CommentController, only=["show"]):
                    get("/files/:id", FileController, "show")
                get("/settings", PageController, "show")
                with scope("/deep", as_="deep"):
                    get("/page", PageController, "show")
            get("/pages", PageController, "index")

    assert [(route.helper, route.path) for route in NestedRoutes.routes] == [
        ("api_user", "/api/users/:id"),
        ("api_user_comment", "/api/users/:user_id/comments/:id"),
        ("api_user_comment_file", "/api/users/:user_id/comments/:comment_id/files/:id"),
        ("api_user_page", "/api/users/:user_id/settings"),
        ("api_user_deep_page", "/api/users/:user_id/deep/page"),
        ("api_page", "/api/pages"),
    ]


def test_resources_at_the_root_of_the_site() -> None:
    class RootRoutes(Router):
        resources("/", PageController, only=["index", "show"])

    assert [route.path for route in RootRoutes.routes] == ["/", "/:id"]


def test_pipelines_and_hosts_reach_into_resources() -> None:
    class PipedRoutes(Router):
        with pipeline("one"):
            plug(note, "1")
        with pipeline("two"):
            plug(note, "2")
        with scope("/", host="api."):
            pipe_through("one")
            with resources("/users", UserController, only=["index"]):
                pipe_through("two")
                get("/notes", tell_notes)
                with member():
                    get("/member", tell_notes)

    assert [(route.path, route.pipe_through, route.hosts) for route in PipedRoutes.routes] == [
        ("/users/:id/member", ["one", "two"], ("api.",)),
        ("/users", ["one"], ("api.",)),
        ("/users/:user_id/notes", ["one", "two"], ("api.",)),
    ]


# --- Member and collection ----------------------------------------------------------------


class MemberRouter(Router):
    with scope("/admin", as_="admin"):
        with resources("/users", UserController):
            resources("/comments", CommentController, only=["index"])
            with member():
                post("/ban", UserController, "ban")
                get("/preview", named("preview"))
            with collection():
                get("/search", UserController, "search")
                get("/export", UserController, "search", as_="export")
        get("/pages", PageController, "index")


def test_member_routes_are_those_of_one_item_and_collection_routes_those_of_all() -> None:
    asked = client(MemberRouter)
    assert body(asked.post("/admin/users/7/ban", {})) == "UserController.ban id=7"
    assert body(asked.get("/admin/users/7/preview")) == "preview"
    assert body(asked.get("/admin/users/search?q=ann")) == "UserController.search q=ann"
    assert body(asked.get("/admin/users/someone")) == "UserController.show id=someone"
    assert body(asked.get("/admin/users/new")) == "UserController.new"
    assert body(asked.get("/admin/users/7/comments")) == "CommentController.index user_id=7"


def test_member_and_collection_routes_have_the_helper_of_their_resource() -> None:
    helpers = MemberRouter.helpers
    assert helpers.admin_user_path(None, "ban", 7) == "/admin/users/7/ban"
    assert helpers.admin_user_path(None, "preview", 7) == "/admin/users/7/preview"
    assert helpers.admin_user_path(None, "search", q="ann") == "/admin/users/search?q=ann"
    assert helpers.admin_export_path(None, "search") == "/admin/users/export"
    assert helpers.admin_page_path(None, "index") == "/admin/pages"


def test_member_and_collection_routes_come_before_show_wherever_they_are_written() -> None:
    paths = [route.path for route in MemberRouter.routes]
    assert paths[:5] == [
        "/admin/users/:id/ban", "/admin/users/:id/preview", "/admin/users/search", "/admin/users/export", "/admin/users",
    ]  # fmt: skip


def test_member_routes_of_a_nested_resource_and_of_a_singleton() -> None:
    class DeepRouter(Router):
        with resources("/users", UserController, only=["show"]):
            with resources("/comments", CommentController, only=["show"], param="slug"):
                with member():
                    post("/ban", UserController, "ban")
                with collection():
                    get("/search", UserController, "search")
        with resource("/account", UserController, only=["show"], as_="account"):
            with member():
                post("/ban", UserController, "ban")

    assert [(route.helper, route.path) for route in DeepRouter.routes] == [
        ("user", "/users/:id"),
        ("user_comment", "/users/:user_id/comments/:slug/ban"),
        ("user_comment", "/users/:user_id/comments/search"),
        ("user_comment", "/users/:user_id/comments/:slug"),
        ("account", "/account/ban"),
        ("account", "/account"),
    ]


def test_scopes_and_resources_work_inside_a_member_block() -> None:
    class InsideRouter(Router):
        with resources("/users", UserController, only=["show"]):
            with member():
                with scope("/danger"):
                    post("/ban", UserController, "ban")
                resources("/comments", CommentController, only=["index"])

    assert [(route.helper, route.path) for route in InsideRouter.routes] == [
        ("user", "/users/:id/danger/ban"), ("comment", "/users/:id/comments"), ("user", "/users/:id"),
    ]  # fmt: skip


@pytest.mark.parametrize("word", [member, collection])
def test_member_and_collection_stand_in_resources_only(word: Any) -> None:
    with pytest.raises(DefinitionError, match=f"{word.__name__}\\(\\) must stand directly inside resources"):

        class WrongRouter(Router):
            with scope("/"):
                with word():
                    get("/", answer)


# --- The table as text --------------------------------------------------------------------


def test_the_routes_are_printed_in_columns() -> None:
    class ImageRoutes(Router):
        resources("/images", ImageController)

    assert format_routes(ImageRoutes) == (
        "image_path  GET     /images           ImageController.index/2\n"
        "image_path  GET     /images/:id/edit  ImageController.edit/2\n"
        "image_path  GET     /images/new       ImageController.new/2\n"
        "image_path  GET     /images/:id       ImageController.show/2\n"
        "image_path  POST    /images           ImageController.create/2\n"
        "image_path  PATCH   /images/:id       ImageController.update/2\n"
        "            PUT     /images/:id       ImageController.update/2\n"
        "image_path  DELETE  /images/:id       ImageController.destroy/2\n"
    )


def test_names_are_aligned_to_the_right_and_forwards_have_none() -> None:
    class Admin(Router):
        get("/", answer)

    def as_plug(conn: Conn) -> Conn:
        return conn.text("")

    class MixedRoutes(Router):
        get("/", PageController, "index")
        get("/hello/:name", answer)
        get("/plug", as_plug)
        with scope("/api", as_="api"):
            get("/users", UserController, "index")
        forward("/admin", Admin)
        get("/*path", PageController, "show", as_=None)

    assert format_routes(MixedRoutes) == (
        "    page_path  GET  /             PageController.index/2\n"
        "  answer_path  GET  /hello/:name  answer/2\n"
        " as_plug_path  GET  /plug         as_plug/1\n"
        "api_user_path  GET  /api/users    UserController.index/2\n"
        "               *    /admin        Admin []\n"
        "               GET  /*path        PageController.show/2\n"
    )


def test_without_any_names_two_spaces_stay_and_without_routes_nothing() -> None:
    class NamelessRoutes(Router):
        get("/", answer, as_=None)

    class NoRoutes(Router): ...

    assert format_routes(NamelessRoutes) == "  GET  /  answer/2\n"
    assert format_routes(NoRoutes) == ""


# --- Introspection ------------------------------------------------------------------------


def test_routes_tell_what_they_are() -> None:
    class Introspected(Router):
        with pipeline("browser"):
            plug(note, "1")
        with scope("/api", host="api.", as_="api"):
            pipe_through("browser")
            get("/users/:id", UserController, "show")

    (route,) = Introspected.routes
    assert (route.verb, route.path, route.plug, route.action, route.helper, route.pipe_through, route.hosts) == (
        "GET", "/api/users/:id", UserController, "show", "api_user", ["browser"], ("api.",),
    )  # fmt: skip
    assert re.fullmatch(rf"{re.escape(__file__)}:\d+", route.where)
    assert "get(" in Path(__file__).read_text("utf-8").split("\n")[int(route.where.rpartition(":")[2]) - 1]
    assert repr(route) == "<Route GET /api/users/:id UserController.show/2>"
    expected = {
        "route": "/api/users/:id", "plug": UserController, "action": "show", "path_params": {"id": "a b"},
        "pipe_through": ["browser"], "helper": "api_user",
    }  # fmt: skip
    assert Introspected.route_info("get", "/api/users/a%20b/", "api.example.com") == expected
    assert Introspected.route_info("GET", "/api/users/7", "example.com") is None
    assert Introspected.route_info("POST", "/api/users/7", "api.example.com") is None


def test_the_number_of_routes_is_that_of_the_lines_it_takes() -> None:
    class CountedRoutes(Router):
        get("/", PageController, "index")
        resources("/users", UserController)
        resources("/comments", CommentController, only=["index", "show"])
        resources("/posts", PostController, except_=["index"])

    assert len(CountedRoutes.routes) == 1 + 8 + 2 + 7


def test_a_router_that_extends_another_has_its_pipelines_and_its_routes() -> None:
    class Base(Router):
        with pipeline("browser"):
            plug(note, "b")
        with scope("/"):
            pipe_through("browser")
            get("/base", tell_notes)

    class Extended(Base):
        with scope("/"):
            pipe_through("browser")
            get("/own", tell_notes, as_="own")

    asked = client(Extended)
    assert asked.json_response(asked.get("/base")) == asked.json_response(asked.get("/own")) == ["b"]
    assert asked.get("/base").router is Extended
    assert client(Base).get("/base").router is Base
    assert [len(router.routes) for router in (Base, Extended)] == [1, 2]
    assert Extended.helpers.own_path(None) == "/own"
    with pytest.raises(NoRouteError):
        client(Base).get("/own")


# --- Mistakes -----------------------------------------------------------------------------

MISTAKES: list[tuple[str, str, list[str]]] = [
    ("a plug at the level of the router", 'plug(note, "1")', ["cannot define plug at the router level", "inside a pipeline"]),
    ("pipe_through outside of a scope", 'pipe_through("browser")', ["pipe_through belongs inside a scope"]),
    ("pipe_through in a pipeline", 'with pipeline("a"): pipe_through("browser")', ["cannot pipe_through inside a pipeline"]),
    ("an unknown pipeline", 'with scope("/"): pipe_through("browsr")', ["unknown pipeline 'browsr'. Did you mean 'browser'?"]),
    ("a pipeline named twice", 'with pipeline("browser"): plug(note, "1")', ["has a pipeline 'browser' already"]),
    ("a pipeline in a scope", 'with scope("/"): pipeline("api")', ["define pipeline 'api' at the top of the router"]),
    ("a pipeline in a pipeline", 'with pipeline("a"): pipeline("b")', ["define pipeline 'b' at the top of the router"]),
    ("a pipeline passed through twice", 'with scope("/"): pipe_through("browser", "browser")', ["duplicate pipe_through for 'browser'"]),
    ("a list of pipelines", 'with scope("/"): pipe_through(["browser", note_here])', ["one after the other: `pipe_through('browser', <function"]),
    ("a plug passed through twice", 'with scope("/"): pipe_through(note_here, note_here)', ["duplicate pipe_through for <function note_here"]),
    ("an unknown action", 'get("/", UserController, "serch")', ["UserController has no action 'serch'. Did you mean 'search'?", "It has: "]),
    ("a resource without its actions", 'resources("/x", HalfController)', ["HalfController has no action 'edit'", "only=["]),
    ("an action that is no name", 'get("/", UserController, UserController.search)', ["the name of an action", 'UserController, "show")']),
    ("an action of a function", 'get("/", answer, "show")', ["or a function, got <function answer"]),
    ("a controller that is a name", 'get("/", "UserController", "show")', ["expected a controller", "got 'UserController', 'show'"]),
    ("an action with a word of Controller", 'get("/", UserController, "view")', ["'view' is a word of Controller itself"]),
    ("an action without its params", 'get("/", BareController, "index")', ["def index(self, conn, params)"]),
    ("a private method as an action", 'get("/", UserController, "_hidden")', ["UserController has no action '_hidden'"]),
    ("what cannot be called", 'get("/", "users")', ["cannot plug 'users'"]),
    ("a function that takes nothing", 'get("/", lambda: None)', ["cannot be called with a conn"]),
    ("the reserved name", 'get("/", UserController, "index", as_="static")', ["`static` is a reserved route prefix"]),
    ("a name that no helper can have", 'get("/", UserController, "index", as_="my-users")', ["'my-users' cannot name a helper"]),
    ("a name that is no text", 'get("/", UserController, "index", as_=5)', ["'5' cannot name a helper"]),
    ("a reserved controller", 'get("/", StaticController, "index")', ["`static` is a reserved route prefix"]),
    ("a forward to a path with a parameter", 'forward("/api/:version", note_here)', ['dynamic segment "/api/:version" not allowed when forwarding']),
    ("a scope without with", 'scope("/api")', ['scope("/api") does nothing alone', 'with scope("/api"):']),
    ("a pipeline without with", 'pipeline("api")', ['pipeline("api") does nothing alone']),
    ("a member without with", 'with resources("/u", UserController): member()', ["member() does nothing alone"]),
    ("a route in a pipeline", 'with pipeline("a"): get("/", answer)', ["cannot define a route inside a pipeline"]),
]  # fmt: skip


class BareController(Controller):
    def index(self, conn: Conn) -> Conn:
        return conn


class HalfController(Controller):
    def index(self, conn: Conn, params: Any) -> Conn:
        return conn

    def show(self, conn: Conn, params: Any) -> Conn:
        return conn


class StaticController(EveryAction): ...


@pytest.mark.parametrize("line, told", [mistake[1:] for mistake in MISTAKES], ids=[mistake[0] for mistake in MISTAKES])
def test_a_mistake_is_found_when_the_router_is_defined_with_file_and_line(line: str, told: list[str]) -> None:
    source = f"class MyRouter(Router):\n    with pipeline('browser'):\n        plug(note, 'b')\n\n    {line}\n"
    with pytest.raises(DefinitionError) as caught:
        exec(compile(source, "web/router.py", "exec"), dict(globals()))
    assert str(caught.value).startswith("web/router.py:5: ")
    for words in told:
        assert words in str(caught.value)


def test_words_outside_of_a_router_say_where_they_belong() -> None:
    with pytest.raises(DefinitionError, match=re.escape("`get(...)` must be written in the body of a router")):
        get("/", answer)
    with pytest.raises(DefinitionError, match=re.escape("`scope(...)` must be written in the body of a router")):

        class NotARouter:
            with scope("/"):
                pass


def test_a_route_that_can_never_match_is_warned_of_with_both_places() -> None:
    with pytest.warns(RouterWarning) as caught:

        class HiddenRouter(Router):
            get("/users/:id", UserController, "show")
            get("/users/new", UserController, "new")

    first, second = (int(route.where.rpartition(":")[2]) for route in HiddenRouter.routes)
    assert [str(each.message) for each in caught] == [
        f"GET /users/new can never match: GET /users/:id at {__file__}:{first} takes all its requests."
        " Write the more specific route first."
    ]
    assert (caught[0].filename, caught[0].lineno) == (__file__, second)


def test_two_routes_with_one_helper_are_warned_of_and_the_first_is_reached() -> None:
    with pytest.warns(RouterWarning) as caught:

        class TwiceRouter(Router):
            get("/users/:id", UserController, "show")
            with scope("/api"):
                get("/users/:id", UserController, "show")

    assert "/api/users/:id has the same helper as /users/:id at " in str(caught[0].message)
    assert "user_path(conn, 'show', id)" in str(caught[0].message)
    assert caught[0].filename == __file__
    assert TwiceRouter.helpers.user_path(None, "show", 7) == "/users/7"


@pytest.mark.parametrize(
    "earlier, later, hidden",
    [
        (["/a"], "/a", True),
        (["/:x"], "/a", True),
        (["/a"], "/:x", False),
        (["/:x"], "/:y", True),
        (["/*x"], "/a/b", True),
        (["/*x"], "/", True),
        (["/a/*x"], "/a", True),
        (["/a/:x"], "/a/*x", False),
        (["/", "/:a", "/:a/*b"], "/*x", True),
        (["/", "/:a/*b"], "/*x", True),
        (["/", "/:a/:b"], "/*x", False),
        (["/:a/:b/:c", "/:a/:b", "/:a", "/"], "/*x", False),
        (["/p:x"], "/pq:x", True),
        (["/pq:x"], "/p:x", False),
        (["/p:x"], "/p", False),
        (["/p*x"], "/p", True),
        (["/p:x"], "/p*x", False),
        (["/p:x", "/p", "/p/*x", "/p:x/*y"], "/p*x", True),
    ],
)
def test_it_is_exactly_the_hidden_routes_that_are_warned_of(earlier: list[str], later: str, hidden: bool) -> None:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")

        class MaybeHidden(Router):
            for path in [*earlier, later]:
                get(path, answer, as_=None)

    told = [str(each.message).partition(" can never")[0] for each in caught]
    assert (f"GET {later}" in told) is hidden


@pytest.mark.parametrize(
    "first, second, hidden",
    [
        (None, "a.com", True),
        ("a.com", None, False),
        ("a.com", "a.com", True),
        ("a.", "a.com", True),
        ("a.com", "a.", False),
        ("a.", "a.b.", True),
        (["a.com", "b.com"], ["b.com", "a.com"], True),
        (["a.com"], ["a.com", "b.com"], False),
    ],
)
def test_a_route_for_a_host_hides_those_for_the_same_hosts_only(first: Any, second: Any, hidden: bool) -> None:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")

        class HostRouter(Router):
            with scope("/", host=first):
                get("/x", answer, as_=None)
            with scope("/", host=second):
                get("/x", answer, as_=None)

    assert bool(caught) is hidden


def test_a_router_of_ten_thousand_routes_is_defined_quickly() -> None:
    """It takes a third of a second; were the check for hidden routes quadratic, it would be minutes."""
    begin = time.process_time()

    class BigRouter(Router):
        for number in range(2500):
            get(f"/static{number}", UserController, "index", as_=None)
            get(f"/shops/:id/route{number}", UserController, "show", as_=None)
            get(f"/things{number}/:id", UserController, "show", as_=None)
            get(f"/files{number}/*path", UserController, "show", as_=None)

    assert time.process_time() - begin < 5
    assert len(BigRouter.routes) == 10_000
    for path in ("/static2499", "/shops/7/route2499", "/things2499/1", "/files2499/a/b"):
        assert BigRouter.route_info("GET", path) is not None


# --- The table against the rule -----------------------------------------------------------

TEXTS = ["a", "b", "ab", "abc", ""]
SEGMENTS = ["a", "b", "ab", ":x", ":x", "a:x", "ab:x"]
LAST_SEGMENTS = [*SEGMENTS, "*x", "a*x"]
VERBS = ["GET", "POST", "*"]
ROUTE_HOSTS = [None, None, None, "h.com", "h.", ["i.com", "h."]]


def numbered(path: str) -> str:
    """Give each parameter of a path a name of its own."""
    return "/".join(re.sub(r"([:*])x", rf"\1x{number}", part) for number, part in enumerate(path.split("/")))


@st.composite
def routes_written(draw: st.DrawFn) -> list[tuple[str, str, Any]]:
    """Draw routes: verb, path, host."""
    written = []
    for _ in range(draw(st.integers(1, 12))):
        parts = [draw(st.sampled_from(SEGMENTS)) for _ in range(draw(st.integers(0, 3)))]
        if draw(st.booleans()):
            parts.append(draw(st.sampled_from(LAST_SEGMENTS)))
        written.append((draw(st.sampled_from(VERBS)), numbered("/" + "/".join(parts)), draw(st.sampled_from(ROUTE_HOSTS))))
    return written


def scan(written: Sequence[tuple[str, str, Any]], verb: str, segments: list[str], host: str) -> tuple[int, Any] | None:
    """Find the first route by asking each in turn: what the documentation says, word for word."""
    for index, (route_verb, path, hosts) in enumerate(written):
        if route_verb not in (verb, "*"):
            continue
        hosts = [hosts] if isinstance(hosts, str) else hosts
        if hosts and not any(host == each or each.endswith(".") and host.startswith(each) for each in hosts):
            continue
        params = params_by_rule([part for part in path.split("/") if part], segments)
        if params is not None:
            return index, params
    return None


def params_by_rule(parts: list[str], segments: list[str]) -> dict[str, Any] | None:
    params: dict[str, Any] = {}
    for at, part in enumerate(parts):
        found = re.fullmatch(r"(\w*)([:*])(\w+)", part)
        if found is None:
            if at >= len(segments) or segments[at] != part:
                return None
            continue
        prefix, kind, name = found.groups()
        if kind == "*":
            rest = segments[at:]
            if prefix and (not rest or not rest[0].startswith(prefix)):
                return None
            params[name] = [rest[0][len(prefix) :], *rest[1:]] if prefix else rest
            return params
        if at >= len(segments) or not segments[at].startswith(prefix) or len(segments[at]) == len(prefix):
            return None
        params[name] = segments[at][len(prefix) :]
    return params if len(parts) == len(segments) else None


def router_of(written: Sequence[tuple[str, str, Any]]) -> type[Router]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RouterWarning)

        class WrittenRouter(Router):
            for number, (verb, path, host) in enumerate(written):
                with scope("", host=host):
                    match(verb, path, answer, as_=f"r{number}")

    return WrittenRouter


@settings(max_examples=200, deadline=None)
@given(
    routes_written(),
    st.lists(
        st.tuples(
            st.sampled_from(["GET", "POST", "PUT"]),
            st.lists(st.sampled_from(["a", "b", "ab", "abc", "abd", "c"]), max_size=5),
            st.sampled_from(["h.com", "h.org", "i.com", "j.com"]),
        ),
        min_size=1,
        max_size=30,
    ),
)
def test_the_table_finds_exactly_the_route_that_asking_each_in_turn_would_find(
    written: list[tuple[str, str, Any]], requests: list[tuple[str, list[str], str]]
) -> None:
    router = router_of(written)
    for verb, segments, host in requests:
        found = router._match(verb, segments, host)
        expected = scan(written, verb, segments, host)
        assert (found and (found[0].index, found[1])) == expected

        # A whole request takes the short cut for static paths, and must come to the same.
        conn = Conn(verb, "/" + "/".join(segments), host=host)
        if expected is None:
            with pytest.raises((NoRouteError, MethodNotAllowedError)) as caught:
                router()(conn)
            others = [other for other in ("GET", "POST") if scan(written, other, segments, host)]
            assert getattr(caught.value, "allowed", []) == sorted({*others, *(["HEAD"] if "GET" in others else [])})
        else:
            routed = router()(conn)
            if routed is not conn:
                routed.close()  # it would go on in a worker thread
            assert (conn.private["phoenix_route"].index, conn.path_params) == expected


@settings(max_examples=100, deadline=None)
@given(routes_written())
def test_the_warning_of_hidden_routes_agrees_with_asking_each_in_turn(written: list[tuple[str, str, Any]]) -> None:
    """No path up to six segments reaches a route that is warned of; and each other is reached by one of them."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")

        class WrittenRouter(Router):
            for number, (verb, path, host) in enumerate(written):
                with scope("", host=host):
                    match(verb, path, answer, as_=f"r{number}")

    hidden = sum("can never match" in str(each.message) for each in caught)
    reached = set()
    for verb in ("GET", "POST", "BREW"):
        for host in ("h.com", "h.z", "i.com", "other"):
            for index, route in enumerate(WrittenRouter.routes):
                for segments in some_paths(route.path):
                    found = scan(written, verb, segments, host)
                    if found is not None and found[0] == index:
                        reached.add(index)
    assert len(written) - hidden == len(reached)


def some_paths(path: str) -> Iterator[list[str]]:
    """Yield paths that match, whose parameters are like nothing else."""
    parts = [part for part in path.split("/") if part]
    glob = bool(parts) and "*" in parts[-1]
    fixed = [re.sub(r":\w+", "zzz", part) for part in (parts[:-1] if glob else parts)]
    if not glob:
        yield fixed
        return
    prefix = parts[-1].partition("*")[0]
    starts = [[]] if not prefix else [[prefix], [prefix + "zzz"]]
    for start in starts:
        for more in range(6):
            yield [*fixed, *start, *["zzz"] * more]


def test_what_answers_is_logged_for_debugging_without_secrets(caplog: pytest.LogCaptureFixture) -> None:
    class LoggedRouter(Router):
        with pipeline("first"):
            plug(note, "1")
        with scope("/"):
            pipe_through("first")
            get("/users/:id", UserController, "show")

    with caplog.at_level("DEBUG", "phoenix"):
        client(LoggedRouter).get("/users/7?password=geheim")
    (message,) = (record.getMessage() for record in caplog.records if "Processing" in record.getMessage())
    assert message.startswith("Processing with UserController.show/2\n  Parameters: {'password': '")
    assert "'id': '7'" in message and "geheim" not in message
    assert message.endswith("Pipelines: ['first']")


def test_a_plug_that_changes_the_path_is_followed() -> None:
    def without_locale(conn: Conn) -> Conn:
        conn.path_info = conn.path_info[1:]
        return conn

    def to_moved(conn: Conn) -> Conn:
        if conn.request_path == "/old":
            conn.path_info = ["moved"]
        return conn

    class PlainRouter(Router):
        get("/users", named("users"))
        get("/old", named("old"))
        get("/moved", named("moved"))

    assert body(client(PlainRouter, plugs=[without_locale]).get("/de/users")) == "users"
    assert body(client(PlainRouter, plugs=[to_moved]).get("/old")) == "moved"


# --- Path helpers -------------------------------------------------------------------------


class HelperRouter(Router):
    with resources("/users", UserController):
        with resources("/comments", CommentController):
            resources("/files", FileController)
    resources("/posts", PostController, only=["index", "show"])
    get("/posts/file/*file", PostController, "file")
    get("/skip", PostController, "skip", as_=None)
    get("/top", PostController, "top", as_="top")
    get("/products/:id", PageController, "product")
    get("/products/:id/:sort", PageController, "product")
    get("/products", PageController, "product")
    get("/", PageController, "root")
    get("/hello/:name", answer)
    get("/p-:id/q", PageController, "prefixed", as_="prefixed")
    get("/sp ace/é", PageController, "spaced", as_="spaced")
    with scope("/:locale", as_="localized"):
        get("/posts/:id", PostController, "show")



ENDPOINT = Endpoint(
    HelperRouter, url={"host": "example.com", "port": 80}, secret_key_base="x" * 64, static=False, log=False, env="test"
)

HELPED: list[tuple[str, tuple[Any, ...], dict[str, Any], str]] = [
    ("user_path", ("index",), {}, "/users"),
    ("user_path", ("show", 123), {}, "/users/123"),
    ("user_path", ("show", 123), {"page": 5}, "/users/123?page=5"),
    ("user_path", ("show", 123, {"page": 5}), {}, "/users/123?page=5"),
    ("user_path", ("show", 123, [("page", 5), ("q", "a")]), {}, "/users/123?page=5&q=a"),
    ("user_path", ("show", 123, {}), {}, "/users/123"),
    ("user_path", ("show", 123, []), {}, "/users/123"),
    ("user_path", ("show", 123, None), {}, "/users/123"),
    ("user_path", ("show", 123, {"a": 1}), {"b": 2}, "/users/123?a=1&b=2"),
    ("user_path", ("show", 123), {"id": 9, "page": 5}, "/users/123?page=5"),
    ("user_path", ("edit", 123), {}, "/users/123/edit"),
    ("user_path", ("new",), {}, "/users/new"),
    ("user_path", ("create",), {}, "/users"),
    ("user_path", ("update", 123), {}, "/users/123"),
    ("user_path", ("destroy", 123), {}, "/users/123"),
    ("user_path", ("delete", 123), {}, "/users/123"),
    ("user_comment_path", ("show", 99, 100), {}, "/users/99/comments/100"),
    ("user_comment_path", ("index", 99), {"foo": "bar"}, "/users/99/comments?foo=bar"),
    ("user_comment_path", ("index", 99), {"user_id": 1, "foo": "b r"}, "/users/99/comments?foo=b+r"),
    ("user_comment_path", ("edit", 88, 2, []), {}, "/users/88/comments/2/edit"),
    ("user_comment_path", ("new", 88), {}, "/users/88/comments/new"),
    ("user_comment_file_path", ("edit", 88, 1, 2), {}, "/users/88/comments/1/files/2/edit"),
    ("post_path", ("file", ["foo", "bar", "baz"]), {}, "/posts/file/foo/bar/baz"),
    ("post_path", ("file", ["foo", "bar/baz"]), {"q": 1}, "/posts/file/foo/bar%2Fbaz?q=1"),
    ("post_path", ("file", "foo/bar"), {}, "/posts/file/foo/bar"),
    ("post_path", ("file", []), {}, "/posts/file"),
    ("post_path", ("file", 7), {}, "/posts/file/7"),
    ("top_path", ("top",), {}, "/top"),
    ("page_path", ("product",), {}, "/products"),
    ("page_path", ("product", 123), {}, "/products/123"),
    ("page_path", ("product", 123, "asc"), {}, "/products/123/asc"),
    ("page_path", ("product", {"id": "x", "q": "y"}), {}, "/products?id=x&q=y"),
    ("page_path", ("product", 123, {"sort": "x", "q": "y"}), {}, "/products/123?sort=x&q=y"),
    ("page_path", ("root",), {}, "/"),
    ("page_path", ("root",), {"a": 1}, "/?a=1"),
    ("answer_path", ("Ann",), {}, "/hello/Ann"),
    ("answer_path", ("Ann",), {"x": [1, 2]}, "/hello/Ann?x[]=1&x[]=2"),
    ("prefixed_path", ("prefixed", 7), {}, "/p-7/q"),
    ("spaced_path", ("spaced",), {}, "/sp%20ace/%C3%A9"),
    ("localized_post_path", ("show", "de", 7), {}, "/de/posts/7"),
    # Values are percent-encoded, all but letters, digits and -._~
    ("user_path", ("show", "foo bar"), {}, "/users/foo%20bar"),
    ("user_path", ("show", "a/b"), {}, "/users/a%2Fb"),
    ("user_path", ("show", "a+b=c:d"), {}, "/users/a%2Bb%3Dc%3Ad"),
    ("user_path", ("show", "-._~"), {}, "/users/-._~"),
    ("user_path", ("show", "?#&"), {}, "/users/%3F%23%26"),
    ("user_path", ("show", "é"), {}, "/users/%C3%A9"),
    ("user_path", ("show", True), {}, "/users/true"),
    ("user_path", ("show", 1.5), {}, "/users/1.5"),
    ("user_path", ("show", SimpleNamespace(id=5)), {}, "/users/5"),
    ("user_path", ("show", SimpleNamespace(to_param=lambda: "ann", id=5)), {}, "/users/ann"),
    ("user_path", ("index",), {"user": SimpleNamespace(id=5)}, "/users?user=5"),
    ("user_path", ("index",), {"context": 1, "self": 2, "query": 3}, "/users?context=1&self=2&query=3"),
]  # fmt: skip


@pytest.mark.parametrize("name, arguments, query, path", HELPED)
def test_a_helper_writes_the_path_of_a_route(name: str, arguments: tuple[Any, ...], query: dict[str, Any], path: str) -> None:
    conn = Conn(endpoint=ENDPOINT)
    assert getattr(HelperRouter.helpers, name)(conn, *arguments, **query) == path
    assert getattr(HelperRouter.helpers, name)(ENDPOINT, *arguments, **query) == path
    url = name.replace("_path", "_url")
    assert getattr(HelperRouter.helpers, url)(conn, *arguments, **query) == "http://example.com" + path
    assert getattr(HelperRouter.helpers, url)(ENDPOINT, *arguments, **query) == "http://example.com" + path


TEXT = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=8)


@given(TEXT, st.lists(TEXT, min_size=1, max_size=4))
def test_what_a_helper_writes_the_router_reads_back(name: str, parts: list[str]) -> None:
    helpers = HelperRouter.helpers
    for path, params in (
        (helpers.answer_path(None, name), {"name": name}),
        (helpers.post_path(None, "file", parts), {"file": parts}),
        (helpers.localized_post_path(None, "show", "x" + name, name), {"locale": "x" + name, "id": name}),
    ):
        info = HelperRouter.route_info("GET", path)
        assert info is not None
        assert info["path_params"] == params


WRONG_CALLS: list[tuple[str, tuple[Any, ...], list[str]]] = [
    ("post_path", ("skip",), ["no action 'skip' for HelperRouter.helpers.post_path", "clauses are supported:\n\n",
                              '    post_path(conn_or_endpoint, "file", file, **query)\n    post_path(conn_or_endpoint, "index", **query)\n']),
    ("post_path", (), ["no action None for HelperRouter.helpers.post_path"]),
    ("post_path", (7,), ["no action 7 for HelperRouter.helpers.post_path"]),
    ("user_comment_path", ("show", 1), ["no function clause for HelperRouter.helpers.user_comment_path and action 'show' with 1 values",
                                        '    user_comment_path(conn_or_endpoint, "show", user_id, id, **query)']),
    ("user_comment_path", ("show", 1, 2, 3, 4), ["with 4 values"]),
    ("top_path", ("top", "asc"), ["what follows the values of the path is the query", "top_path(conn, 'top', page=5, per_page=10)"]),
    ("user_path", ("show", 7, "asc"), ["user_path(conn, 'show', 7, 'asc')", "user_path(conn, 'show', 7, page=5, per_page=10)"]),
    ("user_path", ("show", 7, 5), ["expected a mapping or keywords"]),
    ("user_path", ("show", 7, [1, 2]), ["expected a mapping or keywords"]),
    ("user_path", ("show", None), ["cannot convert None to a param"]),
    ("post_path", ("file", None), ["cannot convert None to a param"]),
    ("user_path", ("show", {"a": 1}), ["no function clause for HelperRouter.helpers.user_path and action 'show'"]),
]  # fmt: skip


@pytest.mark.parametrize("name, arguments, told", WRONG_CALLS)
def test_a_helper_called_wrongly_says_how_to_call_it(name: str, arguments: tuple[Any, ...], told: list[str]) -> None:
    with pytest.raises(ArgumentError) as caught:
        getattr(HelperRouter.helpers, name)(None, *arguments)
    for words in told:
        assert words in str(caught.value)


def test_a_helper_without_the_conn_says_that_it_is_missing() -> None:
    with pytest.raises(ArgumentError, match=re.escape("user_path('show', ...) needs the conn or the endpoint as its first argument")):
        HelperRouter.helpers.user_path("show", 7)


def test_an_unknown_helper_suggests_a_known_one() -> None:
    with pytest.raises(AttributeError, match="HelperRouter has no helper 'user_pth'. Did you mean 'user_path'?"):
        HelperRouter.helpers.user_pth(None, "index")
    assert {"user_path", "user_url", "user_comment_file_path", "static_path"} <= set(dir(HelperRouter.helpers))


def test_a_url_needs_an_endpoint() -> None:
    with pytest.raises(ArgumentError, match="a URL needs a conn of an endpoint, or an endpoint"):
        HelperRouter.helpers.user_url(Conn(), "index")
    assert HelperRouter.helpers.user_path(Conn(), "index") == "/users"


def test_static_files_have_helpers_too() -> None:
    assert HelperRouter.helpers.static_path(ENDPOINT, "/js/phoenix.js") == "/js/phoenix.js"
    assert HelperRouter.helpers.static_url(Conn(endpoint=ENDPOINT), "/js/phoenix.js") == "http://example.com/js/phoenix.js"


def test_whatever_has_an_endpoint_will_do_for_a_helper() -> None:
    socket = SimpleNamespace(endpoint=ENDPOINT)
    assert HelperRouter.helpers.user_url(socket, "show", 7) == "http://example.com/users/7"


def test_the_conn_has_the_helpers_of_its_router_bound_to_it() -> None:
    def tell(conn: Conn, params: Any) -> Conn:
        helpers = conn.helpers
        return conn.json([helpers.tell_path(7, page=2), helpers.tell_url(8), "tell_path" in dir(helpers)])

    class BoundRouter(Router):
        get("/tell/:id", tell)

    asked = client(BoundRouter, url={"host": "example.com", "port": 80})
    assert asked.json_response(asked.get("/tell/1")) == ["/tell/7?page=2", "http://example.com/tell/8", True]
    with pytest.raises(phoenix.PhoenixError, match="conn.helpers needs a router that has matched the request"):
        Conn().helpers  # noqa: B018


def test_an_app_below_a_path_has_that_path_before_all_others() -> None:
    app = Endpoint(
        HelperRouter, url={"host": "example.com", "port": 80, "path": "/api"}, static=False, log=False, env="test"
    )
    helpers = HelperRouter.helpers
    assert helpers.user_path(app, "index") == "/api/users"
    assert helpers.page_path(app, "root") == "/api/"
    assert helpers.user_path(Conn(endpoint=app), "index") == "/api/users"
    assert helpers.user_url(app, "index") == "http://example.com/api/users"


def test_an_app_mounted_by_another_server_uses_the_place_it_was_mounted_at() -> None:
    conn = Conn(endpoint=ENDPOINT)
    conn.script_name = ["mounted", "here"]
    assert HelperRouter.helpers.user_path(conn, "index") == "/mounted/here/users"
    assert HelperRouter.helpers.user_url(conn, "index") == "http://example.com/mounted/here/users"


def test_the_beginning_of_urls_can_be_changed_for_one_request() -> None:
    conn = Conn("GET", "/foo//bar/", "a=1", endpoint=ENDPOINT).put_router_url("https://secret.example.org:8443/")
    assert HelperRouter.helpers.user_url(conn, "index") == "https://secret.example.org:8443/users"
    assert HelperRouter.helpers.user_path(conn, "index") == "/users"
    assert conn.current_url() == "https://secret.example.org:8443/foo/bar?a=1"


@pytest.mark.parametrize(
    "path, query, params, expected",
    [
        ("/", "", None, "/"),
        ("/foo//bar/", "", None, "/foo/bar"),
        ("/foo", "one=1&two=2", None, "/foo?one=1&two=2"),
        ("/foo", "one=1", {}, "/foo"),
        ("/foo", "one=1", {"three": 3}, "/foo?three=3"),
        ("/foo", "one=1", {"foo": {"bar": [1]}}, "/foo?foo[bar][]=1"),
    ],
)
def test_the_current_path_and_url(path: str, query: str, params: dict[str, Any] | None, expected: str) -> None:
    conn = Conn("GET", path, query, endpoint=ENDPOINT)
    assert conn.current_path(params) == expected
    assert conn.current_url(params) == "http://example.com" + expected


# --- Forwarding ---------------------------------------------------------------------------


def tell_place(conn: Conn) -> Conn:
    return conn.json({"path": conn.path_info, "script": list(conn.script_name), "method": conn.method})


class InnerController(Controller):
    def show(self, conn: Conn, params: Any) -> Conn:
        return conn.json([params["id"], conn.helpers.inner_path("show", 8), conn.helpers.inner_url("show", 9), conn.current_path()])

    def page(self, conn: Conn, params: Any) -> Conn:
        return conn.put_view(InnerView).render("page.html")


class InnerView(View):
    template("page.html.eex", """<a href="<%= inner_path(@conn, "show", 1) %>">x</a>""")


class InnermostRouter(Router):
    get("/things/:id", InnerController, "show")


class InnerRouter(Router):
    with pipeline("inner"):
        plug(note, "inner")
    get("/things/:id", InnerController, "show")
    get("/page", InnerController, "page")
    get("/", lambda conn, params: conn.text("inner root"))
    with scope("/"):
        pipe_through("inner")
        get("/notes", tell_notes)
    forward("/deep", InnermostRouter)


class OuterRouter(Router):
    with pipeline("outer"):
        plug(note, "outer")
    get("/things/:id", named("outer things"))
    forward("/admin", InnerRouter)
    forward("/place", tell_place)
    with scope("/scoped/below"):
        pipe_through("outer")
        forward("/router", InnerRouter)
        forward("/place", tell_place)
    forward("/admin2", InnerRouter, assigns={"second": True})


@pytest.mark.parametrize(
    "path, place",
    [
        ("/place", ([], ["place"])),
        ("/place/", ([], ["place"])),
        ("/place/a/b%20c", (["a", "b%20c"], ["place"])),
        ("/scoped/below/place/x", (["x"], ["scoped", "below", "place"])),
    ],
)
def test_a_forward_hands_over_what_is_below_its_path(path: str, place: tuple[list[str], list[str]]) -> None:
    asked = client(OuterRouter)
    for verb in ("GET", "POST", "BREW"):
        conn = asked.request(verb, path)
        assert asked.json_response(conn) == {"path": place[0], "script": place[1], "method": verb}
        # Afterwards all is as it was.
        assert conn.path_info == [part for part in path.split("/") if part]
        assert list(conn.script_name) == []


def test_a_forwarded_router_has_its_own_pipelines_after_those_of_the_outer() -> None:
    asked = client(OuterRouter)
    assert asked.json_response(asked.get("/admin/notes")) == ["inner"]
    assert asked.json_response(asked.get("/scoped/below/router/notes")) == ["outer", "inner"]
    assert body(asked.get("/admin")) == "inner root"
    assert asked.get("/admin2/notes").assigns["second"] is True


@pytest.mark.parametrize(
    "place", ["/admin", "/scoped/below/router", "/admin2", "/admin/deep", "/scoped/below/router/deep"]
)
def test_helpers_inside_a_forwarded_router_begin_with_the_place_it_was_forwarded_at(place: str) -> None:
    asked = client(OuterRouter, url={"host": "example.com", "port": 80})
    assert asked.json_response(asked.get(f"{place}/things/7")) == [
        "7", f"{place}/things/8", f"http://example.com{place}/things/9", f"{place}/things/7",
    ]  # fmt: skip


def test_helpers_of_a_forwarded_router_know_its_place_from_outside_too() -> None:
    app = Endpoint(OuterRouter, url={"host": "example.com", "port": 80, "path": "/app"}, static=False, log=False, env="test")
    assert InnerRouter.helpers.inner_path(app, "show", 1) == "/app/admin/things/1"
    assert InnermostRouter.helpers.inner_url(app, "show", 1) == "http://example.com/app/admin/deep/things/1"
    seen: list[str] = []

    class LookRouter(Router):
        get("/look", lambda conn, params: (seen.append(InnerRouter.helpers.inner_path(conn, "show", 2)), conn.text(""))[1])
        forward("/below", InnerRouter)

    client(LookRouter).get("/look")
    assert seen == ["/below/things/2"]


def test_templates_inside_a_forwarded_router_have_its_paths() -> None:
    assert body(client(OuterRouter).get("/admin/page")) == '<a href="/admin/things/1">x</a>'


def test_a_forwarded_router_that_knows_no_such_path_names_the_whole_path() -> None:
    with pytest.raises(NoRouteError, match=re.escape(f"no route found for GET /admin/nobody ({__name__}.InnerRouter)")):
        client(OuterRouter).get("/admin/nobody")
    with pytest.raises(MethodNotAllowedError, match="POST is not allowed for /admin/notes"):
        client(OuterRouter).post("/admin/notes", {})


def test_a_forward_takes_asynchronous_plugs_and_restores_the_path_after_them() -> None:
    async def slow(conn: Conn) -> Conn:
        import asyncio

        await asyncio.sleep(0)
        return conn.json(conn.path_info)

    class SlowRouter(Router):
        forward("/slow", slow)

    asked = client(SlowRouter)
    conn = asked.get("/slow/a/b")
    assert asked.json_response(conn) == ["a", "b"]
    assert (conn.path_info, list(conn.script_name)) == (["slow", "a", "b"], [])


def test_what_a_forward_is_given_must_answer_with_the_conn() -> None:
    class WrongRouter(Router):
        forward("/x", lambda conn: "text")  # type: ignore[arg-type,return-value]

    with pytest.raises(PlugError, match="returned 'text', expected the conn"):
        client(WrongRouter).get("/x")


def test_a_forward_to_the_root_takes_all_the_rest() -> None:
    class RestRouter(Router):
        get("/own", named("own"))
        forward("/", tell_place)

    asked = client(RestRouter)
    assert body(asked.get("/own")) == "own"
    assert asked.json_response(asked.get("/x/y")) == {"path": ["x", "y"], "script": [], "method": "GET"}


# --- WSGI ---------------------------------------------------------------------------------


def wsgi_mirror(environ: dict[str, Any], start_response: Callable[..., Any]) -> list[bytes]:
    """A WSGI application that tells what it was asked."""
    keys = ("REQUEST_METHOD", "SCRIPT_NAME", "PATH_INFO", "QUERY_STRING", "CONTENT_TYPE", "HTTP_X_THING", "HTTP_COOKIE")
    told = "|".join(f"{environ.get(key, '-')}" for key in keys)
    start_response("201 Created", [("Content-Type", "text/plain"), ("Set-Cookie", "a=1"), ("Set-Cookie", "b=2")])
    return [told.encode("latin-1"), b"|", environ["wsgi.input"].read(int(environ["CONTENT_LENGTH"]))]


class WSGIRouter(Router):
    forward("/legacy", wsgi_mirror)
    forward("/checked", validator(wsgi_mirror))


@pytest.mark.parametrize("place", ["legacy", "checked"])
def test_a_wsgi_application_is_forwarded_to(place: str) -> None:
    asked = client(WSGIRouter)
    headers = {"x-thing": "7", "cookie": "c=3"}
    conn = asked.get(f"/{place}/a%20b/?x=1", headers=headers)
    assert conn.status == 201
    assert conn.resp_body.decode() == f"GET|/{place}|/a b/|x=1|-|7|c=3|"
    assert conn.get_resp_header("set-cookie") == ["a=1", "b=2"]
    assert conn.get_resp_header("content-type") == ["text/plain"]
    assert conn.get_resp_header("cache-control") == []
    assert (conn.path_info, list(conn.script_name)) == ([place, "a%20b"], [])


def test_a_wsgi_application_reads_the_body_of_a_form_itself() -> None:
    conn = client(WSGIRouter).post("/checked", {"a": "1"})
    assert conn.resp_body == b"POST|/checked|/||application/x-www-form-urlencoded|-|-|a=1"


def test_bytes_of_a_path_reach_wsgi_as_pep_3333_has_them() -> None:
    conn = client(WSGIRouter).get("/legacy/caf%C3%A9")
    assert conn.resp_body.decode("utf-8").split("|")[2] == "/café"


def test_a_header_with_an_underscore_cannot_pass_for_one_with_a_dash() -> None:
    conn = client(WSGIRouter).get("/legacy", headers={"x_thing": "forged"})
    assert conn.resp_body.split(b"|")[5] == b"-"


def test_headers_that_came_twice_are_joined_for_wsgi() -> None:
    conn = Conn("GET", "/legacy", req_headers={"x-thing": ["1", "2"], "cookie": ["a=1", "b=2"]})
    routed = WSGIRouter()(conn)
    if routed is not conn:
        import asyncio

        asyncio.run(routed)
    assert conn.resp_body.split(b"|")[5:7] == [b"1, 2", b"a=1; b=2"]


def test_a_wsgi_class_a_late_start_and_writing_by_hand_all_work() -> None:
    class ClassApp:
        def __init__(self, environ: dict[str, Any], start_response: Callable[..., Any]) -> None:
            self.start_response = start_response

        def __iter__(self) -> Iterator[bytes]:
            self.start_response("200 OK", [("Content-Type", "text/plain")])
            yield b"from "
            yield b"a class"

    def by_hand(environ: dict[str, Any], start_response: Callable[..., Any]) -> list[bytes]:
        write = start_response("200 OK", [("Content-Type", "text/plain")])
        write(b"written ")
        return [b"by hand"]

    class KindsRouter(Router):
        forward("/class", ClassApp)
        forward("/hand", by_hand)
        forward("/checked", validator(by_hand))

    asked = client(KindsRouter)
    assert [asked.get(path).resp_body for path in ("/class", "/hand")] == [b"from a class", b"written by hand"]
    assert asked.get("/checked").resp_body == b"written by hand"


@pytest.mark.parametrize("count, streamed", [(3, False), (300, True)])
def test_a_long_wsgi_response_is_passed_on_as_it_comes_and_closed(count: int, streamed: bool) -> None:
    closed: list[bool] = []

    class Parts:
        def __iter__(self) -> Iterator[bytes]:
            for number in range(count):
                yield b"%4d" % number * 100

        def close(self) -> None:
            closed.append(True)

    def long(environ: dict[str, Any], start_response: Callable[..., Any]) -> Any:
        start_response("200 OK", [("Content-Type", "text/plain"), ("Content-Length", str(count * 400))])
        return Parts()

    class LongRouter(Router):
        forward("/long", long)

    conn = client(LongRouter).get("/long")
    assert conn.state == ("chunked" if streamed else "sent")
    sent = b"".join(conn.adapter.chunks) if streamed else conn.resp_body  # type: ignore[attr-defined]
    assert sent == b"".join(b"%4d" % number * 100 for number in range(count))
    assert closed == [True]
    assert conn.get_resp_header("content-length") == []  # the server writes its own


def test_a_wsgi_application_is_closed_when_it_fails_and_named_when_it_says_nothing() -> None:
    closed: list[bool] = []

    class Failing:
        def __iter__(self) -> Iterator[bytes]:
            raise ValueError("no parts")

        def close(self) -> None:
            closed.append(True)

    def failing(environ: dict[str, Any], start_response: Callable[..., Any]) -> Any:
        start_response("200 OK", [])
        return Failing()

    def silent(environ: dict[str, Any], start_response: Callable[..., Any]) -> list[bytes]:
        return [b"x"]

    class FailRouter(Router):
        forward("/failing", failing)
        forward("/silent", silent)

    with pytest.raises(ValueError, match="no parts"):
        client(FailRouter).get("/failing")
    assert closed == [True]
    with pytest.raises(PlugError, match="silent did not call start_response"):
        client(FailRouter).get("/silent")


def test_a_wsgi_application_can_answer_with_an_error_until_the_response_has_begun() -> None:
    def failing(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterator[bytes]:
        start_response("200 OK", [("Content-Type", "text/plain")])
        yield b"." * int(environ["QUERY_STRING"])
        try:
            raise ValueError("late")
        except ValueError:
            start_response("500 Sorry", [("Content-Type", "text/plain")], sys.exc_info())
        yield b"sorry"

    class LateRouter(Router):
        forward("/late", failing)

    conn = client(LateRouter).get("/late?3")
    assert (conn.status, conn.resp_body) == (500, b"...sorry")
    with pytest.raises(ValueError, match="late"):
        client(LateRouter).get("/late?70000")


def test_a_wsgi_application_runs_where_it_stalls_nobody() -> None:
    from serving import Serving

    names: list[str] = []

    def where(environ: dict[str, Any], start_response: Callable[..., Any]) -> list[bytes]:
        import threading

        names.append(threading.current_thread().name)
        start_response("200 OK", [("Content-Type", "text/plain")])
        return [b"ok"]

    async def loop(conn: Conn, params: Any) -> Conn:
        import threading

        names.append(threading.current_thread().name)
        return conn.text("loop")

    class WhereRouter(Router):
        forward("/wsgi", where)
        get("/loop", loop)

    with Serving(Endpoint(WhereRouter, log=False, static=False, env="test")) as served:
        assert served.get("/wsgi").body == b"ok"
        assert served.get("/loop").body == b"loop"
    assert names[0] != names[1]
