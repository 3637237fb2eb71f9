"""Add an increment of events and items to the accepted log."""

from kfp import dsl

from components.images import PYTHON_DATA


@dsl.component(base_image=PYTHON_DATA, install_kfp_package=False)
def ingest_increment(
    arrivals: str, run: str, settings: dict, tables: dsl.Output[dsl.Dataset]
) -> None:
    """Import new events and items, and add them to the accepted log of the run.

    Args:
        arrivals: a folder that holds them, in any format that an import reads.
        run: folder of the run; without an accepted log in it, the arrivals are the log.
        settings: sections `seed`, `data`.
        tables: the whole log, cleaned, as Parquet.
    """
    from pathlib import Path

    from eager_llm.steps.component_call import run_step
    from eager_llm.steps.ingest_increment import ingest_increment

    metadata = run_step(ingest_increment, arrivals, Path(run), settings, tables)
    tables.metadata.update(metadata)
