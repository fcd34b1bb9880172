"""12. Locales: one page in three languages.

    python examples/12_locales.py

and open http://localhost:4000: it speaks the language of your browser. Then http://localhost:4000/?locale=cs&messages=5

Notice: texts stand in the code as they are, and are looked up in the catalog of the visitor's language; what has no
translation stays as it is. The plug asks the param, the session, the cookie and the browser, in this order. Numbers
choose among the forms that a language has: Czech has three. The name is escaped, with the rest of the text.
Try: `?name=<b>&locale=de`. Put the catalogs into files: `python phoenix.py gettext extract --locale de`
collects the texts of the app in this folder into priv/gettext/de/LC_MESSAGES/default.po, to be translated there.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # where phoenix.py is; your copy is beside your app

import phoenix
from phoenix import Conn, Controller, Params, View, get, pipe_through, scope, template

CZECH = r"""
msgid "Hello, %{name}!"
msgstr "Ahoj, %{name}!"

msgid "one message"
msgid_plural "%{count} messages"
msgstr[0] "jedna zpráva"
msgstr[1] "%{count} zprávy"
msgstr[2] "%{count} zpráv"
"""
GERMAN = {"Hello, %{name}!": "Hallo, %{name}!"}  # a dict will do where numbers do not matter


class PageController(Controller):
    def index(self, conn: Conn, params: Params) -> Conn:
        number = params.get("messages", "1")
        return conn.render("index.html", name=params.get("name", "you"), count=int(number) if number.isdecimal() else 1)


class PageView(View):
    template("index.html.eex", """
        <html lang="<%= @conn.locale %>">
        <h1><%= gettext("Hello, %{name}!", name=@name) %></h1>
        <p><%= ngettext("one message", "%{count} messages", @count) %></p>""")


class Router(phoenix.Router):
    with scope("/"):
        pipe_through(Conn.fetch_locale)
        get("/", PageController, "index")


app = phoenix.Endpoint(Router, gettext={"messages": {"de": GERMAN, "cs": CZECH}})

if __name__ == "__main__":
    app.run()
