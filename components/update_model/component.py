"""Anneal the running model on new events, or tune a new one where the index was built anew."""

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
        run: folder of the run, with the running bundle.
        settings: all sections.
        checkpoints: folder that outlives the step.
        model: backbone, adapter and tokenizer.
        metrics: trajectories or parameters, and the last loss.
    """
    from pathlib import Path

    from eager_llm.steps.component_call import run_step
    from eager_llm.steps.update_model import update_model

    run_step(
        update_model,
        tables,
        examples,
        item_index,
        embeddings,
        plan,
        Path(run),
        settings,
        Path(checkpoints),
        model,
        metrics=metrics,
    )
