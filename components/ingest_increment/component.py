"""Join what arrived to the accepted log."""

from kfp import dsl

from components.images import PYTHON_DATA


@dsl.component(base_image=PYTHON_DATA, install_kfp_package=False)
def ingest_increment(
    arrivals: str, run: str, settings: dict, tables: dsl.Output[dsl.Dataset]
) -> None:
    """Import a night's events and items, and add them to the log that was accepted before.

    Args:
        arrivals: a folder that holds them, in any form that an import reads.
        run: folder that stands from night to night; without an accepted log in it, the arrivals are the log.
        settings: sections `seed`, `data`.
        tables: the whole log, cleaned, as Parquet.
    """
    from pathlib import Path

    from eager_llm.core.errors import UserError
    from eager_llm.settings import Settings
    from eager_llm.steps.refresh import ingest_increment

    try:
        tables.metadata.update(
            ingest_increment(arrivals, Path(run), Settings.from_dict(settings), Path(tables.path))
        )
    except UserError as error:
        raise SystemExit(f"error: {error}") from None
