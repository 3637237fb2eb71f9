"""Publish the features, and retrieve every history as of the time of its target."""

from kfp import dsl

from components.images import PYTHON_DATA


@dsl.component(base_image=PYTHON_DATA, install_kfp_package=False)
def publish_features(
    tables: dsl.Input[dsl.Dataset],
    settings: dict,
    feature_repo: str,
    feature_store: str,
    examples: dsl.Output[dsl.Dataset],
    report: dsl.Output[dsl.HTML],
    metrics: dsl.Output[dsl.Metrics],
) -> None:
    """Bring histories and catalogue into Feast, and write the examples of all splits.

    Args:
        tables: from validate_data.
        settings: sections `data`, `gates`.
        feature_repo: folder of the Feast definitions.
        feature_store: folder of the tables, the registry and the embedded online store.
        examples: every target with its point-in-time history, as Parquet.
        report: every gate with its outcome; written in any case.
        metrics: examples by split.
    """
    from pathlib import Path

    from eager_llm.steps.component_call import run_step
    from eager_llm.steps.publish_features import publish

    run_step(
        publish,
        tables,
        settings,
        Path(feature_repo),
        Path(feature_store),
        examples,
        report,
        metrics=metrics,
    )
