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
    plug(note, "not show").except_("show", "wait")
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
    class WaitController(PluggedController): ...

    assert json.loads(client(routing(PluggedController_with_wait, action)).get(f"/{action}").resp_body) == notes


class PluggedController_with_wait(PluggedController): ...  # noqa: N801
