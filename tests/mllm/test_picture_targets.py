"""What a region of a picture made of tokens is attributed to, as a picture's target and in the whole job."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import nam
from nam.app.attribute import main
from nam.attribution import Attributor
from nam.data.items import Item
from nam.errors import ConfigError, InputError, ModelError, TargetError
from nam.evaluate.leaderboard import cases_of
from nam.hooks import Recorder
from nam.mllm.ffn import find_sites
from nam.mllm.janus import read_janus
from nam.mllm.tiny_unified import write_tiny_unified
from nam.reduction.base import contexts_of
from nam.reduction.contributions import contributions_of
from nam.reduction.nam import Nam
from nam.relevance.gradient import GradientRelevance
from nam.segmenter.whole import WholeSegmenter
from nam.store import Run
from nam.types import Concept, Sample
from tests.mllm.asked import assert_close
from tests.mllm.drawing import FAMILIES, REGION, drawn, tiny
from tests.runs import run_command


@pytest.fixture(scope="module", autouse=True)
def clear() -> Iterator[None]:
    yield
    tiny.cache_clear()
    drawn.cache_clear()


def test_a_region_becomes_the_positions_before_its_tokens() -> None:
    for family, width in (("janus", 4), ("chameleon", 4), ("emu3", 5)):
        model, picture = tiny(family), drawn(family)[0]
        target = model.picture_target(picture, torch.from_numpy(REGION))
        first = len(picture.token_ids) - (4 * width - (width - 4))
        places = [first + row * width + column for row in (1, 2) for column in range(3)]
        assert target.positions == tuple(place - 1 for place in places)
        assert target.token_ids == tuple(picture.token_ids[place] for place in places)
        assert model.end_of_row not in target.token_ids
        assert target.signed


@pytest.mark.parametrize("family", ["chameleon", "emu3"])
def test_neurons_and_the_rest_make_a_picture_tokens_logit(family: str) -> None:
    model, picture = tiny(family, "float64"), drawn(family)[0]
    context = contexts_of(model, [picture], [model.picture_target(picture, torch.from_numpy(REGION))])[0]
    at, tokens = list(context.target.positions), list(context.target.token_ids)
    with torch.no_grad():
        pulled = context.directions(norm="fold")
        per_layer = contributions_of([context], [pulled])[0].sum(-1)
        written = sum(
            context.activations[layer] @ site.value_vectors.T for layer, site in enumerate(model.ffn_sites)
        )
        hidden = model.replay([picture]).hidden[0, at]
        true = model.language_model.get_output_embeddings()(hidden)[range(len(at)), tokens]
    rest = ((context.stream - written) * pulled).sum(1)  # type: ignore[operator]
    assert_close(per_layer.sum(0) + rest, true, share=1e-5)
    assert float(per_layer.abs().max()) > 1e-3 * float(true.abs().max())


def test_directions_of_janus_are_the_slopes_of_its_head() -> None:
    model, picture = tiny("janus", "float64"), drawn("janus")[0]
    target = model.picture_target(picture, torch.from_numpy(REGION))
    head, step = model.language_model.model.generation_head, 1e-6
    cells = [4, 5, 6, 8, 9, 10]
    states = picture.hidden[cells].double()  # type: ignore[index]
    codes = torch.tensor(target.token_ids) - model.words  # type: ignore[attr-defined]
    with torch.no_grad():
        for axis in range(states.shape[1]):
            move = torch.zeros_like(states)
            move[:, axis] = step
            up, down = (head(states + sign * move).gather(1, codes[:, None])[:, 0] for sign in (1, -1))
            slope = (up - down) / (2 * step)
            torch.testing.assert_close(target.directions[:, axis], slope, rtol=1e-6, atol=1e-7)
    # The head is not linear: its rows alone would be another direction for each state.
    same = [row for row, code in enumerate(codes.tolist()) if code == codes.tolist()[0]]
    assert all(not torch.allclose(target.directions[0], target.directions[row]) for row in same[1:])


def test_gradients_are_wanted_in_inference_mode_too() -> None:
    model, picture = tiny("janus"), drawn("janus")[0]
    plain = model.picture_target(picture, torch.from_numpy(REGION))
    with torch.inference_mode():
        inside = model.picture_target(picture, torch.from_numpy(REGION))
    assert torch.equal(plain.directions, inside.directions)


@pytest.mark.parametrize("family", FAMILIES)
def test_attribution_takes_a_drawn_picture(family: str) -> None:
    model, picture = tiny(family), drawn(family)[0]
    found = nam.attribute(model, picture, concept="horse", modality="image", mask=REGION)
    assert found.relevance is None
    assert len(found.target.positions) == 6
    everywhere = nam.attribute(model, picture, concept="horse", modality="image", segmenter="none")
    assert len(everywhere.target.positions) == 16
    assert not torch.equal(found.scores, everywhere.scores)


def test_what_cannot_be_drawn_is_refused(tmp_path: Path) -> None:
    model, picture = tiny("emu3"), drawn("emu3")[0]
    calls: list[tuple[dict[str, Any], str]] = [
        ({"prompt": "a cat", "steps": 5}, "has no denoising steps"),
        ({"prompt": "a cat", "image": Image.new("RGB", (9, 9))}, "draws from words alone"),
        ({"prompt": "a cat " * 300}, "at most 237 fit: the context of 256 must also hold a picture of 19"),
        ({"prompt": ["a cat", "<image>"]}, "sample 1: the prompt holds reserved tokens"),
    ]
    for settings, message in calls:
        with pytest.raises(InputError, match=message):
            model.generate(**settings, draw=True)
    with pytest.raises(InputError, match="draws pictures alone"):
        model.generate("a cat", draw="audio")
    with pytest.raises(ConfigError, match=r"mllm\.guidance must be at least 1"):
        model.generate("a cat", draw=True, guidance=0.0)
    said = model.generate("a cat", max_new_tokens=3)
    with pytest.raises(TargetError, match="is no picture of tiny_emu3"):
        model.picture_target(said, torch.from_numpy(REGION))
    with pytest.raises(
        TargetError, match=r"expected a region of the picture's size \(32, 32\), got \(8, 8\)"
    ):
        model.picture_target(picture, torch.ones(8, 8, dtype=torch.bool))
    with pytest.raises(ModelError, match="expected a janus model, got emu3"):
        read_janus(id=write_tiny_unified(tmp_path / "emu3", family="emu3"))


def test_the_leaderboard_refuses_pictures_of_tokens() -> None:
    chain = Attributor(
        mllm=tiny("janus"), segmenter=WholeSegmenter(), relevance=GradientRelevance(), methods={"nam": Nam()}
    )
    with pytest.raises(ConfigError, match=r"pictures of tiny_janus, which are made of tokens"):
        cases_of(chain, [])


def test_every_site_of_janus_pro_7b_is_found_without_its_weights() -> None:
    from transformers import JanusConfig, JanusForConditionalGeneration

    text = {"model_type": "llama", "num_hidden_layers": 30, "vocab_size": 102400}
    head = {"projection_dim": 4096, "image_token_embed_dim": 4096}
    with torch.device("meta"):
        model = JanusForConditionalGeneration(
            JanusConfig(
                text_config={**text, "max_position_embeddings": 16384},
                vision_config={"projection_dim": 4096},
                vq_config=head,
                tie_word_embeddings=False,
            )
        )
    sites = find_sites(model)
    assert [tuple(site.value_vectors.shape) for site in sites] == [(4096, 11008)] * 30
    assert sites[29].name == "model.language_model.layers.29.mlp.down_proj"
    assert tuple(model.model.generation_head(torch.empty(3, 4096, device="meta")).shape) == (3, 16384)
    assert model.config.vq_config.num_patches**2 == 576
    assert model.get_output_embeddings().weight.shape == (102400, 4096)
    assert 7.2e9 < sum(value.numel() for value in model.parameters()) < 7.6e9


def test_words_and_picture_of_an_item_fail_by_themselves(monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny("janus")
    asked_for: set[tuple[bool, bool]] = set()

    def watched(samples: Any, *, draw: Any, record: Any, **settings: Any) -> Any:
        asked_for.add((bool(draw), record is None))
        return type(model).generate_batch(model, samples, draw=draw, record=record, **settings)

    monkeypatch.setattr(model, "generate_batch", watched)
    chain = Attributor(
        mllm=model,
        segmenter=WholeSegmenter(),
        relevance=GradientRelevance(),
        methods={"nam": Nam()},
        max_new_tokens=8,
    )
    concept = Concept("horse")
    asked = {
        "both": Sample(id="both", prompt="draw a red horse on the grass", concept=concept),
        "seen": Sample(id="seen", image=np.zeros((20, 20, 3), dtype=np.uint8), concept=concept),
        "empty": Sample(id="empty", concept=concept),
        "none": Sample(id="none", prompt="a cat"),
    }
    items = [Item(index=row, sample=sample) for row, sample in enumerate(asked.values())]
    both, seen, empty, none = chain(items, record=lambda: Recorder(model))
    assert not both.errors
    assert {one.modality for one in both.scores} == {"text", "image"}
    assert both.generation is not None
    assert both.words is not None
    assert (both.generation.text, both.words.image) == ("", None)
    assert "horse" in both.words.text
    assert "draws from words alone" in seen.errors["image"]
    assert set(seen.errors) <= {"image", "text"}
    assert set(empty.errors) == {""}
    assert none.errors == {"": "there is no concept to look for"}
    # Pictures are not read while they are drawn, but at their targets alone.
    assert asked_for == {(True, True), (False, False)}
    # Only words are asked for where a sample wants no picture.
    (said,) = chain([Item(index=0, sample=asked["both"], modalities=("text",))])
    assert said.words is None
    assert said.generation is not None
    assert said.generation.token_ids == both.words.token_ids


@pytest.mark.parametrize("family", FAMILIES)
def test_the_main_job_runs(family: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("NAM_RUN_STAMP", "now")
    only = ["data.source.concepts=[cat,horse]", "reduction=[nam,gradxact]", "trainer=cpu", "logger=none"]
    job = [f"mllm={family}/tiny_random", "segmenter=none", "run_dir=out"]
    run_command(main, *job, *only)
    run = Run(tmp_path / "out")
    assert run.finished
    assert len(run.samples) == 12
    # The random model does not say every concept; nothing else goes wrong, and it draws whatever it says.
    failed = run.samples["status"] != "ok"
    assert run.samples["error"][failed].str.fullmatch(r"text: '\w+' is not in the answer; .*").all()
    pictured = run.samples[run.samples["picture"].notna()]
    assert len(pictured) == 8
    assert (pictured["text"].str.len() > 0).all()
    counts = run.neurons.groupby(["modality", "sample", "method"]).size()
    assert counts.eq(3 * 48).all()
    assert len(counts.loc["image"]) == 2 * 8
    assert len(counts.loc["text"]) >= 2 * 3
    assert (tmp_path / "out" / "report.html").stat().st_size > 10_000


@pytest.mark.parametrize("family", FAMILIES)
def test_half_precision_draws_and_is_attributed(family: str) -> None:
    half, picture = tiny(family, "bfloat16"), drawn(family)[0]
    target = half.picture_target(picture, torch.from_numpy(REGION))
    whole = tiny(family).picture_target(picture, torch.from_numpy(REGION))
    assert target.directions.dtype == torch.float32
    assert_close(target.directions, whole.directions, share=0.02)
    own = half.generate("a cat", draw=True)
    assert own.image is not None
    assert len(own.token_ids) == len(tiny(family).generate("a cat", draw=True).token_ids)
