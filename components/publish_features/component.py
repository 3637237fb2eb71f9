"""Publish the features, and retrieve every history as of its moment."""

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
    """Bring histories and catalogue into Feast, and write the examples of all parts.

    Args:
        tables: from validate_data.
        settings: sections `data`, `gates`.
        feature_repo: folder of the Feast definitions.
        feature_store: folder that the tables, the registry and the embedded online store lie in.
        examples: every target with its point-in-time history, as Parquet.
        report: every gate with its outcome; written in any case.
        metrics: examples by part.
    """
    from pathlib import Path

    from eager_llm.core.errors import UserError
    from eager_llm.core.files import write_json
    from eager_llm.settings import Settings
    from eager_llm.steps.data import publish

    try:
        figures = publish(
            Path(tables.path),
            Settings.from_dict(settings),
            Path(feature_repo),
            Path(feature_store),
            Path(examples.path),
            Path(report.path),
        )
    except UserError as error:
        # The message says it all; a traceback above it would only hide it.
        raise SystemExit(f"error: {error}") from None
    for name, value in figures.items():
        metrics.log_metric(name, value)
    # kfp.local re-uses a step only if all its artifacts are files.
    write_json(Path(metrics.path), figures)
