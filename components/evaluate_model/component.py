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
        table: recall and NDCG of every method on both splits, as JSON.
        report: the page with the tables, the plots and some recommendations.
        metrics: the figures of the test split, by method.
    """
    from eager_llm.steps.component_call import run_step
    from eager_llm.steps.evaluate_model import evaluate

    run_step(
        evaluate,
        tables,
        examples,
        item_index,
        model,
        settings,
        table,
        report,
        metrics=metrics,
    )
