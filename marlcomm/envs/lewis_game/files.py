"""Files of rounds: our own, and the text that EGG's discrimination game reads (`egg/zoo/basic_games/play.py`)."""

from __future__ import annotations

import contextlib
import json
import os
import zipfile
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch

from marlcomm import noise
from marlcomm.envs.lewis_game.rounds import Rounds
from marlcomm.envs.lewis_game.settings import Game
from marlcomm.envs.lewis_game.symbols import Objects
from marlcomm.registry import ConfigError

FORMAT = 1
_SPLITS = ("training", "validation")


def write_npz(rounds: Rounds, file: Path) -> list[Path]:
    """Write rounds for ``env.rounds``; the file is whole, or it is not there. Returns its path."""
    about = json.dumps({"format": FORMAT, "seed": rounds.seed, **asdict(rounds.game)})
    with _whole(file) as partial, partial.open("wb") as opened:
        np.savez_compressed(opened, about=about, **{split: getattr(rounds, split) for split in _SPLITS})
    return [file]


def read_npz(file: Path, game: Game) -> Rounds:
    """The rounds of a file; raises `ConfigError` where it holds none, or others than those of the game."""
    try:
        with np.load(file, allow_pickle=False) as stored:
            about = json.loads(str(stored["about"]))
            training, validation = (stored[split] for split in _SPLITS)
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        raise ConfigError(f"env.rounds: {str(file)!r} holds no rounds of the Lewis game: {error}") from None
    if about.get("format") != FORMAT:
        raise ConfigError(f"env.rounds: {str(file)!r} is of format {about.get('format')}, wanted {FORMAT}")
    for name, wanted in asdict(game).items():
        if about.get(name) != wanted:
            raise ConfigError(
                f"env.{name}: got {wanted}, but the rounds in {str(file)!r} are made with {about.get(name)} "
                f"(nearest: {about.get(name)})"
            )
    shape = (game.candidates, game.attributes)
    for split, objects in zip(_SPLITS, (training, validation), strict=True):
        if objects.dtype != np.uint8 or objects.shape[1:] != shape or not len(objects) or objects.max() >= game.values:
            raise ConfigError(f"env.rounds: the rounds for {split} in {str(file)!r} are not those of its own settings")
    return Rounds(game, int(about["seed"]), training, validation)


def write_egg(rounds: Rounds, file: Path) -> list[Path]:
    """Write what EGG reads with ``--game_type discri``: one file for training and one for validation, by their suffix.

    A line is a round: candidates with dots between them, each with spaces between its attributes (values from 0), and
    after the last dot the place of the target (from 0). EGG never shuffles candidates, so they are shuffled here.
    """
    files = [file.with_name(f"{file.stem}.{split}{file.suffix or '.txt'}") for split in _SPLITS]
    with contextlib.ExitStack() as stack:
        partials = [stack.enter_context(_whole(each)) for each in files]
        for split, partial in zip(_SPLITS, partials, strict=True):
            with partial.open("w", encoding="ascii", newline="\n") as opened:
                opened.writelines(_lines(getattr(rounds, split), rounds.seed, split))
    return files


def _lines(objects: Objects, seed: int, split: str) -> Iterator[str]:
    root = noise.absorb(torch.tensor(seed, dtype=torch.int64), noise.stream_number(f"lewis_game egg/{split}"))
    keys = noise.absorb(root, torch.arange(len(objects)))
    orders = noise.words(keys, objects.shape[1]).argsort(1).numpy()
    for candidates, order in zip(objects, orders, strict=True):
        fields = [" ".join(map(str, candidate)) for candidate in candidates[order].tolist()]
        yield " . ".join([*fields, str(int(order.argmin()))]) + "\n"


@contextlib.contextmanager
def _whole(file: Path) -> Iterator[Path]:
    """A path to write to, which becomes the file at the end; nothing is left where that is not reached."""
    partial = file.with_name(f".{file.name}.{os.getpid()}")
    try:
        yield partial
        partial.replace(file)
    finally:
        partial.unlink(missing_ok=True)


WRITERS = {"npz": write_npz, "egg": write_egg}
