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
        fingerprint: digest of the source and the code; another one runs the step again.
        settings: sections `seed`, `data`.
        tables: the cleaned tables, as Parquet.
    """
    from eager_llm.steps.component_call import run_step
    from eager_llm.steps.ingest_data import ingest

    metadata = run_step(ingest, source, settings, tables)
    tables.metadata.update(metadata, fingerprint=fingerprint)
