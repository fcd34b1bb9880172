"""2. Params: what the client sent, wherever it put it.

    python examples/02_params.py

and open http://localhost:4000/search/shoes?page=2&filter[color]=red&filter[size][]=41&filter[size][]=42

Notice: path, query, form and JSON all end up in `params`, and brackets in names make dicts and lists. Values from URLs
and forms are text, always. What is missing or of the wrong shape is the client's mistake: it gets a 400 that says so,
from `params["page"]` as well as from an error that is raised by hand.
Try: /search/shoes without a page; /add/2/3, then /add/2/x; and, in a terminal, the same from JSON:
    curl localhost:4000/order -H "content-type: application/json" -d '{"item": "shoes", "count": 2}'
    curl localhost:4000/order -d item=shoes
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # where phoenix.py is; your copy is beside your app

import phoenix
from phoenix import BadRequestError, Conn, Params, get, post


def search(conn: Conn, params: Params) -> Conn:
    page = params["page"]  # needed: without it the answer is 400
    order = params.get("order", "newest")  # may be absent
    return conn.json({"for": params["term"], "page": page, "order": order, "filter": params.get("filter")})


def add(conn: Conn, params: Params) -> Conn:
    try:
        return conn.text(int(params["a"]) + int(params["b"]))
    except ValueError:
        raise BadRequestError("only whole numbers can be added here") from None


def order(conn: Conn, params: Params) -> Conn:
    match params:
        case {"item": str(item), "count": int(count)}:  # JSON has numbers
            return conn.text(f"{count} times {item}")
        case {"item": str(item)}:
            return conn.text(f"one of {item}")
        case _:
            raise BadRequestError("an order needs an item")


class Router(phoenix.Router):
    get("/search/:term", search)
    get("/add/:a/:b", add)
    post("/order", order)


app = phoenix.Endpoint(Router)

if __name__ == "__main__":
    app.run()
