"""The page that every template engine renders: a layout around a table of 20 rows, all values escaped.

``python -I engines.py 15`` times the engines in turn for 15 rounds and prints microseconds as JSON, an error
text in place of the figures of an engine that could not run.
"""

from __future__ import annotations

import html
import json
import re
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
if str(HERE) not in sys.path:
    sys.path.append(str(HERE))  # at the end, so that http.py does not hide the standard module

TITLE = "Members & friends"
ROWS = [
    {"id": n, "name": f"Ann <{n}> O'Hara" if n % 4 == 0 else f"Member number {n}", "email": f"member{n}@example.com"}
    for n in range(1, 21)
]

LAYOUT = """\
<!doctype html>
<html>
<head><title>{title}</title></head>
<body>
<h1>{title}</h1>
{inner}
<p>All rights reserved.</p>
</body>
</html>
"""


def expected() -> str:
    """Return the page, made by hand."""
    rows = "".join(
        f"<tr><td>{row['id']}</td><td>{html.escape(str(row['name']))}</td><td>{row['email']}</td></tr>\n"
        for row in ROWS
    )
    return LAYOUT.format(title=html.escape(TITLE), inner=f"<table>\n{rows}</table>\n")


def canonical(page: str) -> str:
    """Forget what engines may do differently: the spelling of the two quotes, and white space."""
    page = re.sub("&#0*39;|&#x27;", "&#39;", page).replace("&#34;", "&quot;")
    return re.sub(r"\s+", " ", page).replace("> <", "><").strip()


# --- phoenix.py: its two templates, and the views around them, are in app_phoenix.py ---

PHOENIX_LAYOUT = LAYOUT.format(title="<%= @title %>", inner="<%= @inner %>")
PHOENIX_PAGE = """\
<table>
<%= for row in @rows: %><tr><td><%= row["id"] %></td><td><%= row["name"] %></td><td><%= row["email"] %></td></tr>
<% end %></table>
"""


def phoenix() -> Callable[[], str]:
    import app_phoenix

    return app_phoenix.render_page


# --- Jinja2 ---

JINJA = {
    "layout.html": LAYOUT.format(title="{{ title }}", inner="{% block inner %}{% endblock %}"),
    "page.html": """\
{% extends "layout.html" %}
{% block inner %}<table>
{% for row in rows %}<tr><td>{{ row["id"] }}</td><td>{{ row["name"] }}</td><td>{{ row["email"] }}</td></tr>
{% endfor %}</table>
{% endblock %}
""",
}


def jinja_environment() -> Any:
    from jinja2 import DictLoader, Environment

    return Environment(loader=DictLoader(JINJA), autoescape=True, auto_reload=False)


def jinja() -> Callable[[], str]:
    page = jinja_environment().get_template("page.html")
    return lambda: page.render({"title": TITLE, "rows": ROWS})


# --- Mako ---

MAKO_LAYOUT = LAYOUT.format(title="${title}", inner="${next.body()}")
MAKO_PAGE = """\
<%inherit file="layout.html"/>\\
<table>
% for row in rows:
<tr><td>${row["id"]}</td><td>${row["name"]}</td><td>${row["email"]}</td></tr>
% endfor
</table>
"""


def mako() -> Callable[[], str]:
    from mako.lookup import TemplateLookup

    lookup = TemplateLookup(default_filters=["h"], filesystem_checks=False)
    lookup.put_string("layout.html", MAKO_LAYOUT)
    lookup.put_string("page.html", MAKO_PAGE)
    page = lookup.get_template("page.html")
    return lambda: page.render(title=TITLE, rows=ROWS)


# --- Bottle ---

BOTTLE_LAYOUT = LAYOUT.format(title="{{title}}", inner="{{!base}}")
BOTTLE_PAGE = """\
% rebase("layout")
<table>
% for row in rows:
<tr><td>{{row["id"]}}</td><td>{{row["name"]}}</td><td>{{row["email"]}}</td></tr>
% end
</table>
"""


def bottle() -> Callable[[], str]:
    from bottle import SimpleTemplate

    page = SimpleTemplate(BOTTLE_PAGE)
    page.cache["layout"] = SimpleTemplate(BOTTLE_LAYOUT)  # what it would have read from a file
    return lambda: page.render(title=TITLE, rows=ROWS)


ENGINES = {"phoenix.py": phoenix, "Bottle SimpleTemplate": bottle, "Jinja2": jinja, "Mako": mako}


def ready(make: Callable[[], Callable[[], str]]) -> Callable[[], str] | str:
    """Return the engine's render function once it was seen to give the right page, else why it does not."""
    try:
        render = make()
        page = render()
    except Exception as error:  # noqa: BLE001 (whatever it is, the other engines go on)
        return f"{type(error).__name__}: {error}"
    if canonical(page) != canonical(expected()):
        return f"wrong page: {page[:200]!r}"
    return render


def microseconds(render: Callable[[], str], pages: int = 1000) -> float:
    begin = time.perf_counter()
    for _ in range(pages):
        render()
    return (time.perf_counter() - begin) / pages * 1e6


def main(rounds: int) -> None:
    engines = {name: ready(make) for name, make in ENGINES.items()}
    times: dict[str, list[float] | str] = {name: why if isinstance(why, str) else [] for name, why in engines.items()}
    for count in range(rounds + 1):
        for name, render in engines.items():
            if callable(render):
                took = microseconds(render)
                series = times[name]
                if count and isinstance(series, list):  # the first round warms up
                    series.append(took)
    print(json.dumps(times))


if __name__ == "__main__":
    main(int(sys.argv[1]))
