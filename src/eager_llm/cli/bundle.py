"""The command line of bundles: eager-llm bundle verify."""

from pathlib import Path
from typing import Annotated

import typer

bundle_app = typer.Typer(help="Look after bundles.", no_args_is_help=True)


@bundle_app.command()
def verify(bundle: Annotated[Path, typer.Argument(help="the bundle's folder")]) -> None:
    """Check every file of a bundle against its manifest; a changed byte is refused.

    Example: eager-llm bundle verify runs/demo/bundle
    """
    from eager_llm.bundle.verify import verify_bundle

    files = verify_bundle(bundle)["files"]
    megabytes = sum(entry["bytes"] for entry in files.values()) / 1e6
    typer.echo(f"{bundle}: {len(files)} files, {megabytes:.1f} MB, all as packed")
