"""A W&B server on this machine, as far as its client needs one: it answers, refuses keys, or says nothing."""

from __future__ import annotations

import json
import socket
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any

#: Of the right length, and unknown to any server.
KEY = "a" * 40


class Handler(BaseHTTPRequestHandler):
    """Answers GraphQL and takes files; `refuses` as a server does whose keys have expired."""

    protocol_version = "HTTP/1.1"
    refuses = False

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        asked = json.loads(body) if self.path.startswith("/graphql") else {}
        found: dict[str, Any] = {"errors": [{"message": "user is not logged in"}]}
        answer = json.dumps(found if self.refuses else {"data": known(asked)} if asked else {}).encode()
        self.send_response(401 if self.refuses else 200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    do_GET = do_PUT = do_POST

    def log_message(self, format: str, *args: Any) -> None:
        pass


class Refusing(Handler):
    refuses = True


def known(asked: dict[str, Any]) -> dict[str, Any]:
    """The data that a GraphQL query asks for; None for what there is not."""
    query, name = asked["query"], (asked.get("variables") or {}).get("name")
    entity = {"id": "e", "name": "me"}
    bucket = {
        "id": "b", "name": name, "displayName": name, "config": "{}", "historyLineCount": 0,
        "project": {"id": "p", "name": "nam", "entity": entity},
    }  # fmt: skip
    answers: dict[str, Any] = {
        "viewer": {"id": "v", "entity": "me", "username": "me", "flags": "{}", "teams": {"edges": []}},
        "upsertBucket": {"bucket": bucket, "inserted": True},
        "createRunFiles": {"runID": "b", "uploadHeaders": [], "files": []},
        "serverInfo": {"features": [], "cliVersionInfo": {}},
    }
    return {field: answer for field, answer in answers.items() if field in query}


class Server:
    """One of these servers, at `url`, until `stop`.

    Args:
        handler: None says nothing: connections are taken and never answered.
    """

    def __init__(self, handler: type[Handler] | None) -> None:
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listening.getsockname()[1]}"
        self._server: ThreadingHTTPServer | None = None
        if handler is not None:
            address = self._listening.getsockname()
            self._listening.close()
            self._server = ThreadingHTTPServer(address, handler)
            self._server.daemon_threads = True
            Thread(target=self._server.serve_forever, daemon=True).start()

    def stop(self) -> None:
        """Be gone: connections are refused from now on."""
        self._listening.close()
        if self._server is not None:
            self._server.shutdown()
            self._server.server_close()
            self._server = None
