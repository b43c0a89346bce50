"""Folders and files that are whole on disk or not there, whatever is killed; and what is said where that fails."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from safetensors import SafetensorError

_REPLACED = ".replaced"


class DiskError(RuntimeError):
    """What could not be written, and why."""


@contextmanager
def appearing(folder: Path) -> Iterator[Path]:
    """A folder to be filled, which appears under its name when all of it is on the disk.

    A folder that has the name already stays findable (see `whole`) until the new one has it. Raises `DiskError`, and
    removes what was written, where the disk refuses.
    """
    partial = folder.with_name(f".{folder.name}.{os.getpid()}")
    try:
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        yield partial
        for path in [*partial.iterdir(), partial]:
            _sync(path)
        _replace(folder, partial)
    except BaseException as error:
        shutil.rmtree(partial, ignore_errors=True)
        if isinstance(error, (OSError, SafetensorError)):
            raise DiskError(f"cannot write {folder}: {reason(error)}") from error
        raise


def write(file: Path, text: str) -> None:
    """Write a file, whole or not at all. Raises `DiskError` where the disk refuses."""
    partial = file.with_name(f".{file.name}.{os.getpid()}")
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        partial.write_text(text, encoding="utf-8")
        partial.replace(file)
    except OSError as error:
        with suppress(OSError):
            partial.unlink(missing_ok=True)
        raise DiskError(f"cannot write {file}: {reason(error)}") from error


def _replace(folder: Path, whole: Path) -> None:
    """Give a whole folder a name that another one may have. No rename replaces a folder that is not empty."""
    replaced = folder.with_name(folder.name + _REPLACED)
    if folder.exists():
        shutil.rmtree(replaced, ignore_errors=True)
        folder.rename(replaced)
    whole.rename(folder)
    _sync(folder.parent)  # a rename outlives a power failure only then
    remove(replaced)


def _sync(path: Path) -> None:
    """Wait until a file's content, or the names in a folder, are on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def found(parent: Path, pattern: str, file: str) -> list[Path]:
    """The folders below `parent` that appeared (they hold a file), by name, numbers by their value.

    Of two of one name the newer is the later; an older one is there only where a process died in the instant of its
    replacement.
    """
    folders = [path for path in parent.glob(pattern) if (path / file).is_file()]
    return sorted(folders, key=_place)


def _place(folder: Path) -> tuple[int, str, bool]:
    name = folder.name.removesuffix(_REPLACED)
    return (int(name) if name.isdecimal() else 0, name, not folder.name.endswith(_REPLACED))


def remove(folder: Path) -> None:
    """Remove a folder, if it is there: first its name, so that nobody takes half of it for the whole."""
    hidden = folder.with_name(f".{folder.name}.{os.getpid()}")
    shutil.rmtree(hidden, ignore_errors=True)
    with suppress(OSError):
        folder.rename(hidden)
    shutil.rmtree(hidden, ignore_errors=True)


def reason(error: OSError | SafetensorError) -> str:
    """What the disk said, in words."""
    if isinstance(error, OSError) and error.strerror:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        return f"{error.strerror}{': make room' if full else ''}"
    return str(error)
