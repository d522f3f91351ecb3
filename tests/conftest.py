"""What several tests share."""

from __future__ import annotations

import signal
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import settings

from nam.mllm.gill import GILL
from tests.tiny_random import write_tiny_gill

settings.register_profile("thorough", max_examples=2000, deadline=None)  # what `make test-all` asks for


def pytest_configure() -> None:
    """Ctrl-C interrupts, also where the tests were started by a shell in the background, which ignores it."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture
def told(caplog: pytest.LogCaptureFixture) -> Callable[[], list[str]]:
    """What this package has logged in a test; other libraries log from threads of their own."""
    return lambda: [one.getMessage() for one in caplog.records if one.name.startswith("nam.")]


@pytest.fixture(scope="session")
def gill_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that holds a tiny random GILL."""
    return write_tiny_gill(tmp_path_factory.mktemp("weights") / "tiny_random")


@pytest.fixture(scope="session")
def shared_gill(gill_folder: Path) -> GILL:
    """A loaded tiny random GILL that no test may change."""
    from nam.mllm.gill_folder import read_gill

    return read_gill(folder=gill_folder)


@pytest.fixture
def gill(gill_folder: Path) -> GILL:
    """A freshly loaded tiny random GILL."""
    from nam.mllm.gill_folder import read_gill

    return read_gill(folder=gill_folder)
