"""A concept's neurons over all samples of a run, as one table."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from nam.store.rows import MODALITIES

if TYPE_CHECKING:
    from pandas import DataFrame

    from nam.store import Run

#: What stands for the words of a neuron that is in no sample's rows of neurons.parquet, which keeps them.
NOT_KEPT = "(words not kept: raise top)"

#: The columns of the table.
COLUMNS = (
    "concept", "modality", "method", "rank", "layer", "unit", "score", "activation", "samples", "words",
)  # fmt: skip


def methods_of(run: Run) -> list[str]:
    """The methods that the run has scores of, in the order that it was asked for them."""
    asked = run.manifest.get("methods")
    order = asked if isinstance(asked, list) else []
    found = sorted({method for _, _, method in run.keys})
    return sorted(found, key=lambda method: order.index(method) if method in order else len(order))


def top_neurons(run: Run, *, top: int = 10) -> DataFrame:
    """The neurons with the highest mean score of every concept, modality and method.

    The words of one that is in no sample's top, and so not in neurons.parquet, are `NOT_KEPT`.

    Args:
        run: The run.
        top: Neurons of each.
    """
    import pandas as pd

    rows: list[dict[str, Any]] = []
    keys = sorted(run.keys, key=lambda key: (key[0], MODALITIES.index(key[1]), key[2]))
    for concept, modality, method in keys:
        mean = run.scores(concept, modality, method)
        rows += [
            {
                "concept": concept,
                "modality": modality,
                "method": method,
                "rank": rank,
                "layer": layer,
                "unit": unit,
                "score": float(mean.scores[layer, unit]),
                "activation": float(mean.activations[layer, unit]),
                "samples": mean.count,
            }
            for rank, (layer, unit) in enumerate(mean.top(top), start=1)
        ]
    words = run.words({(row["layer"], row["unit"]) for row in rows})
    for row in rows:
        row["words"] = words.get((row["layer"], row["unit"]), NOT_KEPT)
    return pd.DataFrame(rows, columns=list(COLUMNS))


def own_words(run: Run, tops: DataFrame) -> dict[str, float]:
    """How many of a concept's top neurons write one of its own words, as a share over all concepts.

    Neurons whose words were not kept do not count.

    Args:
        run: The run.
        tops: As `top_neurons` gives them.

    Returns:
        By "method/modality", where the words of any neuron are known.
    """
    samples = run.samples.drop_duplicates("concept")
    forms = {row["concept"]: {form.lower() for form in row["forms"]} for row in samples.to_dict("records")}
    hits: dict[str, list[bool]] = {}
    for row in tops[tops["words"] != NOT_KEPT].to_dict("records"):
        written = {word.lower() for word in str(row["words"]).split(", ")}
        hits.setdefault(f"{row['method']}/{row['modality']}", []).append(
            bool(written & forms[row["concept"]])
        )
    return {key: sum(found) / len(found) for key, found in hits.items()}
