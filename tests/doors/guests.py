"""Apps that others have written, behind `forward`: Starlette, Flask and Django."""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import django
import flask
from django.conf import settings
from django.core.asgi import get_asgi_application
from django.http import HttpRequest, HttpResponse, JsonResponse
from django.urls import path
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Mount, Route, WebSocketRoute
from starlette.websockets import WebSocket, WebSocketDisconnect

import phoenix
from phoenix import forward, get

NOTES = os.environ.get("DOORS_NOTES")


def note(text: str) -> None:
    if NOTES:
        with open(NOTES, "a") as file:
            file.write(f"{text} {os.getpid()}\n")


# --- Starlette ------------------------------------------------------------------------------


@contextlib.asynccontextmanager
async def lifespan(app: Starlette) -> AsyncIterator[dict[str, Any]]:
    note("guest-started")
    yield {"pool": "a pool"}
    note("guest-stopped")


async def show(request: Request) -> Response:
    return JSONResponse(
        {
            "method": request.method, "url": str(request.url), "path": request.scope["path"],
            "root_path": request.scope["root_path"], "params": request.path_params, "state": request.state.pool,
            "body": (await request.body()).decode(), "link": str(request.url_for("show", name="x")),
            "header": request.headers.get("x-test"), "client": request.client and request.client.host,
        },
        headers={"x-guest": "starlette"},
    )  # fmt: skip


async def cookies(request: Request) -> Response:
    response = Response("two cookies")
    response.set_cookie("a", "1")
    response.set_cookie("b", "2")
    return response


async def stream(request: Request) -> Response:
    async def parts() -> AsyncIterator[str]:
        for number in range(3):
            yield f"{number},"
            await asyncio.sleep(0)

    return StreamingResponse(parts(), media_type="text/plain")


async def forever(request: Request) -> Response:
    async def ticks() -> AsyncIterator[str]:
        note("streaming")
        try:
            while True:
                yield "tick\n"
                await asyncio.sleep(0.01)
        finally:
            note("streamed")

    return StreamingResponse(ticks(), media_type="text/plain")


async def count(request: Request) -> Response:
    size = 0
    async for part in request.stream():
        size += len(part)
    return Response(str(size))


async def fail(request: Request) -> Response:
    raise RuntimeError("the guest fails, as it should")


async def echo(ws: WebSocket) -> None:
    if "refused" in ws.query_params:
        await ws.close()
        return
    if "denied" in ws.query_params:
        await ws.send_denial_response(Response("pay first", 402, {"x-price": "1"}))
        return
    await ws.accept("chat.v1" if "chat.v1" in ws.scope["subprotocols"] else None, headers=[(b"x-guest", b"starlette")])
    await ws.send_json({"path": ws.scope["path"], "state": ws.state.pool})
    try:
        while True:
            message = await ws.receive()
            if message["type"] == "websocket.disconnect":
                raise WebSocketDisconnect(message["code"])
            if message.get("text") == "close":
                await ws.close(4001, "as you wish")
                return
            await ws.send({"type": "websocket.send", **{k: message[k] for k in ("text", "bytes") if message.get(k)}})
    except WebSocketDisconnect as error:
        note(f"guest-left:{error.code}")


starlette = Starlette(
    routes=[
        Mount("/deep", routes=[Route("/show/{name}", show, name="deep")]),
        Route("/show/{name}", show, methods=["GET", "POST"], name="show"),
        *(Route(f"/{each.__name__}", each) for each in (cookies, stream, forever, fail)),
        Route("/count", count, methods=["POST"]),
        WebSocketRoute("/echo", echo),
    ],
    lifespan=lifespan,
)


# --- Flask ----------------------------------------------------------------------------------

flasked = flask.Flask("guests")


@flasked.route("/show/<name>", methods=["GET", "POST"])
def show_flask(name: str) -> Any:
    request = flask.request
    link = flask.url_for("show_flask", name="x")
    return {"name": name, "root": request.script_root, "form": request.form.to_dict(), "link": link}


# --- Django ---------------------------------------------------------------------------------

settings.configure(
    DEBUG=False, SECRET_KEY="of a test", ALLOWED_HOSTS=["*"], ROOT_URLCONF=__name__, MIDDLEWARE=[], USE_TZ=True
)
django.setup()


async def show_django(request: HttpRequest, name: str) -> HttpResponse:
    link = request.build_absolute_uri()
    return JsonResponse({"name": name, "form": dict(request.POST.items()), "path": request.path, "link": link})


def plain_django(request: HttpRequest) -> HttpResponse:
    return HttpResponse("plain")


urlpatterns = [path("show/<name>", show_django), path("plain", plain_django)]


# --- All of them behind routes ----------------------------------------------------------------


async def raw(scope: Any, receive: Any, send: Any) -> None:
    """No framework; it does not know the lifespan protocol."""
    assert scope["type"] == "http"
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"text/plain")]})
    await send({"type": "http.response.body", "body": scope["raw_path"]})


async def silent(scope: Any, receive: Any, send: Any) -> None:
    """It ends without a response."""


def hello(conn: Any, params: Any) -> Any:
    return conn.text("hello")


class Router(phoenix.Router):
    get("/hello", hello)
    forward("/starlette", starlette)
    forward("/flask", flasked)
    forward("/django", get_asgi_application())
    forward("/raw", raw)
    forward("/silent", silent)


app = phoenix.Endpoint(Router, env="prod")
wsgi = app.wsgi
