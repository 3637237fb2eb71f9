"""Give new items paths without moving the others, or build the index anew where drift says so."""

from kfp import dsl

from components.images import PYTHON_TRAINING


@dsl.component(base_image=PYTHON_TRAINING, install_kfp_package=False)
def update_index(
    tables: dsl.Input[dsl.Dataset],
    examples: dsl.Input[dsl.Dataset],
    run: str,
    settings: dict,
    feature_repo: str,
    feature_store: str,
    item_index: dsl.Output[dsl.Artifact],
    embeddings: dsl.Output[dsl.Artifact],
    plan: dsl.Output[dsl.Artifact],
    report: dsl.Output[dsl.HTML],
    metrics: dsl.Output[dsl.Metrics],
) -> None:
    """Measure the drift since the last build, and bring the running bundle's item index up to date.

    Args:
        tables: from validate_data.
        examples: from publish_features; only the training split is read.
        run: folder of the run, with the running bundle.
        settings: all sections.
        feature_repo: folder of the Feast definitions.
        feature_store: folder of the published features.
        item_index: one Parquet, every item with its tokens.
        embeddings: the embedding of each source, rows in the order of the index.
        plan: whether the refresh anneals or builds anew, and the drift behind it, as JSON.
        report: every gate with its outcome; written in any case.
        metrics: items, new ones among them, and the share of paths that no longer fit.
    """
    from pathlib import Path

    from eager_llm.steps.component_call import run_step
    from eager_llm.steps.update_index import update_index

    run_step(
        update_index,
        tables,
        examples,
        Path(run),
        settings,
        Path(feature_repo),
        Path(feature_store),
        item_index,
        embeddings,
        plan,
        report,
        metrics=metrics,
    )
