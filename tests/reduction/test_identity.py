"""With the norm folded in, neurons and everything else that writes the residual stream make the logit."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from nam.errors import ModelError
from nam.mllm.gill import GILL
from nam.mllm.norm import read_final_norm
from nam.reduction.acu import AcU
from nam.reduction.base import contexts_of
from nam.reduction.folding import norm_to_fold
from nam.targets import image_target, text_target
from nam.types import Concept, Generation
from tests.families import build
from tests.reduction.cases import a_word, relevance


def decoder_of(mllm: GILL) -> nn.Module:
    return mllm.language_model.get_decoder()  # type: ignore[no-any-return]


def rest_of_the_stream(mllm: GILL, generation: Generation) -> Tensor:
    """Embeddings (as they enter the first layer), attention outputs and FFN biases: (T, H)."""
    seen: list[Tensor] = []
    layers = list(decoder_of(mllm).layers)  # type: ignore[arg-type]

    def keep(module: nn.Module, given: object, out: tuple[Tensor, ...]) -> None:
        seen.append(out[0][0])

    def keep_first(module: nn.Module, args: tuple[Tensor, ...], kwargs: dict[str, Tensor]) -> None:
        seen.append((args[0] if args else kwargs["hidden_states"])[0])

    handles = [layer.self_attn.register_forward_hook(keep) for layer in layers]
    handles.append(layers[0].register_forward_pre_hook(keep_first, with_kwargs=True))
    mllm.replay([generation])
    for handle in handles:
        handle.remove()
    assert len(seen) == len(layers) + 1
    biases = [site.linear.bias for site in mllm.ffn_sites if site.linear.bias is not None]
    return torch.stack(seen).sum(0) + sum(biases, torch.zeros((), dtype=mllm.dtype))


@pytest.mark.parametrize(("family", "tolerance"), [("opt", 1e-10), ("llama", 1e-6)])
@pytest.mark.parametrize("modality", ["text", "image"])
def test_neurons_and_the_rest_make_the_true_value(
    gill_folder: Path, family: str, tolerance: float, modality: str
) -> None:
    mllm = build(family, gill_folder, dtype=torch.float64)
    _make_biases_matter(mllm)
    generation = mllm.generate(prompt="a cat at night", draw=True, max_new_tokens=9, steps=1, guidance=1.0)
    if modality == "text":
        target = text_target(mllm, generation, Concept(a_word(generation)))
    else:
        target = image_target(generation, relevance(seed=5))
    context = contexts_of(mllm, [generation], [target])[0]
    at = list(target.positions)
    hidden = mllm.replay([generation]).hidden[0, at]
    directions = target.directions.double()
    if modality == "text":
        logits = hidden @ mllm.unembedding.T
        true, largest = logits[range(len(at)), list(target.token_ids)], logits.abs().max()
    else:
        true = (hidden * directions).sum(1)
        largest = true.abs().max()

    pulled = context.directions(norm="fold")
    neurons = torch.zeros(len(at), dtype=torch.float64)
    for layer, site in enumerate(mllm.ffn_sites):
        neurons += (context.activations[layer] * (pulled @ site.value_vectors)).sum(1)
    others = (rest_of_the_stream(mllm, generation)[at] * pulled).sum(1)
    norm_bias = read_final_norm(mllm).bias
    constant = 0.0 if norm_bias is None else directions @ norm_bias
    error = (neurons + others + constant - true).abs().max()
    assert float(error / largest) < tolerance
    # The neurons' part is not nothing, and it is what the method with the folded norm reports.
    assert float(neurons.abs().max()) > 1e-3 * float(largest)
    scores = AcU(norm="fold", region=True).score(context)
    torch.testing.assert_close(scores.double().sum(), neurons.mean(), atol=1e-3, rtol=1e-4)


def _make_biases_matter(mllm: GILL) -> None:
    generator = torch.Generator().manual_seed(3)
    for name, value in mllm.language_model.named_parameters():
        if name.endswith("bias"):
            value.add_(0.3 * torch.randn(value.shape, generator=generator, dtype=value.dtype))


@pytest.mark.parametrize("family", ["opt", "llama"])
def test_the_folded_norm_is_the_module(gill_folder: Path, family: str) -> None:
    mllm = build(family, gill_folder)
    assert mllm.final_norm is not None
    norm = read_final_norm(mllm)
    stream = 3 * torch.randn(4, 32, generator=torch.Generator().manual_seed(0)) + 1
    torch.testing.assert_close(norm(stream), mllm.final_norm(stream), atol=1e-5, rtol=1e-5)


def test_a_gain_that_is_stored_less_one_is_read_right(gill_folder: Path) -> None:
    from transformers.models.gemma3.modeling_gemma3 import Gemma3RMSNorm

    mllm = build("llama", gill_folder)
    norm = Gemma3RMSNorm(32, eps=0.5)
    nn.init.normal_(norm.weight, std=0.3)
    decoder_of(mllm).norm = norm.requires_grad_(False)
    torch.testing.assert_close(read_final_norm(mllm).gain, 1 + norm.weight, atol=1e-6, rtol=1e-6)


def test_models_that_cannot_be_folded_are_refused_by_name(gill_folder: Path) -> None:
    mllm = build("opt", gill_folder)
    mllm.language_model.config.do_layer_norm_before = False
    with pytest.raises(ModelError, match=r"^norm=fold: .* is a post-norm model: .*; set norm=ignore$"):
        norm_to_fold(mllm)
    mllm = build("llama", gill_folder)
    decoder_of(mllm).layers[0].post_feedforward_layernorm = nn.Identity()  # type: ignore[index, union-attr]
    with pytest.raises(ModelError, match="post_feedforward_layernorm stands between FFN and residual"):
        read_final_norm(mllm)
    mllm = build("llama", gill_folder)
    decoder_of(mllm).norm = nn.GroupNorm(4, 32)
    with pytest.raises(ModelError, match=r"^the norm GroupNorm is of no known class$"):
        read_final_norm(mllm)

    class OddRMSNorm(nn.RMSNorm):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x) ** 3

    decoder_of(mllm).norm = OddRMSNorm(32, eps=1e-6)
    with pytest.raises(ModelError, match="OddRMSNorm does not compute what its name says"):
        read_final_norm(mllm)
