"""Chapter 3, Plug: a plug takes a conn and returns it, and one place decides where it runs."""

from __future__ import annotations

import asyncio
import contextvars
import functools
import inspect
import re
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import phoenix
import pytest
from phoenix import (
    Conn,
    Controller,
    DefinitionError,
    Endpoint,
    Parsers,
    PhoenixError,
    Pipeline,
    PlugError,
    RequestLogger,
    Session,
    get,
    pipe_through,
    pipeline,
    plug,
    post,
    scope,
    socket,
    template,
)

from serving import Serving

PLAIN = {"log": False, "static": False, "env": "prod"}


def here(back: int = 0) -> str:
    """``file:line`` of the line that calls, or of one *back* lines above it."""
    frame = inspect.currentframe()
    assert frame is not None and frame.f_back is not None
    return f"{__file__}:{frame.f_back.f_lineno - back}"


def trail(conn: Conn) -> list[str]:
    return conn.assigns.setdefault("trail", [])  # type: ignore[no-any-return]


def run(*plugs: Any, path: str = "/") -> Conn:
    """The conn of a request that passes *plugs* and then an answer."""
    return Endpoint(answer, plugs=plugs, **PLAIN).test(raise_errors=True).get(path)


def answer(conn: Conn) -> Conn:
    return conn.text(" ".join(trail(conn)))


# --- What is a plug -----------------------------------------------------------------------


def mark(conn: Conn, name: str = "default") -> Conn:
    trail(conn).append(name)
    return conn


class Mark:
    made = 0

    def __init__(self, name: str, *, suffix: str = "") -> None:
        type(self).made += 1
        self.name = name + suffix

    def __call__(self, conn: Conn) -> Conn:
        return mark(conn, self.name)

    def method(self, conn: Conn, name: str) -> Conn:
        return mark(conn, self.name + name)


class AsyncMark(Mark):
    async def __call__(self, conn: Conn) -> Conn:  # type: ignore[override]
        await asyncio.sleep(0)
        return mark(conn, self.name)


async def mark_async(conn: Conn, name: str = "async") -> Conn:
    await asyncio.sleep(0)
    return mark(conn, name)


async def mark_stepped(conn: Conn, name: str = "stepped") -> Conn:
    return mark(conn, name)


class Outer(Pipeline):
    plug(mark, "one")

    class Inner(Pipeline):
        plug(Mark, "two")
        plug(mark_async, "three")

    plug(Inner)
    plug(mark, "four")


class Longer(Outer):
    plug(mark, name="five")


@pytest.mark.parametrize(
    "plugged, left",
    [
        (mark, "default"), (Mark("object"), "object"), (functools.partial(mark, name="partial"), "partial"),
        (functools.partial(mark_async, name="partial"), "partial"), (mark_async, "async"), (mark_stepped, "stepped"),
        (AsyncMark("async object"), "async object"), (lambda conn: mark(conn, "lambda"), "lambda"),
        (Outer, "one two three four"), (Outer(), "one two three four"), (Longer, "one two three four five"),
    ],
)  # fmt: skip
def test_whatever_takes_a_conn_and_returns_it_is_a_plug(plugged: Any, left: str) -> None:
    assert run(plugged).resp_body == left


def test_plugs_run_in_the_order_they_are_written_with_the_options_they_were_given() -> None:
    class All(Pipeline):
        plug(mark)
        plug(mark, "positional")
        plug(mark, name="keyword")
        plug(Mark, "class", suffix="!")
        plug(Mark("object"))
        plug(Mark("bound ").method, "method")
        plug(AsyncMark, "async class")
        plug(mark_async)
        plug(functools.partial(mark, name="partial"))

    assert run(All).resp_body == "default positional keyword class! object bound method async class async partial"


def test_a_class_is_made_once_when_it_is_plugged() -> None:
    Mark.made = 0

    class One(Pipeline):
        plug(Mark, "x")

    assert Mark.made == 1
    app = Endpoint(answer, plugs=[One], **PLAIN).test()
    app.get("/")
    app.get("/")
    assert Mark.made == 1


def test_the_methods_of_a_conn_are_plugs() -> None:
    class Browser(Pipeline):
        plug(Conn.put_resp_header, "x-a", "b")
        plug(Conn.assign, "locale", "en")
        plug(Conn.put_secure_browser_headers)
        plug(Conn.put_status, "created")

    conn = run(Browser)
    assert (conn.get_resp_header("x-a"), conn.assigns["locale"], conn.status) == (["b"], "en", 201)
    assert conn.get_resp_header("x-content-type-options") == ["nosniff"]


def test_a_pipeline_stops_at_the_plug_that_halts_and_so_does_everything_behind_it() -> None:
    def stop(conn: Conn) -> Conn:
        return mark(conn, "stop").send_resp(401, "stopped").halt()

    async def stop_async(conn: Conn) -> Conn:
        await asyncio.sleep(0)
        return stop(conn)

    async def stop_stepped(conn: Conn) -> Conn:
        return stop(conn)

    for each in (stop, stop_async, stop_stepped):

        class Stopping(Pipeline):
            plug(mark, "before")
            plug(each)
            plug(mark, "after")

        conn = run(mark, Stopping, mark)
        assert (conn.status, conn.resp_body, trail(conn)) == (401, "stopped", ["default", "before", "stop"])


def test_a_response_alone_does_not_stop_the_plugs_that_follow() -> None:
    def send(conn: Conn) -> Conn:
        return conn.text("sent")

    class Sending(Pipeline):
        plug(send)
        plug(mark, "after")

    conn = Endpoint(Sending, **PLAIN).test(raise_errors=True).get("/")
    assert (conn.resp_body, trail(conn)) == ("sent", ["after"])


# --- Mistakes that are found when a plug is used ------------------------------------------


def returns_none(conn: Conn) -> None:
    pass


async def returns_none_async(conn: Conn) -> None:
    await asyncio.sleep(0)


async def returns_none_stepped(conn: Conn) -> None:
    pass


class ReturnsText:
    def __call__(self, conn: Conn) -> str:
        return "text"


def returns_a_generator(conn: Conn) -> Iterator[int]:
    yield 1


@pytest.mark.parametrize(
    "wrong, message",
    [
        (returns_none, "plug test_plug.returns_none returned None, it ends without `return`, expected the conn."),
        (returns_none_async, "plug test_plug.returns_none_async returned None, it ends without"),
        (returns_none_stepped, "plug test_plug.returns_none_stepped returned None, it ends without"),
        (ReturnsText, "plug test_plug.ReturnsText returned 'text', expected the conn."),
        (functools.partial(returns_none), "plug test_plug.returns_none returned None"),
        (returns_a_generator, "plug test_plug.returns_a_generator returned <generator"),
        (lambda conn: {"a": 1}, "<lambda> returned {'a': 1}, expected the conn."),
        (lambda conn: Conn(), "<lambda> returned <Conn GET / unset>, expected the conn."),
    ],
)
def test_a_plug_that_returns_something_else_is_named_with_its_place(wrong: Any, message: str) -> None:
    class Wrong(Pipeline):
        plug(wrong)

    where = here(back=2)
    with pytest.raises(PlugError) as caught:
        run(Wrong)
    assert str(caught.value).startswith(where) and message in str(caught.value)
    assert "end it with `return conn`" in str(caught.value)


class Odd(PhoenixError):
    status = 418


def fails(conn: Conn) -> Conn:
    raise Odd("no tea")


async def fails_stepped(conn: Conn) -> Conn:
    raise Odd("no tea")


async def fails_async(conn: Conn) -> Conn:
    await asyncio.sleep(0)
    raise Odd("no tea")


class Fails:
    def __call__(self, conn: Conn) -> Conn:
        raise Odd("no tea")


class FailsInside(Pipeline):
    plug(mark)
    plug(fails_async)


def fails_with_stop_iteration(conn: Conn) -> Conn:
    raise StopIteration


@pytest.mark.parametrize(
    "failing", [fails, fails_stepped, fails_async, Fails(), Fails, FailsInside, functools.partial(fails)]
)
def test_what_a_plug_raises_arrives_whatever_kind_it_is(failing: Any) -> None:
    with pytest.raises(Odd, match="no tea"):
        run(mark, failing)
    with Serving(Endpoint(answer, plugs=[mark, failing], **PLAIN)) as server, server.client() as client:
        assert [client.get("/").status for _ in range(2)] == [418, 418]


def test_even_stop_iteration_arrives() -> None:
    with Serving(Endpoint(answer, plugs=[fails_with_stop_iteration], **PLAIN)) as server:
        assert server.get("/").status == 500


# --- Mistakes that are found when a plug is written ---------------------------------------


def needs_an_option(conn: Conn, name: str) -> Conn:
    return conn


class NeedsAnOption:
    def __init__(self, name: str) -> None:
        pass

    def __call__(self, conn: Conn) -> Conn:
        return conn


class NoPlug:
    pass


class Picky:
    def __init__(self) -> None:
        raise ValueError("not today")

    def __call__(self, conn: Conn) -> Conn:
        return conn


@pytest.mark.parametrize(
    "target, arguments, options, message",
    [
        (needs_an_option, (), {}, r"plug test_plug.needs_an_option\(conn.* cannot be called .*missing .*'name'"),
        (needs_an_option, ("a", "b"), {}, "too many positional arguments"),
        (needs_an_option, (), {"nmae": "a"}, "'name'|'nmae'"),
        (mark, (), {"nmae": "a"}, "unexpected keyword argument 'nmae'"),
        (mark, ("a",), {"name": "b"}, "multiple values for argument 'name'"),
        (lambda: None, (), {}, "cannot be called with a conn"),
        (NeedsAnOption, (), {}, "cannot plug test_plug.NeedsAnOption with these options: .*'name'"),
        (NeedsAnOption, ("a",), {"size": 1}, "unexpected keyword argument 'size'"),
        (Picky, (), {}, "cannot plug test_plug.Picky with these options: not today"),
        (Parsers, (["xml"],), {}, "cannot plug phoenix.Parsers with these options: unknown parser 'xml'"),
        (NoPlug, (), {}, r"test_plug.NoPlug has no `__call__\(self, conn\)`"),
        (NoPlug(), (), {}, "cannot plug <test_plug.NoPlug object"),
        (7, (), {}, "cannot plug 7: expected a function, a class or an object that can be called"),
        ("mark", (), {}, "cannot plug 'mark'"),
        (Conn.put_resp_header, ("x-a",), {}, "missing a required argument: 'value'"),
        (Conn.fetch_session, (), {"key": 1}, "unexpected keyword argument 'key'"),
    ],
)
def test_a_plug_that_could_not_be_called_is_refused_where_it_is_written(
    target: Any, arguments: tuple[Any, ...], options: dict[str, Any], message: str
) -> None:
    with pytest.raises(DefinitionError, match=message) as caught:

        class Wrong(Pipeline):
            plug(target, *arguments, **options)

    assert re.match(re.escape(__file__) + r":\d+: ", str(caught.value))


def test_the_place_in_the_message_is_the_line_of_the_plug() -> None:
    with pytest.raises(DefinitionError) as caught:

        class Wrong(Pipeline):
            plug(mark)
            plug(mark, nmae="x")

    assert str(caught.value).startswith(here(back=2) + ": ")


def test_the_words_of_a_class_body_are_errors_anywhere_else() -> None:
    for word, use in {
        "plug": lambda: plug(mark),
        "get": lambda: get("/", mark),
        "scope": lambda: scope("/"),
        "pipeline": lambda: pipeline("x"),
        "pipe_through": lambda: pipe_through("x"),
        "template": lambda: template("a.html", ""),
        "socket": lambda: socket("/ws"),
    }.items():
        with pytest.raises(
            DefinitionError, match=rf"^{re.escape(__file__)}:\d+: `{word}\(\.\.\.\)` must be written in the body of "
        ):
            use()


def test_a_word_of_one_kind_of_body_is_an_error_in_another() -> None:
    with pytest.raises(DefinitionError, match=r"`get\(\.\.\.\)` must be written in the body of"):

        class Wrong(Pipeline):
            get("/", mark)

    with pytest.raises(DefinitionError, match=r"`plug\(\.\.\.\)` must be written in the body of"):

        class Plain:
            plug(mark)


def test_a_module_that_is_imported_inside_a_body_cannot_write_into_it() -> None:
    module = compile("plug(mark)", "imported.py", "exec")
    with pytest.raises(DefinitionError, match=r"^imported.py:1: "):

        class Browser(Pipeline):
            exec(module, {"plug": plug, "mark": mark})


def test_a_function_may_hold_the_words_that_several_bodies_need() -> None:
    def usual_plugs() -> None:
        plug(mark, "one")
        plug(mark, "two")

    class First(Pipeline):
        usual_plugs()

    class Second(Pipeline):
        usual_plugs()
        plug(mark, "three")

    assert (run(First).resp_body, run(Second).resp_body) == ("one two", "one two three")


TYPED = """
from phoenix import Conn, Pipeline, Session, plug

def locale(conn: Conn, default: str = "en") -> Conn:
    return conn

class RequireUser:
    def __init__(self, key: str = "user_id") -> None: ...
    def __call__(self, conn: Conn) -> Conn:
        return conn

async def later(conn: Conn) -> Conn:
    return await conn.chunk("x")

class Right(Pipeline):
    plug(locale)
    plug(locale, default="fr")
    plug(locale, "fr")
    plug(RequireUser, key="admin")
    plug(RequireUser())
    plug(later)
    plug(Session, key="_my_app_key")
    plug(Conn.accepts, "html", "json")
    plug(Conn.fetch_session)
    plug(Conn.protect_from_forgery, with_="clear_session")

class Wrong(Pipeline):
    plug(locale, defualt="fr")
    plug(locale, default=7)
    plug(RequireUser, kye="admin")
    plug(Session, kee="x")
    plug(Conn.put_resp_header, "x")
"""


def test_a_type_checker_knows_the_options_of_a_plug(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mypy = pytest.importorskip("mypy.api", reason="needs mypy: pip install mypy")
    monkeypatch.chdir(Path(phoenix.__file__).parent)
    (tmp_path / "typed.py").write_text(TYPED)
    options = ["--strict", "--follow-imports=silent", "--no-error-summary", "--hide-error-context"]
    written, _, _ = mypy.run([*options, "--cache-dir", str(tmp_path / "cache"), str(tmp_path / "typed.py")])
    wrong = {int(found) for found in re.findall(r"typed\.py:(\d+): error: ", written)}
    first = TYPED.split("\n").index('    plug(locale, defualt="fr")') + 1
    assert wrong == set(range(first, first + 5)), written


# --- Plugs of a controller ----------------------------------------------------------------


class PageController(Controller):
    plug(mark, "all")
    plug(mark, "only show").only("show", "edit")
    plug(mark, "not show").except_("show")
    plug(Mark, "class").only("index")

    def mine(self, conn: Conn, name: str) -> Conn:
        return mark(conn, name)

    plug(mine, "method").except_("index", "edit")
    plug("later", "by name").only("edit")

    def later(self, conn: Conn, name: str) -> Conn:
        return mark(conn, name)

    def index(self, conn: Conn, params: Any) -> Conn:
        return answer(conn)

    async def show(self, conn: Conn, params: Any) -> Conn:
        return answer(conn)

    async def edit(self, conn: Conn, params: Any) -> Conn:
        await asyncio.sleep(0)
        return answer(conn)


class PageRouter(phoenix.Router):
    get("/index", PageController, "index")
    get("/show", PageController, "show")
    get("/edit", PageController, "edit")


@pytest.mark.parametrize(
    "action, left",
    [("index", "all|not show|class"), ("show", "all|only show|method"), ("edit", "all|only show|not show|by name")],
)
def test_a_plug_of_a_controller_runs_before_the_actions_it_is_meant_for(action: str, left: str) -> None:
    conn = Endpoint(PageRouter, **PLAIN).test(raise_errors=True).get(f"/{action}")
    assert "|".join(trail(conn)) == left


def test_actions_cannot_be_chosen_where_there_are_none() -> None:
    for word in ("only", "except_"):
        with pytest.raises(DefinitionError, match=rf"\.{word}\(\) chooses among the actions of a controller"):

            class Browser(Pipeline):
                getattr(plug(mark), word)("show")

        with pytest.raises(DefinitionError, match=rf"\.{word}\(\) chooses among the actions of a controller"):

            class Router(phoenix.Router):
                with pipeline("browser"):
                    getattr(plug(mark), word)("show")


def test_the_names_of_actions_are_text_and_there_is_at_least_one() -> None:
    for names in ((), (["show", "edit"],), (PageController.show,)):
        with pytest.raises(DefinitionError, match=r'takes names of actions: `\.only\("create", "update"\)`'):

            class Wrong(Controller):
                plug(mark).only(*names)  # type: ignore[arg-type]


# --- Where plugs run ----------------------------------------------------------------------


@pytest.fixture
def visits(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """One entry for each time that a request goes to a worker thread."""
    made: list[int] = []
    original = phoenix._Workers.run

    async def counted(self: Any, *arguments: Any) -> Any:
        made.append(1)
        return await original(self, *arguments)

    monkeypatch.setattr(phoenix._Workers, "run", counted)
    return made


def note(conn: Conn, name: str) -> Conn:
    """Write down where this runs: ``name@loop`` with or without a task, or ``name@worker``."""
    thread = threading.current_thread().name
    place = "worker" if thread.startswith("phoenix-worker") else thread
    if place == "loop" and asyncio.current_task() is None:
        place = "loop, no task"
    trail(conn).append(f"{name}@{place}")
    conn.assigns.setdefault("threads", []).append(thread)
    return conn


def plain(conn: Conn, name: str = "plain") -> Conn:
    return note(conn, name)


async def stepped(conn: Conn, name: str = "stepped") -> Conn:
    asyncio.get_running_loop()  # there is one: a task, a timer or a lock could be made
    return note(conn, name)


async def awaiting(conn: Conn, name: str = "awaiting") -> Conn:
    await asyncio.sleep(0)
    return note(conn, name)


class PlainObject:
    def __call__(self, conn: Conn) -> Conn:
        return note(conn, "object")


class AwaitingObject:
    async def __call__(self, conn: Conn) -> Conn:
        async with asyncio.Lock():
            return note(conn, "async object")


class Holder:
    """Its attribute ``func`` says nothing about its ``__call__``."""

    func = staticmethod(awaiting)

    def __call__(self, conn: Conn) -> Conn:
        return note(conn, "holder")


def wrapped(function: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(function)
    def wrapper(conn: Conn) -> Any:
        return function(conn)

    return wrapper


@functools.wraps(Conn.fetch_flash)
def around_one_of_ours(conn: Conn) -> Any:
    return note(conn, "around")


class SyncPair(Pipeline):
    plug(plain, "pair 1")
    plug(plain, "pair 2")


class Mixed(Pipeline):
    plug(plain, "mixed 1")
    plug(stepped, "mixed 2")
    plug(plain, "mixed 3")


def placed(*plugs: Any) -> list[str]:
    """Where each of *plugs* ran under a real server, the answer behind them last."""
    with Serving(Endpoint(told, plugs=plugs, **PLAIN)) as server:
        got = server.get("/")
    assert got.status == 200, got.text
    return got.text.split("|")


async def told(conn: Conn) -> Conn:
    return conn.text("|".join(trail(conn)))


@pytest.mark.parametrize(
    "each, place",
    [
        (plain, "plain@worker"),
        (PlainObject(), "object@worker"),
        (PlainObject, "object@worker"),
        (Holder, "holder@worker"),
        (lambda conn: note(conn, "lambda"), "lambda@worker"),
        (functools.partial(plain, name="partial"), "partial@worker"),
        (stepped, "stepped@loop, no task"),
        (functools.partial(stepped, name="partial"), "partial@loop, no task"),
        (awaiting, "awaiting@loop"),
        (AwaitingObject(), "async object@loop"),
        (functools.partial(awaiting, name="p"), "p@loop"),
        (wrapped(awaiting), "awaiting@loop"),
        (around_one_of_ours, "around@worker"),
    ],
)
def test_a_plain_function_runs_in_a_worker_and_a_coroutine_on_the_loop(each: Any, place: str) -> None:
    assert placed(each) == [place]


@pytest.mark.parametrize(
    "plugs, places, count",
    [
        ([stepped, stepped], ["stepped@loop, no task"] * 2, 0),
        ([awaiting, stepped], ["awaiting@loop", "stepped@loop"], 0),
        ([plain, plain, plain], ["plain@worker"] * 3, 1),
        ([stepped, plain, plain], ["stepped@loop, no task", "plain@worker", "plain@worker"], 1),
        ([plain, awaiting], ["plain@worker", "awaiting@loop"], 1),
        ([plain, stepped], ["plain@worker", "stepped@loop"], 1),
        ([plain, awaiting, plain], ["plain@worker", "awaiting@loop", "plain@worker"], 2),
        ([plain, stepped, plain], ["plain@worker", "stepped@loop", "plain@worker"], 2),
        ([plain, SyncPair, plain], ["plain@worker", "pair 1@worker", "pair 2@worker", "plain@worker"], 1),
        ([SyncPair, plain], ["pair 1@worker", "pair 2@worker", "plain@worker"], 1),
        ([SyncPair, SyncPair], ["pair 1@worker", "pair 2@worker"] * 2, 1),
        ([Mixed, plain], ["mixed 1@worker", "mixed 2@loop", "mixed 3@worker", "plain@worker"], 2),
        ([awaiting, Mixed], ["awaiting@loop", "mixed 1@worker", "mixed 2@loop", "mixed 3@worker"], 2),
        ([plain, Conn.put_secure_browser_headers, RequestLogger(), plain], ["plain@worker"] * 2, 1),
    ],
)
def test_consecutive_plain_functions_share_one_visit_to_a_worker(
    plugs: list[Any], places: list[str], count: int, visits: list[int]
) -> None:
    assert placed(*plugs) == places
    assert len(visits) == count


class Bound(Controller):
    plug(plain, "controller plug")

    def own(self, conn: Conn) -> Conn:
        return note(conn, "method plug")

    plug(own)

    def show(self, conn: Conn, params: Any) -> Conn:
        return note(conn, "action").text("|".join(conn.assigns["threads"]))

    async def later(self, conn: Conn, params: Any) -> Conn:
        await asyncio.sleep(0)
        return note(conn, "action").text("|".join(trail(conn)))


class FullRouter(phoenix.Router):
    with pipeline("browser"):
        plug(Conn.accepts, "html")
        plug(Conn.fetch_session)
        plug(plain, "pipeline plug")
        plug(Conn.fetch_flash)
        plug(SyncPair)
    with scope("/"):
        pipe_through("browser")
        get("/show", Bound, "show")
        post("/show", Bound, "show")
        get("/later", Bound, "later")


def full_app() -> Endpoint:
    return Endpoint(
        FullRouter, plugs=[functools.partial(plain, name="endpoint plug")], secret_key_base="s" * 64, **PLAIN
    )


def test_all_plain_functions_of_a_request_share_one_thread_from_the_endpoint_to_the_action(visits: list[int]) -> None:
    with Serving(full_app()) as server, server.client() as client:
        for send in (lambda: client.get("/show"), lambda: client.post("/show", "a=1")):
            visits.clear()
            threads = send().text.split("|")
            assert len(threads) == 7 and len(set(threads)) == 1 and threads[0].startswith("phoenix-worker")
            assert len(visits) == 1


def test_an_async_action_behind_plain_plugs_runs_on_the_loop(visits: list[int]) -> None:
    with Serving(full_app()) as server:
        *before, action = server.get("/later").text.split("|")
    assert action == "action@loop"
    assert len(before) == 6 and all(place.endswith("@worker") for place in before)
    assert len(visits) == 1


def test_an_async_function_that_does_not_wait_costs_no_task(visits: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    tasks: list[int] = []
    original = phoenix._task_maker

    def counting(loop: Any) -> Callable[[Any], Any]:
        make = original(loop)
        return lambda coroutine: (tasks.append(1), make(coroutine))[1]

    monkeypatch.setattr(phoenix, "_task_maker", counting)

    class Router(phoenix.Router):
        get("/stepped", stepped_action)
        get("/awaiting", awaiting_action)

    with Serving(Endpoint(Router, **PLAIN)) as server, server.client() as client:
        assert client.get("/stepped").text == "stepped"
        assert (tasks, visits) == ([], [])
        assert client.get("/awaiting").text == "awaiting"
        assert (tasks, visits) == ([1], [])


async def stepped_action(conn: Conn, params: Any) -> Conn:
    return conn.text("stepped")


async def awaiting_action(conn: Conn, params: Any) -> Conn:
    await asyncio.sleep(0)
    return conn.text("awaiting")


async def with_for(conn: Conn) -> Conn:
    async for _ in some():
        pass
    return note(conn, "for")


async def with_with(conn: Conn) -> Conn:
    async with asyncio.Lock():
        pass
    return note(conn, "with")


async def with_comprehension(conn: Conn) -> Conn:
    assert [each async for each in some()] == [1]
    return note(conn, "comprehension")


async def with_inner_function(conn: Conn) -> Conn:
    async def inner() -> None:
        await asyncio.sleep(0)

    del inner
    return note(conn, "inner")


async def some() -> Any:
    await asyncio.sleep(0)
    yield 1


@pytest.mark.parametrize(
    "each, place",
    [
        (with_for, "for@loop"), (with_with, "with@loop"), (with_comprehension, "comprehension@loop"),
        (with_inner_function, "inner@loop, no task"),
    ],
)  # fmt: skip
def test_every_way_to_wait_is_recognised(each: Any, place: str) -> None:
    assert placed(each) == [place]


def test_a_blocking_function_stalls_nobody() -> None:
    entered, release = threading.Event(), threading.Event()

    def block(conn: Conn, params: Any) -> Conn:
        entered.set()
        assert release.wait(10)
        return conn.text("late")

    class Router(phoenix.Router):
        get("/block", block)
        get("/quick", stepped_action)

    with Serving(Endpoint(Router, **PLAIN)) as server:
        late: list[str] = []
        waiting = threading.Thread(target=lambda: late.append(server.get("/block").text))
        waiting.start()
        assert entered.wait(10)
        assert server.get("/quick").text == "stepped"
        assert late == []
        release.set()
        waiting.join(10)
        assert late == ["late"]


async def use_a_task(conn: Conn, params: Any) -> Conn:
    task = asyncio.current_task()
    assert task is not None
    await asyncio.sleep(0)
    assert asyncio.current_task() is task
    return conn.text("same task")


async def use_wait_for(conn: Conn, params: Any) -> Conn:
    try:
        await asyncio.wait_for(asyncio.Event().wait(), 0.01)
    except asyncio.TimeoutError:  # noqa: UP041 - in 3.10 they are two
        return conn.text("timed out")
    return conn.text("not")


async def use_timeout(conn: Conn, params: Any) -> Conn:
    try:
        async with asyncio.timeout(0.01):  # type: ignore[attr-defined,unused-ignore]
            await asyncio.Event().wait()
    except TimeoutError:
        return conn.text("timed out")
    return conn.text("not")


async def use_task_group(conn: Conn, params: Any) -> Conn:
    async def give(number: int) -> int:
        await asyncio.sleep(0)
        return number

    async with asyncio.TaskGroup() as group:  # type: ignore[attr-defined,unused-ignore]
        tasks = [group.create_task(give(number)) for number in (1, 2)]
    return conn.text(str(sum(task.result() for task in tasks)))


async def use_failing_task_group(conn: Conn, params: Any) -> Conn:
    async def fail() -> None:
        raise ValueError("no")

    try:
        async with asyncio.TaskGroup() as group:  # type: ignore[attr-defined,unused-ignore]
            group.create_task(fail())
            await asyncio.Event().wait()
    except BaseException as error:  # an ExceptionGroup, which 3.10 has no name for
        return conn.text(type(error).__name__)
    return conn.text("not")


NEW = pytest.mark.skipif(sys.version_info < (3, 11), reason="asyncio has it from Python 3.11 on")


@pytest.mark.parametrize(
    "action, text",
    [
        (use_a_task, "same task"), (use_wait_for, "timed out"), pytest.param(use_timeout, "timed out", marks=NEW),
        pytest.param(use_task_group, "3", marks=NEW), pytest.param(use_failing_task_group, "ExceptionGroup", marks=NEW),
    ],
)  # fmt: skip
@pytest.mark.parametrize("before", [[], [plain], [stepped], [awaiting]])
def test_the_tools_of_asyncio_work_in_an_action(action: Any, text: str, before: list[Any]) -> None:
    class Router(phoenix.Router):
        get("/", action)

    with Serving(Endpoint(Router, plugs=before, **PLAIN)) as server, server.client() as client:
        assert [client.get("/").text for _ in range(2)] == [text, text]


class NotFound:
    """What an action returns instead of the conn."""


async def fall_back_async(conn: Conn, result: object) -> Conn:
    await asyncio.sleep(0)
    return note(conn, "fallback").send_resp(404, "|".join(trail(conn)))


def fall_back(conn: Conn, result: object) -> Conn:
    return note(conn, "fallback").send_resp(404, "|".join(trail(conn)))


@pytest.mark.parametrize("fallback, place", [(fall_back, "fallback@worker"), (fall_back_async, "fallback@loop")])
@pytest.mark.parametrize("action", ["plain", "stepped", "awaiting"])
def test_the_fallback_of_an_action_runs_where_it_is_written_for(fallback: Any, place: str, action: str) -> None:
    class Falling(Controller):
        action_fallback = fallback

        def plain(self, conn: Conn, params: Any) -> Any:
            return NotFound()

        async def stepped(self, conn: Conn, params: Any) -> Any:
            return NotFound()

        async def awaiting(self, conn: Conn, params: Any) -> Any:
            await asyncio.sleep(0)
            return NotFound()

    class Router(phoenix.Router):
        get("/", Falling, action)

    with Serving(Endpoint(Router, **PLAIN)) as server, server.client() as client:
        assert [(got.status, got.text) for got in (client.get("/"), client.get("/"))] == [(404, place)] * 2


# --- Context variables --------------------------------------------------------------------

USER: contextvars.ContextVar[str] = contextvars.ContextVar("user", default="nobody")


def set_plain(conn: Conn) -> Conn:
    conn.assigns["before"] = USER.get()
    USER.set("Ann")
    return conn


async def set_stepped(conn: Conn) -> Conn:
    return set_plain(conn)


async def set_awaiting(conn: Conn) -> Conn:
    await asyncio.sleep(0)
    return set_plain(conn)


@pytest.mark.parametrize("setter, reader", [(set_plain, "plain"), (set_stepped, "stepped"), (set_awaiting, "awaiting")])
def test_a_context_variable_lasts_for_one_request(setter: Any, reader: str) -> None:
    def plain_reader(conn: Conn) -> Conn:
        return conn.text(f"{conn.assigns['before']} {USER.get()}")

    async def stepped_reader(conn: Conn) -> Conn:
        return plain_reader(conn)

    async def awaiting_reader(conn: Conn) -> Conn:
        await asyncio.sleep(0)
        return plain_reader(conn)

    answers = {"plain": plain_reader, "stepped": stepped_reader, "awaiting": awaiting_reader}
    with Serving(Endpoint(answers[reader], plugs=[setter], **PLAIN)) as server, server.client() as client:
        assert [client.get("/").text for _ in range(3)] == ["nobody Ann"] * 3
    assert USER.get() == "nobody"


def test_a_worker_sees_the_variables_that_were_set_on_the_loop() -> None:
    def read(conn: Conn) -> Conn:
        return conn.text(USER.get())

    with Serving(Endpoint(read, plugs=[set_stepped], **PLAIN)) as server, server.client() as client:
        assert [client.get("/").text for _ in range(2)] == ["Ann", "Ann"]


# --- The framework's own plugs ------------------------------------------------------------


def test_the_frameworks_own_plugs_run_where_the_request_is(visits: list[int]) -> None:
    class Router(phoenix.Router):
        with pipeline("browser"):
            plug(Conn.accepts, "html")
            plug(Conn.fetch_session)
            plug(Conn.fetch_flash)
            plug(Conn.protect_from_forgery)
            plug(Conn.put_secure_browser_headers)
        with scope("/"):
            pipe_through("browser")
            get("/", stepped_action)

    app = Endpoint(Router, secret_key_base="s" * 64, env="prod")
    with Serving(app) as server:
        assert server.get("/").text == "stepped"
    assert visits == []


def test_a_class_of_the_app_that_extends_one_of_the_framework_runs_as_it_is_written() -> None:
    class Quiet(Session):
        pass

    class Loud(Session):
        def __call__(self, conn: Any) -> Any:
            return super().__call__(note(conn, "loud"))

    assert placed(Quiet(), Loud()) == ["loud@worker"]


def test_the_parsers_read_a_body_rightly_behind_a_plain_function() -> None:
    class App(Endpoint):
        plug(plain)
        plug(Parsers)

    async def read(conn: Any) -> Any:
        return conn.text(conn.body_params["a"])

    with Serving(App(read, env="prod")) as server, server.client() as client:
        for text in ("x", "y" * 200_000):
            assert client.post("/", f"a={text}").text == text


def test_a_wsgi_application_runs_in_a_worker() -> None:
    threads: list[str] = []

    def old(environ: Any, start_response: Any) -> Any:
        threads.append(threading.current_thread().name)
        start_response("200 OK", [("content-type", "text/plain")])
        return [environ["wsgi.input"].read()]

    class Router(phoenix.Router):
        phoenix.forward("/old", old)

    with Serving(Endpoint(Router, **PLAIN)) as server, server.client() as client:
        for path in ("/old", "/old/", "/old/x"):
            assert client.post(path, "a=1").text == "a=1"
    assert len(threads) == 3 and all(name.startswith("phoenix-worker") for name in threads)
