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
        examples: from publish_features; only the training part is read.
        run: folder that stands from night to night, with the running bundle.
        settings: all sections.
        feature_repo: folder of the Feast definitions.
        feature_store: folder of the published features.
        item_index: one Parquet, every item with its tokens.
        embeddings: the embedding of each source, rows in the order of the index.
        plan: whether the night anneals or builds anew, and the drift that says so, as JSON.
        report: every gate with its outcome; written in any case.
        metrics: items, new ones among them, and the share of paths that no longer fit.
    """
    from pathlib import Path

    from eager_llm.core.errors import UserError
    from eager_llm.core.files import write_json
    from eager_llm.settings import Settings
    from eager_llm.steps.refresh import update_index

    try:
        figures = update_index(
            Path(tables.path),
            Path(examples.path),
            Path(run),
            Settings.from_dict(settings),
            Path(feature_repo),
            Path(feature_store),
            Path(item_index.path),
            Path(embeddings.path),
            Path(plan.path),
            Path(report.path),
        )
    except UserError as error:
        # The message says it all; a traceback above it would only hide it.
        raise SystemExit(f"error: {error}") from None
    for name, value in figures.items():
        metrics.log_metric(name, value)
    # kfp.local re-uses a step only if all its artifacts are files.
    write_json(Path(metrics.path), figures)
