"""9. Async: `async def` runs on the event loop, plain `def` in a worker thread.

    python examples/09_async.py

and, at the same time in three terminals, `curl localhost:4000/` with `block`, with `wait` and with nothing behind it.

Notice: the first two take a second each, and neither keeps the third waiting. Code that blocks, such as `time.sleep`, a
query or a computation, belongs into a plain `def`. Code that awaits goes into an `async def`, where thousands can wait
at once. `/count` sends its answer piece by piece: try it with `curl -N`.
Try: `time.sleep` in the `async def`, and everybody waits: that is what plain `def` saves you from.
"""

import asyncio
import sys
import threading
import time
from collections.abc import AsyncIterator
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # where phoenix.py is; your copy is beside your app

import phoenix
from phoenix import Conn, Params, get


async def home(conn: Conn, params: Params) -> Conn:
    return conn.text("I am not waiting for anybody.\n")


def block(conn: Conn, params: Params) -> Conn:
    time.sleep(1)
    return conn.text(f"That was a second in {threading.current_thread().name}.\n")


async def wait(conn: Conn, params: Params) -> Conn:
    await asyncio.sleep(1)
    return conn.text(f"That was a second in {threading.current_thread().name}.\n")


async def count(conn: Conn, params: Params) -> Conn:
    async def numbers() -> AsyncIterator[str]:
        for number in range(1, 6):
            yield f"{number}\n"
            await asyncio.sleep(0.2)

    return conn.put_resp_content_type("text/plain").send_chunked(200, numbers())


class Router(phoenix.Router):
    get("/", home)
    get("/block", block)
    get("/wait", wait)
    get("/count", count)


app = phoenix.Endpoint(Router)

if __name__ == "__main__":
    app.run()
