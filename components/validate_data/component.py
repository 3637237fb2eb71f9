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
        run: folder of a run whose accepted log is the baseline of the drift; empty: none.
    """
    from eager_llm.steps.component_call import run_step
    from eager_llm.steps.validate_data import validate

    run_step(validate, tables, settings, validated, report, run, metrics=metrics)
