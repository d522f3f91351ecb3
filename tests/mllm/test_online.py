"""Whether the hub answers: asked once, and not at all where the user said so."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest
from huggingface_hub import constants

from nam.errors import ModelError
from nam.mllm.hub import HubFolder
from nam.mllm.online import hub_answers, unreachable


class Busy(BaseHTTPRequestHandler):
    """Answers, though only to say that it has no time."""

    asked = 0

    def do_HEAD(self) -> None:
        type(self).asked += 1
        self.send_response(503)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Nothing on the screen."""


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[type[Busy]]:
    """A hub on this machine."""
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    server = HTTPServer(("127.0.0.1", 0), Busy)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{server.server_port}")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(Busy, "asked", 0)
    yield Busy
    server.shutdown()
    server.server_close()


def test_any_answer_counts_and_is_asked_for_once(hub: type[Busy]) -> None:
    assert hub_answers()
    assert hub.asked == 1


def test_nobody_is_asked_where_the_user_is_offline(hub: type[Busy], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert not hub_answers()
    assert hub.asked == 0
    assert unreachable("a/b").endswith("HF_HUB_OFFLINE is set: give a folder, or go online")


def test_a_silent_hub_is_not_asked_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr("time.sleep", lambda _: pytest.fail("it was tried again"))
    assert not hub_answers()
    with pytest.raises(ModelError, match=r"^nobody/nothing is no folder .* cannot be reached: give a folder"):
        HubFolder("nobody/nothing").root()
