"""Whether a run may write into a folder."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from nam.store import shards
from nam.store.files import StoreError, lock, read_json
from nam.store.provenance import read_manifest, refuse_other_weights
from nam.store.schema import MANIFEST_FILE, NEURONS_FILE, SAMPLES_FILE, SCORES_FILE, SHARDS

#: What becomes of the shards when a run is finished.
MERGED = (SAMPLES_FILE, NEURONS_FILE, SCORES_FILE)


def is_finished(folder: str | Path) -> bool:
    """Whether a folder holds a run that has come to its end.

    Raises:
        StoreError: its manifest is damaged.
    """
    path = Path(folder, MANIFEST_FILE)
    return path.exists() and read_json(path).get("status") == "finished"


def refuse_finished(folder: str | Path, *, resume: bool) -> None:
    """Refuse a folder whose run is finished, whatever is to be done there.

    Args:
        folder: The run folder, which may be absent.
        resume: Whether that run is to go on.

    Raises:
        StoreError: it is finished, or its manifest is damaged.
    """
    if is_finished(folder):
        what = f"the run in {folder} is finished: there is nothing to resume"
        raise StoreError(
            f"{what}; a new run needs another run_dir"
            if resume
            else f"{folder} holds a finished run: set run_dir to another folder"
        )


def check_claim(folder: Path, manifest: Mapping[str, Any], *, rank: int, resume: bool) -> None:
    """Refuse a folder that is not for this run to write into; nothing is written here.

    Args:
        folder: The run folder, which may be absent.
        manifest: Of the run that is to write.
        rank: Of this process. The first alone looks at the manifest, which is its own to write.
        resume: Whether an interrupted run goes on.

    Raises:
        StoreError: the folder holds a run, or a finished run or one of other weights is resumed.
    """
    path = folder / MANIFEST_FILE
    if rank == 0:
        refuse_finished(folder, resume=resume)
    if not resume:
        mine = [shard for shard in shards.list_shards(folder, "samples") if rank in (0, shard.rank)]
        begun = rank == 0 and path.exists()
        if begun or mine or any((folder / name).exists() for name in MERGED):
            raise StoreError(
                f"{folder} holds a run already: set run_dir to another folder, or go on with resume={folder}"
            )
    elif rank == 0 and path.exists():
        refuse_other_weights(folder, read_manifest(folder), manifest)


def refuse_writers(folder: Path) -> None:
    """Refuse a folder that any process of another run writes into, whatever its rank.

    Where the first process of a run is killed, the others may live on and write what they have found, which
    a run of fewer processes would find again. To be asked before processes of one's own have begun to write.

    Args:
        folder: The run folder, which may be absent.

    Raises:
        StoreError: one does.
    """
    for path in sorted((folder / SHARDS).glob(".lock-*")):
        os.close(lock(path))
