"""The command line of the settings: eager-llm settings."""

import json
from typing import Annotated

import typer


def settings_command(
    schema: Annotated[
        bool,
        typer.Option("--schema", help="print the JSON Schema of a settings file instead"),
    ] = False,
) -> None:
    """List every setting with its default and meaning.

    Example: eager-llm settings --schema > settings.schema.json
    """
    from eager_llm.settings import describe, settings_schema

    text = json.dumps(settings_schema(), indent=2) if schema else describe()
    typer.echo(text)
