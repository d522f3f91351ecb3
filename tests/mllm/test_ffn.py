"""The sites of the neurons: found in other families too, and right by a recomputation of a layer."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from nam.errors import ModelError
from nam.mllm.ffn import final_norm, find_sites, unembedding
from nam.mllm.gill import GILL


def test_sites_of_opt(shared_gill: GILL) -> None:
    sites = shared_gill.ffn_sites
    assert [site.name for site in sites] == ["model.decoder.layers.0.fc2", "model.decoder.layers.1.fc2"]
    assert [site.layer for site in sites] == [0, 1]
    assert {site.width for site in sites} == {64}
    assert sites[0].value_vectors.shape == (32, 64)
    assert shared_gill.final_norm is shared_gill.language_model.model.decoder.final_layer_norm
    assert shared_gill.unembedding.shape == (len(shared_gill.tokenizer), 32)


def test_the_last_layer_writes_its_neurons_value_vectors(shared_gill: GILL) -> None:
    site = shared_gill.ffn_sites[-1]
    seen: list[Tensor] = []
    hook = site.linear.register_forward_hook(lambda module, given, out: seen.extend([given[0], out]))
    try:
        shared_gill.generate(prompt="a dog", draw=False, max_new_tokens=1)
    finally:
        hook.remove()
    activation, written = seen[:2]
    assert bool((activation >= 0).all())
    by_hand = sum(activation[-1, k] * site.value_vectors[:, k] for k in range(site.width)) + site.linear.bias
    torch.testing.assert_close(by_hand, written[-1], atol=1e-5, rtol=1e-5)


def test_sites_of_a_gated_model() -> None:
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=11, hidden_size=8, intermediate_size=20, num_hidden_layers=3, num_attention_heads=2
    )
    model = LlamaForCausalLM(config)
    sites = find_sites(model)
    assert [site.name for site in sites] == [f"model.layers.{i}.mlp.down_proj" for i in range(3)]
    assert {site.width for site in sites} == {20}
    assert final_norm(model) is model.model.norm
    assert unembedding(model).shape == (11, 8)
    model.model.layers[1].mlp.down_proj = nn.Linear(19, 8)
    with pytest.raises(ModelError, match=r"layers.1.mlp.down_proj: expected 20 neurons .* \(8, 19\)"):
        find_sites(model)
    model.model.layers[1].mlp.down_proj = nn.Identity()
    with pytest.raises(ModelError, match=r"no linear called fc2 or mlp\.down_proj"):
        find_sites(model)
