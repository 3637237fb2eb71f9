"""The command line's look at an item index: eager-llm index inspect."""

from pathlib import Path
from typing import Annotated

import typer

from eager_llm.cli.index import IndexArgument, parse_embeddings
from eager_llm.core.files import whole_file

OutOption = Annotated[
    Path,
    typer.Option(help="HTML page to write"),
]
ItemsOption = Annotated[
    Path | None,
    typer.Option(help="Parquet or CSV of item_id and, where there are, title and categories"),
]
EmbeddingOption = Annotated[
    list[str] | None,
    typer.Option(
        "--embedding",
        help="source=files, rows in the order of --items (else of the index); repeatable",
    ),
]
BranchOption = Annotated[
    list[str] | None,
    typer.Option("--branch", help='a branch to look into, such as "<a_17>"; repeatable'),
]
SeedOption = Annotated[
    int,
    typer.Option(min=0, help="of the branches and items that are drawn"),
]


def inspect_command(
    index: IndexArgument,
    out: OutOption = Path("index.html"),
    items: ItemsOption = None,
    embedding: EmbeddingOption = None,
    branch: BranchOption = None,
    seed: SeedOption = 0,
) -> None:
    """Show what an index is like, as one HTML page that needs no network.

    A picture of each source's tree, how evenly its nodes are filled, how much each token says, and
    the titles in some branches. With the embeddings also whether items that are alike share their
    first tokens: the 10 nearest neighbours of 1,000 drawn items, beside chance. --branch takes any
    tokens: "<a_17><b_3>" is a branch of a branch, "<b_3>" all items with that label.

    Example: eager-llm index inspect index.parquet --items items.parquet
    --embedding semantic=semantic.npy --branch "<a_17>" --out index.html
    """
    from eager_llm.data.tables import item_titles, read_items
    from eager_llm.index.inspect import inspect_index, render_inspect
    from eager_llm.index.item_index import ItemIndex

    embeddings = parse_embeddings(embedding or [])
    titles = None
    item_ids = None
    if items is not None:
        table = read_items(items)
        titles = item_titles(table)
        item_ids = table["item_id"].tolist()
    data = inspect_index(
        ItemIndex.load(index),
        titles=titles,
        embeddings=embeddings,
        seed=seed,
        item_ids=item_ids,
        branches=branch or [],
    )
    page = render_inspect(data)
    with whole_file(out) as draft:
        draft.write_text(page, encoding="utf-8")
    megabytes = len(page) / 1e6
    typer.echo(f"{out}: {data.items} items, version {data.version}, {megabytes:.1f} MB")
    for note in data.notes:
        typer.echo(f"note: {note}", err=True)
