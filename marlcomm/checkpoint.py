"""Checkpoints on disk, without pickle: tensors as safetensors, the rest as JSON, whole or not there at all.

``state.json`` says the format and which marlcomm wrote it, holds counters and settings, and of each part the structure
and the SHA-256 of its file; and a checksum of itself. What is not as it was written is refused.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load, save

import marlcomm
from marlcomm import disk
from marlcomm.registry import ConfigError

FORMAT = 2
WEIGHTS, OPTIMIZER, _STATE = "weights", "optimizer", "state.json"
_POLICY = "policy."
_CHECKSUM = "checksum"
_OF_RUNS = ("[0-9]*", "checkpoints/[0-9]*", "*/checkpoints/[0-9]*")  # where they lie below what a user may name instead
# What data of another shape than ours makes of the code that reads it.
_STRANGE = (OSError, SafetensorError, LookupError, TypeError, ValueError, AttributeError, RecursionError)


@dataclass(frozen=True)
class Stored:
    """A part that lies in another checkpoint, and has not changed since."""

    folder: Path


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint whose state was read; its parts are read when they are asked for.

    Attributes:
        folder: where it lies.
        counters: plain values, by name.
        settings: of the experiment, as data; None where it was written without.
        parts: name -> the label of its structure, and the SHA-256 of its file (None in format 1).
        trees: structures of parts, by label.
    """

    folder: Path
    counters: dict[str, Any]
    settings: dict[str, Any] | None
    parts: dict[str, tuple[str, str | None]]
    trees: dict[str, Any]

    def read(self, name: str) -> Any:
        """One part; raises `ConfigError` where it is missing, damaged, or of another checkpoint."""
        file = _file(self.folder, name)
        try:
            (label, digest), blob = self.parts[name], file.read_bytes()
            if digest not in (None, sha256(blob)):
                raise ValueError("it is not the file that was written: its SHA-256 is another")
            return _join(self.trees[label], load(blob))
        except _STRANGE as error:
            raise ConfigError(f"checkpoint: cannot read {file}: {_said(error)}") from None

    def policy(self) -> dict[str, np.ndarray]:
        """The weights and buffers of the team's policy."""
        weights = self.read(WEIGHTS)
        return {
            name.removeprefix(_POLICY): np.asarray(value) for name, value in weights.items() if name.startswith(_POLICY)
        }


def write(folder: Path, counters: dict[str, Any], settings: Mapping[str, Any] | None = None, **parts: Any) -> None:
    """Write a checkpoint of counters, settings, and parts: nested structures of arrays and plain values.

    What is `Stored` is not written again: both checkpoints then share one file, until the last of them is removed.
    The folder appears under its name only when it is whole and on the disk. Raises `DiskError` where that fails.
    """
    with disk.appearing(folder) as partial:
        others = {part.folder for part in parts.values() if isinstance(part, Stored)}
        known = {other: read(other) for other in others}
        records, trees = dict[str, Any](), dict[str, Any]()
        for name, part in parts.items():
            file = _file(partial, name)
            if isinstance(part, Stored):
                label, digest = known[part.folder].parts[name]
                trees[label] = known[part.folder].trees[label]
                _link(_file(part.folder, name), file)
            else:
                arrays, tree = _split(part)
                blob = save(arrays)
                label, digest = sha256(_text(tree))[:16], sha256(blob)  # the rounds of a replay share one structure
                trees[label] = tree
                file.write_bytes(blob)
            records[name] = (label, digest)
        about = {"format": FORMAT, "marlcomm": marlcomm.__version__, "counters": counters, "settings": settings}
        state = about | {"parts": records, "trees": trees}
        (partial / _STATE).write_bytes(_text(state | {_CHECKSUM: sha256(_text(state))}))


def found(folder: Path) -> list[Path]:
    """The whole checkpoints below a folder, oldest first."""
    return disk.found(folder, "[0-9]*", _STATE)


def read(folder: Path) -> Checkpoint:
    """Open a checkpoint; raises `ConfigError` where it is missing, foreign, damaged, or of a newer format."""
    file = folder / _STATE
    if not file.is_file():
        below = sorted(file.parent for pattern in _OF_RUNS for file in folder.glob(f"{pattern}/{_STATE}"))
        hint = f"nearest: {below[-1]}" if below else "as in runs/demo/STAMP/checkpoints/000100"
        raise ConfigError(f"checkpoint: none in {str(folder)!r}, wanted a folder that holds {_STATE} ({hint})")
    try:
        state = _verified(json.loads(file.read_bytes()))
        trees = state["trees"]
        parts = state.get("parts", {name: (name, None) for name in trees})
        of_parts = {_checked(name): (label, digest) for name, (label, digest) in parts.items()}
        settings = state.get("settings")
        return Checkpoint(folder, dict(state["counters"]), settings and dict(settings), of_parts, trees)
    except KeyError as error:
        raise ConfigError(f"checkpoint: {file} is none of marlcomm's: it lacks {error}") from None
    except _STRANGE as error:
        raise ConfigError(f"checkpoint: cannot read {file}: {_said(error)}") from None


def _verified(state: Any) -> dict[str, Any]:
    """What a state holds besides its checksum; raises `KeyError` or `ValueError` where that is not what was written."""
    if not isinstance(state, dict):
        raise KeyError("format")
    found, checksum = state["format"], state.pop(_CHECKSUM, None)
    if found not in range(1, FORMAT + 1):
        ours = f"marlcomm {marlcomm.__version__} reads formats 1 to {FORMAT}"
        raise ValueError(f"it has format {found!r}, of marlcomm {state['marlcomm']}; {ours}")
    if checksum is None and found > 1:
        raise ValueError("it has no checksum")
    if checksum not in (None, sha256(_text(state))):
        raise ValueError("it is not what was written: its checksum is another")
    return state


def sha256(blob: bytes) -> str:
    """The SHA-256 of bytes, in hexadecimal digits."""
    return hashlib.sha256(blob).hexdigest()


def has_part(folder: Path, name: str) -> bool:
    """Whether a checkpoint is there and has a part."""
    return (folder / _STATE).is_file() and _file(folder, name).is_file()


def _file(folder: Path, name: str) -> Path:
    return folder / f"{name}.safetensors"


def _checked(name: str) -> str:
    """A part's name; raises `ValueError` where a file of that name could lie elsewhere."""
    if re.fullmatch(r"[\w-]+", name) is None:
        raise ValueError(f"{name!r} is no name of a part")
    return name


def _text(data: Any) -> bytes:
    return json.dumps(data).encode()


def _said(error: Exception) -> str:
    """What an error says, with its kind where that is half of it."""
    return str(error) if type(error) in (OSError, ValueError) else f"{type(error).__name__}: {error}"


def _link(file: Path, name: Path) -> None:
    """Give a file another name, or make a copy where the disk knows one name only."""
    try:
        os.link(file, name)
    except OSError:
        shutil.copyfile(file, name)


def _split(tree: Any) -> tuple[dict[str, np.ndarray], Any]:
    """A nested structure as arrays by path, and a JSON tree that refers to them."""
    arrays: dict[str, np.ndarray] = {}

    def visit(node: Any, path: str) -> Any:
        if isinstance(node, np.ndarray):
            arrays[path] = np.asarray(node, order="C")
            return {"array": path}
        if isinstance(node, dict):
            return {"dict": [[key, visit(value, f"{path}/{key}")] for key, value in node.items()]}
        if isinstance(node, (list, tuple)):
            kind = "tuple" if isinstance(node, tuple) else "list"
            return {kind: [visit(value, f"{path}/{index}") for index, value in enumerate(node)]}
        return {"value": node.item() if isinstance(node, np.generic) else node}

    return arrays, visit(tree, "")


def _join(tree: Any, arrays: dict[str, np.ndarray]) -> Any:
    ((kind, content),) = tree.items()
    if kind == "array":
        return arrays[content]
    if kind == "dict":
        return {key: _join(value, arrays) for key, value in content}
    if kind in ("list", "tuple"):
        values = [_join(value, arrays) for value in content]
        return tuple(values) if kind == "tuple" else values
    return content
