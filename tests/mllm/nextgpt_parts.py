"""The tiny NExT-GPT of the tests, written as the published one is, and read back."""

from __future__ import annotations

from typing import Any

import pytest
from torch import Tensor

from nam.mllm.diffusion import Diffusion
from nam.mllm.nextgpt import NextGPT
from nam.mllm.nextgpt_config import NextGPTCodec
from nam.mllm.nextgpt_published import read_checkpoint, read_published_nextgpt
from nam.mllm.parts import LazyParts, read_tokenizer
from nam.mllm.tiny_nextgpt import CONFIG, write_tiny_nextgpt

State = dict[str, Tensor]


@pytest.fixture(scope="module")
def parts(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return {**write_tiny_nextgpt(tmp_path_factory.mktemp("nextgpt"))}


@pytest.fixture(scope="module")
def state(parts: dict[str, Any]) -> State:
    return read_checkpoint(parts["checkpoint"] / "pytorch_model.pt")


@pytest.fixture(scope="module")
def model(parts: dict[str, Any]) -> NextGPT:
    """No test may leave it changed."""
    return read(parts)


def read(parts: dict[str, Any], **settings: Any) -> NextGPT:
    return read_published_nextgpt(**parts, **{"dtype": "float32", "steps": 2, "config": CONFIG, **settings})


def fresh(parts: dict[str, Any]) -> NextGPT:
    """The model around its language model, before anything is loaded into it."""
    from transformers import AutoModelForCausalLM

    return NextGPT(
        name="fresh",
        config=CONFIG,
        language_model=AutoModelForCausalLM.from_pretrained(parts["language_model"]),
        codec=NextGPTCodec(read_tokenizer(parts["language_model"]), CONFIG),
        vision=LazyParts({}),
        diffusion=Diffusion.from_folder(CONFIG, parts["generator"]),
    )
