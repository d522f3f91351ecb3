"""BERTScore, MoverScore and learned ratings against loops, a linear programme and single forward passes."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.optimize import linprog
from torch import Tensor

from nam.errors import ConfigError, InputError, ModelError
from nam.evaluate.bertscore import BertScore, greedy_match, load_bertscore
from nam.evaluate.bleurt import load_bleurt
from nam.evaluate.contextual import Embedded, Embedder, Idf, load_embedder, token_weights
from nam.evaluate.moverscore import load_moverscore, mover_score, word_weights
from nam.evaluate.scene_similarity import load_scene_similarity
from nam.world.tokenizer import build_tokenizer
from tests.evaluate.tiny_text import write_similarity

TEXTS = ["horse, horses, pony", "a red horse on the grass", "cat", "a cat and a dog by the sea"]
E = torch.eye(4)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_similarity(tmp_path_factory.mktemp("weights") / "tiny")


@pytest.fixture(scope="module")
def embedder(folder: Path) -> Embedder:
    return load_embedder(folder, layer=1)


def random_pair(seed: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    candidate, reference = (torch.randn(n, 5, generator=generator) for n in (4, 6))
    weights = [torch.rand(n, generator=generator) for n in (4, 6)]
    weights[0][0] = weights[1][2] = 0
    return candidate, reference, weights[0], weights[1]


def loop_bert_score(
    candidate: Tensor, reference: Tensor, cw: Tensor, rw: Tensor
) -> tuple[float, float, float]:
    """Zhang et al. 2020, eq. for R, P and F with importance weighting, token by token in float64."""

    def cosine(a: list[float], b: list[float]) -> float:
        return sum(x * y for x, y in zip(a, b, strict=True)) / math.hypot(*a) / math.hypot(*b)

    def side(ours: list[list[float]], theirs: list[list[float]], weights: list[float]) -> float:
        best = [max(cosine(a, b) for b in theirs) for a in ours]
        return sum(w * s for w, s in zip(weights, best, strict=True)) / sum(weights)

    precision = side(candidate.tolist(), reference.tolist(), cw.tolist())
    recall = side(reference.tolist(), candidate.tolist(), rw.tolist())
    return precision, recall, 2 * precision * recall / (precision + recall)


def linear_programme(distances: np.ndarray, left: np.ndarray, right: np.ndarray) -> float:
    """The least cost of moving the masses `left` to `right`."""
    m, n = distances.shape
    rows = np.kron(np.eye(m), np.ones(n))
    columns = np.kron(np.ones(m), np.eye(n))
    found = linprog(
        distances.ravel(),
        A_eq=np.vstack([rows, columns]),
        b_eq=np.concatenate([left, right]),
        bounds=(0, None),
    )
    assert found.success
    return float(found.fun)


def test_greedy_matching_by_hand() -> None:
    # Of the candidate's two tokens one is in the reference; of the reference's three, one.
    found = greedy_match(
        2 * E[:2], 3 * E[[0, 2, 3]], candidate_weights=torch.ones(2), reference_weights=torch.ones(3)
    )
    assert [float(value) for value in found] == pytest.approx([1 / 2, 1 / 3, 2 / 5])


@pytest.mark.parametrize("seed", range(4))
def test_greedy_matching_is_the_loops(seed: int) -> None:
    candidate, reference, cw, rw = random_pair(seed)
    found = greedy_match(candidate, reference, candidate_weights=cw, reference_weights=rw)
    assert [float(v) for v in found] == pytest.approx(loop_bert_score(candidate, reference, cw, rw), rel=1e-4)


@pytest.mark.parametrize("seed", range(4))
def test_mover_score_is_the_linear_programmes(seed: int) -> None:
    candidate, reference, cw, rw = random_pair(seed)
    left, right = (one.double() / one.double().norm(dim=1, keepdim=True) for one in (candidate, reference))
    distances = np.array([[float((a - b).norm()) for b in right] for a in left])
    masses = [(one.double() / one.double().sum()).numpy() for one in (cw, rw)]
    expected = 1 - linear_programme(distances, *masses)
    found = mover_score(candidate, reference, candidate_weights=cw, reference_weights=rw)
    assert found == pytest.approx(expected, abs=1e-9)


def test_mover_score_by_hand() -> None:
    ones = torch.ones(2)
    same = mover_score(E[:2], 5 * E[[1, 0]], candidate_weights=ones, reference_weights=3 * ones)
    assert same == pytest.approx(1, abs=1e-12)
    apart = mover_score(E[:1], E[1:2], candidate_weights=ones[:1], reference_weights=ones[:1])
    assert apart == pytest.approx(1 - math.sqrt(2))
    # Of the mass on the first axis a quarter has to go to the second.
    weights = torch.tensor([0.25, 0.75])
    part = mover_score(E[:2], E[:2], candidate_weights=torch.tensor([0.5, 0.5]), reference_weights=weights)
    assert part == pytest.approx(1 - math.sqrt(2) / 4)
    opposite = mover_score(E[:1], -E[:1], candidate_weights=ones[:1], reference_weights=ones[:1])
    assert opposite == pytest.approx(-1)


def test_idf_by_hand() -> None:
    idf = Idf.of([[5, 6, 6], [5], [7, 5], [6]])
    assert idf(5) == pytest.approx(math.log(5 / 4))
    assert idf(6) == pytest.approx(math.log(5 / 3))
    assert idf(99) == pytest.approx(math.log(5))
    text = Embedded(
        (1, 6, 99, 1), ("</s>", "cat", ",", "</s>"), (True, False, False, True), torch.zeros(4, 2)
    )
    assert token_weights(text, None).tolist() == [0, 1, 1, 0]
    assert token_weights(text, idf).tolist() == pytest.approx([0, math.log(5 / 3), math.log(5), 0])
    assert word_weights(text, None).tolist() == [0, 1, 0, 0]  # a comma is no word
    piece = Embedded((2, 3), ("play", "##ing"), (False, False), torch.zeros(2, 2))
    assert word_weights(piece, None).tolist() == [1, 0]


@pytest.mark.parametrize("layer", [0, 1, 2])
def test_embeddings_are_those_of_single_unpadded_texts(folder: Path, layer: int) -> None:
    embedder = load_embedder(folder, layer=layer)
    words = build_tokenizer()
    for text, found in zip(TEXTS, embedder(TEXTS), strict=True):
        ids = [1, *words(text, add_special_tokens=False)["input_ids"], 1]
        with torch.no_grad():
            states = embedder.model(input_ids=torch.tensor([ids]), output_hidden_states=True).hidden_states
        assert found.ids == tuple(ids)
        assert found.special == (True, *[False] * (len(ids) - 2), True)
        torch.testing.assert_close(found.vectors, states[layer][0], rtol=1e-4, atol=1e-5)


def test_scores_of_texts_are_those_of_their_embeddings(folder: Path, embedder: Embedder) -> None:
    candidates, references = TEXTS[::2], TEXTS[1::2]
    idf = embedder.idf(references)
    scores = load_bertscore(folder, layer=1, corpus=references)
    movers = load_moverscore(folder, layer=1, candidates=candidates, references=references)
    pairs = list(zip(embedder(candidates), embedder(references), strict=True))
    for row, (a, b) in enumerate(pairs):
        weights = token_weights(a, idf), token_weights(b, idf)
        expected = loop_bert_score(a.vectors, b.vectors, *weights)
        assert [float(v[row]) for v in scores.matched(candidates, references)] == pytest.approx(
            expected, rel=1e-4
        )
        masses = word_weights(a, embedder.idf(candidates)), word_weights(b, idf)
        moved = mover_score(a.vectors, b.vectors, candidate_weights=masses[0], reference_weights=masses[1])
        assert float(movers(candidates, references)[row]) == pytest.approx(moved, rel=1e-5)
    plain = BertScore(embedder=embedder)
    assert plain.column == "bertscore[tiny,layer=1]"
    assert scores.column == "bertscore[tiny,layer=1,idf]"
    assert movers.column == "moverscore[tiny,layer=1,idf]"
    assert load_moverscore(folder).column == "moverscore[tiny,layer=2]"
    assert not torch.equal(plain(candidates, references), scores(candidates, references))


@pytest.mark.parametrize("load", [load_bertscore, load_moverscore])
def test_equal_texts_score_one_and_empty_ones_nothing(folder: Path, load) -> None:
    measure = load(folder)
    torch.testing.assert_close(measure(TEXTS, TEXTS), torch.ones(4), rtol=0, atol=1e-5)
    assert measure(["", "cat"], ["cat", ""]).isnan().all()
    assert measure([], []).shape == (0,)
    with pytest.raises(InputError, match="got 1 for 2"):
        measure(["cat", "dog"], ["cat"])


def test_an_empty_corpus_is_refused(embedder: Embedder) -> None:
    with pytest.raises(ConfigError, match="corpus"):
        embedder.idf([])


def test_ratings_read_the_reference_first(folder: Path) -> None:
    rating = load_scene_similarity(folder)
    words = build_tokenizer()
    candidates, references = TEXTS, TEXTS[::-1]
    found = rating(candidates, references)
    for row, (candidate, reference) in enumerate(zip(candidates, references, strict=True)):
        a, b = (words(text, add_special_tokens=False)["input_ids"] for text in (reference, candidate))
        ids, types = [1, *a, 1, *b, 1], [0] * (len(a) + 2) + [1] * (len(b) + 1)
        with torch.no_grad():
            logits = rating.model(input_ids=torch.tensor([ids]), token_type_ids=torch.tensor([types])).logits
        assert float(found[row]) == pytest.approx(float(logits), rel=1e-4)
    assert not torch.allclose(found, rating(references, candidates))
    assert rating([], []).shape == (0,)
    with pytest.raises(InputError, match="got 0 for 4"):
        rating(candidates, [])


def test_bleurt_is_a_regression_by_name(tmp_path: Path) -> None:
    write_similarity(tmp_path / "port", bias=0.25)
    bleurt = load_bleurt(tmp_path / "port" / "similarity")
    assert bleurt.column == "bleurt[similarity]"
    assert bleurt(TEXTS, TEXTS[::-1]).tolist() == [0.25] * 4
    assert load_scene_similarity(tmp_path / "port").column == "scene_similarity[port]"
    write_similarity(tmp_path / "two", labels=2)
    with pytest.raises(ModelError, match=r"bleurt is one number, .* gives 2"):
        load_bleurt(tmp_path / "two" / "similarity")
