"""The mapper is GILL's: its parameters, by name, shape and number, are those of the published checkpoint."""

from __future__ import annotations

import torch
from torch.nn.functional import layer_norm, linear, multi_head_attention_forward

from nam.mllm.mapper import GILLMapper


def test_full_size_has_the_published_parameters() -> None:
    with torch.device("meta"):
        mapper = GILLMapper(in_dim=4096, out_dim=768, num_queries=77)
    state = mapper.state_dict()
    # Beside the mapper the checkpoint holds: the logit scale; weight and bias of the visual tokens, of the
    # visual retrieval head and of the text retrieval head; and the rows of the 8 [IMG] tokens.
    others = [1, 16384 * 1024, 16384, 256 * 1024, 256, 8 * 4096, 256 * 4096, 256]
    assert len(state) + len(others) == 137
    assert sum(value.numel() for value in state.values()) + sum(others) == 50_096_385
    shapes = {key: tuple(value.shape) for key, value in state.items()}
    assert shapes["fc.weight"] == (512, 4096)
    assert shapes["query_embs"] == (1, 77, 512)
    assert shapes["model.weight"] == (768, 512)
    assert shapes["tfm.encoder.norm.weight"] == shapes["tfm.decoder.norm.bias"] == (512,)
    assert shapes["tfm.encoder.layers.3.linear1.weight"] == (2048, 512)
    assert shapes["tfm.decoder.layers.3.multihead_attn.in_proj_weight"] == (1536, 512)


def test_forward_is_the_stated_network() -> None:
    torch.manual_seed(0)
    mapper = GILLMapper(in_dim=12, out_dim=6, num_queries=5, dim=8, layers=1, heads=2).double().eval()
    hidden, embeds = torch.randn(3, 8, 12).double(), torch.randn(8, 12).double()
    state = mapper.state_dict()

    def get(name: str) -> tuple[torch.Tensor, torch.Tensor]:
        return state[f"{name}.weight"], state[f"{name}.bias"]

    def norm(x: torch.Tensor, name: str) -> torch.Tensor:
        return layer_norm(x, (8,), *get(name))

    def attend(x: torch.Tensor, memory: torch.Tensor, name: str) -> torch.Tensor:
        out, _ = multi_head_attention_forward(
            x.transpose(0, 1), memory.transpose(0, 1), memory.transpose(0, 1), 8, 2,
            state[f"{name}.in_proj_weight"], state[f"{name}.in_proj_bias"], None, None, False, 0.0,
            *get(f"{name}.out_proj"),
        )  # fmt: skip
        return out.transpose(0, 1)

    def feed(x: torch.Tensor, name: str) -> torch.Tensor:
        return linear(linear(x, *get(f"{name}.linear1")).relu(), *get(f"{name}.linear2"))

    layer = "tfm.encoder.layers.0"
    x = linear(hidden + embeds, *get("fc"))
    y = norm(x, f"{layer}.norm1")
    x = x + attend(y, y, f"{layer}.self_attn")
    x = x + feed(norm(x, f"{layer}.norm2"), layer)
    memory = norm(x, "tfm.encoder.norm")
    layer = "tfm.decoder.layers.0"
    q = state["query_embs"].expand(3, -1, -1)
    y = norm(q, f"{layer}.norm1")
    q = q + attend(y, y, f"{layer}.self_attn")
    q = q + attend(norm(q, f"{layer}.norm2"), memory, f"{layer}.multihead_attn")
    q = q + feed(norm(q, f"{layer}.norm3"), layer)
    expected = linear(norm(q, "tfm.decoder.norm"), *get("model"))
    torch.testing.assert_close(mapper(hidden, embeds), expected, atol=1e-12, rtol=0)
