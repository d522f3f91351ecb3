"""The relevance benchmark on a tiny random model; ablations against a neuron cut by hand."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch

from benchmarks.providers import SPECS, providers
from benchmarks.regions import Effects, Region, ablated, active_neurons, predicted
from benchmarks.relevance import main
from nam.mllm.gill import GILL
from nam.relevance.gradient import GradientRelevance
from nam.segmenter.base import Mask
from nam.segmenter.scenes import SceneSegmenter
from tests.evaluate.tiny_judge import write_segmenter
from tests.relevance.cases import draw, square


@pytest.fixture
def region(gill: GILL) -> Region:
    return Region("one", draw(gill, "a red dog", seed=3, steps=2), square(10, 10))


def test_every_provider_is_measured(
    gill_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "tiny_random"
    shutil.copytree(gill_folder, folder)
    write_segmenter(folder)
    mask = Mask(square(8, 8).numpy(), 1.0)  # an untrained segmenter finds nothing
    monkeypatch.setattr(SceneSegmenter, "find", lambda self, images, concepts, given: [mask] * len(images))
    given = ["--weights", str(folder), "--count", "2", "--ablations", "6", "--runs", "2"]
    rows = main([*given, "--out", str(tmp_path / "out")])
    assert len(rows) == len(SPECS) * len(providers())
    found = {(row.section, row.spec.key): row.measure.value for row in rows if row.measure}
    assert found["gradient", "signed"] == pytest.approx(1)
    assert found["gradient", "unsigned"] == pytest.approx(1)
    assert (found["gradient", "cost"], found["gradient", "cost_double"]) == (16, 24)  # 4 guided steps
    assert (found["levels", "cost"], found["levels", "cost_double"]) == (2, 3)
    assert (found["attention", "cost"], found["attention", "cost_double"]) == (1, 1)
    assert {key for name, key in found if name == "floor"} == {"unsigned", "effect_unsigned"}
    assert all(-1 <= value <= 1 for (_, key), value in found.items() if key in {s.key for s in SPECS[:4]})
    written = json.loads((tmp_path / "out" / "relevance.json").read_text())
    assert len(written["rows"]) == len(rows)
    assert (written["split"], written["pictures"], written["ablations"]) == ("test", 2, 6)
    text = (tmp_path / "out" / "relevance.md").read_text()
    assert all(f"\n| {name} | " in text for name in providers())
    assert str(tmp_path) not in text


def test_an_ablation_is_a_column_that_reads_nothing(gill: GILL, region: Region) -> None:
    """The same as zeroing one neuron's value vector in the weights."""
    neurons = [one for one in active_neurons(gill, region.generation) if one.layer == 1]
    everything = ablated(gill, region, count=10_000, seed=0)
    again = ablated(gill, region, count=5, seed=0)
    torch.testing.assert_close(everything.hidden[:5], again.hidden)
    assert len(everything.hidden) == len(active_neurons(gill, region.generation))
    # In the last layer a neuron's effect at [IMG] positions does not pass through other positions.
    with torch.no_grad():
        before = gill.replay([region.generation]).hidden[0, -8:]
        gill.ffn_sites[1].linear.weight[:, neurons[0].unit] = 0
        after = gill.replay([region.generation]).hidden[0, -8:]
    distances = (everything.hidden - (after - before)).abs().amax((1, 2))
    assert distances.min() < 1e-5
    assert distances.median() > 1e-3


def test_effects_are_inside_the_region_and_gradients_predict_them(gill: GILL, region: Region) -> None:
    effects = ablated(gill, region, count=12, seed=1)
    assert (effects.signed.abs() <= effects.unsigned + 1e-4).all()
    whole = Region("all", region.generation, torch.ones(64, 64, dtype=torch.bool))
    rest = Region("rest", region.generation, ~region.mask)
    parts = effects.unsigned + ablated(gill, rest, count=12, seed=1).unsigned
    torch.testing.assert_close(ablated(gill, whole, count=12, seed=1).unsigned, parts, rtol=1e-4, atol=1e-4)
    gradient = GradientRelevance(signed=True)(gill, region.generation, region.mask).values
    # For a small part of each change, by the definition of a derivative.
    small = 1e-3 * effects.hidden
    noise = gill.diffusion.noise([region.generation.seed], like=small).expand(len(small), -1, -1, -1)
    with torch.no_grad():
        moved, here = (
            (
                gill.drawers["image"].render(region.hidden + d, noise, region.generation.drawn) * region.mask
            ).sum((1, 2, 3))
            for d in (small, 0 * small)
        )
    signed, unsigned = predicted(gradient, region.hidden, Effects(small, moved - here, moved))
    torch.testing.assert_close(signed.float(), moved - here, rtol=0.1, atol=1e-3)
    assert (unsigned > 0).all()


def test_wrong_options_end_with_one_line(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(["--only", "level", "--out", str(tmp_path)])
    assert "did you mean 'levels'?" in " ".join(capsys.readouterr().out.split())
