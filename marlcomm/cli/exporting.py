"""marlcomm export."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from marlcomm.cli.shell import RunFolder, Trust, command_line, out, tell_where


def export(
    run_folder: RunFolder,
    folder: Annotated[Path, typer.Option("--out", metavar="FOLDER", help="folder for policy.safetensors and .yaml")],
    trust: Trust = False,
) -> None:
    """Write a run's last checkpoint as a policy to take along: `marlcomm.load_policy(FOLDER)` needs neither Ray nor it.

    Its agents act on their observations alone; no pickle is written or read.
    """
    from marlcomm.runs import Run

    run = Run.open(run_folder, trust)
    settings, last = run.experiment(), run.last_checkpoint()
    with out.status("exporting"):
        from marlcomm import checkpoint, deployment
        from marlcomm.analysis.evaluation import load_team

        env, policy = load_team(settings, last)
        origin = {
            "run": settings.name,
            "checkpoint": last.name,
            "env_steps": checkpoint.read(last).counters["env_steps"],
        }
        deployment.export(policy, env.spec, settings, origin | {"command": command_line()}, folder)
        env.close()
    tell_where(folder)
