"""Tune the backbone on all tasks, then anneal the adapter."""

from kfp import dsl

from components.images import PYTHON_TRAINING


@dsl.component(base_image=PYTHON_TRAINING, install_kfp_package=False)
def tune_model(
    tables: dsl.Input[dsl.Dataset],
    examples: dsl.Input[dsl.Dataset],
    item_index: dsl.Input[dsl.Artifact],
    embeddings: dsl.Input[dsl.Artifact],
    settings: dict,
    checkpoints: str,
    model: dsl.Output[dsl.Model],
    metrics: dsl.Output[dsl.Metrics],
) -> None:
    """Run stage 1 and stage 2; a run that was cut off goes on from its last checkpoint.

    Args:
        tables: from validate_data.
        examples: from publish_features.
        item_index: from build_index.
        embeddings: from build_index.
        settings: all sections.
        checkpoints: folder that outlives the step.
        model: backbone, adapter and tokenizer.
        metrics: parameters and the last loss.
    """
    from pathlib import Path

    from eager_llm.steps.component_call import run_step
    from eager_llm.steps.tune_model import tune

    run_step(
        tune,
        tables,
        examples,
        item_index,
        embeddings,
        settings,
        Path(checkpoints),
        model,
        metrics=metrics,
    )
