"""What follows from the weights alone is computed once, until a weight changes."""

from __future__ import annotations

import torch

from nam.mllm.gill import GILL
from nam.reduction.constants import once


def test_it_is_computed_once_and_again_when_a_weight_was_written(gill: GILL) -> None:
    calls: list[str] = []

    def norms() -> torch.Tensor:
        calls.append("norms")
        return torch.stack([site.value_vectors.norm(dim=0) for site in gill.ffn_sites])

    with torch.inference_mode():
        first = once(gill, "norms", norms)
    assert once(gill, "norms", norms) is first
    assert once(gill, "other", lambda: 3) == 3
    assert calls == ["norms"]
    assert not first.is_inference()
    with torch.no_grad():
        gill.ffn_sites[1].linear.weight[:, 5] *= 2
    second = once(gill, "norms", norms)
    assert calls == ["norms", "norms"]
    torch.testing.assert_close(second[1, 5], 2 * first[1, 5])


def test_other_weights_can_be_watched(gill: GILL) -> None:
    decoder = gill.language_model.get_decoder()
    query = decoder.layers[0].self_attn.q_proj.weight

    def mean(*, watched: bool) -> float:
        weights = [query] if watched else None
        return once(gill, ("mean", watched), lambda: float(query.mean()), weights=weights)

    before = mean(watched=True), mean(watched=False)
    with torch.no_grad():
        query.add_(1)
    assert mean(watched=True) == float(query.mean()) != before[0]
    assert mean(watched=False) == before[1]


def test_models_do_not_share(gill: GILL, shared_gill: GILL) -> None:
    once(gill, "name", lambda: "mine")
    assert once(shared_gill, "name", lambda: "theirs") == "theirs"
    assert once(gill, "name", lambda: "new") == "mine"
