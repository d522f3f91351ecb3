"""Effects on disk: measured once, whatever happens in between."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from nam.evaluate.drawn import LevelsProbe, PictureProbe
from nam.evaluate.faithfulness import TextProbe, effects_of
from nam.evaluate.truth_cache import TruthCache, weights_key
from nam.mllm.gill import GILL
from nam.mllm.gill_folder import read_gill
from nam.reduction.ablated import Positions
from nam.reduction.base import Context, contexts_of
from nam.store.files import StoreError
from nam.types import Neuron, NeuronSet
from tests.reduction.cases import targets_of

REGION = np.zeros((64, 64), bool)
REGION[:20] = True


@dataclass(eq=False)
class Killed:
    """A text probe that counts what it is given, and is killed when it has had enough."""

    most: int = 10**9
    seen: int = 0
    names: tuple[str, ...] = ("logit", "logprob")
    positions: Positions = "target"
    settings: tuple[object, ...] = ()

    def __call__(self, context: Context, plain: Tensor, hidden: Tensor) -> Mapping[str, Tensor]:
        if self.seen + len(hidden) > self.most:
            raise KeyboardInterrupt
        self.seen += len(hidden)
        return TextProbe()(context, plain, hidden)


@pytest.fixture
def context(shared_gill: GILL) -> Context:
    generation = shared_gill.generate("a cat", draw=True, max_new_tokens=5, steps=1, guidance=1.0)
    return contexts_of(shared_gill, [generation], targets_of(shared_gill, [generation], "text"))[0]


@pytest.fixture
def cache(tmp_path: Path) -> TruthCache:
    return TruthCache(folder=tmp_path / "truth", model="weights", chunk=16)


def test_what_is_known_is_not_measured_again(cache: TruthCache, context: Context) -> None:
    some, more = (NeuronSet.of(Neuron(0, unit) for unit in range(stop)) for stop in (20, 30))
    first, second, third = Killed(), Killed(), Killed()
    found = cache.effects(context, first, some)
    assert np.isfinite(found["logit"]).sum() == 20
    cache.effects(context, second, some)
    grown = cache.effects(context, third, more)
    assert second.seen == 0
    assert first.seen + third.seen == int((context.activations[0, :, :30] != 0).any(0).sum())
    expected = effects_of(context, TextProbe(), more)
    np.testing.assert_allclose(grown["logprob"], expected["logprob"], rtol=1e-4, atol=1e-6)


def test_a_kill_loses_one_chunk(cache: TruthCache, context: Context) -> None:
    fires = int((context.activations != 0).any(1).sum())
    killed = Killed(most=fires - 1)
    with pytest.raises(KeyboardInterrupt):
        cache.effects(context, killed)
    assert not list(cache.folder.glob(".*"))  # nothing half written
    after = Killed()
    found = cache.effects(context, after)
    assert killed.seen > 0
    assert killed.seen + after.seen == fires
    expected = effects_of(context, TextProbe())
    np.testing.assert_allclose(found["logit"], expected["logit"], rtol=1e-4, atol=1e-6)


def test_the_key_tells_model_answer_target_and_probe_apart(cache: TruthCache, context: Context) -> None:
    probe = PictureProbe(region=REGION)
    keys = [
        cache.key(context, TextProbe()),
        cache.key(context, probe),
        cache.key(context, PictureProbe(region=~REGION)),
        cache.key(context, LevelsProbe(region=REGION)),
        cache.key(context, LevelsProbe(region=REGION, levels=(0.5,))),
        replace(cache, model="others").key(context, probe),
    ]
    reseeded = replace(context.generation, seed=context.generation.seed + 1)
    keys.append(cache.key(Context(context.mllm, reseeded, context.target, context.reading), probe))
    longer = replace(context.target, positions=tuple(p - 1 for p in context.target.positions))
    keys.append(cache.key(Context(context.mllm, context.generation, longer, context.reading), probe))
    assert len(set(keys)) == len(keys)
    assert cache.key(context, PictureProbe(region=REGION.copy(), batch=1)) == keys[1]


def test_a_damaged_file_is_named(cache: TruthCache, context: Context) -> None:
    cache.folder.mkdir(parents=True)
    (cache.folder / f"{cache.key(context, TextProbe())}.npz").write_bytes(b"no zip")
    with pytest.raises(StoreError, match="delete it to measure again"):
        cache.effects(context, TextProbe())


def test_any_weight_that_speaks_sees_or_draws_changes_the_key(gill_folder: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(gill_folder, tmp_path / "model")
    gill = read_gill(folder=folder)
    keys = {weights_key(gill)}
    assert weights_key(gill) in keys
    for module in (gill.language_model, gill.mapper):
        with torch.no_grad():
            next(module.parameters()).add_(0.5)
        keys.add(weights_key(gill))
    # What sees and draws is read when it is first used, and known by its files.
    for part in ("clip", "unet", "vae"):
        (weights,) = (folder / part).glob("*.safetensors")
        data = bytearray(weights.read_bytes())
        data[-2] ^= 1
        weights.write_bytes(bytes(data))
        keys.add(weights_key(gill))
    assert len(keys) == 6
    assert not gill.vision.loaded
