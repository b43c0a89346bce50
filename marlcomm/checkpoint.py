"""Checkpoints on disk, without pickle: tensors as safetensors, the rest as JSON, whole or not there at all."""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

import marlcomm
from marlcomm import disk
from marlcomm.registry import ConfigError

FORMAT = 1
WEIGHTS, OPTIMIZER, _STATE = "weights", "optimizer", "state.json"
_POLICY = "policy."


@dataclass(frozen=True)
class Stored:
    """A part that lies in another checkpoint, and has not changed since."""

    folder: Path


def write(folder: Path, counters: dict[str, Any], **parts: Any) -> None:
    """Write a checkpoint of counters and of parts, nested structures of arrays and plain values.

    What is `Stored` is not written again: both checkpoints then share one file, until the last of them is removed.
    The folder appears under its name only when it is whole and on the disk. Raises `DiskError` where that fails.
    """
    with disk.appearing(folder) as partial:
        trees, known = {}, dict[Path, Any]()
        for name, part in parts.items():
            file = partial / f"{name}.safetensors"
            if isinstance(part, Stored):
                if part.folder not in known:
                    known[part.folder] = _read_state(part.folder)["trees"]
                trees[name] = known[part.folder][name]
                _link(part.folder / file.name, file)
            else:
                arrays, trees[name] = _split(part)
                save_file(arrays, file)
        state = {"format": FORMAT, "marlcomm": marlcomm.__version__, "counters": counters, "trees": trees}
        (partial / _STATE).write_text(json.dumps(state), encoding="utf-8")


def found(folder: Path) -> list[Path]:
    """The whole checkpoints below a folder, oldest first."""
    return disk.found(folder, "[0-9]*", _STATE)


def _link(file: Path, name: Path) -> None:
    """Give a file another name, or make a copy where the disk knows one name only."""
    try:
        os.link(file, name)
    except OSError:
        shutil.copyfile(file, name)


def parts(folder: Path) -> list[str]:
    """The names of a checkpoint's parts, in the order in which they were written."""
    return list(_read_state(folder)["trees"])


def has_part(folder: Path, name: str) -> bool:
    """Whether a checkpoint is there and has a part."""
    return (folder / _STATE).is_file() and (folder / f"{name}.safetensors").is_file()


def read_counters(folder: Path) -> dict[str, Any]:
    """The counters of a checkpoint."""
    return cast(dict[str, Any], _read_state(folder)["counters"])


def read_part(folder: Path, name: str) -> Any:
    """One part of a checkpoint; raises `ConfigError` where it is damaged."""
    file = folder / f"{name}.safetensors"
    tree = _read_state(folder)["trees"][name]
    try:
        return _join(tree, load_file(file))
    except (OSError, SafetensorError, KeyError) as error:
        raise ConfigError(f"checkpoint: cannot read {file}: {error}") from None


def read_policy(folder: Path) -> dict[str, np.ndarray]:
    """The weights and buffers of the team's policy in a checkpoint."""
    weights = read_part(folder, WEIGHTS)
    return {
        name.removeprefix(_POLICY): np.asarray(value) for name, value in weights.items() if name.startswith(_POLICY)
    }


def _read_state(folder: Path) -> dict[str, Any]:
    file = folder / _STATE
    try:
        state = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigError(f"checkpoint: cannot read {file}: {error}") from None
    found = state.get("format") if isinstance(state, dict) else None
    if found != FORMAT:
        raise ConfigError(f"checkpoint: {file} has format {found!r}, wanted {FORMAT}")
    return cast(dict[str, Any], state)


def _split(tree: Any) -> tuple[dict[str, np.ndarray], Any]:
    """A nested structure as arrays by path, and a JSON tree that refers to them."""
    arrays: dict[str, np.ndarray] = {}

    def visit(node: Any, path: str) -> Any:
        if isinstance(node, np.ndarray):
            arrays[path] = np.ascontiguousarray(node)
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
