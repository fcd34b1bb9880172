"""The servers that phoenix.py is compared with: ``PORT=8000 python -I peers.py starlette-fast``.

Each answers the same paths with the same answers, written the way its own documentation would write it, with
access logs off. Each is imported only when it is started.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path.append(str(HERE))  # at the end, so that http.py does not hide the standard module

HOST, PORT = "127.0.0.1", int(os.environ.get("PORT", "8000"))
STATIC = HERE.parent.parent / ".bench" / "static"
SECRET = "x" * 64
TEXT = "Hello, world!"
DATA = {"id": 42, "name": "Ann", "tags": ["a", "b"], "active": True}


# --- The ceiling: a protocol that looks for the blank line and writes a constant ---


class Bare(asyncio.Protocol):
    """Answer every head with the same bytes."""

    def __init__(self, answer: bytes) -> None:
        self.answer = answer
        self.rest = b""

    def connection_made(self, transport: Any) -> None:
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        self.rest += data
        while (at := self.rest.find(b"\r\n\r\n")) >= 0:
            self.rest = self.rest[at + 4 :]
            self.transport.write(self.answer)


def bare(content_type: str, body: str) -> None:
    answer = f"HTTP/1.1 200 OK\r\nContent-Type: {content_type}\r\nContent-Length: {len(body)}\r\n\r\n{body}".encode()
    # asyncio receives into a fresh 256 KiB block, which malloc takes from the kernel each time until the
    # program has freed a larger one. This is the ceiling, so it gets what helps it.
    bytes(1 << 20)

    async def serve() -> None:
        loop = asyncio.get_running_loop()
        server = await loop.create_server(lambda: Bare(answer), HOST, PORT, backlog=2048)
        await server.serve_forever()

    asyncio.run(serve())


# --- Starlette ---


def starlette() -> Any:
    import engines
    from starlette.applications import Starlette
    from starlette.middleware import Middleware
    from starlette.middleware.sessions import SessionMiddleware
    from starlette.responses import JSONResponse, PlainTextResponse
    from starlette.routing import Route
    from starlette.templating import Jinja2Templates

    templates = Jinja2Templates(env=engines.jinja_environment())

    async def text(request: Any) -> Any:
        return PlainTextResponse(TEXT)

    async def data(request: Any) -> Any:
        return JSONResponse(DATA)

    async def hello(request: Any) -> Any:
        return PlainTextResponse(f"Hello, {request.path_params['name']}!")

    async def page(request: Any) -> Any:
        return templates.TemplateResponse(request, "page.html", {"title": engines.TITLE, "rows": engines.ROWS})

    async def count(request: Any) -> Any:
        request.session["count"] = request.session.get("count", 0) + 1
        return PlainTextResponse(str(request.session["count"]))

    async def form(request: Any) -> Any:
        fields = await request.form()
        return PlainTextResponse(f"{fields['user[name]']}, {fields['user[address][city]']}")

    return Starlette(
        routes=[
            Route("/text", text),
            Route("/json", data),
            Route("/hello/{name}", hello),
            Route("/page", page),
            Route("/count", count, middleware=[Middleware(SessionMiddleware, secret_key=SECRET)]),
            Route("/form", form, methods=["POST"]),
        ]
    )


def uvicorn(app: Any, *, fast: bool = True) -> None:
    import uvicorn

    http, loop = ("httptools", "uvloop") if fast else ("h11", "asyncio")
    uvicorn.run(app, host=HOST, port=PORT, http=http, loop=loop, access_log=False, log_level="warning")


# --- Plain `def` ---


def fastapi() -> None:
    from fastapi import FastAPI
    from fastapi.responses import PlainTextResponse

    app = FastAPI()

    @app.get("/text", response_class=PlainTextResponse)
    def text() -> str:
        return TEXT

    @app.get("/json")
    def data() -> dict[str, Any]:
        return DATA

    @app.get("/hello/{name}", response_class=PlainTextResponse)
    def hello(name: str) -> str:
        return f"Hello, {name}!"

    uvicorn(app)


def bottle() -> None:
    from bottle import Bottle, response, run

    app = Bottle()

    @app.get("/text")
    def text() -> str:
        response.content_type = "text/plain"
        return TEXT

    @app.get("/json")
    def data() -> dict[str, Any]:
        return DATA

    @app.get("/hello/<name>")
    def hello(name: str) -> str:
        response.content_type = "text/plain"
        return f"Hello, {name}!"

    run(app, host=HOST, port=PORT, quiet=True)


def flask() -> None:
    from flask import Flask, Response
    from gunicorn.app.base import BaseApplication

    app = Flask(__name__)

    @app.get("/text")
    def text() -> Response:
        return Response(TEXT, mimetype="text/plain")

    @app.get("/json")
    def data() -> dict[str, Any]:
        return DATA

    @app.get("/hello/<name>")
    def hello(name: str) -> Response:
        return Response(f"Hello, {name}!", mimetype="text/plain")

    class Gunicorn(BaseApplication):
        def load_config(self) -> None:
            self.cfg.set("bind", f"{HOST}:{PORT}")
            self.cfg.set("workers", 1)
            self.cfg.set("loglevel", "warning")

        def load(self) -> Flask:
            return app

    Gunicorn().run()


# --- More event-loop servers ---


def aiohttp() -> None:
    from aiohttp import web

    async def text(request: web.Request) -> web.Response:
        return web.Response(text=TEXT)

    async def data(request: web.Request) -> web.Response:
        return web.json_response(DATA)

    async def hello(request: web.Request) -> web.Response:
        return web.Response(text=f"Hello, {request.match_info['name']}!")

    app = web.Application()
    app.add_routes([web.get("/text", text), web.get("/json", data), web.get("/hello/{name}", hello)])
    app.router.add_static("/static", STATIC)
    web.run_app(app, host=HOST, port=PORT, access_log=None, print=None)


def tornado() -> None:
    from tornado.web import Application, RequestHandler

    class Text(RequestHandler):
        async def get(self) -> None:
            self.set_header("Content-Type", "text/plain")
            self.write(TEXT)

    class Data(RequestHandler):
        async def get(self) -> None:
            self.write(DATA)

    class Hello(RequestHandler):
        async def get(self, name: str) -> None:
            self.set_header("Content-Type", "text/plain")
            self.write(f"Hello, {name}!")

    async def serve() -> None:
        routes = [("/text", Text), ("/json", Data), ("/hello/([^/]+)", Hello)]
        Application(routes, log_function=lambda handler: None).listen(PORT, HOST)
        await asyncio.Event().wait()

    asyncio.run(serve())


def sanic() -> None:
    from sanic import Sanic, response

    app = Sanic("Bench")

    @app.get("/text")
    async def text(request: Any) -> Any:
        return response.text(TEXT)

    @app.get("/json")
    async def data(request: Any) -> Any:
        return response.json(DATA)

    @app.get("/hello/<name>")
    async def hello(request: Any, name: str) -> Any:
        return response.text(f"Hello, {name}!")

    app.run(HOST, PORT, single_process=True, access_log=False, motd=False)


def microdot() -> None:
    from microdot import Microdot

    app = Microdot()

    @app.get("/text")
    async def text(request: Any) -> Any:
        return TEXT, {"Content-Type": "text/plain"}

    @app.get("/json")
    async def data(request: Any) -> Any:
        return DATA

    @app.get("/hello/<name>")
    async def hello(request: Any, name: str) -> Any:
        return f"Hello, {name}!", {"Content-Type": "text/plain"}

    app.run(HOST, PORT)


def falcon() -> None:
    from falcon import MEDIA_TEXT
    from falcon.asgi import App

    class Text:
        async def on_get(self, request: Any, response: Any) -> None:
            response.content_type, response.text = MEDIA_TEXT, TEXT

    class Data:
        async def on_get(self, request: Any, response: Any) -> None:
            response.media = DATA

    class Hello:
        async def on_get(self, request: Any, response: Any, name: str) -> None:
            response.content_type, response.text = MEDIA_TEXT, f"Hello, {name}!"

    app = App()
    app.add_route("/text", Text())
    app.add_route("/json", Data())
    app.add_route("/hello/{name}", Hello())
    uvicorn(app)


def blacksheep() -> None:
    from blacksheep import Application, json, text

    app = Application()

    @app.router.get("/text")
    async def plain() -> Any:
        return text(TEXT)

    @app.router.get("/json")
    async def data() -> Any:
        return json(DATA)

    @app.router.get("/hello/{name}")
    async def hello(name: str) -> Any:
        return text(f"Hello, {name}!")

    uvicorn(app)


SERVERS: dict[str, Callable[[], None]] = {
    "bare-text": lambda: bare("text/plain; charset=utf-8", TEXT),
    "bare-json": lambda: bare("application/json", json.dumps(DATA)),
    "bare-hello": lambda: bare("text/plain; charset=utf-8", "Hello, Ann!"),
    "starlette-fast": lambda: uvicorn(starlette()),
    "starlette-plain": lambda: uvicorn(starlette(), fast=False),
    "fastapi": fastapi,
    "bottle": bottle,
    "flask": flask,
    "aiohttp": aiohttp,
    "tornado": tornado,
    "sanic": sanic,
    "microdot": microdot,
    "falcon": falcon,
    "blacksheep": blacksheep,
}

if __name__ == "__main__":
    SERVERS[sys.argv[1]]()
