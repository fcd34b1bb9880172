"""Serve the app by `wsgiref`, with its validator in between: `python validated.py PORT`."""

from __future__ import annotations

import sys
from wsgiref.simple_server import WSGIRequestHandler, make_server
from wsgiref.validate import validator

from app import app


class Quiet(WSGIRequestHandler):
    def log_message(self, format: str, *arguments: object) -> None:
        """Say nothing."""


make_server("127.0.0.1", int(sys.argv[1]), validator(app.wsgi), handler_class=Quiet).serve_forever()
