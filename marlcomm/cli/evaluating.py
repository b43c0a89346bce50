"""marlcomm evaluate, marlcomm decode."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape

from marlcomm.changes import check_evaluated
from marlcomm.cli.shell import RunFolder, Trust, complain, out, say, tell_where
from marlcomm.registry import ConfigError

if TYPE_CHECKING:
    from marlcomm.config import Experiment
    from marlcomm.runs import Run


def evaluate(
    run_folder: RunFolder,
    overrides: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[channel.KEY=VALUE | env.KEY=VALUE]...",
            help="another channel, team size, density or map for the trained team",
            show_default=False,
        ),
    ] = None,
    episodes: Annotated[
        int | None, typer.Option(min=1, help="episodes; by default evaluation.episodes of the run")
    ] = None,
    seed: Annotated[
        int | None, typer.Option(min=0, max=2**31 - 1, help="seed of the evaluation's worlds; by default the run's")
    ] = None,
    wire: Annotated[bool, typer.Option("--wire", help="store every packet, for marlcomm decode RUN")] = False,
    trust: Trust = False,
) -> None:
    """Evaluate a run's last checkpoint between floor and ceiling, and write summary.json.

    With channel.name=post_training channel.bits=4 (say) the trained team talks through another channel, without
    training, and with env.add_rate=0.5 it plays in another density (or size, or map) of its world, where the policy's
    widths allow. The file is named by what was changed, as in summary-vq-codebook_size-8.json or
    summary-episodes-100.json.
    """
    from marlcomm.runs import Run

    run = Run.open(run_folder, trust)
    changes = overrides or []
    check_evaluated(changes)
    if wire and changes:
        raise ConfigError("--wire stores the packets of a run as it was trained: leave out " + ", ".join(changes))
    settings = run.experiment(changes)
    own = {"episodes": (episodes, settings.evaluation.episodes), "seed": (seed, settings.seed)}
    asked = [f"{name}={given}" for name, (given, usual) in own.items() if given not in (None, usual)]
    evaluate_and_tell(run, settings, episodes, seed, [*changes, *asked])
    if wire:
        from marlcomm.analysis.trace import record_run

        with out.status("storing every packet"):
            file = record_run(run, run.experiment(), episodes=episodes, seed=seed)
        say(f"packets in {escape(str(file))}")


def decode(
    run_folder: Annotated[Path, typer.Argument(metavar="RUN", help="run that was evaluated with --wire")],
    trust: Trust = False,
) -> None:
    """Decode every stored packet, and prove that who hears nothing else plays the same."""
    from marlcomm.runs import Run

    run = Run.open(run_folder, trust)
    settings = run.experiment()
    run.last_checkpoint()
    with out.status("decoding"):
        from marlcomm.analysis.trace import prove_run
        from marlcomm.wire import WireError

        try:
            trace = prove_run(run, settings)
        except WireError as error:
            complain(str(error))
            raise typer.Exit(1) from None
    say(
        f"{len(trace.sizes):,} packets of {int(trace.sizes.sum()):,} bytes decoded; played from them alone, all "
        f"{len(trace.returns):,} episodes have the recorded actions and returns (mean {trace.returns.mean():.3f})"
    )


def evaluate_and_tell(
    run: Run, settings: Experiment, episodes: int | None, seed: int | None, changes: list[str] | None = None
) -> None:
    """Evaluate a run, or its team under changes; write and print the summary."""
    run.last_checkpoint()
    with out.status("evaluating") as status:
        from marlcomm.analysis.evaluation import evaluate_run
        from marlcomm.analysis.report import summary_table

        summary = evaluate_run(
            run, settings, episodes=episodes, seed=seed, watch=lambda what: status.update(f"evaluating: {what}")
        )
    file = run.write_summary(summary, changes or ())
    out.print()
    out.print(summary_table(summary))
    tell_where(file)
