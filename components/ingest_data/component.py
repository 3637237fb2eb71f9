"""Import a log and its catalogue, clean them, and order them in time."""

from kfp import dsl

from components.images import PYTHON_DATA


@dsl.component(base_image=PYTHON_DATA, install_kfp_package=False)
def ingest_data(
    source: str, fingerprint: str, settings: dict, tables: dsl.Output[dsl.Dataset]
) -> None:
    """Import `source` into the tables of events, items and intentions.

    Args:
        source: a folder that holds the log, or `demo` for the made-up shop.
        fingerprint: what the source and the code were when this ran; a change runs it again.
        settings: sections `seed`, `data`.
        tables: the cleaned tables, as Parquet.
    """
    from pathlib import Path

    from eager_llm.core.errors import UserError
    from eager_llm.settings import Settings
    from eager_llm.steps.data import ingest

    try:
        facts = ingest(source, Settings.from_dict(settings), Path(tables.path))
    except UserError as error:
        raise SystemExit(f"error: {error}") from None
    tables.metadata.update({**facts, "fingerprint": fingerprint})
