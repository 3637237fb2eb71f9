"""The command line of data: eager-llm import, features, erase."""

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from eager_llm.cli.options import SetOption, SettingsOption
from eager_llm.core.errors import UserError
from eager_llm.core.stores import in_store

if TYPE_CHECKING:
    from eager_llm.data.importing.column_mapping import ColumnMapping
    from eager_llm.release.erasure import ErasureResult

# Of an ISO date, up to its seconds.
SECONDS_LENGTH = 19


def import_command(
    source: Annotated[
        str,
        typer.Argument(
            help="folder of the log or its URI, a database's URL or env:NAME, or `demo`"
        ),
    ],
    out: Annotated[
        Path,
        typer.Option(help="folder for the tables"),
    ],
    mapping: Annotated[
        Path | None,
        typer.Option(help="YAML file: the source's files and columns"),
    ] = None,
    column: Annotated[
        list[str] | None,
        typer.Option(help="table.field=column, repeatable"),
    ] = None,
    query: Annotated[
        list[str] | None,
        typer.Option(help="table=SELECT ..., repeatable; for databases"),
    ] = None,
    log_format: Annotated[
        str,
        typer.Option("--format", help="the source's format, where it is not recognised"),
    ] = "",
    earlier_format: Annotated[str, typer.Option("--form", hidden=True)] = "",
    append: Annotated[bool, typer.Option(help="add to the tables that are there")] = False,
    settings: SettingsOption = None,
    overrides: SetOption = None,
) -> None:
    """Bring a log and its catalogue into clean tables, and say what was dropped.

    Known formats: LC-Rec JSON, RecBole atomic files, MovieLens, Amazon
    Reviews 2018 and 2023, events.* with items.* and intentions.* as CSV, TSV,
    Parquet or JSON lines (plain or gzip), an event topic as JSON lines, a SQL
    query. Other names: --column, or an import.yaml in the folder. Rows that
    were refused or dropped are kept in OUT/dropped.

    Examples: eager-llm import my-shop --out tables --column events.user_id=customer

    SHOP=postgresql://... eager-llm import env:SHOP --out tables --query "events=SELECT ..."
    """
    from eager_llm.settings import Settings
    from eager_llm.steps.ingest_data import ingest

    log_format = log_format or earlier_format
    columns = column or []
    queries = _queries(query or [])
    column_mapping: ColumnMapping | None = None
    # The import.yaml of a store is read with the store's other files, unless an option replaces it.
    has_options = mapping or columns or queries or log_format
    if has_options or not in_store(source):
        column_mapping = _column_mapping(source, mapping, log_format, queries, columns)
    metadata = ingest(source, Settings.read(settings, overrides), out, column_mapping, append)
    _show_metadata(metadata)


def _show_metadata(metadata: dict[str, Any]) -> None:
    """Print what an import says of the log, a line each."""
    for name, value in metadata.items():
        label = name.replace("_", " ")
        typer.echo(f"{label:<30} {value}")


def _column_mapping(
    source: str, file: Path | None, log_format: str, queries: dict[str, str], columns: list[str]
) -> "ColumnMapping":
    """Return the mapping of a file, by default the source's own, with the options put into it."""
    from eager_llm.data.importing.column_mapping import MAPPING_FILE, ColumnMapping

    own_file = Path(source) / MAPPING_FILE
    mapping = ColumnMapping()
    if file is not None or own_file.is_file():
        mapping = ColumnMapping.read(file or own_file)
    options: dict[str, Any] = {
        "format": log_format or mapping.format,
        "queries": {**mapping.queries, **queries},
    }
    ColumnMapping.from_dict(options, "the command line")
    return replace(mapping, **options).with_columns(columns)


def _queries(flags: list[str]) -> dict[str, str]:
    """Return table → SQL of flags written as table=SELECT."""
    queries = {}
    for flag in flags:
        table, separator, sql = flag.partition("=")
        if not separator:
            raise UserError(f"--query {flag!r}: write it as table=SELECT ...")
        queries[table] = sql
    return queries


def features_command(
    folder: Annotated[Path, typer.Argument(help="published features")] = Path("runs/demo/features"),
    user: Annotated[
        str | None,
        typer.Option(help="a user, whose online features are shown"),
    ] = None,
) -> None:
    """List the feature services, one for each model version, or show what is online of a user.

    Example: eager-llm features runs/demo/features --user customer-0007
    """
    import pandas as pd

    from eager_llm.core.project import project_home
    from eager_llm.features.feature_store import Features

    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder; name the published features of a run")
    repository = project_home() / "feature_repo"
    store = Features(repository, folder)
    if user is None:
        for service in store.services():
            typer.echo(_service_line(service))
        return
    history = store.online_history(user)
    if history is None:
        raise UserError(f"user {user!r} is not in the online store {folder}")
    items = ", ".join(history)
    typer.echo(f"{'items':<16} {items}")
    request_time = pd.Timestamp.now("UTC")
    features = store.request_features(user, request_time)
    for name, value in features.items():
        typer.echo(f"{name:<16} {value}")


def _service_line(service: dict[str, str]) -> str:
    """Return a feature service with its date, its items and its features."""
    name = service["name"]
    published = service["published"][:SECONDS_LENGTH]
    items = service["items"]
    features = service["features"]
    return f"{name:<32} {published:<20} {items:>9} items  {features}"


def erase_command(
    users: Annotated[list[str], typer.Argument(help="ids of the users")],
    folders: Annotated[
        list[Path],
        typer.Option("--in", help="runs, tables or features to look through; repeatable"),
    ],
) -> None:
    """Remove users' events, features and histories everywhere, and say where was looked.

    Tables and published features are rewritten. Rows of the online store
    (SQLite, or the Redis of EAGER_LLM_ONLINE_STORE) and of the warehouse of
    EAGER_LLM_OFFLINE_STORE are deleted. Bundles trained on the users are
    named with their date: train anew to be rid of what the model has learned.
    The source of the log is not ours to change: erase there first.

    Every byte is searched at the end. The status is 1 if a file could not be
    looked into, or still names one of them.

    Example: eager-llm erase customer-0007 --in runs
    """
    from eager_llm.core.project import project_home
    from eager_llm.release.erasure import bundle_source, erase

    erased = erase(users, folders, project_home() / "feature_repo")
    for file, count in erased.searched.items():
        typer.echo(f"{count:>8} removed  {file}")
    for store, count in erased.online.items():
        typer.echo(f"{count:>8} removed  online store of {store}")
    for table, count in erased.warehouse.items():
        typer.echo(f"{count:>8} removed  warehouse {table}")
    for bundle, packed in erased.bundles.items():
        source = bundle_source(bundle)
        typer.echo(f"trained on them: {bundle}, packed {packed} from {source}")
    typer.echo(_erased_total(erased))
    for file, reason in erased.unreadable.items():
        typer.echo(f"NOT READ, look yourself: {file}: {reason}", err=True)
    if erased.unreadable:
        raise typer.Exit(1)


def _erased_total(erased: "ErasureResult") -> str:
    """Say in how many places was looked, and how much was removed."""
    total = 0
    for counts in (erased.searched, erased.online, erased.warehouse):
        total += sum(counts.values())
    files = len(erased.searched)
    stores = len(erased.online)
    tables = len(erased.warehouse)
    return (
        f"looked at {files} files and {stores} online stores and {tables} tables of a warehouse; "
        f"removed {total}"
    )
