"""What GILL trains, by the names of its published checkpoint."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from nam.errors import ModelError
from nam.mllm.tensors import require_tensors

if TYPE_CHECKING:
    from nam.mllm.config import GillConfig
    from nam.mllm.gill import GILL

#: Prefixes of the trained modules' parameters.
VISUAL_PREFIX = "visual_embeddings."
MAPPER_PREFIX = "gen_text_hidden_fcs.0."

#: The rows of the [IMG] tokens, not the whole embedding.
ROWS = "input_embeddings.weight"

#: What data-parallel training and GILL's wrapper put before each name.
WRAPPERS = ("module.", "model.")


def retrieval_head(config: GillConfig, hidden: int) -> nn.Module:
    """GILL's retrieval half under its published names. Generation does not use it: it is kept so that a
    checkpoint stays whole."""
    width = config.ret_emb_dim
    text = nn.Module()
    text.model = nn.Linear(hidden, width)
    head = nn.Module()
    head.logit_scale = nn.Parameter(torch.tensor(1 / 0.07).log())
    head.visual_fc = nn.Linear(config.vision_dim, width)
    head.ret_text_hidden_fcs = nn.ModuleList([text])
    return head


def read_state(model: GILL) -> dict[str, Tensor]:
    """A copy of every trained tensor, by its published name without `model.`."""
    state: dict[str, Tensor] = {}
    for prefix, module in _modules(model):
        state |= {prefix + key: value for key, value in module.state_dict().items()}
    state[ROWS] = model.img_embeds()
    return {key: value.detach().clone() for key, value in state.items()}


def write_state(model: GILL, state: Mapping[str, Tensor]) -> None:
    """Take over every trained tensor, in any precision; prefixes `module.` and `model.` are passed over.

    The rows of the [IMG] tokens go into the embedding, and with it into a tied unembedding.

    Raises:
        ModelError: a tensor is missing, unknown, there twice, not finite, or of another shape than the
            model's sizes say.
    """
    given = _unwrapped(state)
    own = read_state(model)
    require_tensors(given, {key: value.shape for key, value in own.items()}, whose="GILL's weights")
    for prefix, module in _modules(model):
        module.load_state_dict({key: given[prefix + key] for key in module.state_dict()})
    embedding = model.language_model.get_input_embeddings().weight
    with torch.no_grad():
        embedding[list(model.codec.img_ids)] = given[ROWS].to(embedding)


def _modules(model: GILL) -> list[tuple[str, nn.Module]]:
    found = [(VISUAL_PREFIX, model.visual_embeddings), (MAPPER_PREFIX, model.mapper), ("", model.retrieval)]
    return [(prefix, module) for prefix, module in found if module is not None]


def _unwrapped(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    given: dict[str, Tensor] = {}
    for name, value in state.items():
        key = name
        for wrapper in WRAPPERS:
            key = key.removeprefix(wrapper)
        if key in given:
            raise ModelError(f"GILL's weights have {key} twice, with and without a prefix")
        given[key] = value
    return given
