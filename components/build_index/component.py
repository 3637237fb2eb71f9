"""Encode the items by behaviour and by text, and build the item index on Ray."""

from kfp import dsl

from components.images import PYTHON_TRAINING


@dsl.component(base_image=PYTHON_TRAINING, install_kfp_package=False)
def build_index(
    tables: dsl.Input[dsl.Dataset],
    examples: dsl.Input[dsl.Dataset],
    settings: dict,
    feature_repo: str,
    feature_store: str,
    item_index: dsl.Output[dsl.Artifact],
    embeddings: dsl.Output[dsl.Artifact],
    report: dsl.Output[dsl.HTML],
    metrics: dsl.Output[dsl.Metrics],
) -> None:
    """Build the dual-source item index, and publish it as features.

    Args:
        tables: from validate_data.
        examples: from publish_features; only the training split is read.
        settings: sections `seed`, `threads`, `data`, `gates`, `behaviour`, `semantic`, `index`.
        feature_repo: folder of the Feast definitions.
        feature_store: folder of the published features.
        item_index: one Parquet, every item with its tokens.
        embeddings: the frozen embedding of each source.
        report: every gate with its outcome; written in any case.
        metrics: items, levels, and how near the items under one node are.
    """
    from pathlib import Path

    from eager_llm.steps.build_index import index
    from eager_llm.steps.component_call import run_step

    run_step(
        index,
        tables,
        examples,
        settings,
        Path(feature_repo),
        Path(feature_store),
        item_index,
        embeddings,
        report,
        metrics=metrics,
    )
