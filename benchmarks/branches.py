"""What eq. 4 goes by: python -m benchmarks.branches

On the prompts of a plain `attribute.py`: how often the direct effect, and how often the activation, is the
larger share of eq. 4, and how much of a picture's top neurons is the same for the thing's mask and for
everything around it. Prints two tables.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

from nam.attribution import Attributor
from nam.data.prompts import ScenePrompts
from nam.evaluate.leaderboard.cases import Case, best, by_sign, cases_of, rescored
from nam.mllm.load import load
from nam.options import option
from nam.reduction.base import Method
from nam.reduction.functional import log_branches
from nam.reduction.gradxact import GradXAct
from nam.reduction.nam import Nam
from nam.reduction.nam_total import NamTotal

TOPS = (10, 100)
METHODS: Mapping[str, Method] = {
    "nam": Nam(),
    "nam, branch=direct": Nam(branch="direct"),
    "nam, scale=unit": Nam(scale="unit"),
    "gradxact": GradXAct(),
    "nam_total": NamTotal(),
}


def shares(s: Tensor, a: Tensor) -> dict[str, float]:
    """Of direct effects and activations (L, d): the share of neurons whose direct share is the larger one, of
    all and of the tops by eq. 4, and the largest of both."""
    log_s, log_a = log_branches(s, a)
    direct = (log_s > log_a).flatten()
    order = torch.maximum(log_s, log_a).flatten().argsort(descending=True)
    found = {"direct, all": float(direct.double().mean())}
    found |= {f"direct, top {k}": float(direct[order[:k]].double().mean()) for k in TOPS}
    return found | {"largest s": float(s.max()), "largest a": float(a.max())}


def regional(attributor: Attributor, case: Case, *, k: int) -> dict[str, float]:
    """Of each method, how much of a picture's top k is the same for the thing's mask and for the rest."""
    around = rescored(attributor, case.work, ~case.region, name="around")
    return {
        name: len(set(best(case.scores[name, "mask"], k)) & set(best(around[name, "around"], k))) / k
        for name in attributor.methods
        if (name, "around") in around
    }


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.branches", description=__doc__)
    parser.add_argument("--weights", default="tiny_gill", help="a folder, or one that the package ships")
    parser.add_argument("--concepts", default="sun,tree,house,car,fish,bird,cat,dog,horse", metavar="A,B")
    options = parser.parse_args(arguments)
    attributor = Attributor(
        mllm=load(options.weights),
        segmenter=option("segmenter", "scenes"),
        relevance=option("relevance", "gradient"),
        methods=METHODS,
    )
    source = ScenePrompts(concepts=tuple(options.concepts.split(",")))
    branches: dict[str, list[dict[str, float]]] = {"text": [], "image": []}
    overlaps: list[dict[str, float]] = []
    for start in range(0, len(source), 8):
        items = [source[index] for index in range(start, min(start + 8, len(source)))]
        for case in cases_of(attributor, items, regions=("mask",))[0]:
            drawn = case.modality == "image"
            context = by_sign(attributor, case.work, None)[False] if drawn else case.context
            branches[case.modality].append(shares(*Nam().branches(context)))
            if drawn:
                found = {k: regional(attributor, case, k=k) for k in TOPS}
                overlaps.append(
                    {f"top {k}, {name}": v for k, one in found.items() for name, v in one.items()}
                )
    console = Console()
    for title, columns in (
        ("eq. 4, mean over targets", branches),
        ("top neurons shared by the mask and the rest of the picture, mean", {"image": overlaps}),
    ):
        table = Table("measure", *(f"{name} ({len(rows)})" for name, rows in columns.items()), title=title)
        names = dict.fromkeys(name for rows in columns.values() for row in rows for name in row)
        for name in names:
            values = [[row[name] for row in rows if name in row] for rows in columns.values()]
            table.add_row(name, *(f"{np.mean(one):.3f}" if one else "" for one in values))
        console.print(table)


if __name__ == "__main__":
    main()
