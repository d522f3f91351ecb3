"""The benchmark for GPUs: its parts on the CPU at a tiny shape, and what it says without a GPU."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks import gpu
from benchmarks.fullsize import decoding, stages, timing
from benchmarks.fullsize.shapes import GILL_SHAPE, TINY_SHAPE, build
from benchmarks.fullsize.timing import Table, copied_per_second, timed
from benchmarks.quality.rows import Measure, Row
from nam.mllm.decode import decode_greedily
from nam.mllm.gill import GILL

TINY = [
    "--device",
    "cpu",
    "--shape",
    "tiny",
    "--dtype",
    "float32",
    "--prompt",
    "6",
    "--tokens",
    "4",
    "--runs",
    "1",
]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> GILL:
    return build(TINY_SHAPE, tmp_path_factory.mktemp("tiny"), device="cpu", dtype=torch.float32)


def values(rows: list[Row]) -> dict[tuple[str, str], Measure]:
    return {(row.section, row.spec.name): row.measure for row in rows if row.measure}


def test_every_stage_has_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any, **__: Any) -> Any:
        raise RuntimeError("no compiler here\nand more lines")

    def held(run: Callable[[], object]) -> int:
        run()
        return 12_000_000

    monkeypatch.setattr(torch, "compile", refuse)
    monkeypatch.setattr(timing, "peak_memory", held)
    rows = gpu.main([*TINY, "--batches", "2", "--pictures", "2", "--out", str(tmp_path)])
    found = values(rows)
    words, pictures = "Words, 2 samples a batch", "Pictures, 2 samples a batch"
    assert found[words, "generate: tokens"].value > 0
    assert found[words, "generate"].note == "8 tokens; 0.01 GB more at the peak"
    for method in stages.METHODS:
        assert found[words, f"replay and {method} of the last token"].value > 0
        assert found[pictures, f"replay and {method} of the region"].value > 0
    assert found[pictures, "relevance=levels"].note.startswith("2 U-Net evaluations")
    assert found[pictures, "relevance=gradient (checkpoint=True): of drawing"].value > 100
    assert found[decoding.SECTION, "2 rows: as nam decodes: tokens"].value > 0
    reasons = {row.spec.name: row.reason for row in rows if row.measure is None}
    assert reasons == {
        "2 rows: the same as one CUDA graph": "RuntimeError: CUDA graphs need a GPU",
        "2 rows: torch.compile": "RuntimeError: no compiler here",
        "2 rows: torch.compile with CUDA graphs": "RuntimeError: no compiler here",
    }
    written = json.loads((tmp_path / "gpu.json").read_text())
    assert len(written["rows"]) == len(rows)
    assert (written["device"], written["shape"], written["precision"]) == ("the CPU", "tiny", "float32")
    text = (tmp_path / "gpu.md").read_text()
    assert "not measured: RuntimeError: no compiler here" in text
    assert str(tmp_path) not in text
    assert text.startswith("# Attribution at full size\n\ntiny, random weights in float32, on the CPU.")


def test_keys_and_values_in_place_give_the_tokens_of_the_plain_loop(model: GILL) -> None:
    ids = torch.randint(4, 300, (2, 5), generator=torch.Generator().manual_seed(1))
    decoder = decoding.StaticDecoder(model.language_model, ids, tokens=6)
    with torch.no_grad():
        first, again = decoder.run(decoder.read)[1], decoder.run(decoder.read)[1]
        plain = decode_greedily(
            model.language_model,
            inputs_embeds=model.embed_tokens(ids),
            mask=torch.ones_like(ids),
            limits=[6, 6],
            end_ids=(),
            signals={},
            banned_ids=(model.codec.pad_id,),
            force=None,
        )
    assert first.tolist() == again.tolist() == plain.answers
    assert first.unique().numel() > 2


def test_a_compiled_step_is_held_against_the_plain_one(model: GILL, monkeypatch: pytest.MonkeyPatch) -> None:
    """A step that says something else is told so."""
    monkeypatch.setattr(torch, "compile", lambda step, **_: lambda ids, at: (step(ids, at) + 1) % 300)
    rows = decoding.measure_decoding(model, batch=1, prompt=5, tokens=5, runs=1, bandwidth=1e9)
    found = values(rows)
    plain, compiled = (
        found[decoding.SECTION, f"1 row: {kind}"] for kind in ("keys and values in place", "torch.compile")
    )
    assert plain.note.startswith("100 % of the tokens")
    assert compiled.note.startswith("20 % of the tokens")
    share = found[decoding.SECTION, "1 row: torch.compile: of the bandwidth of a copy"]
    weights = decoding.weights_read(model.language_model)
    assert share.value == pytest.approx(100 * weights / (compiled.value / 1e3) / 1e9)


def test_weights_that_a_step_reads(model: GILL) -> None:
    """All of them but the table of positions: the embedding is the unembedding."""
    language: Any = model.language_model
    positions = language.get_decoder().embed_positions.weight.numel()
    assert language.config.tie_word_embeddings
    every = sum(one.numel() for one in language.parameters())
    assert decoding.weights_read(language) == 4 * (every - positions)


def test_a_job_that_fails_is_a_row_and_the_others_go_on() -> None:
    table = Table("Jobs")
    with table.attempt("first"):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate\nmore")
    with table.attempt("second"):
        table.add("second", timed(lambda: None, runs=2).measure(per=2))
    first, second = table.rows
    assert first.verdict == "not measured"
    assert first.reason == "OutOfMemoryError: CUDA out of memory. Tried to allocate"
    assert second.measure
    assert second.measure.n == 2


def test_a_copy_reads_and_writes() -> None:
    moved = copied_per_second(torch.device("cpu"), runs=3)
    assert 1e8 < moved < 1e13


def test_the_full_shape_is_the_published_one(tmp_path: Path) -> None:
    """On the meta device, which holds no weights: every site of OPT-6.7B, and the sizes of the parts."""
    full = build(GILL_SHAPE, tmp_path, device="meta", dtype=torch.bfloat16)
    assert len(full.ffn_sites) == 32
    assert {site.width for site in full.ffn_sites} == {16_384}
    assert full.codec.img_ids == tuple(range(50_266, 50_274))
    counts = {
        name: sum(one.numel() for one in parts.get(name, like=full.unembedding).parameters())
        for parts, name in (
            (full.vision, "vision"),
            (full.diffusion.parts, "unet"),
            (full.diffusion.parts, "vae"),
        )
    }
    assert counts == {"vision": 303_179_776, "unet": 859_520_964, "vae": 83_653_863}
    language = sum(one.numel() for one in full.language_model.parameters())
    assert language == 6_658_473_984 + 2 * 4096  # the [IMG] tokens are two more than the spare rows


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_one_line_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert gpu.main(["--out", str(tmp_path / "out")]) == []
    assert capsys.readouterr().out.startswith("nothing is measured: PyTorch sees no GPU here")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (["--device", "cpu"], "--device cpu: this shape fills 16 GB of memory, set --shape tiny"),
        ([*TINY, "--only", "word"], "--only: 'word' is none of words, pictures, decoding"),
    ],
)
def test_wrong_arguments_end_with_one_line(
    given: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit, match="2"):
        gpu.main(given)
    assert said in capsys.readouterr().out
