"""What several tests share."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import settings

from nam.mllm.gill import GILL
from tests.tiny_random import write_tiny_gill

settings.register_profile("thorough", max_examples=2000, deadline=None)  # what `make test-all` asks for


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
