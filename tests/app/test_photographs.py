"""attribute.py on captioned photographs and with segmenters for them, end to end on tiny random models."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from nam.app.attribute import main
from nam.store import Run
from tests.data.tiny_coco import true_mask, write_coco
from tests.runs import run_command
from tests.segmenter.tiny_pretrained import write


@pytest.fixture
def run(tmp_path: Path, gill_folder: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Run]:
    """Run the command on a COCO of six pictures, which the model is asked to draw again."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("NAM_RUN_STAMP", "now")
    coco = write_coco(tmp_path / "coco")
    given = [
        *(f"mllm.folder={gill_folder}", "mllm.steps=2", "trainer=cpu", "logger=none", "draw=true"),
        *("data=coco", f"data.source.folder={coco}", "data.source.kinds=[again]", "max_new_tokens=8"),
        *(
            "data.source.prompts.again='draw a {concept} .'",
            "data.source.concepts=[dog,cat]",
        ),
    ]

    def run(*overrides: str) -> Run:
        run_command(main, *given, "run_dir=out", *overrides)
        return Run("out")

    return run


def test_coco_s_true_masks_are_the_regions(run: Callable[..., Run]) -> None:
    found = run("segmenter=truth", "segmenter.resize=true")
    samples = found.samples.set_index("id")
    assert list(samples.index) == ["000000000139-again", "000000000785-again"]
    drawn = samples.loc["000000000139-again"]
    assert drawn["prompt"] == "draw a dog ."
    assert drawn["concept"] == "dog"
    mask = np.asarray(Image.open(found.image(drawn["mask"]))) > 127
    true = Image.fromarray(true_mask((5, 20, 4, 30))).resize(mask.shape[::-1])
    assert (mask == np.asarray(true)).mean() > 0.97
    images = found.neurons[found.neurons["modality"] == "image"]
    assert set(images["concept"]) == {"dog", "cat"}


def test_a_segmenter_of_transformers_finds_the_region(
    run: Callable[..., Run], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    folder = write("eomt", tmp_path / "eomt")
    found = run("segmenter=eomt", f"segmenter.id={folder}", "segmenter.threshold=0.0", "segmenter.speck=0.0")
    samples = found.samples
    errors = samples["error"].fillna("")
    # A random network finds a concept or not; what it does not find is a row with its reason.
    for _, row in samples.iterrows():
        has_mask = row["mask"] is not None and isinstance(row["mask"], str)
        assert has_mask or "the mask is empty" in errors[row.name]


def test_a_concept_without_a_label_is_a_row_with_its_reason(run: Callable[..., Run], tmp_path: Path) -> None:
    folder = write("eomt", tmp_path / "eomt", labels=["cat", "sofa", "wall-brick"])
    found = run(
        "segmenter=eomt",
        f"segmenter.id={folder}",
        "segmenter.threshold=0.0",
        "segmenter.labels={cat: [cat, sofa, wall-brick]}",
    )
    samples = found.samples.set_index("id")
    assert "no label for 'dog'" in samples.loc["000000000139-again", "error"]
    assert isinstance(samples.loc["000000000785-again", "mask"], str)
