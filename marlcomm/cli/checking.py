"""marlcomm check: a channel or a world of one's own against its contract."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape

from marlcomm import registry
from marlcomm.cli.shell import Imports, Overrides, checked_settings, out, say
from marlcomm.registry import ConfigError

if TYPE_CHECKING:
    from marlcomm.contract import Finding

app = typer.Typer(help="Check a channel or a world of yours against its contract.", no_args_is_help=True)


@app.command(name="channel")
def check_channel(
    name: Annotated[str, typer.Argument(help="name of a registered channel")],
    overrides: Overrides = None,
    message_size: Annotated[int, typer.Option(min=1, help="width of the message vector")] = 8,
    imports: Imports = None,
) -> None:
    """Check every promise that a channel must keep."""
    settings = checked_settings("channel", name, overrides, imports)
    registry.CHANNELS.check(name, settings).fit(message_size)  # type: ignore[attr-defined]
    with out.status("importing torch"):
        from marlcomm.channels.check import check_channel as check
        from marlcomm.policies.team import make_channel
    _print_findings(f"channel {name}", check(lambda: make_channel(name, settings, message_size)))


@app.command(name="env")
def check_env(
    name: Annotated[str, typer.Argument(help="name of a registered environment")],
    overrides: Overrides = None,
    device: Annotated[str, typer.Option(help="where its tensors are: cpu, cuda, ...")] = "cpu",
    imports: Imports = None,
) -> None:
    """Check every promise that a batched world must keep."""
    settings = registry.ENVS.check(name, checked_settings("env", name, overrides, imports))
    with out.status("importing torch"):
        import torch

        from marlcomm.envs.check import check_env as check

        try:
            torch.empty(0, device=device)
        except (RuntimeError, AssertionError) as error:
            raise ConfigError(f"--device: got {device!r}, which is not here: {error}") from None
        world = registry.ENVS.row(name).load()
    _print_findings(f"env {name}", check(lambda: world(settings, device)))


def _print_findings(what: str, findings: list[Finding]) -> None:
    """What was found, promise by promise; exit code 1 if one is broken."""
    before = None
    for finding in findings:
        mark = "[green]ok[/green]  " if finding.problem is None else "[red]fail[/red]"
        if finding.unchecked is not None:
            mark = "[yellow]?[/yellow]   "
        say(f"{mark} {escape(finding.promise)}")
        sentence = finding.problem or finding.unchecked
        if sentence is not None:
            say(f"     {'as above' if sentence == before else escape(sentence)}")
        before = sentence
    broken = sum(finding.problem is not None for finding in findings)
    if broken:
        out.print(f"{broken} of {len(findings)} promises are broken")
        raise typer.Exit(1)
    unchecked = sum(finding.unchecked is not None for finding in findings)
    rest = f"; {unchecked} could not be checked, or not wholly" if unchecked else ""
    say(f"{what} keeps all {len(findings) - unchecked} promises{rest}")
