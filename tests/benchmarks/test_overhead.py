"""The benchmark of costs: its jobs do the same work, and its table says what was measured."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import torch

from benchmarks import overhead, profile
from benchmarks.cost import answers, beside, by_hand, elsewhere, embedded, jobs, pairs, scaling
from benchmarks.cost.shape import MANY, Case, Shape
from benchmarks.peers import common
from nam.app.config import group_options
from nam.options import option
from nam.reduction.base import contexts_of
from nam.segmenter.base import Mask
from nam.segmenter.scenes import SceneSegmenter
from nam.targets import token_targets
from tests.evaluate.tiny_judge import write_segmenter
from tests.relevance.cases import square

TINY = Shape(layers=2, hidden=32, ffn=48, heads=2, vocabulary=500, prompt=9)


@pytest.fixture(scope="module")
def case() -> Case:
    return Case(TINY)


def scores(case: Case, name: str, count: int = 1) -> list[torch.Tensor]:
    return jobs.attribution(case, option("reduction", name), count)()


def test_jobs_and_peers_give_the_same_scores(case: Case) -> None:
    direct = scores(case, "acu", MANY)
    assert direct[0].shape == (2, 48)
    for mine, other in zip(direct, by_hand.hooks_direct(case, MANY), strict=True):
        torch.testing.assert_close(mine, other)
    torch.testing.assert_close(scores(case, "acu"), by_hand.captum_direct(case))
    gradient = scores(case, "gradxact")
    torch.testing.assert_close(gradient, by_hand.hooks_gradient(case))
    torch.testing.assert_close(gradient, by_hand.captum_gradient(case))
    torch.testing.assert_close(scores(case, "ig"), by_hand.captum_integrated(case))
    ablated = jobs.attribution(case, option("reduction", "ablation", neurons=64), 1)()
    assert int((ablated[0] != 0).sum()) > 20
    torch.testing.assert_close(ablated, by_hand.hooks_ablation(case))
    torch.testing.assert_close(ablated, by_hand.captum_ablation(case))


def test_the_two_forward_passes_compute_the_same_logits(case: Case) -> None:
    torch.testing.assert_close(case.same_logits(3), case.forward()[0, -1, case.tokens[:3]])


def test_ratios_are_taken_pair_by_pair_and_each_order_comes() -> None:
    now, order = 0.0, ""

    def spend(name: str, seconds: float) -> None:
        nonlocal now, order
        now, order = now + seconds, order + name

    found = pairs.measure(
        lambda: spend("j", 3.0),
        forward=lambda: spend("f", 2.0),
        same_logits=lambda: spend("s", 1.5),
        pairs=4,
        clock=lambda: now,
    )
    assert (found.forward.value, found.same_logits.value, found.forward.n) == (1.5, 2.0, 4)
    assert order == "fsj" + "jsf" + "fsj" + "jsf" + "fsj"


def test_peak_memory_sees_what_is_let_go_again() -> None:
    held = pairs.peak_memory(lambda: torch.ones(25_000_000).sum())
    if held is not None:  # where the system can tell
        assert 95e6 < held < 130e6


def test_every_method_and_peer_has_a_row_in_each_table(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(elsewhere, "interpreter", lambda peer, root=None: tmp_path / peer)
    arguments = [
        "--pairs",
        "1",
        "--threads",
        "1",
        "--out",
        str(tmp_path),
        "--only",
        "acu,gradxact,direct,gradient,Layer,peers",
    ]
    rows = overhead.main(arguments, shape=TINY)
    labels = [row.spec.name for row in rows if row.section == overhead.FORWARD]
    assert "nam: acu, 1 target" in labels
    assert f"nam: acu, {MANY} targets" in labels
    assert "nam: gradxact, 1 target" in labels
    assert sum(label.startswith("captum") for label in labels) == 2
    for section in (overhead.SAME, overhead.MEMORY):
        assert [row.spec.name for row in rows if row.section == section] == labels
    by_label = {row.spec.name: row for row in rows if row.section == overhead.FORWARD}
    assert by_label["nam: acu, 1 target"].spec.target == 0.8
    assert by_label["nam: gradxact, 1 target"].spec.target == 1.6
    written = json.loads((tmp_path / "overhead.json").read_text())
    assert len(written["rows"]) == len(rows)
    peers = [row for row in rows if row.section == elsewhere.SECTION]
    assert [row.spec.name.split(":")[0] for row in peers[::4]] == list(elsewhere.PEERS)
    page = (tmp_path / "overhead.md").read_text()
    assert "not installed: make peers" in page
    (line,) = [line for line in page.splitlines() if line.startswith("| gradient x activation | ")]
    names = ("nam: gradxact", "plain hooks: gradient x activation", "captum: LayerGradientXActivation")
    times = [by_label[f"{name}, 1 target"].value_text for name in names]
    assert line == f"| gradient x activation | {' | '.join([*times, '-', '-', '-'])} |"


def test_every_option_becomes_a_job(case: Case) -> None:
    assert {job.name.split()[1] for job in jobs.our_jobs(case)} == set(group_options("reduction"))


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_one_line_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        overhead.main(["--device", "cuda"], shape=TINY)
    assert "--device cuda: PyTorch sees no GPU here" in capsys.readouterr().out


def test_a_job_that_is_not_known(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        overhead.main(["--only", "nothing"], shape=TINY)
    assert "--only: no job has such a name" in capsys.readouterr().out


def test_answers_are_attributed_token_by_token(case: Case) -> None:
    method = option("reduction", "acu")
    asked = answers.samples(case, 2)
    generations = answers.answer(case.mllm, asked, tokens=5)
    found = answers.attribute(case.mllm, asked, method, tokens=5)
    assert len(found) == sum(len(one.answer_ids) for one in generations) > 5
    replayed = [
        method.score(contexts_of(case.mllm, [generation], [target])[0])
        for generation in generations
        for target in token_targets(case.mllm, generation)
    ]
    torch.testing.assert_close(found, replayed, atol=1e-6, rtol=1e-4)
    rows = answers.measure_answers(TINY, device="cpu", pairs=1, clock=pairs.wall, tokens=3)
    assert [row.spec.target for row in rows] == [1.05] * 4
    assert all(row.measure and row.measure.value > 0.2 for row in rows)


def test_jobs_of_the_embedded_model(
    gill_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = write_segmenter(Path(shutil.copytree(gill_folder, tmp_path / "tiny_random")))
    mask = Mask(square(8, 8).numpy(), 1.0)  # an untrained segmenter finds nothing
    monkeypatch.setattr(SceneSegmenter, "find", lambda self, images, concepts, given: [mask] * len(images))
    rows = embedded.measure_embedded(folder, pairs=1, clock=pairs.wall)
    values = {row.spec.key: row.measure.value for row in rows if row.measure}
    # 4 guided steps are 8 evaluations, of which a level, forward and backward, is a quarter.
    assert values["evaluations"] == 25
    assert values.keys() == {"ablation", "share", "evaluations"}


class FakePeer:
    """A peer that does the jobs by plain hooks."""

    def __init__(self, *, wrong: float = 1.0) -> None:
        self.wrong = wrong

    def __call__(self, task: common.Task) -> tuple[common.Read, common.Scaled]:
        blocks = task.model.model.decoder.layers

        def run(ids: torch.Tensor, change: Callable[[int, torch.Tensor], torch.Tensor]) -> torch.Tensor:
            hooks = [
                block.fc2.register_forward_pre_hook(lambda _, given, i=i: (change(i, given[0]),))
                for i, block in enumerate(blocks)
            ]
            logits: torch.Tensor = task.model(input_ids=ids, use_cache=False).logits
            for hook in hooks:
                hook.remove()
            return logits

        def read(ids: torch.Tensor) -> list[torch.Tensor]:
            found: list[torch.Tensor] = []
            run(ids, lambda i, given: (found.append(given), given)[1])
            return found

        def scaled(ids: torch.Tensor, factors: Sequence[torch.Tensor | None]) -> torch.Tensor:
            def change(i: int, given: torch.Tensor) -> torch.Tensor:
                mine = factors[i]
                return given if mine is None else common.scale(given, mine)

            return self.wrong * run(ids, change)

        return read, scaled


@pytest.mark.parametrize("wrong", [1.0, 1.01])
def test_a_peer_has_times_only_for_our_scores(
    case: Case,
    tmp_path: Path,
    wrong: float,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    elsewhere.write_task(case, tmp_path)
    capsys.readouterr()
    given = ["peer", str(tmp_path), "--pairs", "1", "--threads", str(torch.get_num_threads())]
    monkeypatch.setattr(sys, "argv", given)
    common.main("captum", FakePeer(wrong=wrong))
    found = json.loads(capsys.readouterr().out)
    assert found["versions"]["torch"] == torch.__version__
    assert found["jobs"].keys() == elsewhere.JOBS.keys()
    assert found["jobs"]["direct"]["n"] == 1
    for job in ("gradient", "integrated", "ablation"):
        said = found["jobs"][job].get("reason", "")
        assert said == "" if wrong == 1 else said == "its scores differ from ours by 1 % of the largest"


def test_what_a_peers_process_says(tmp_path: Path) -> None:
    python = elsewhere.interpreter("nnsight", tmp_path)
    python.parent.mkdir(parents=True)
    found = {
        "versions": {"nnsight": "1"},
        "jobs": {"direct": {"value": 2.0, "low": 1.0, "high": 3.0, "n": 5}},
    }
    python.write_text(f"#!/bin/sh\necho noise\necho '{json.dumps(found)}'\n")
    python.chmod(0o755)
    assert elsewhere.run_peer("nnsight", tmp_path, [], root=tmp_path) == found
    python.write_text("#!/bin/sh\necho 'Traceback' >&2\necho 'ImportError: no such thing' >&2\nexit 1\n")
    said = elsewhere.run_peer("nnsight", tmp_path, [], root=tmp_path)
    assert said == {"reason": "it failed: ImportError: no such thing"}


def test_every_peer_has_its_file_and_its_pins() -> None:
    folder = Path(common.__file__).parent
    for peer in elsewhere.PEERS:
        assert (folder / f"{peer}.py").is_file()
        pins = (folder / f"{peer}.txt").read_text().split()
        assert all("==" in pin for pin in pins)
        assert pins[0] == "torch==2.13.0"
        assert pins[-1].split("==")[0].replace("-", "_") == peer


def test_what_stands_side_by_side_is_measured(case: Case) -> None:
    measured = {job.label for job in (*jobs.our_jobs(case), *by_hand.peer_jobs(case))}
    measured |= {f"{peer}: {words}" for peer in elsewhere.PEERS for words in elsewhere.JOBS.values()}
    wanted = {label for column in beside.COLUMNS.values() for label in column.values()}
    assert wanted <= measured


def test_scaling_leaves_out_what_starting_costs() -> None:
    def seconds(processes: int, prompts: int) -> float:
        return 10.0 * processes + prompts * (1.0 if processes == 1 else 1.25)

    assert scaling.efficiency(seconds, 2) == pytest.approx(0.8)


def test_scaling_says_why_there_is_no_figure(tmp_path: Path) -> None:
    (row,) = scaling.measure_scaling(processes=1, pairs=1, weights="tiny_gill")
    assert row.measure is None
    assert row.reason == "this machine has one core"
    (row,) = scaling.measure_scaling(processes=2, pairs=1, weights=str(tmp_path / "none"))
    assert row.measure is None
    assert "ended with 2" in row.reason
    assert "none" in row.reason


def test_the_profile_has_a_row_for_each_stage(
    gill_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = write_segmenter(Path(shutil.copytree(gill_folder, tmp_path / "tiny_random")))
    mask = Mask(square(8, 8).numpy(), 1.0)
    monkeypatch.setattr(SceneSegmenter, "find", lambda self, images, concepts, given: [mask] * len(images))
    stages = profile.main(["--weights", str(folder), "--count", "2", "--markdown"], shape=TINY)
    names = [stage.name for stage in stages]
    for name in ("generate", "replay", "relevance=levels", "reduction=nam", "bare forward pass"):
        assert name in names
    assert all(stage.milliseconds > 0 and stage.operations for stage in stages)
    lines = capsys.readouterr().out.strip().splitlines()
    assert len([line for line in lines if line.startswith("| ")]) == len(stages) + 2
