"""3. Flash: remember the visitor, and tell them something once.

    python examples/03_flash.py

and open http://localhost:4000, then press the button.

Notice: the session is a small dict in a signed cookie. Visitors can read it, but not change it. The flash is a message
for the next page: the action that does something redirects, and the page after the redirect shows the message, once.
Try: reload the page, and the message is gone; delete the cookies, and the count is; take `fetch_flash` out, and
read the error; restart the server: a new secret makes all old cookies void.
"""

import secrets
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # where phoenix.py is; your copy is beside your app

import phoenix
from phoenix import Conn, Params, button, escape, get, pipe_through, post, scope


def page(conn: Conn, params: Params) -> Conn:
    message = conn.get_flash("notice") or "Nothing new."
    press = button("Press me", to="/press", conn=conn)  # a form with one button, and the token that proves it is ours
    return conn.html(f"<p>{escape(message)}</p>{press}")


def press(conn: Conn, params: Params) -> Conn:
    count = conn.get_session("count", 0) + 1
    return conn.put_session("count", count).put_flash("notice", f"Pressed {count} times.").redirect(to="/")


class Router(phoenix.Router):
    with scope("/"):
        pipe_through(Conn.fetch_session, Conn.fetch_flash, Conn.protect_from_forgery)
        get("/", page)
        post("/press", press)


app = phoenix.Endpoint(Router, secret_key_base=secrets.token_urlsafe(64))

if __name__ == "__main__":
    app.run()
