"""1. Hello: the smallest app.

    python examples/hello.py

and open http://localhost:4000/hello/world.

Notice: a route names a path and what answers it. An action takes the conn, which is the request and the response to
it, and the params; it returns the conn. What stands after a colon in the path is a param.
Try: another name; a path that has no route; `return conn.html("<h1>Hello</h1>")`; forget the `return`.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # where phoenix.py is; your copy is beside your app

import phoenix
from phoenix import Conn, Params, get


def hello(conn: Conn, params: Params) -> Conn:
    return conn.text(f"Hello, {params['name']}!")


class Router(phoenix.Router):
    get("/hello/:name", hello)


app = phoenix.Endpoint(Router)

if __name__ == "__main__":
    app.run()
