"""The baselines on a net whose scores can be worked out by hand."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from nam.reduction.act import Act
from nam.reduction.base import contexts_of
from nam.reduction.ce import CausalEffect
from nam.reduction.grad import Grad
from nam.reduction.gradxact import GradXAct
from nam.reduction.ig import IntegratedGradients
from tests.reduction.hand_net import GENERATION, TARGET, HandNet


def by_hand(net: HandNet, second: str) -> tuple[Tensor, Tensor, Tensor]:
    """Activations (2, P, d), and gradients of y by them (2, P, d): at the activations, and on average on the
    way of a layer from 0. With f(x) = x^2 the gradient is linear on the way: its average is its middle."""
    first, last = net.language_model.decoder.layers
    v1, w1, v2, w2 = (m.weight for m in (first.fc1, first.fc2, last.fc1, last.fc2))
    x = net.language_model.embedding.weight[[1, 2]]
    u = TARGET.directions
    a1 = (x @ v1.T).clamp(min=0)
    reads = (x + a1 @ w1.T) @ v2.T
    a2 = reads**2 if second == "square" else reads

    def first_layer(share: float) -> Tensor:
        slope = 2 * (x + share * a1 @ w1.T) @ v2.T if second == "square" else torch.ones_like(reads)
        return (u + (slope * (u @ w2)) @ v2) @ w1

    ends, middles = (torch.stack([first_layer(share), u @ w2]) for share in (1.0, 0.5))
    return torch.stack([a1, a2]), ends, middles


@pytest.mark.parametrize("second", ["linear", "square"])
def test_gradients_of_the_hand_net(second: str) -> None:
    net = HandNet(torch.square if second == "square" else torch.nn.Identity())
    context = contexts_of(net, [GENERATION], [TARGET])[0]
    a, ends, middles = by_hand(net, second)
    torch.testing.assert_close(context.activations, a)
    # From x = (2, 1) and (0.5, 3), and the third unit dead.
    torch.testing.assert_close(a[0], torch.tensor([[2, 2, 0], [0.5, 3.25, 0]], dtype=torch.float64))
    for method, expected in (
        (Act(), a.mean(1)),
        (Grad(), ends.mean(1)),
        (GradXAct(), (a * ends).mean(1)),
        (IntegratedGradients(steps=2, resume=False), (a * middles).mean(1)),
    ):
        torch.testing.assert_close(method.score(context).double(), expected, atol=1e-5, rtol=1e-5)


def test_the_effect_of_noise_on_groups_of_the_hand_net() -> None:
    net = HandNet(torch.nn.Identity())
    context = contexts_of(net, [GENERATION], [TARGET])[0]
    a, effects, _ = by_hand(net, "linear")
    # y is linear: a group's change is Gaussian, and the mean size of a Gaussian is sqrt(2 / pi) deviations.
    squares = effects.square().sum(1)
    unit = math.sqrt(2 / math.pi) * a.flatten(1).std(1, correction=0)[:, None] / 2
    i, j, k = squares.unbind(1)
    alone, whole = squares.sqrt(), squares.sum(1, keepdim=True).sqrt().expand(-1, 3) / 3
    others = torch.stack([(i + j).sqrt() + (i + k).sqrt(), (i + j).sqrt() + (j + k).sqrt()], 1) / 2
    others = torch.cat([others, ((i + k).sqrt() + (j + k).sqrt())[:, None] / 2], 1)
    # Groups of at most two of three: one neuron is alone, each of them in a third of the draws.
    for group, expected in ((1, alone), (2, (alone + others) / 3), (3, whole)):
        found = CausalEffect(group=group, draws=500, resume=False).score(context).double()
        torch.testing.assert_close(found, unit * expected, rtol=0.12, atol=1e-6)
    assert torch.equal(
        CausalEffect(group=50, resume=False).score(context),
        CausalEffect(group=3, resume=False).score(context),
    )


def test_noise_on_a_group_reaches_no_other_neuron_of_its_layer() -> None:
    net = HandNet(torch.nn.Identity())
    # A second-layer neuron that writes nothing has no effect alone, and its share of one in a group.
    net.language_model.decoder.layers[1].fc2.weight[:, 0] = 0
    context = contexts_of(net, [GENERATION], [TARGET])[0]
    assert float(CausalEffect(group=1, draws=3, resume=False).score(context)[1, 0]) == 0
    assert float(CausalEffect(group=3, draws=3, resume=False).score(context)[1, 0]) > 0
