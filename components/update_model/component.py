"""Anneal the running model on what is fresh, or tune a new one where the index was built anew."""

from kfp import dsl

from components.images import PYTHON_TRAINING


@dsl.component(base_image=PYTHON_TRAINING, install_kfp_package=False)
def update_model(
    tables: dsl.Input[dsl.Dataset],
    examples: dsl.Input[dsl.Dataset],
    item_index: dsl.Input[dsl.Artifact],
    embeddings: dsl.Input[dsl.Artifact],
    plan: dsl.Input[dsl.Artifact],
    run: str,
    settings: dict,
    checkpoints: str,
    model: dsl.Output[dsl.Model],
    metrics: dsl.Output[dsl.Metrics],
) -> None:
    """Run stage 2 on from the running bundle, or both stages, as the plan says.

    Args:
        tables: from validate_data.
        examples: from publish_features.
        item_index: from update_index.
        embeddings: from update_index.
        plan: from update_index.
        run: folder that stands from night to night, with the running bundle.
        settings: all sections.
        checkpoints: folder that outlives the step.
        model: backbone, adapter and tokenizer.
        metrics: trajectories or parameters, and the last loss.
    """
    from pathlib import Path

    from eager_llm.core.errors import UserError
    from eager_llm.core.files import write_json
    from eager_llm.settings import Settings
    from eager_llm.steps.refresh import update_model

    try:
        figures = update_model(
            Path(tables.path),
            Path(examples.path),
            Path(item_index.path),
            Path(embeddings.path),
            Path(plan.path),
            Path(run),
            Settings.from_dict(settings),
            Path(checkpoints),
            Path(model.path),
        )
    except UserError as error:
        raise SystemExit(f"error: {error}") from None
    for name, value in figures.items():
        metrics.log_metric(name, value)
    # kfp.local re-uses a step only if all its artifacts are files.
    write_json(Path(metrics.path), figures)
