"""Gate the tables: nothing broken goes on."""

from kfp import dsl

from components.images import PYTHON_DATA


@dsl.component(base_image=PYTHON_DATA, install_kfp_package=False)
def validate_data(
    tables: dsl.Input[dsl.Dataset],
    settings: dict,
    validated: dsl.Output[dsl.Dataset],
    report: dsl.Output[dsl.HTML],
    metrics: dsl.Output[dsl.Metrics],
    run: str = "",
) -> None:
    """Check the tables with Great Expectations; fail, naming the rows, if a gate does not hold.

    Args:
        tables: from ingest_data.
        settings: sections `gates`, `index`.
        validated: the same tables, once they passed.
        report: every rule with its outcome; written in any case.
        metrics: gates run and passed.
        run: folder that stands from night to night: the log is also held against the one accepted there last.
    """
    from pathlib import Path

    from eager_llm.core.errors import UserError
    from eager_llm.core.files import write_json
    from eager_llm.settings import Settings
    from eager_llm.steps.data import validate

    try:
        figures = validate(
            Path(tables.path),
            Settings.from_dict(settings),
            Path(validated.path),
            Path(report.path),
            run,
        )
    except UserError as error:
        # The message says it all; a traceback above it would only hide it.
        raise SystemExit(f"error: {error}") from None
    for name, value in figures.items():
        metrics.log_metric(name, value)
    # kfp.local re-uses a step only if all its artifacts are files.
    write_json(Path(metrics.path), figures)
