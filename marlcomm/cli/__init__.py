"""The command line: marlcomm train | sweep | evaluate | decode | export | list | check | data | bench | study."""

from __future__ import annotations

import os
import sys
from typing import Annotated

import typer

import marlcomm
from marlcomm.cli import bench, checking, data, study
from marlcomm.cli.evaluating import decode, evaluate
from marlcomm.cli.exporting import export
from marlcomm.cli.listing import list_things
from marlcomm.cli.shell import complain, out
from marlcomm.cli.sweeping import sweep
from marlcomm.cli.training import train
from marlcomm.registry import ConfigError
from marlcomm.rllib.cluster import CLUSTERS

app = typer.Typer(
    help="Train teams of agents that talk under a bit budget, and count the bits honestly.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
)
for command in (train, sweep, evaluate, decode, export):
    app.command()(command)
app.command(name="list")(list_things)
for name, group in (("check", checking.app), ("data", data.app), ("bench", bench.app), ("study", study.app)):
    app.add_typer(group, name=name)


def main() -> None:
    """Entry point: a wrong setting is a sentence and exit code 2, never a traceback."""
    sys.path.append(os.getcwd())  # where modules of the user's own lie
    os.environ.setdefault(CLUSTERS, "0")  # before one of them imports ray
    try:
        app()
    except ConfigError as error:
        for line in str(error).splitlines():
            complain(line)
        sys.exit(2)
    except RuntimeError as error:
        from marlcomm.disk import DiskError

        if not isinstance(error, DiskError):
            raise
        complain(str(error))
        sys.exit(1)


def _version(wanted: bool) -> None:
    if wanted:
        out.print(f"marlcomm {marlcomm.__version__}", highlight=False)
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="show the version")
    ] = False,
) -> None:
    pass
