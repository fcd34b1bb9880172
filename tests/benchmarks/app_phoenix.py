"""The product's side of the benchmarks: ``PORT=4000 python -I app_phoenix.py VARIANT``, or ``match ROUNDS``.

A variant says how the actions are written (``async`` or ``def``), or which shape of routes there are and how
many of them (``static-1``, ``param-1000``).
"""

from __future__ import annotations

import json
import logging
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
sys.path += [str(ROOT), str(HERE)]  # at the end, so that http.py does not hide the standard module

import engines

import phoenix
from phoenix import Conn, Controller, Endpoint, View, get, pipe_through, pipeline, plug, post, scope, template

STATIC = ROOT / ".bench" / "static"
TEXT = "Hello, world!"
DATA = {"id": 42, "name": "Ann", "tags": ["a", "b"], "active": True}


class PageController(Controller):
    async def text(self, conn: Conn, params: dict[str, Any]) -> Conn:
        return conn.text(TEXT)

    async def data(self, conn: Conn, params: dict[str, Any]) -> Conn:
        return conn.json(DATA)

    async def hello(self, conn: Conn, params: dict[str, Any]) -> Conn:
        return conn.text(f"Hello, {params['name']}!")

    async def page(self, conn: Conn, params: dict[str, Any]) -> Conn:
        return conn.assign("title", engines.TITLE).assign("rows", engines.ROWS).render("page.html")

    async def count(self, conn: Conn, params: dict[str, Any]) -> Conn:
        count = conn.get_session("count", 0) + 1
        return conn.put_session("count", count).text(str(count))

    async def form(self, conn: Conn, params: dict[str, Any]) -> Conn:
        user = params["user"]
        return conn.text(f"{user['name']}, {user['address']['city']}")


class DefController(Controller):
    def text(self, conn: Conn, params: dict[str, Any]) -> Conn:
        return conn.text(TEXT)

    def data(self, conn: Conn, params: dict[str, Any]) -> Conn:
        return conn.json(DATA)

    def hello(self, conn: Conn, params: dict[str, Any]) -> Conn:
        return conn.text(f"Hello, {params['name']}!")


class LayoutView(View):
    template("application.html.eex", engines.PHOENIX_LAYOUT)


class PageView(View):
    template("page.html.eex", engines.PHOENIX_PAGE)


def render_page() -> str:
    """Render the page in its layout without a request, as the other engines do."""
    return phoenix.render_to_string(
        PageView,
        "page.html",
        {"title": engines.TITLE, "rows": engines.ROWS, "layout": (LayoutView, "application.html")},
    )


class AsyncRouter(phoenix.Router):
    with pipeline("browser"):
        plug(Conn.accepts, "html")
    with pipeline("api"):
        plug(Conn.accepts, "json")
    with pipeline("session"):
        plug(Conn.accepts, "html")
        plug(Conn.fetch_session)

    with scope("/"):
        pipe_through("browser")
        get("/text", PageController, "text")
        get("/hello/:name", PageController, "hello")
        get("/page", PageController, "page")
        post("/form", PageController, "form")
    with scope("/"):
        pipe_through("api")
        get("/json", PageController, "data")
    with scope("/"):
        pipe_through("session")
        get("/count", PageController, "count")


class DefRouter(phoenix.Router):
    with pipeline("browser"):
        plug(Conn.accepts, "html")
    with pipeline("api"):
        plug(Conn.accepts, "json")

    with scope("/"):
        pipe_through("browser")
        get("/text", DefController, "text")
        get("/hello/:name", DefController, "hello")
    with scope("/"):
        pipe_through("api")
        get("/json", DefController, "data")


# Routes by the thousand: how the path of number n is written, and a request that only the last one matches.
# "param-mid" puts the part that tells the routes apart behind a parameter, where a table of prefixes is no help.
SHAPES = {
    "static": ("/route{n}", "/last", "/last"),
    "param": ("/route{n}/:id/items/:item", "/last/:id/items/:item", "/last/7/items/9"),
    "param-mid": ("/shops/:id/route{n}", "/shops/:id/last", "/shops/7/last"),
}


def many_routes(shape: str, count: int) -> type[phoenix.Router]:
    """Make a router of *count* routes of which the last is the one to be asked for."""
    path, last, _ = SHAPES[shape]

    class ManyRouter(phoenix.Router):
        with pipeline("browser"):
            plug(Conn.accepts, "html")
        with scope("/"):
            pipe_through("browser")
            for n in range(count - 1):
                get(path.format(n=n), PageController, "text", as_=f"route{n}")
            get(last, PageController, "text", as_="last")

    return ManyRouter


def matcher(router: type[phoenix.Router], path: str) -> Callable[[], Any]:
    """Return a call that finds the route of GET *path* and does nothing else."""
    segments = path.strip("/").split("/")
    match = router._match
    return lambda: match("GET", segments)


def match_microseconds(call: Callable[[], Any], times: int = 20_000) -> float:
    begin = time.perf_counter()
    for _ in range(times):
        call()
    return (time.perf_counter() - begin) / times * 1e6


def match(rounds: int) -> None:
    """Print, as JSON, the microseconds that one match takes among 1 to 10,000 routes, all in turn."""
    calls = {}
    for shape, (_, _, path) in SHAPES.items():
        for count in 1, 10, 1000, 10_000:
            call = matcher(many_routes(shape, count), path)
            assert call() is not None, f"{path} did not match"
            calls[f"{shape}, {count:,} route{'s' * (count > 1)}"] = call
    times: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(rounds):
        for name, call in calls.items():
            times[name].append(match_microseconds(call))
    print(json.dumps(times))


def serve(variant: str) -> None:
    shape, _, count = variant.rpartition("-")
    router = {"async": AsyncRouter, "def": DefRouter}.get(variant) or many_routes(shape, int(count))
    logging.getLogger("phoenix").setLevel(logging.WARNING)  # no access log, as for everybody else
    app = Endpoint(
        router,
        secret_key_base="x" * 64,
        http={"port": int(os.environ["PORT"])},
        static={"at": "/static", "from": str(STATIC)},
        debug_errors=False,
    )
    app.run()


if __name__ == "__main__":
    if sys.argv[1] == "match":
        match(int(sys.argv[2]))
    else:
        serve(sys.argv[1])
