"""The quality table of a tiny random model: every row is measured, and a missing part costs its rows only."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from benchmarks.quality import speed
from benchmarks.quality.bench import Bench, noise_seeds, rng_for, scenes_of
from benchmarks.quality.drawing import GROUPS, requests, text_states
from benchmarks.quality.knowledge import Question, blocks, choose_block, copies, silent_ffns, text_riddles
from benchmarks.quality.rows import Row
from benchmarks.tiny_gill import SECTIONS, main
from nam.mllm.gill import GILL
from nam.world.scene import split_of
from tests.evaluate.tiny_judge import write_judge, write_segmenter

UNTIMED = [name for name in SECTIONS if name != "load"]


@pytest.fixture(scope="module")
def folder(gill_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    copy = tmp_path_factory.mktemp("whole") / "tiny_random"
    shutil.copytree(gill_folder, copy)
    return write_segmenter(write_judge(copy))


@pytest.fixture(scope="module")
def measured(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[list[Row], Path]:
    out = tmp_path_factory.mktemp("out")
    given = ["--weights", str(folder), "--quick", "--count", "2", "--only", ",".join(UNTIMED)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(speed, "CORES", 1)  # two threads fight for cores with the other tests
        return main([*given, "--out", str(out)]), out


def test_every_row_is_measured(measured: tuple[list[Row], Path]) -> None:
    rows, out = measured
    assert len(rows) == sum(len(SECTIONS[name].specs) for name in UNTIMED)
    for row in rows:
        # A random model seldom answers with a picture: then there is no state for the mapper to explain.
        if row.section != SECTIONS["mapper"].title:
            assert row.measure is not None, (row.section, row.spec.name, row.reason)
            assert np.isfinite(row.measure.value)
    shares = [row.measure for row in rows if row.measure and row.spec.unit == "%"]
    assert all(
        0 <= m.low <= m.value <= m.high <= 100 for m in shares if m.low is not None and m.high is not None
    )
    for name in ("grid", "masks"):
        with Image.open(out / "images" / f"tiny_gill_{name}.png") as figure:
            assert figure.width > 1000
            assert np.asarray(figure.convert("L")).std() > 10


def test_results_are_written_for_people_and_programs(measured: tuple[list[Row], Path]) -> None:
    rows, out = measured
    written = json.loads((out / "quality.json").read_text())
    assert len(written["rows"]) == len(rows)
    assert {"command", "commit", "machine", "versions", "seeds"} <= written.keys()
    assert written["seeds"] == [0, 1, 2]
    text = (out / "quality.md").read_text()
    assert all(row.spec.name in text for row in rows)
    assert text.count("\n* Missed: ") == sum(row.verdict == "miss" for row in rows) > 0
    assert str(out) not in text  # paths of the machine have no place in the docs


def test_a_part_measured_again_leaves_the_others_as_they_are(
    measured: tuple[list[Row], Path], folder: Path, tmp_path: Path
) -> None:
    rows, out = measured
    shutil.copy(out / "quality.json", tmp_path)
    again = main(["--weights", str(folder), "--only", "size", "--out", str(tmp_path)])
    before, after = (json.loads((path / "quality.json").read_text()) for path in (out, tmp_path))
    assert after["rows"] == before["rows"]
    assert [(row.section, row.spec, row.verdict) for row in again] == [
        (row.section, row.spec, row.verdict) for row in rows
    ]
    assert after["command"] == before["command"]
    assert [one["command"].split(" --out")[0] for one in after["again"]] == [
        "python -m benchmarks.tiny_gill --weights tiny_random --only size"
    ]
    assert "again by" in (tmp_path / "quality.md").read_text()
    shutil.copytree(folder, tmp_path / "other")
    with pytest.raises(SystemExit, match="is about the weights tiny_random"):
        main(["--weights", str(tmp_path / "other"), "--only", "size", "--out", str(tmp_path)])


def test_missing_parts_cost_their_rows_only(folder: Path, tmp_path: Path) -> None:
    partial = tmp_path / "partial"
    shutil.copytree(folder, partial)
    shutil.rmtree(partial / "unet")
    given = ["--weights", str(partial), "--count", "2", "--only", "judge,drawing,copies,size,grid"]
    rows = main([*given, "--out", str(tmp_path / "out")])
    said = {section: {row.verdict == "not measured" for row in rows if row.section == section} for section in
            {row.section for row in rows}}  # fmt: skip
    assert said[SECTIONS["judge"].title] == {False}
    assert said[SECTIONS["copies"].title] == {False}
    assert said[SECTIONS["drawing"].title] == {True}
    assert all("unet" in row.reason for row in rows if row.verdict == "not measured")
    assert "not measured: missing weights" in (tmp_path / "out" / "quality.md").read_text()


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (["--only", "drawin"], "did you mean 'drawing'?"),
        (["--weights", "/nowhere"], "there is no folder /nowhere"),
    ],
)
def test_wrong_options_end_with_one_line(
    given: list[str], said: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    with pytest.raises(SystemExit, match="2"):
        main([*given, "--out", str(tmp_path)])
    assert said in " ".join(capsys.readouterr().out.split())


def test_questions_are_held_out() -> None:
    for group in GROUPS:
        for seed in (0, 1):
            for facts, _ in requests(group, seed, 10):
                assert len(facts.things) == group.things
                for noun, colour in facts.things:
                    assert split_of(noun, str(colour), str(facts.place)) == group.split
    assert requests(GROUPS[0], 0, 5) != requests(GROUPS[0], 1, 5)
    assert not {q.prompt for q in text_riddles(held_out=True)} & {
        q.prompt for q in text_riddles(held_out=False)
    }
    assert [s.place for s in scenes_of(rng_for("x", 0), 5, things=1)] == [
        s.place for s in scenes_of(rng_for("x", 0), 5, things=1)
    ]
    assert not set(noise_seeds(0, 500)) & set(noise_seeds(1, 500))


def test_the_upper_bound_reads_captions_as_the_unconditional_half_does(shared_gill: GILL) -> None:
    torch.testing.assert_close(
        text_states(shared_gill, [""]), shared_gill.diffusion.uncond(like=shared_gill.unembedding)
    )


def test_silenced_ffns_write_nothing_and_come_back(gill: GILL) -> None:
    ids = torch.tensor([[1, 40, 41, 42]])
    before = gill.language_model(ids).logits
    with silent_ffns(gill, [0, 1]):
        silent = gill.language_model(ids).logits
    assert torch.equal(before, gill.language_model(ids).logits)
    with torch.no_grad():
        for site in gill.ffn_sites:
            site.linear.weight.zero_()
            site.linear.bias.zero_()
    torch.testing.assert_close(silent, gill.language_model(ids).logits)
    assert not torch.allclose(before, silent)
    with pytest.raises(RuntimeError, match="stop"), silent_ffns(gill, [0]):
        raise RuntimeError("stop")
    assert not any(site.linear._forward_hooks for site in gill.ffn_sites)


def test_the_block_with_the_most_knowledge_and_whole_copies_is_chosen(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By hand: the second block costs riddles most, but copies too; the third is next and spares them."""
    answers = iter([90, 95, 50, 90, 10, 20, 20, 88, 85, 95])

    def percent(bench: Bench, questions: list[Question]) -> float:
        return next(answers)

    monkeypatch.setattr("benchmarks.quality.knowledge._percent", percent)
    layers = [range(0, 1), range(0, 2), range(1, 2), range(1, 1)]
    assert choose_block(Bench(folder, tmp_path, count=1), layers) == range(1, 2)
    assert blocks(3) == [range(0, 1), range(0, 2), range(0, 3), range(1, 2), range(1, 3), range(2, 3)]


def test_copies_are_marked_word_by_word() -> None:
    asked = copies(0, 20, things=2)
    assert all(
        q.answer.startswith("here is ") and q.answer.endswith(" :") and " and " in q.answer for q in asked
    )
