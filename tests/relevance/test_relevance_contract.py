"""What holds for every relevance provider, found by its yaml."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch
from omegaconf import OmegaConf
from torch import nn

from nam.app.build import build
from nam.errors import ConfigError, ModelError
from nam.folders import configs_folder
from nam.mllm.gill import GILL
from nam.mllm.gill_folder import read_gill
from nam.relevance.base import Relevance, RelevanceError, RelevanceMap
from tests.relevance.cases import draw, hooks_of, square, state_of

YAMLS = sorted((configs_folder() / "relevance").glob("*.yaml"))

#: U-Net passes of each provider for a picture of 2 guided steps: forward, and backward.
PASSES = {"gradient": (4, 4), "last": (4, 4), "levels": (1, 1), "attention": (1, 0)}


@pytest.fixture(params=YAMLS, ids=lambda path: path.stem)
def path(request: pytest.FixtureRequest) -> Path:
    return request.param


@pytest.fixture
def provider(path: Path) -> Relevance:
    """With its shipped settings, but signed."""
    built = build(OmegaConf.load(path))  # type: ignore[arg-type]
    assert isinstance(built, Relevance)
    assert (built.signed, built.aggregate) == (False, "none")
    return dataclasses.replace(built, signed=True)


def test_it_gives_both_forms_and_combines_positions(provider: Relevance, shared_gill: GILL) -> None:
    out, mask = draw(shared_gill, "a red dog", seed=1, steps=2), square(10, 10)
    signed = provider(shared_gill, out, mask).values
    assert signed.shape == (8, 32)
    assert signed.amin() < 0 < signed.amax()
    assert out.hidden is not None
    rho = (out.hidden.double() * signed).abs()
    rho = (rho - rho.amin(1, keepdim=True)) / (rho.amax(1, keepdim=True) - rho.amin(1, keepdim=True))
    unsigned = dataclasses.replace(provider, signed=False)(shared_gill, out, mask)
    torch.testing.assert_close(unsigned.values, rho.float(), rtol=1e-4, atol=1e-5)
    mean = dataclasses.replace(provider, aggregate="mean")(shared_gill, out, mask).values
    torch.testing.assert_close(mean, signed.mean(0).expand(8, -1))


def test_a_sample_does_not_depend_on_its_batch(provider: Relevance, shared_gill: GILL) -> None:
    outs = [
        draw(shared_gill, "a red dog", seed=1, steps=2),
        draw(shared_gill, "two boats by the sea", seed=2, steps=3),
        draw(shared_gill, "a house", seed=3, steps=2),
        draw(shared_gill, "a house", seed=3, steps=2, guidance=1.0),
    ]
    masks = [square(4 * i, 8 * i) for i in range(4)]
    together = provider.batch(shared_gill, outs, masks)
    for generation, mask, found in zip(outs, masks, together, strict=True):
        alone = provider(shared_gill, generation, mask)
        assert isinstance(found, RelevanceMap)
        assert found.cost == alone.cost
        largest = float(alone.values.abs().max())
        torch.testing.assert_close(found.values, alone.values, rtol=0, atol=1e-4 * largest)
    values = [found.values for found in together if isinstance(found, RelevanceMap)]
    assert not torch.allclose(values[0], values[2])
    moved = provider(shared_gill, outs[0], square(40, 40)).values
    assert not torch.allclose(moved, values[0], rtol=1e-3)


def test_bad_samples_are_errors_of_their_own(provider: Relevance, shared_gill: GILL) -> None:
    out = draw(shared_gill, "a dog", seed=1, steps=2)
    assert out.hidden is not None
    huge = dataclasses.replace(out, hidden=torch.full_like(out.hidden, 3e38))
    broken = dataclasses.replace(out, hidden=out.hidden * torch.nan)
    undrawn = dataclasses.replace(out, image=None, latents=None, drawn=None)
    full, empty = square(0, 0), torch.zeros(64, 64, dtype=torch.bool)
    rows = [(out, full), (huge, full), (broken, full), (undrawn, full), (out, empty), (out, full[:32])]
    found = provider.batch(shared_gill, *zip(*rows, strict=True))
    first = found[0]
    assert isinstance(first, RelevanceMap)
    assert first.values.isfinite().all()
    assert all(isinstance(one, RelevanceError) for one in found[1:])
    said = [str(one) for one in found[1:]]
    assert "not finite" in said[0]
    assert "hidden states at the [IMG] positions are not finite" in said[1]
    assert said[2] == "no picture was drawn"
    assert "the mask is empty" in said[3]
    assert "bool mask of the picture's size (64, 64)" in said[4]


def test_its_cost_is_what_the_unet_does(path: Path, provider: Relevance, gill: GILL) -> None:
    """Rows counted here: forward by a forward hook, backward where a gradient reaches the last layer."""
    outs = [draw(gill, "a dog", seed=1, steps=2), draw(gill, "a cat", seed=2, steps=2)]
    unet = gill.diffusion.parts.get("unet", like=gill.unembedding)
    forward: list[int] = []
    backward: list[int] = []

    def count(module: nn.Module, given: object, output: torch.Tensor) -> None:
        forward.append(len(output))
        if output.requires_grad:
            output.register_hook(lambda gradient: backward.append(len(gradient)))

    handle = unet.conv_out.register_forward_hook(count)
    found = provider.batch(gill, outs, [square(0, 0), square(20, 20)])
    handle.remove()
    assert (sum(forward) / 2, sum(backward) / 2) == PASSES[path.stem]
    for one in found:
        assert isinstance(one, RelevanceMap)
        assert one.cost == sum(PASSES[path.stem])


def test_the_model_is_left_as_it_was(
    provider: Relevance, gill: GILL, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, mask = draw(gill, "a dog", steps=2), square(0, 0)
    unet = gill.diffusion.parts.get("unet", like=gill.unembedding)
    processors = dict(unet.attn_processors)
    before, hooks = state_of(gill), hooks_of(gill)
    expected = provider(gill, out, mask)
    for context in (torch.no_grad(), torch.inference_mode()):
        with context:  # as in a predict loop
            assert torch.equal(provider(gill, out, mask).values, expected.values)
    for where, name in ((unet.mid_block, "forward"), (unet.conv_out, "forward"), (gill.mapper, "forward")):
        with monkeypatch.context() as patch:
            patch.setattr(where, name, lambda *given, **named: 1 / 0)
            with pytest.raises(ZeroDivisionError):
                provider(gill, out, mask)
    after = state_of(gill)
    assert before.keys() == after.keys()
    assert all(torch.equal(after[key], value) for key, value in before.items())
    assert hooks_of(gill) == hooks
    assert unet.attn_processors == processors
    assert all(p.grad is None and not p.requires_grad for p in gill.parameters())


def test_models_that_cannot_are_refused(path: Path, provider: Relevance, gill_folder: Path) -> None:
    out = draw(read_gill(folder=gill_folder), "a dog", steps=2)
    half = read_gill(folder=gill_folder, dtype="float16")
    with pytest.raises(ConfigError, match=r"overflow in float16: set mllm\.dtype=bfloat16"):
        provider(half, out, square(0, 0))
    talker = nn.Module()
    talker.name = "talker"  # type: ignore[assignment]
    with pytest.raises(
        ModelError, match=r"relevance=\w+ needs a model that draws by diffusion, talker does not"
    ):
        provider(talker, out, square(0, 0))  # type: ignore[arg-type]


def test_in_bfloat16_it_is_finite(provider: Relevance, gill_folder: Path) -> None:
    model = read_gill(folder=gill_folder, dtype="bfloat16")
    found = provider(model, draw(model, "a dog", steps=2), square(0, 0)).values
    assert found.dtype == torch.float32
    assert found.isfinite().all()
