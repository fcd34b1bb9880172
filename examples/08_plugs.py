"""8. Plugs: the small steps that a request takes on its way.

    python examples/08_plugs.py

and open http://localhost:4000/?locale=de, then /admin, then /admin?key=open-sesame.

Notice: a plug takes a conn and returns it. It is a function, or an object whose class was told the options once. A
scope sends requests through pipelines, which are lists of plugs; a controller has its own. Nothing runs behind `halt`.
Try: return nothing from `locale`; remove `.halt()`; for the whole app, `Endpoint(Router, plugs=[Signature("x-app")])`.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # where phoenix.py is; your copy is beside your app

import phoenix
from phoenix import Conn, Controller, Params, get, pipe_through, pipeline, plug, scope


def locale(conn: Conn, default: str = "en") -> Conn:
    return conn.assign("locale", conn.params.get("locale", default))


def require_key(conn: Conn) -> Conn:
    return conn if conn.params.get("key") == "open-sesame" else conn.put_status(401).text("Which key?").halt()


class Signature:
    def __init__(self, header: str) -> None:
        self.header = header  # once, when it is plugged

    def __call__(self, conn: Conn) -> Conn:  # at every request
        return conn.put_resp_header(self.header, "phoenix")


class PageController(Controller):
    plug(locale, default="fr")
    plug(require_key).only("admin")

    def home(self, conn: Conn, params: Params) -> Conn:
        return conn.text({"de": "Hallo", "fr": "Bonjour"}.get(conn.assigns["locale"], "Hello"))

    def admin(self, conn: Conn, params: Params) -> Conn:
        return conn.text("Come in.")


class Router(phoenix.Router):
    with pipeline("signed"):
        plug(Signature, header="x-made-by")
    with scope("/"):
        pipe_through("signed")
        get("/", PageController, "home")
        get("/admin", PageController, "admin")


app = phoenix.Endpoint(Router)

if __name__ == "__main__":
    app.run()
