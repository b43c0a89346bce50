"""marlcomm list."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.markup import escape
from rich.table import Table

from marlcomm import config, registry
from marlcomm.cli.shell import Imports, out
from marlcomm.registry import ConfigError


def list_things(
    kind: Annotated[str, typer.Argument(metavar="envs|channels|policies|algorithms", help="what to list")],
    name: Annotated[str | None, typer.Argument(help="one of them: list its settings", show_default=False)] = None,
    imports: Imports = None,
) -> None:
    """List what is registered, or the settings of one thing."""
    config.import_plugins(imports or [])
    tables = {table.plural: table for table in registry.TABLES.values()}
    if kind not in tables:
        raise ConfigError(f"list: unknown kind {kind!r}; {registry.nearest(kind, tables)}")
    table = Table(box=None, pad_edge=False)
    table.add_column("name" if name is None else "setting", style="bold")
    if name is None:
        tables[kind].discover()
        table.add_column("what it is")
        for row in tables[kind].rows.values():
            table.add_row(row.name, row.summary)
    else:
        table.add_column("default")
        table.add_column("what it does")
        for key, field in tables[kind].row(name).settings_model().model_fields.items():
            default = "" if field.is_required() else str(field.get_default(call_default_factory=True))
            table.add_row(key, escape(default), escape(field.description or ""))
    out.print(table, highlight=False)
