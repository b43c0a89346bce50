"""marlcomm data: data sets of worlds."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from marlcomm import registry
from marlcomm.cli.shell import out, progress_bar, tell_where
from marlcomm.registry import ConfigError

app = typer.Typer(help="Build data sets of worlds.", no_args_is_help=True)


@app.command(name="lewis_game")
def data_lewis_game(
    target: Annotated[Path, typer.Option("--out", help="file to write; egg: two, .training and .validation in them")],
    rounds: Annotated[int, typer.Option(min=2, help="rounds of both splits")] = 10_000,
    validation: Annotated[
        int | None, typer.Option(min=1, help="how many of them to keep for validation; by default a fifth")
    ] = None,
    min_symbols: Annotated[int, typer.Option(help="the fewest attribute values that tell a target from all")] = 2,
    distractors: Annotated[int, typer.Option(help="candidates of a round besides the target")] = 63,
    attributes: Annotated[int, typer.Option(help="of an object")] = 20,
    values: Annotated[int, typer.Option(help="of an attribute")] = 4,
    seed: Annotated[int, typer.Option(help="seed of the rounds, as env.rounds_seed")] = 0,
    file_format: Annotated[
        str, typer.Option("--format", help="npz, for env.rounds; or egg, the text of its discrimination game")
    ] = "npz",
) -> None:
    """Build rounds of the Lewis game that need a given number of symbols.

    Ctrl-C leaves no file half written.
    """
    from marlcomm.envs.lewis_game.settings import LewisGameSettings

    held_out = max(rounds // 5, 1) if validation is None else validation
    if held_out >= rounds:
        raise ConfigError(f"--validation: got {held_out}, wanted fewer than --rounds, {rounds} (nearest: {rounds - 1})")
    if not target.parent.is_dir():
        raise ConfigError(f"--out: no folder {str(target.parent)!r}")
    if target.is_dir():
        raise ConfigError(f"--out: {str(target)!r} is a folder, wanted a file")
    chosen = {"min_symbols": min_symbols, "distractors": distractors, "attributes": attributes, "values": values}
    counts = {"rounds_seed": seed, "training_rounds": rounds - held_out, "validation_rounds": held_out}
    try:
        settings = registry.ENVS.check("lewis_game", chosen | counts)
    except ConfigError as error:
        told = str(error).replace("env.rounds_seed", "--seed")
        for key in chosen:
            told = told.replace(f"env.{key}", f"--{key.replace('_', '-')}")
        raise ConfigError(told) from None
    assert isinstance(settings, LewisGameSettings)
    with out.status("importing torch"):
        from marlcomm.envs.lewis_game.files import WRITERS
        from marlcomm.envs.lewis_game.rounds import build_rounds, refuse_rare

        if file_format not in WRITERS:
            raise ConfigError(f"--format: unknown {file_format!r}; {registry.nearest(file_format, WRITERS)}")
    with out.status("estimating how many there are"):
        found = refuse_rare(settings.game)
    out.print(f"{found} of random rounds need {min_symbols} symbols", highlight=False)
    try:
        with progress_bar() as progress:
            bar = progress.add_task("rounds", total=rounds, figures="")
            built = build_rounds(
                settings.game,
                rounds - held_out,
                held_out,
                seed,
                watch=lambda count: progress.update(bar, completed=count, figures=f"{count:,} rounds"),
            )
        with out.status("writing"):
            files = WRITERS[file_format](built, target)
    except KeyboardInterrupt:
        out.print("stopped; nothing was written")
        raise typer.Exit(130) from None
    for file in files:
        tell_where(file)
