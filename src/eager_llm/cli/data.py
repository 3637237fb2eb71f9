"""The command line of data: eager-llm import, features, erase."""

from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from eager_llm.core.errors import UserError
from eager_llm.core.files import in_store


def import_command(
    source: Annotated[
        str,
        typer.Argument(
            help="folder of the log or its URI, a database's URL or env:NAME, or `demo`"
        ),
    ],
    out: Annotated[Path, typer.Option(help="folder for the tables")],
    mapping: Annotated[
        Path | None, typer.Option(help="YAML file: the source's files and columns")
    ] = None,
    column: Annotated[list[str] | None, typer.Option(help="table.field=column, repeatable")] = None,
    query: Annotated[
        list[str] | None, typer.Option(help="table=SELECT ..., repeatable; for databases")
    ] = None,
    form: Annotated[str, typer.Option(help="the source's form, where it is not found out")] = "",
    append: Annotated[
        bool, typer.Option("--append", help="add to the tables that are there")
    ] = False,
    settings: Annotated[
        Path | None, typer.Option("--settings", help="YAML file of settings")
    ] = None,
    overrides: Annotated[
        list[str] | None, typer.Option("--set", help="section.name=value; repeatable")
    ] = None,
) -> None:
    """Bring a log and its catalogue into clean tables, and say what was dropped.

    Known forms: LC-Rec JSON, RecBole atomic files, MovieLens, Amazon Reviews 2018 and 2023, events.* with
    items.* and intentions.* as CSV, TSV, Parquet or JSON lines (plain or gzip), an event topic as JSON
    lines, a SQL query. Other names: --column, or an import.yaml in the folder. Rows that were refused or
    dropped are kept in OUT/dropped.

    Examples: eager-llm import my-shop --out tables --column events.user_id=customer

    SHOP=postgresql://... eager-llm import env:SHOP --out tables --query "events=SELECT user_id, item_id, timestamp FROM log"
    """
    from eager_llm.data.importing.column_mapping import MAPPING_FILE, ColumnMapping
    from eager_llm.settings import Settings
    from eager_llm.steps.data import ingest

    said = Path(source) / MAPPING_FILE
    found = ColumnMapping.read(mapping or said) if mapping or said.is_file() else ColumnMapping()
    values = {"form": form or found.form, "queries": {**found.queries, **_queries(query or [])}}
    ColumnMapping.from_dict(values, "the command line")
    found = replace(found, **values).with_columns(column or [])  # type: ignore[arg-type]
    # The import.yaml of a store is read with the rest of it, unless something here is put in its place.
    own = mapping or column or query or form or not in_store(source)
    metadata = ingest(
        source, Settings.read(settings, overrides), out, found if own else None, append
    )
    for name, value in metadata.items():
        typer.echo(f"{name.replace('_', ' '):<30} {value}")


def _queries(flags: list[str]) -> dict[str, str]:
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
        str | None, typer.Option(help="a user, whose online features are shown")
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
    store = Features(project_home() / "feature_repo", folder)
    if user is None:
        for row in store.services():
            typer.echo(
                f"{row['name']:<32} {row['published'][:19]:<20} {row['items']:>9} items  {row['features']}"
            )
        return
    history = store.online_history(user)
    if history is None:
        raise UserError(f"user {user!r} is not in the online store {folder}")
    typer.echo(f"{'items':<16} {', '.join(history)}")
    for name, value in store.request_features(user, pd.Timestamp.now("UTC")).items():
        typer.echo(f"{name:<16} {value}")


def erase_command(
    users: Annotated[list[str], typer.Argument(help="ids of the users")],
    folders: Annotated[
        list[Path],
        typer.Option("--in", help="runs, tables or features to look through; repeatable"),
    ],
) -> None:
    """Remove users' events, features and histories everywhere, and say where was looked.

    Tables and published features are rewritten, rows of the online store (SQLite, or the Redis of
    EAGER_LLM_ONLINE_STORE) and of the warehouse of EAGER_LLM_OFFLINE_STORE deleted. Bundles trained on the users are named with their date: train anew
    to be rid of what the model has learned. The source of the log is not ours to change: erase there first.

    Example: eager-llm erase customer-0007 --in runs
    """
    from eager_llm.core.project import project_home
    from eager_llm.release.erasure import bundle_source, erase

    done = erase(users, folders, project_home() / "feature_repo")
    for file, count in done.searched.items():
        typer.echo(f"{count:>8} removed  {file}")
    for store, count in done.online.items():
        typer.echo(f"{count:>8} removed  online store of {store}")
    for table, count in done.warehouse.items():
        typer.echo(f"{count:>8} removed  warehouse {table}")
    for bundle, packed in done.bundles.items():
        typer.echo(f"trained on them: {bundle}, packed {packed} from {bundle_source(bundle)}")
    total = sum(sum(found.values()) for found in (done.searched, done.online, done.warehouse))
    kinds = Counter(file.suffix or file.name for file in done.other)
    if kinds:
        typer.echo(
            "not looked into: "
            + ", ".join(f"{count} {kind}" for kind, count in sorted(kinds.items()))
        )
    typer.echo(
        f"looked at {len(done.searched)} files and {len(done.online)} online stores and {len(done.warehouse)} tables of a warehouse; removed {total}"
    )
    for file, reason in done.unreadable.items():
        typer.echo(f"NOT READ, look yourself: {file}: {reason}", err=True)
    if done.unreadable:
        raise typer.Exit(1)
