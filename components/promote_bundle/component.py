"""Compare the new bundle with the running one; roll a better one out, refuse a worse one."""

from kfp import dsl

from components.images import PYTHON_TRAINING


@dsl.component(base_image=PYTHON_TRAINING, install_kfp_package=False)
def promote_bundle(
    bundle: dsl.Input[dsl.Model],
    tables: dsl.Input[dsl.Dataset],
    examples: dsl.Input[dsl.Dataset],
    plan: dsl.Input[dsl.Artifact],
    run: str,
    settings: dict,
    verdict: dsl.Output[dsl.Artifact],
    report: dsl.Output[dsl.HTML],
    metrics: dsl.Output[dsl.Metrics],
) -> None:
    """Measure both bundles on the same test split, and decide.

    Args:
        bundle: from pack_bundle.
        tables: from validate_data; the log that the next refresh adds to.
        examples: from publish_features; the test split is read.
        plan: from update_index.
        run: folder of the run, with the running bundle.
        settings: all sections; `promotion` has the tolerances, `rollout` the Helm release.
        verdict: the outcome, its reasons and every measure, as JSON.
        report: the same as a page.
        metrics: each measure of both bundles, and whether the new one was promoted.
    """
    from pathlib import Path

    from eager_llm.steps.component_call import run_step
    from eager_llm.steps.promote_bundle import promote

    run_step(
        promote,
        bundle,
        tables,
        examples,
        plan,
        Path(run),
        settings,
        verdict,
        report,
        metrics=metrics,
    )
