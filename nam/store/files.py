"""Files that are either whole or absent, and errors that say in one line what to change."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import platform
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from nam.errors import NamError

#: The configuration of a run, resolved: what makes a folder a run's.
CONFIG_FILE = "config.yaml"

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_READ_ONLY = (errno.EROFS, errno.EACCES, errno.EPERM)
_NO_LOCKS = (errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS)


class StoreError(NamError):
    """A run folder that cannot be written or read."""


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turn the system's errors while writing `path` into one clear line.

    Raises:
        StoreError: the disk is full, the folder read-only, or anything else the system says.
    """
    try:
        yield
    except OSError as error:
        code = error.errno
        if code in _FULL or "No space left" in str(error):
            folder = _run_folder(path)
            again = f"go on with resume={folder}" if folder else "try again"
            raise StoreError(
                f"the disk is full: cannot write {path}; what was finished stays readable. "
                f"Free some space and {again}"
            ) from error
        if code in _READ_ONLY:
            raise StoreError(
                f"cannot write {path}: {os.strerror(code)}. Set run_dir to a folder that you may write to"
            ) from error
        raise StoreError(f"cannot write {path}: {error}") from error


@contextmanager
def atomic(path: Path) -> Iterator[Path]:
    """A temporary path beside `path`; it takes `path`'s place, flushed to disk, if the block succeeds.

    Raises:
        StoreError: as `writing`; then `path` is as it was before.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with writing(path):
            yield temporary
            _sync(temporary)
            os.replace(temporary, path)
            _sync(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write JSON atomically; what JSON cannot hold (NaN, infinity) is refused.

    Raises:
        StoreError: it cannot be written, or `content` is not JSON.
    """
    try:
        text = json.dumps(content, indent=2, ensure_ascii=True, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise StoreError(f"{path.name} must hold plain JSON values: {error}") from error
    with atomic(path) as temporary:
        temporary.write_text(text + "\n", encoding="utf-8")


def read_json(path: Path) -> dict[str, Any]:
    """The JSON object in a file.

    Raises:
        StoreError: the file is missing, damaged, or holds something else.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise StoreError(f"cannot read {path}: {error}") from error
    if not isinstance(content, dict):
        raise StoreError(f"{path} should hold a JSON object, got {type(content).__name__}")
    return content


def make_folder(path: Path) -> Path:
    """The folder, made where it is absent.

    Raises:
        StoreError: it cannot be made.
    """
    with writing(path):
        path.mkdir(parents=True, exist_ok=True)
    return path


def lock(path: Path) -> int:
    """Hold a lock for as long as this process lives; `os.close` of the result gives it back.

    A process that is killed leaves no lock behind. File systems without locks are let through. The file
    names the process, for whoever has to wait for it.

    Raises:
        StoreError: another run holds it.
    """
    with writing(path):
        handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        holder = os.pread(handle, 80, 0).decode("utf-8", "replace")
        os.close(handle)
        raise StoreError(
            f"another run is writing into {path.parent} ({holder or 'a process that has just begun'}): "
            "set run_dir to another folder, or wait for it"
        ) from error
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            os.close(handle)
            raise StoreError(f"cannot lock {path}: {error}") from error
    with writing(path):
        os.ftruncate(handle, 0)
        os.pwrite(handle, f"process {os.getpid()} on {platform.node()}".encode(), 0)
    return handle


def clean(text: str) -> str:
    """The text without lone surrogates, which no file format of ours can hold."""
    return text.encode("utf-8", "replace").decode("utf-8")


def _run_folder(path: Path) -> Path | None:
    """The run folder that a file is in, at most two folders down; None where there is none."""
    return next((one for one in path.parents[:3] if (one / CONFIG_FILE).is_file()), None)


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
