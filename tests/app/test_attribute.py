"""attribute.py end to end on a tiny random model."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from PIL import Image
from safetensors.torch import load_file, save_file

from nam.app.attribute import main
from nam.app.config import compose
from nam.app.settings import check_attribution
from nam.errors import ConfigError
from nam.mllm.gill import GILL
from nam.modules.attribution import AttributionModule
from nam.store import Run
from tests.runs import PROMPTS, assert_same, command_line, run_command, write_table

ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def _own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("NAM_RUN_STAMP", "now")


@pytest.fixture
def table(tmp_path: Path, shared_gill: GILL) -> Path:
    return write_table(tmp_path / "table.csv", shared_gill)


@pytest.fixture
def arguments(gill_folder: Path, table: Path) -> list[str]:
    """The command line for the tiny model on the table."""
    return command_line(gill_folder, table)


@pytest.fixture
def run(arguments: list[str], monkeypatch: pytest.MonkeyPatch) -> Callable[..., Path]:
    """Run the command in this process; gives the run folder."""

    def run(folder: str, *overrides: str) -> Path:
        place = [] if any(o.startswith("resume=") for o in overrides) else [f"run_dir={folder}"]
        run_command(main, *arguments, *place, *overrides)
        return Path(folder)

    return run


def test_a_run_leaves_tables_pictures_metrics_and_a_report(
    run: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    folder = run("out", "reduction=[nam,gradxact]", "data.batch_size=3")
    out = Run(folder)
    assert out.finished
    assert list(out.samples["prompt"]) == list(PROMPTS)
    assert (out.samples["status"] == "ok").all()
    kinds = out.neurons.groupby(["sample", "modality", "method"]).size()
    assert set(kinds) == {128}  # all neurons of the tiny model
    assert len(kinds) == len(PROMPTS) * 2 * 2
    assert (folder / out.samples["picture"][0]).is_file()
    metrics = json.loads((folder / "metrics.json").read_text())
    assert metrics["samples"] == len(PROMPTS)
    assert metrics["errors"] == 0
    assert metrics["time_over_generation"] > 1
    assert {"generate", "segment", "relevance", "reduce", "run"} <= set(metrics["seconds"])
    assert set(metrics["own_words"]) == {f"{m}/{k}" for m in ("nam", "gradxact") for k in ("text", "image")}
    assert out.manifest["methods"] == ["nam", "gradxact"]
    assert "<html" in (folder / "report.html").read_text()
    printed = capsys.readouterr().out
    best = out.scores(out.samples["concept"][0], "text", "nam").scores
    layer, unit = divmod(int(best.argmax()), best.shape[1])
    assert f"L{layer}.U{unit}" in printed
    assert "out/report.html" in printed
    assert "7 samples, 0 of them with an error" in printed
    assert f"took {metrics['time_over_generation']:.2f} x the time of generating, recording" in printed
    assert "; per sample generate " in printed
    assert f"peak memory: {metrics['peak_memory']['host'] / 2**20:,.0f} MiB (host)" in printed
    stages = {stage: spent for stage, spent in metrics["seconds"].items() if stage != "run"}
    assert metrics["time_over_generation"] == pytest.approx(sum(stages.values()) / stages["generate"])
    assert metrics["seconds_per_sample"]["generate"] == pytest.approx(stages["generate"] / len(PROMPTS))
    assert sum(stages.values()) < metrics["seconds"]["run"]
    assert out.manifest["time_over_generation"] == metrics["time_over_generation"]
    assert out.manifest["peak_memory"]["host"] > 2**27


def test_rows_do_not_depend_on_the_batch_or_on_recording(run: Callable[..., Path]) -> None:
    whole = run("whole", "data.batch_size=16", "reduction=[nam,gradxact]")
    for size in (1, 4):
        assert_same(whole, run(f"by-{size}", f"data.batch_size={size}", "reduction=[nam,gradxact]"))
    assert_same(whole, run("replayed", "record=false", "reduction=[nam,gradxact]"))


def test_rows_do_not_depend_on_the_number_of_processes(
    run: Callable[..., Path], arguments: list[str]
) -> None:
    two = ["trainer=ddp", "trainer.accelerator=cpu", "trainer.devices=2", "data.batch_size=2", "run_dir=two"]
    mine = [argument for argument in arguments if not argument.startswith("trainer")]
    command = [sys.executable, str(ROOT / "attribute.py"), *mine, *two]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("two/report.html") == 1
    assert json.loads(Path("two/metrics.json").read_text())["processes"] == 2
    assert_same(run("one"), Path("two"))


@pytest.fixture
def _interruptible() -> Iterator[None]:
    """Lightning ignores Ctrl-C from the first one on: the tests after this want it back."""
    before = signal.getsignal(signal.SIGINT)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("_interruptible")
@pytest.mark.parametrize("failure", [KeyboardInterrupt, MemoryError])
def test_what_was_done_before_an_interruption_is_readable_and_is_not_done_again(
    run: Callable[..., Path],
    failure: type[BaseException],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    step = AttributionModule.predict_step
    seen: list[str] = []

    def fail(module: AttributionModule, batch: list[Any], index: int) -> Any:
        if index == 2:
            raise failure
        return step(module, batch, index)

    def watch(module: AttributionModule, batch: list[Any], index: int) -> Any:
        seen.extend(item.sample.id for item in batch)
        return step(module, batch, index)

    batches = ("data.batch_size=2", "write_interval=10")
    monkeypatch.setattr(AttributionModule, "predict_step", fail)
    with pytest.raises(SystemExit) as stop:
        run("broken", *batches)
    if failure is KeyboardInterrupt:
        assert stop.value.code == 130
        assert f"resume={Path('broken').resolve()}" in capsys.readouterr().err
    broken = Run("broken")
    assert not broken.finished
    assert list(broken.samples["id"]) == ["p0", "p1", "p2", "p3"]
    assert set(broken.neurons["sample"]) == {"p0", "p1", "p2", "p3"}
    monkeypatch.setattr(AttributionModule, "predict_step", watch)
    run("broken", "resume=broken", *batches)
    assert seen == ["p4", "p5", "p6"]
    monkeypatch.setattr(AttributionModule, "predict_step", step)
    assert_same(run("whole"), Path("broken"))


def test_every_bad_input_becomes_an_error_row(
    run: Callable[..., Path], table: Path, shared_gill: GILL
) -> None:
    Path("torn.png").write_bytes(b"\x89PNG\r\n\x1a\n not a picture")
    Image.new("1", (20_000, 20_000)).save("huge.png")
    rows = pd.read_csv(table)
    said = rows["concept"][0]
    bad = [
        {"id": "torn", "prompt": "a picture of", "image": "torn.png", "concept": said},
        {"id": "huge", "prompt": "a picture of", "image": "huge.png", "concept": said},
        {"id": "gone", "prompt": "a picture of", "image": "nowhere.png", "concept": said},
        {"id": "outside", "prompt": "a picture of", "image": "../secret.png", "concept": said},
        {"id": "url", "prompt": "a picture of", "image": "https://x.org/a.png", "concept": said},
        {"id": "empty", "prompt": "", "concept": said},
        {"id": "long", "prompt": "draw " + "a red horse " * 40, "concept": said},
        {"id": "unknown", "prompt": "draw a zebra", "concept": said},
        {"id": "unspelt", "prompt": "a cat", "concept": "zebra", "modality": "text"},
        {"id": "absent", "prompt": "a cat", "concept": "horse", "modality": "text"},
        {"id": "nothing", "prompt": "a cat"},
        {"id": "p0", "prompt": "a cat", "concept": said},
        {"id": "kind", "prompt": "a cat", "concept": said, "modality": "sound"},
        {"id": "seed", "prompt": "a cat", "concept": said, "seed": "-3"},
    ]
    pd.concat([rows, pd.DataFrame(bad)]).to_csv(table, index=False)
    found = Run(run("out")).samples
    assert list(found["id"]) == [*rows["id"], *(row["id"] for row in bad)]
    assert (found["status"][: len(rows)] == "ok").all()
    reasons = dict(zip(found["id"][len(rows) :], found["error"][len(rows) :], strict=True))
    expected = {
        "torn": "cannot read",
        "huge": "too large",
        "gone": "cannot read the picture",
        "outside": "leads out of the folder",
        "url": "URLs are not read: download https://x.org/a.png first",
        "empty": "the prompt is empty",
        "long": "tokens",
        "unknown": "words that this model does not know: 'zebra'",
        "unspelt": "cannot spell any of: zebra",
        "absent": "'horse' is not in the answer",
        "nothing": "the concept is empty",
        "p0": "the id 'p0' stands in row 1 already",
        "kind": "modality must be text, image or both, got 'sound'",
        "seed": "the seed must be at least 0, got '-3'",
    }
    assert reasons.keys() == expected.keys()
    for name, words in expected.items():
        assert words in reasons[name], (name, reasons[name])
    assert Run("out").metrics["errors"] == len(bad)


REFUSED = [
    (["mllm.folder=no/such/folder"], "no/such/folder"),
    (["mllm=tiny_gil"], "did you mean 'tiny_gill'?"),
    (["reduction=[naam]"], "did you mean 'nam'?"),
    (["segmenter=scene"], "did you mean 'scenes'?"),
    (["relevance.last_step=3"], "did you mean 'relevance.last_steps'?"),
    (["relevance.last_steps=0"], "relevance.last_steps must be at least 1"),
    (["reduction.nam.norm=folded"], "reduction.nam.norm must be 'ignore' or 'fold'"),
    (["reduction=[]"], "no method is given"),
    (["reduction=gradxact", "relevance.aggregate=max"], "relevance.aggregate=max has no meaning"),
    (["draw=sometimes"], "draw must be"),
    (["top=0"], "top must be at least 1"),
    (["seed=-1"], "seed must be at least 0"),
    (["data.batch_size=0"], "data.batch_size must be an integer of at least 1"),
    (["data.source.table=none.csv"], "there is no such file"),
    (["data.source.table=table.txt"], "must be a .csv or .jsonl file"),
    (["trainer.strategy=fsdp"], "trainer.strategy=fsdp is not supported: every process needs"),
    (["trainer.inference_mode=true"], "trainer.inference_mode must be false"),
    (["report.tops=3"], "did you mean 'report.top'?"),
    (["report.top=-1"], "report.top must be at least 1, got -1"),
    (["report.samples=-1"], "report.samples must be at least 1, got -1"),
    (["words=0"], "words must be at least 1"),
    (["seed=4294967296"], "seed must be at least 0 and at most 4294967295"),
    (["segmenter=null"], "segmenter=null: no such option; choose from "),
    (["mllm=null"], "mllm=null: no such option; choose from "),
    (["relevance=null"], "relevance=null: no such option; choose from attention, gradient"),
    (["evaluate=null"], "evaluate=null: no such option; choose from leaderboard, named, "),
    (["~relevance"], "'relevance' is not chosen: set relevance=NAME, one of attention, gradient"),
    (["~top"], "'top' is missing"),
    (["+sed=1"], "unknown key 'sed': did you mean 'seed'?"),
    (["+folder=1"], "unknown key 'folder': did you mean"),
    (["+callbacks=ema"], "unknown key 'callbacks'"),
    (["+reduction.nam_2.norm=fold"], "reduction.nam_2 has no _target_: did you mean 'nam'?"),
    (["+logger.csw=3"], "logger.csw has no _target_: did you mean 'csv'?"),
    (["reduction=[nam,acu,nam]"], "reduction=[nam,acu,nam] names 'nam' twice"),
    (["trainer.limit_predict_batches=0"], "trainer.limit_predict_batches=0: nothing would be attributed"),
    (["resume=nowhere"], "resume=nowhere: not a run folder"),
    (["run_dir=/proc/nowhere"], "cannot write the run folder"),
    (["resume=here", "run_dir=there"], "resume=here goes on in that folder: leave run_dir=there out"),
]


@pytest.mark.parametrize(("overrides", "line"), REFUSED, ids=[" ".join(o) for o, _ in REFUSED])
def test_a_wrong_command_line_gets_one_line(
    overrides: list[str], line: str, run: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stop:
        run("out", *overrides)
    assert stop.value.code == 2
    error = capsys.readouterr().err
    assert line in error
    assert error.count("\n") == 1
    assert not Path("out").exists()
    assert not Path("nowhere").exists()


def test_a_folder_of_ones_own_outlives_a_refusal(run: Callable[..., Path]) -> None:
    Path("mine").mkdir()
    with pytest.raises(SystemExit):
        run("mine", "top=0")
    assert not list(Path("mine").iterdir())


def test_a_word_where_a_list_is_expected_is_shown_as_a_list() -> None:
    with pytest.raises(ConfigError, match=r"expected a list: data\.source\.concepts=\[cat\]"):
        check_attribution(compose("attribute", ["data.source.concepts=cat"]))


def test_a_share_of_less_than_a_batch_is_refused(
    run: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stop:
        run("out", "trainer.limit_predict_batches=0.01")
    assert stop.value.code == 2
    assert "error: trainer: You requested to check 0.01" in capsys.readouterr().err


@pytest.mark.usefixtures("_interruptible")
def test_a_run_goes_on_with_the_weights_that_it_was_started_with(
    run: Callable[..., Path],
    gill_folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    folder = shutil.copytree(gill_folder, tmp_path / "model")
    step = AttributionModule.predict_step

    def fail(module: AttributionModule, batch: list[Any], index: int) -> Any:
        if index == 1:
            raise KeyboardInterrupt
        return step(module, batch, index)

    mine = (f"mllm.folder={folder}", "data.batch_size=2")
    with monkeypatch.context() as patch:
        patch.setattr(AttributionModule, "predict_step", fail)
        with pytest.raises(SystemExit):
            run("out", *mine)
    path = next((folder / "language_model").glob("*.safetensors"))
    whole = path.read_bytes()
    weights = load_file(path)
    name = next(name for name in weights if name.endswith("fc2.weight"))
    weights[name] = weights[name] * 1.5
    save_file(weights, path, metadata={"format": "pt"})
    capsys.readouterr()
    with pytest.raises(SystemExit) as stop:
        run("out", "resume=out", *mine)
    assert stop.value.code == 2
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error:")]
    assert len(lines) == 1
    assert "was started with other weights" in lines[0]
    path.write_bytes(whole)
    run("out", "resume=out", *mine)
    assert Run("out").finished


def test_a_missing_part_of_the_model_ends_the_run_in_one_line(
    run: Callable[..., Path], gill_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    broken = shutil.copytree(gill_folder, tmp_path / "model")
    next((broken / "unet").glob("*.safetensors")).unlink()
    with pytest.raises(SystemExit) as stop:
        run("out", f"mllm.folder={broken}")
    assert stop.value.code == 2
    assert "missing weights" in capsys.readouterr().err.splitlines()[-1]


def test_a_folder_takes_one_run(run: Callable[..., Path], capsys: pytest.CaptureFixture[str]) -> None:
    run("out", "trainer.limit_predict_batches=1")
    with pytest.raises(SystemExit) as stop:
        run("out")
    assert stop.value.code == 2
    assert "holds a finished run: set run_dir to another folder" in capsys.readouterr().err
    with pytest.raises(SystemExit) as stop:
        run("out", "resume=out")
    assert stop.value.code == 2
    assert "nothing to resume" in capsys.readouterr().err
