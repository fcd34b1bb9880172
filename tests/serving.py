"""A real server for an app, in a thread of the test's own process: what runs where can be looked at from inside."""

from __future__ import annotations

import asyncio
import http.client
import threading
import time
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Any

TIMEOUT = 10  # seconds that anything may take


def until(condition: Callable[[], object], what: str = "it") -> None:
    """Wait for something that happens in another thread, and that nobody announces."""
    deadline = time.monotonic() + TIMEOUT
    while not condition():
        assert time.monotonic() < deadline, f"{what}: not within {TIMEOUT} s"
        time.sleep(0.002)


class Answer:
    """What came back: header names in lower case, with all their values in order."""

    def __init__(self, answer: http.client.HTTPResponse) -> None:
        self.status = answer.status
        self.headers: dict[str, list[str]] = {}
        for name, value in answer.getheaders():
            self.headers.setdefault(name.lower(), []).append(value)
        self.body = answer.read()

    @property
    def text(self) -> str:
        return self.body.decode()


class Client:
    """One connection, kept open between requests."""

    def __init__(self, port: int) -> None:
        self.connection = http.client.HTTPConnection("127.0.0.1", port, timeout=TIMEOUT)

    def send(
        self, method: str, path: str, body: str | bytes | None = None, headers: Mapping[str, str] | None = None
    ) -> Answer:
        self.connection.request(method, path, body, dict(headers or {}))
        return Answer(self.connection.getresponse())

    def get(self, path: str, headers: Mapping[str, str] | None = None) -> Answer:
        return self.send("GET", path, headers=headers)

    def post(self, path: str, body: str = "", headers: Mapping[str, str] | None = None) -> Answer:
        form = {"content-type": "application/x-www-form-urlencoded"}
        return self.send("POST", path, body, {**form, **(headers or {})})

    def __enter__(self) -> Client:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.connection.close()


class Serving:
    """``with Serving(app) as server: server.client().get("/")``. *thread* is the one that runs the loop."""

    def __init__(self, app: Any) -> None:
        self.app = app
        self.port = 0
        self.server: Any = None
        self.problem: BaseException | None = None
        self._ready = threading.Event()
        self._loop: Any = None
        self._stop: Any = None
        self.thread = threading.Thread(target=self._run, name="loop", daemon=True)

    def _run(self) -> None:
        try:
            asyncio.run(self._serve())
        except BaseException as error:  # noqa: BLE001 - the test shows it
            self.problem = error
        finally:
            self._ready.set()

    async def _serve(self) -> None:
        self._loop, self._stop = asyncio.get_running_loop(), asyncio.Event()
        self.server = server = self.app.make_server(port=0)
        await server.start()
        self.port = server.port
        self._ready.set()
        await self._stop.wait()
        await server.stop()

    def client(self) -> Client:
        return Client(self.port)

    def get(self, path: str, headers: Mapping[str, str] | None = None) -> Answer:
        """Send one GET over a connection of its own."""
        with self.client() as client:
            return client.get(path, headers)

    def __enter__(self) -> Serving:
        self.thread.start()
        assert self._ready.wait(TIMEOUT), "the server did not start"
        if self.problem is not None:
            raise self.problem
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._loop.call_soon_threadsafe(self._stop.set)
        self.thread.join(TIMEOUT)
        assert not self.thread.is_alive(), "the server did not stop"
        if self.problem is not None and error is None:
            raise self.problem
