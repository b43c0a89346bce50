"""Tables that a person reads at the end of a run."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from rich import box
from rich.table import Table

from marlcomm.analysis.evidence import way

_BITS = {
    "coded_bits_per_agent_step": "coded bits/\nagent step",
    "prefix_bits_per_message": "prefix bits/\nmessage",
    "wire_bytes_per_message": "bytes/\nmessage",
}
_BOTTLENECK = {"bottleneck_bits_per_agent_step": "bottleneck bits/\nagent step"}


def summary_table(summary: dict[str, Any]) -> Table:
    """The run between floor and ceiling; see `marlcomm.analysis.evaluation.evaluate_run` for the keys."""
    read = summary["channel_settings"]["placement"] == "readout"
    bits = _BITS | _BOTTLENECK if read else _BITS
    table = Table(
        title=f"{summary['policy']} + {summary['channel']}{' at the read-out' * read} on {summary['env']} "
        f"{summary['setting']}\n"
        f"{summary['episodes']} episodes, the same worlds for all",
        box=box.SIMPLE_HEAD,
        pad_edge=False,
        padding=(0, 1, 0, 0),
    )
    table.add_column("", no_wrap=True)
    for column in ("success", "return", *bits.values()):
        table.add_column(column, justify="right", no_wrap="/" not in column, vertical="bottom")
    if "floor" in summary:
        _add(table, f"floor: {_words(summary['floor'])}", summary, "floor", bits)
    stored = summary.get("silent")
    if stored:
        table.add_row(
            "trained in silence",
            f"{stored['success']:.3f}",
            f"{stored['return']:{_decimals(stored['return'])}}",
            *["0" for _ in bits],
        )
    _add(table, "[bold]sampled actions[/bold]", summary, "evaluation", bits)
    _add(table, "greedy actions", summary, "greedy", bits)
    if "shuffled/success" in summary:
        _add(table, "hearing other episodes", summary, "shuffled", bits)
    if "ceiling" in summary:
        _add(table, f"ceiling: {_words(summary['ceiling'])}", summary, "ceiling", bits)
    notes = [f"trained on {summary['env_steps']:,} env steps in {_minutes(summary['training_seconds'])}"]
    notes += [f"no evidence yet: {reason}" for reason in summary["no_evidence"]]
    notes.append(f"evaluated in {_minutes(summary['evaluation_seconds'])}")
    notes += _diagnostics(summary)
    own = summary.get("evaluation/env_message_bits_per_agent_step")
    if own is not None:
        notes.append(f"said beside the channel, by actions of the world's own: {own:.2f} bits/agent step")
    ways = [f"{come:.0%} in {name}" for name in ("success", "return") if (come := way(summary, name)) is not None]
    if ways:
        notes.append(f"of the way from floor to ceiling: {', '.join(ways)}")
    if stored:
        notes.append(f"silence (committed, {stored['env_steps']:,} env steps): {stored['command']}")
    table.caption = "\n".join(notes)
    table.caption_justify = "left"
    return table


def _diagnostics(summary: dict[str, Any]) -> list[str]:
    """What a coder of whole links writes, and the entropies of messages; nothing where there are floats or silence."""
    figures = {name.removeprefix("evaluation/"): value for name, value in summary.items()}
    if not {"stream_bits_per_agent_step", "nominal_bits_per_message"} <= figures.keys():
        return []
    found = (figures.get(f"{name}_entropy_bits_per_message") for name in ("joint", "factored", "conditional"))
    joint, factored, conditional = ("not estimable" if value is None else f"{value:.2f}" for value in found)
    return [
        f"a range coder for each link: {figures['stream_bits_per_agent_step']:.2f} bits/agent step",
        f"entropy of messages, plug-in, bits/message: {joint}; slot by slot {factored}; given the last {conditional}",
    ]


def _add(table: Table, title: str, summary: dict[str, Any], group: str, bits: Iterable[str]) -> None:
    table.add_row(
        title,
        _with_error(summary, f"{group}/success", ".3f"),
        _with_error(summary, f"{group}/return", _decimals(summary[f"{group}/return"])),
        *(_number(summary.get(f"{group}/{name}")) for name in bits),
    )


def _with_error(summary: dict[str, Any], key: str, form: str) -> str:
    return f"{summary[key]:{form}} ± {summary[f'{key}_standard_error']:{form}}"


def _decimals(value: float) -> str:
    """The format of returns, which some worlds count in hundreds and others in hundredths."""
    return ".2f" if abs(value) >= 1 else ".3f"


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"


def _words(name: str) -> str:
    return name.replace("_", " ")


def _minutes(seconds: float) -> str:
    return f"{seconds / 60:.1f} min" if seconds >= 60 else f"{seconds:.0f} s"
