"""Measure the model beside popularity and co-occurrence, over the whole catalogue."""

from kfp import dsl

from components.images import PYTHON_TRAINING


@dsl.component(base_image=PYTHON_TRAINING, install_kfp_package=False)
def evaluate_model(
    tables: dsl.Input[dsl.Dataset],
    examples: dsl.Input[dsl.Dataset],
    item_index: dsl.Input[dsl.Artifact],
    model: dsl.Input[dsl.Model],
    settings: dict,
    table: dsl.Output[dsl.Artifact],
    report: dsl.Output[dsl.HTML],
    metrics: dsl.Output[dsl.Metrics],
) -> None:
    """Evaluate on validation and, once, on test.

    Args:
        tables: from validate_data.
        examples: from publish_features.
        item_index: from build_index.
        model: from tune_model.
        settings: all sections.
        table: recall and NDCG of every method on both parts, as JSON.
        report: the page with the tables, the plots and some recommendations.
        metrics: the test part's figures, by method.
    """
    from pathlib import Path

    from eager_llm.core.errors import UserError
    from eager_llm.core.files import write_json
    from eager_llm.settings import Settings
    from eager_llm.steps.model import evaluate

    try:
        found = evaluate(
            Path(tables.path),
            Path(examples.path),
            Path(item_index.path),
            Path(model.path),
            Settings.from_dict(settings),
            Path(table.path),
            Path(report.path),
        )
    except UserError as error:
        # The message says it all; a traceback above it would only hide it.
        raise SystemExit(f"error: {error}") from None
    figures = {
        f"{method} {name}": value for method, row in found.items() for name, value in row.items()
    }
    for name, value in figures.items():
        metrics.log_metric(name, value)
    # kfp.local re-uses a step only if all its artifacts are files.
    write_json(Path(metrics.path), figures)
