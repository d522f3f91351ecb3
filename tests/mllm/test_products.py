"""Products by oneDNN are those of PyTorch, in the same precision, gradients included."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from nam.mllm import products
from nam.mllm.products import Linears, linear


def random(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(sum(shape)))


@pytest.mark.parametrize("rows", [random(5, 33), random(2, 7, 33), random(9, 2, 33)[:, 1:], random(1, 33)])
@pytest.mark.parametrize("weight", [random(17, 33), random(33, 17).T, random(34, 33)[::2]])
@pytest.mark.parametrize("bias", [random(17), random(34)[::2], random(1).expand(17), None])
def test_it_is_as_near_to_float64_as_pytorch(rows: Tensor, weight: Tensor, bias: Tensor | None) -> None:
    exact = functional.linear(rows.double(), weight.double(), None if bias is None else bias.double())
    found = linear(rows, weight, bias)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found.double(), exact, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_other_precisions_are_pytorchs(dtype: torch.dtype) -> None:
    rows, weight = random(5, 33).to(dtype), random(17, 33).to(dtype)
    assert torch.equal(linear(rows, weight), functional.linear(rows, weight))


def test_no_rows_give_no_rows() -> None:
    assert linear(random(0, 33), random(17, 33)).shape == (0, 17)


@pytest.mark.parametrize("weight", [random(17, 33), random(33, 17).T])
@pytest.mark.parametrize("trained", [True, False])
def test_gradients_are_pytorchs(weight: Tensor, trained: bool) -> None:
    rows, bias = random(2, 5, 33), random(17)
    found: list[Tensor | None] = []
    exact: list[Tensor | None] = []
    for way, dtype, into in ((linear, torch.float32, found), (functional.linear, torch.float64, exact)):
        given = [one.to(dtype).clone().requires_grad_(one is rows or trained) for one in (rows, weight, bias)]
        out = way(*given)
        (out * out.detach().sin()).sum().backward()
        into += [one.grad for one in given if one.requires_grad]
    assert len(found) == (3 if trained else 1)
    for one, other in zip(found, exact, strict=True):
        torch.testing.assert_close(one, other, atol=1e-4, rtol=1e-4, check_dtype=False)


def test_inside_linears_every_linear_takes_that_way(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[torch.Size] = []

    def spy(rows: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        seen.append(rows.shape)
        return functional.linear(rows, weight, bias)

    monkeypatch.setattr(products, "linear", spy)
    net, given = nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2)), random(6, 4)
    plain = net(given)
    with Linears():
        inside = net(given)
    assert torch.equal(plain, inside)
    assert seen == [torch.Size((6, 4)), torch.Size((6, 3))]
    net(given)
    assert len(seen) == 2
