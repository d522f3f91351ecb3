"""report.html: one file that opens offline and needs no knowledge of the method."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nam.report.leads import leads_of
from nam.report.pages import facts_of, moment, write_page
from nam.report.tops import methods_of, top_neurons
from nam.report.views import ConceptView, SampleView, concept_view, forms_of, sample_views
from nam.store import Run
from nam.store.rows import MODALITIES

if TYPE_CHECKING:
    from pandas import DataFrame

#: Most samples that are shown in all, so that the file stays small.
_SAMPLES = 240

#: Ids that are listed beside the reason of an error.
_IDS = 6


@dataclass(frozen=True)
class ConceptPart:
    """All of a report about one concept."""

    name: str
    forms: tuple[str, ...]
    views: tuple[ConceptView, ...]
    samples: tuple[SampleView, ...]
    total: int


@dataclass(frozen=True)
class ErrorView:
    """A reason why samples have no scores, and the samples."""

    reason: str
    count: int
    ids: tuple[str, ...]


def build_report(run: Run, *, top: int = 10, samples: int = 8, tops: DataFrame | None = None) -> Path:
    """Write report.html into the run folder, of a finished or an interrupted run.

    Args:
        run: The run.
        top: Neurons in a concept's tables; a sample's tables show half of them.
        samples: Most samples shown per concept, the first ones; the tables of the run hold all.
        tops: As `top_neurons` gives them for the same `top`; None: they are looked up.

    Raises:
        StoreError: the run is damaged, or the report cannot be written.
    """
    rows = run.samples.fillna({"concept": ""})
    groups = {name: rows[rows["concept"] == name] for name in dict.fromkeys(rows["concept"])}
    each = max(1, min(samples, _SAMPLES // max(1, len(groups))))
    ids = [id for group in groups.values() for id in group["id"].head(each)]
    methods = methods_of(run)
    tops = top_neurons(run, top=top) if tops is None else tops
    words = dict(zip(zip(tops["layer"], tops["unit"], strict=True), tops["words"], strict=True))
    neurons = run.read_neurons(samples=ids, top=max(1, top // 2))
    neurons = neurons.sort_values("method", key=lambda names: names.map(methods.index), kind="stable")
    parts = []
    for name, mine in groups.items():
        used = [method for method in methods if any((name, kind, method) in run.keys for kind in MODALITIES)]
        forms = tuple(forms_of(mine.iloc[0]))
        parts.append(
            ConceptPart(
                name=name,
                forms=forms,
                views=tuple(concept_view(run, name, forms, method, top=top, words=words) for method in used),
                samples=tuple(sample_views(run, mine.head(each), neurons)),
                total=len(mine),
            )
        )
    views = [view for part in parts for view in part.views]
    return write_page(
        "report.html.j2",
        run.folder,
        run=run.folder.name,
        started=moment(run.manifest.get("started")),
        leads={method: leads_of([view for view in views if view.method == method]) for method in methods},
        model=_model(run.manifest),
        finished=run.finished,
        concepts=parts,
        total=len(rows),
        failed=int((rows["status"] == "error").sum()),
        pictures=int(rows["picture"].notna().sum()),
        errors=error_views(run),
        methods=methods,
        facts=facts_of(run.manifest, without=("model",)),
    )


def error_views(run: Run) -> list[ErrorView]:
    """Every reason for an error, the most frequent first."""
    failed = run.samples[run.samples["status"] == "error"]
    ids: dict[str, list[str]] = {}
    for reason, id in zip(failed["error"], failed["id"], strict=True):
        ids.setdefault(reason, []).append(id)
    views = [ErrorView(reason, len(mine), tuple(mine[:_IDS])) for reason, mine in ids.items()]
    return sorted(views, key=lambda view: view.count, reverse=True)


def _model(manifest: dict[str, Any]) -> dict[str, Any]:
    """Name and sizes of the model, whatever a damaged manifest holds."""
    model = manifest.get("model")
    return model if isinstance(model, dict) else {}
