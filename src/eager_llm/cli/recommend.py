"""The command line of recommendations: eager-llm recommend."""

from pathlib import Path
from typing import Annotated

import typer

from eager_llm.cli.options import BundleOption, FeaturesOption
from eager_llm.core.errors import UserError
from eager_llm.core.project import project_home


def recommend_command(
    bundle: BundleOption = Path("runs/demo/bundle"),
    items: Annotated[
        str | None,
        typer.Option(help="item ids, oldest first, separated by commas"),
    ] = None,
    user: Annotated[str | None, typer.Option(help="a user of the online store")] = None,
    features: FeaturesOption = None,
    k: Annotated[int, typer.Option(min=1, max=100, help="how many")] = 5,
    filters: Annotated[
        list[str] | None,
        typer.Option(
            "--filter",
            help="COLUMN=VALUE|VALUE, COLUMN!=VALUE, COLUMN<=NUMBER or >=; repeatable",
        ),
    ] = None,
    exclude_history: Annotated[
        bool,
        typer.Option("--exclude-history", help="leave out the items of the history"),
    ] = False,
) -> None:
    """Recommend for a history or a user, from a bundle.

    Example: eager-llm recommend --user customer-0007 --filter 'price<=30'
    --filter 'categories=Cycling|Camping'
    """
    from eager_llm.bundle.bundle import Bundle
    from eager_llm.decoding.filters import parse_condition
    from eager_llm.decoding.recommender import Request

    if (items is None) == (user is None):
        raise UserError("give either --items or --user")
    loaded = Bundle.load(bundle)
    if user is not None:
        history = _online_history(user, features or bundle.parent / "features")
    else:
        history = [item.strip() for item in str(items).split(",") if item.strip()]
    unknown = [item for item in history if item not in loaded.items.index]
    if unknown:
        raise UserError(f"the bundle does not know the items {', '.join(unknown)}")
    request = Request(
        history,
        k,
        filter=frozenset(map(parse_condition, filters or [])),
        exclude_history=exclude_history,
    )
    (answer,) = loaded.recommender.answer([request])
    for rank, (item, score) in enumerate(answer.items, start=1):
        typer.echo(f"{rank:>3}. {loaded.title(item)}  ({item}, score {score:.2f})")
    if answer.reason:
        typer.echo(answer.reason)


def _online_history(user: str, features: Path) -> list[str]:
    """Return a user's history in the online store.

    Raises:
        UserError: the store does not know the user.
    """
    from eager_llm.features.feature_store import Features

    store = Features(project_home() / "feature_repo", features)
    history = store.online_history(user)
    if history is None:
        raise UserError(f"user {user!r} is not in the online store {store.folder}")
    return history
