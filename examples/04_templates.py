"""4. Templates: HTML with Python in it, in a layout that all pages share.

    python examples/04_templates.py

and open http://localhost:4000, then http://localhost:4000/?shout=1

Notice: `PageController` renders with `PageView`, found by its name; the page then becomes `@inner` of `LayoutView`.
`@films` is what the action gave to `render`. The view's methods are functions in its templates. What comes out of
`<%= %>` is escaped, so the film with the odd title does no harm.
Try: remove an `<% end %>` and start again: the error shows where. Write `title` for `@title`. Put the templates into
files: `root = "templates"` in the view, and templates/page/index.html.eex beside this file.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # where phoenix.py is; your copy is beside your app

import phoenix
from phoenix import Conn, Controller, Params, View, get, template

FILMS = [("Metropolis", 1927), ("M", 1931), ("<script>alert('boo')</script>", 1999)]


class PageController(Controller):
    def index(self, conn: Conn, params: Params) -> Conn:
        return conn.render("index.html", films=FILMS, loud="shout" in params)


class LayoutView(View):
    template("application.html.eex", """
        <!DOCTYPE html>
        <title>Films</title>
        <body><%= @inner %></body>""")


class PageView(View):
    template("index.html.eex", """
        <h1><%= shout("Films") if @loud else "Films" %></h1>
        <%= for title, year in @films: %><%= render("film.html", title=title, year=year) %><% end %>""")
    template("film.html.eex", "<p><b><%= @title %></b> is of <%= @year %></p>")

    def shout(self, text: str) -> str:
        return text.upper() + "!"


class Router(phoenix.Router):
    get("/", PageController, "index")


app = phoenix.Endpoint(Router)

if __name__ == "__main__":
    app.run()
