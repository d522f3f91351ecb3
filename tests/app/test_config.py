"""A wrong command line is answered by one line that names the right word, and exit code 2."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from nam.app.config import claim_run_folder, compose, group_options
from nam.app.explain import refuse_unknown_keys
from nam.app.train import check_training
from nam.app.train import main as train
from nam.errors import ConfigError, nearest
from nam.folders import configs_folder
from tests.app.line_part import ARGS, install
from tests.runs import run_command

EXPERIMENTS = [name for name in group_options("experiment") if "/" in name]  # the others are for attribute.py
ONE = "experiment=line/first"


@pytest.fixture(autouse=True)
def _own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("NAM_RUN_STAMP", "now")
    install(monkeypatch)


def refused(overrides: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    """The line with which `train.py` refuses these arguments."""
    with pytest.raises(SystemExit) as stop:
        run_command(train, *ARGS, *overrides)
    out, err = capsys.readouterr()
    assert stop.value.code == 2
    assert not out
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    return err


WRONG = [
    (["trainer=gpuu"], "trainer=gpuu: no such option; did you mean 'gpu'?"),
    (["experiment=tiny_gill/juge"], "did you mean 'tiny_gill/judge'?"),
    (["trainr=cpu"], "'trainr': did you mean 'trainer'?"),
    ([ONE, "trainer.max_stps=3"], "'trainer.max_stps': did you mean 'trainer.max_steps'?"),
    ([ONE, "max_steps=3"], "'max_steps': did you mean 'trainer.max_steps'?"),
    ([ONE, "+sed=1"], "unknown key 'sed': did you mean 'seed'?"),
    ([ONE, "+segmenter=none"], "unknown key 'segmenter'"),
    ([ONE, "part=null"], "part=null: no such option; choose from "),
    (["hydra.run.dr=x"], "did you mean 'hydra.run.dir'?"),
    ([ONE, "+part.module.lrr=3"], "'part.module.lrr' (LinePart has no such setting): did you mean 'lr'?"),
    ([ONE, "part.module.lr=fast"], "part.module.lr must be float, got 'fast'"),
    ([ONE, "~part.module.lr"], "'part.module.lr' is missing"),
    ([ONE, "trainer.max_steps=many"], "trainer.max_steps must be int, got 'many'"),
    ([ONE, "trainer.accelerator=abacus"], "abacus"),
    ([ONE, "seed=x"], "seed must be int, got 'x'"),
    ([ONE, "seed=???"], "seed"),
    ([ONE, "part.module._target_=os.system"], "part.module._target_='os.system' is refused"),
    ([ONE, "logger.csv._target_=lightning.pytorch.trainer.trainer.os.system"], "is refused"),
    ([ONE, "part.data._target_=nam.data.nearly"], "part.data._target_='nam.data.nearly' does not exist"),
    ([ONE, "resume=nowhere"], "resume=nowhere: not a run folder"),
    ([ONE, "resume=here", "run_dir=there"], "resume=here goes on in that folder: leave run_dir=there out"),
    (["seed"], "cannot read the override 'seed'"),
    (["trainer.max_steps=["], "cannot read the override 'trainer.max_steps=['"),
    (["--config-name=trian"], "no primary configuration 'trian': did you mean 'train'?"),
    ([], "nothing to train: add experiment=NAME"),
]


@pytest.mark.parametrize(("overrides", "line"), WRONG, ids=[" ".join(o) or "nothing" for o, _ in WRONG])
def test_a_wrong_command_line_gets_one_line(
    overrides: list[str], line: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert line in refused(overrides, capsys)


def test_a_refused_command_leaves_no_folder(capsys: pytest.CaptureFixture[str]) -> None:
    refused([ONE, "seed=x"], capsys)
    refused([ONE, "run_dir=mine", "seed=x"], capsys)
    assert not Path("runs/train/now").exists()
    assert not Path("mine").exists()


def test_a_wrong_configuration_builds_nothing(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("nam.app.train.build_data", lambda *_: pytest.fail("data was built"))
    monkeypatch.setattr("nam.app.train.build", lambda *_, **__: pytest.fail("an object was built"))
    refused([ONE, "trainer.max_steps=many"], capsys)
    refused(["experiment=line/all", "trainer.max_steps=many"], capsys)


@pytest.mark.parametrize("experiment", EXPERIMENTS)
def test_every_experiment_fits_the_real_signatures(experiment: str) -> None:
    cfg = compose("train", [f"experiment={experiment}", "trainer.max_steps=3"])
    if cfg.parts is None:
        check_training(cfg)
    else:
        siblings = [f"{experiment.rpartition('/')[0]}/{part}" for part in cfg.parts]
        assert set(siblings) == set(EXPERIMENTS) - {experiment}
        assert cfg.weights_dir == cfg.export_dir
    assert cfg.trainer.max_steps == 3


@pytest.mark.parametrize("name", ["attribute", "edit", "train"])
def test_every_key_of_our_own_files_is_known(name: str) -> None:
    for experiment in group_options("experiment"):
        if name != "edit" and ("/" in experiment) == (name == "train"):
            refuse_unknown_keys(compose(name, [f"experiment={experiment}"]), name)
    refuse_unknown_keys(compose(name, []), name)


@pytest.mark.parametrize("group", ["trainer", "logger", "callbacks", "debug"])
def test_every_option_fits_the_real_signatures(group: str) -> None:
    for option in group_options(group):
        check_training(compose("train", ["experiment=tiny_gill/judge", f"{group}={option}"]))


def test_the_first_comment_of_an_experiment_is_its_command() -> None:
    for name in group_options("experiment"):
        text = (configs_folder() / "experiment" / f"{name}.yaml").read_text()
        commands = re.findall(r"^# (python .*)$", text, re.MULTILINE)
        command = "train" if name in EXPERIMENTS else "(attribute|edit)"
        assert re.match(rf"python {command}\.py experiment={name}( |$)", commands[0]), name


def test_a_run_folder_belongs_to_one_run(tmp_path: Path) -> None:
    cfg = OmegaConf.create({"run_dir": str(tmp_path), "resume": None, "seed": 3, "twice": "${seed}"})
    claim_run_folder(cfg)
    assert OmegaConf.load(tmp_path / "config.yaml").twice == 3
    with pytest.raises(ConfigError, match=r"holds a run already: resume it with resume="):
        claim_run_folder(cfg)
    cfg.resume = cfg.run_dir
    claim_run_folder(cfg)


def test_nearest_names_one_word_or_lists_them() -> None:
    assert nearest("colr", ["place", "colour"]) == "did you mean 'colour'?"
    assert nearest("zzz", ["place", "colour"]) == "choose from colour, place"
    assert nearest("zzz", []) == "there is nothing to choose from"


def test_errors_are_one_line() -> None:
    assert str(ConfigError("two\n  lines")) == "two lines"
