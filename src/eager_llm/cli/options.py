"""Options that several commands share."""

from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer


def renamed(name: str) -> Callable[[typer.CallbackParam, str], str]:
    """Return the callback of an option's earlier name: it prints the current name.

    Args:
        name: the current name.
    """

    def note(option: typer.CallbackParam, value: str) -> str:
        """Print the current name where the earlier one was used."""
        if value:
            typer.echo(f"note: {option.opts[0]} is now called {name}", err=True)
        return value

    return note


BundleOption = Annotated[Path, typer.Option(help="the bundle's folder")]
FeaturesOption = Annotated[
    Path | None,
    typer.Option(help="published features; default: beside the bundle"),
]
SetOption = Annotated[
    list[str] | None,
    typer.Option("--set", help="override a setting, as section.name=value; repeatable"),
]
SettingsOption = Annotated[
    Path | None,
    typer.Option("--settings", help="YAML file of settings"),
]
WaiveOption = Annotated[
    str,
    typer.Option(
        "--waive",
        help="gates that may fail, separated by commas; the report keeps the decision",
    ),
]
EarlierWaiveOption = Annotated[
    str,
    typer.Option("--continue-without", hidden=True, callback=renamed("--waive")),
]


def waived_overrides(*waived: str) -> list[str]:
    """Return the overrides of settings that let gates fail.

    Args:
        waived: names of gates, separated by commas.

    Returns:
        One `section.waived=names` for each section of the settings that gates belong to.
    """
    from eager_llm.validation.gate_names import BUNDLE_GATES

    names_of_section: dict[str, list[str]] = {}
    for name in ",".join(waived).split(","):
        name = name.strip()
        if name:
            section = "acceptance" if name in BUNDLE_GATES else "gates"
            names_of_section.setdefault(section, []).append(name)
    return [f"{section}.waived={','.join(names)}" for section, names in names_of_section.items()]
