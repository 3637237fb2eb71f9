"""The command line of item indices: eager-llm index build, assign, refresh, remove, inspect."""

from pathlib import Path
from typing import Annotated

import typer

from eager_llm.cli.options import SettingsOption
from eager_llm.core.errors import UserError
from eager_llm.core.files import whole_file
from eager_llm.data.tables import read_item_ids
from eager_llm.settings import SOURCES

index_app = typer.Typer(
    help="Build item indices, and change them without moving the items that are there.\n\n"
    "Embeddings are .npy files, float [items, dim], rows in the order of --items; "
    "a pattern or a URI names many: --embedding 'semantic=s3://bucket/semantic-*.npy'. "
    "Every change is a new file that names its parent.",
    no_args_is_help=True,
)

IndexArgument = Annotated[
    Path,
    typer.Argument(help="Parquet of an item index"),
]
ItemsOption = Annotated[
    Path,
    typer.Option(help="Parquet or CSV with a column item_id, a row an embedding"),
]
EmbeddingOption = Annotated[
    list[str],
    typer.Option(
        "--embedding",
        help="source=files, the source one of semantic, behaviour; repeatable",
    ),
]
OutOption = Annotated[
    Path,
    typer.Option(help="Parquet to write"),
]


@index_app.command()
def build(
    items: ItemsOption,
    embedding: EmbeddingOption,
    out: OutOption,
    jobs: Annotated[
        Path | None,
        typer.Option(help="folder for finished parts, so that a build that was cut off goes on"),
    ] = None,
    settings: SettingsOption = None,
    overrides: Annotated[
        list[str] | None,
        typer.Option("--set", help="such as index.branching=64"),
    ] = None,
) -> None:
    """Build an index: balanced hierarchical k-means, or another builder, one tree a source.

    The sources stand in an item's path in the order in which they are given. Ray runs the parts
    here, or on the cluster of RAY_ADDRESS; index.workers=0 does without it.

    Example: eager-llm index build --items items.parquet --embedding semantic=semantic.npy
    --embedding behaviour=behaviour.npy --out index.parquet --set index.branching=256
    --set index.builder=balanced
    """
    from eager_llm.index.build import build_index
    from eager_llm.settings import Settings

    embeddings = parse_embeddings(embedding)
    all_settings = Settings.read(settings, overrides)
    index_settings = all_settings.index.replace(sources=list(embeddings))
    item_ids = read_item_ids(items)
    built = build_index(item_ids, embeddings, index_settings, all_settings.seed, jobs)
    built.save(out)
    typer.echo(f"{out}: {len(built.item_ids)} items, {built.levels} tokens each, no two alike")


@index_app.command()
def assign(
    index: IndexArgument,
    items: ItemsOption,
    embedding: EmbeddingOption,
    out: OutOption,
) -> None:
    """Give new items the free leaves nearest to them; no existing item moves.

    --items and --embedding hold the new items only.

    Example: eager-llm index assign index.parquet --items new.parquet
    --embedding semantic=new.npy --out next.parquet
    """
    from eager_llm.index.item_index import ItemIndex
    from eager_llm.index.versions import assign_items

    item_ids = read_item_ids(items)
    successor = assign_items(ItemIndex.load(index), item_ids, parse_embeddings(embedding))
    successor.save(out)
    typer.echo(
        f"{out}: version {successor.version}, {len(item_ids)} items added, "
        f"{len(successor.item_ids)} in all; none moved"
    )


@index_app.command()
def refresh(
    index: IndexArgument,
    items: ItemsOption,
    embedding: EmbeddingOption,
    out: OutOption,
    tolerance: Annotated[
        float,
        typer.Option(
            min=0,
            help="how much farther an item may be from its path, in mean squared distances",
        ),
    ] = 0.5,
    moved: Annotated[
        Path | None,
        typer.Option(help="CSV for who moved, from where to where, and why"),
    ] = None,
) -> None:
    """Fit the index to new embeddings of its items; only items whose path no longer fits move.

    A space that was turned or scaled as a whole, as by training an encoder anew, moves hardly any.

    Example: eager-llm index refresh index.parquet --items items.parquet
    --embedding semantic=new.npy --embedding behaviour=new-behaviour.npy --out next.parquet
    --moved moved.csv
    """
    from eager_llm.index.item_index import ItemIndex
    from eager_llm.index.refresh import refresh_index

    result = refresh_index(
        ItemIndex.load(index),
        read_item_ids(items),
        parse_embeddings(embedding),
        tolerance,
    )
    result.index.save(out)
    if moved:
        with whole_file(moved) as draft:
            result.moved.to_csv(draft, index=False)
    count = result.moved["item_id"].nunique()
    total = len(result.index.item_ids)
    typer.echo(f"{out}: version {result.index.version}, {count} of {total} items moved")
    for (source, level), group in result.moved.groupby(["source", "level"]):
        typer.echo(
            f"  {len(group)} by {source}, first unfit at level {level}: "
            f"squared distance {group['error_then'].mean():.3f} when placed, "
            f"{group['error_now'].mean():.3f} now, "
            f"{group['error_moved'].mean():.3f} at the new place"
        )
    for source, stayed in result.stayed_unfit.items():
        if stayed:
            typer.echo(f"  {stayed} by {source} stayed: no free leaf is nearer")


@index_app.command()
def remove(
    index: IndexArgument,
    out: OutOption,
    item: Annotated[
        list[str] | None,
        typer.Option(help="an item id; repeatable"),
    ] = None,
    items: Annotated[
        Path | None,
        typer.Option(help="Parquet or CSV with a column item_id"),
    ] = None,
) -> None:
    """Take items out; their leaves are free for new ones.

    Example: eager-llm index remove index.parquet --item B00123 --item B00456
    --out next.parquet
    """
    from eager_llm.index.item_index import ItemIndex
    from eager_llm.index.versions import remove_items

    removed = list(item or [])
    if items:
        removed += read_item_ids(items)
    if not removed:
        raise UserError("name the items that go: --item, or --items with a file")
    successor = remove_items(ItemIndex.load(index), removed)
    successor.save(out)
    typer.echo(
        f"{out}: version {successor.version}, {successor.change['removed']} items removed, "
        f"{len(successor.item_ids)} left"
    )


def parse_embeddings(arguments: list[str]) -> dict[str, str]:
    """Return source -> files from arguments such as semantic=semantic.npy, in their order.

    Raises:
        UserError: an argument is not of that form, of an unknown source, or given twice.
    """
    embeddings: dict[str, str] = {}
    for text in arguments:
        source, _, location = text.partition("=")
        if not location or source not in SOURCES:
            raise UserError(
                f"--embedding {text!r}: write it as source=files, "
                f"the source one of {', '.join(SOURCES)}"
            )
        if source in embeddings:
            raise UserError(
                f"--embedding {text!r}: {source} is given twice; one pattern can name many files"
            )
        embeddings[source] = location
    return embeddings
