"""What every method must keep to; a new file in nam/reduction with its yaml is tested from then on."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Iterator
from dataclasses import fields, replace
from pathlib import Path
from typing import Any, Literal, get_origin, get_type_hints

import pytest
import torch
from omegaconf import OmegaConf

import nam.reduction
from nam.app.build import build as build_node
from nam.errors import ConfigError, ScoreError
from nam.folders import configs_folder
from nam.hooks import Recorder
from nam.mllm.gill import GILL
from nam.options import option
from nam.reduction.base import Method, contexts_of, scores_of
from nam.reduction.nam import Nam
from nam.reduction.reading import Reading
from nam.types import Concept, Modality
from tests.families import FAMILIES, answers, build
from tests.reduction.cases import targets_of


def find_methods() -> dict[str, type[Method]]:
    found = {}
    for file in pkgutil.iter_modules(nam.reduction.__path__):
        module = importlib.import_module(f"nam.reduction.{file.name}")
        for value in vars(module).values():
            is_method = isinstance(value, type) and issubclass(value, Method) and value is not Method
            if is_method and value.__module__ == module.__name__:
                found[file.name] = value
    return found


METHODS = find_methods()
YAMLS = sorted((configs_folder() / "reduction").glob("*.yaml"))


def scale_of(scores: torch.Tensor) -> float:
    return 1e-4 * float(scores.abs().max())


@pytest.fixture(scope="module", params=FAMILIES)
def mllm(request: pytest.FixtureRequest, gill_folder: Path) -> GILL:
    return build(request.param, gill_folder)


@pytest.fixture(params=sorted(METHODS))
def method(request: pytest.FixtureRequest) -> Method:
    return METHODS[request.param]()


@pytest.fixture(params=["text", "image"])
def modality(request: pytest.FixtureRequest) -> Modality:
    return request.param  # type: ignore[no-any-return]


def test_methods_are_found() -> None:
    baselines = {"act", "acu", "grad", "gradxact", "ig", "ce", "random", "random_same_layer"}
    assert {"nam"} | baselines <= set(METHODS)


@pytest.mark.parametrize("path", YAMLS, ids=lambda path: path.stem)
def test_every_yaml_builds_a_method_with_its_own_defaults(path: Path) -> None:
    method = build_node(OmegaConf.load(path))
    assert isinstance(method, Method)
    assert f"# python attribute.py reduction={path.stem}" in path.read_text()


@pytest.mark.parametrize("name", sorted(METHODS))
def test_every_method_has_a_yaml_that_says_all_its_defaults(name: str) -> None:
    assert METHODS[name].name == name
    node = OmegaConf.load(configs_folder() / "reduction" / f"{name}.yaml")
    assert build_node(node) == METHODS[name]()
    assert set(node) == {"_target_", *(field.name for field in fields(METHODS[name]))}


def test_scores_are_dense_finite_and_labelled(mllm: GILL, method: Method, modality: Modality) -> None:
    generations = answers(mllm)
    contexts = contexts_of(mllm, generations, targets_of(mllm, generations, modality))
    concept = Concept("horse")
    for scores in scores_of(method, contexts, [concept] * 4):
        shape = (len(mllm.ffn_sites), mllm.ffn_sites[0].width)
        assert scores.scores.shape == scores.activations.shape == shape
        assert scores.scores.dtype == scores.activations.dtype == torch.float32
        assert bool(scores.scores.isfinite().all())
        assert len(scores.scores.unique()) > 1
        assert (scores.concept, scores.modality, scores.method) == (concept, modality, method.name)


def test_scores_do_not_depend_on_batch_padding_or_how_they_were_read(
    mllm: GILL, method: Method, modality: Modality
) -> None:
    recorder = Recorder(mllm)
    generations = answers(mllm, record=recorder)
    targets = targets_of(mllm, generations, modality)
    together = method.score_batch(contexts_of(mllm, generations, targets))
    while_generating = method.score_batch(contexts_of(mllm, generations, targets, recorded=recorder.recorded))
    backwards = method.score_batch(contexts_of(mllm, generations[::-1], targets[::-1]))[::-1]
    for row, scores in enumerate(together):
        alone = method.score(contexts_of(mllm, [generations[row]], [targets[row]])[0])
        for other in (alone, while_generating[row], backwards[row]):
            torch.testing.assert_close(other, scores, atol=scale_of(scores), rtol=0)


def test_inference_mode_changes_nothing(mllm: GILL, method: Method, modality: Modality) -> None:
    generations = answers(mllm)
    expected = method.score_batch(contexts_of(mllm, generations, targets_of(mllm, generations, modality)))
    with torch.inference_mode():
        generations = answers(mllm)
        targets = targets_of(mllm, generations, modality)
        found = method.score_batch(contexts_of(mllm, generations, targets))
    for a, b in zip(expected, found, strict=True):
        torch.testing.assert_close(a, b, atol=scale_of(a), rtol=0)
        assert not a.requires_grad


class Broken(Exception):
    pass


def watch(mllm: GILL) -> Iterator[int]:
    for module in mllm.modules():
        yield len(module._forward_pre_hooks) + len(module._forward_hooks) + len(module._backward_hooks)


@pytest.mark.parametrize("broken", [False, True])
def test_nothing_is_left_behind(mllm: GILL, method: Method, modality: Modality, broken: bool) -> None:
    generations = answers(mllm)
    targets = targets_of(mllm, generations, modality)
    contexts = contexts_of(mllm, generations, targets)
    before = {key: value.clone() for key, value in mllm.state_dict().items()}

    def fail(module: Any, given: Any, out: Any) -> None:
        raise Broken

    if broken:
        handle = mllm.ffn_sites[-1].linear.register_forward_hook(fail)
        with pytest.raises(Broken):
            contexts_of(mllm, generations, targets)
        if method.needs.backward or method.needs.rerun:
            with pytest.raises(Broken):
                method.score_batch(contexts)
        handle.remove()
    else:
        method.score_batch(contexts)
    assert sum(watch(mllm)) == 0
    assert mllm.layout is None
    after = mllm.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[key], after[key]) for key in before)
    assert not any(p.requires_grad or p.grad is not None for p in mllm.parameters())


def test_nan_in_an_activation_is_an_error(mllm: GILL, method: Method, modality: Modality) -> None:
    generations = answers(mllm)
    contexts = contexts_of(mllm, generations, targets_of(mllm, generations, modality))
    activations = contexts[2].activations.clone()
    activations[1, 0, 7] = float("nan")
    spoilt = replace(contexts[2].reading(), activations=activations)
    contexts[2] = replace(contexts[2], reading=Reading(spoilt))
    with pytest.raises(ScoreError, match="target 2: an activation is nan at layer 1, unit 7"):
        method.score_batch(contexts)


def test_a_value_that_is_no_choice_is_refused_by_name(method: Method) -> None:
    for name, hint in get_type_hints(type(method)).items():
        if get_origin(hint) is Literal:
            expected = rf"reduction\.{method.name}\.{name} must be '.* or '.*', got 'Mean '"
            with pytest.raises(ConfigError, match=expected):
                replace(method, **{name: "Mean "})


def test_a_choice_of_nam_is_told_with_all_others() -> None:
    message = r"^reduction\.nam\.gate must be 'forms', 'token' or 'none', got 'tokens'$"
    with pytest.raises(ConfigError, match=message):
        Nam(gate="tokens")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match=message):
        option("reduction", "nam", gate="tokens")


def test_one_target_is_not_numbered(mllm: GILL) -> None:
    generations = answers(mllm)[:1]
    context = contexts_of(mllm, generations, targets_of(mllm, generations, "text"))[0]
    spoilt = replace(context.reading(), activations=context.activations.fill_(float("inf")))
    with pytest.raises(ScoreError, match=r"^an activation is inf at layer 0, unit 0$"):
        Nam().score(replace(context, reading=Reading(spoilt)))


def test_no_targets_give_no_scores(method: Method) -> None:
    assert method.score_batch([]) == []
