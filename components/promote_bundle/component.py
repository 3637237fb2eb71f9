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
    """Measure both bundles on the same test part, and decide.

    Args:
        bundle: from pack_bundle.
        tables: from validate_data; the log that the next night adds to.
        examples: from publish_features; their test part is asked.
        plan: from update_index.
        run: folder that stands from night to night, with the running bundle.
        settings: all sections; `promotion` has the tolerances, `rollout` the Helm release.
        verdict: the outcome, its reasons and every measure, as JSON.
        report: the same as a page.
        metrics: each measure of both bundles, and whether the new one was promoted.
    """
    from pathlib import Path

    from eager_llm.core.errors import UserError
    from eager_llm.core.files import write_json
    from eager_llm.settings import Settings
    from eager_llm.steps.promote_bundle import promote

    try:
        figures = promote(
            Path(bundle.path),
            Path(tables.path),
            Path(examples.path),
            Path(plan.path),
            Path(run),
            Settings.from_dict(settings),
            Path(verdict.path),
            Path(report.path),
        )
    except UserError as error:
        raise SystemExit(f"error: {error}") from None
    for name, value in figures.items():
        metrics.log_metric(name, value)
    # kfp.local re-uses a step only if all its artifacts are files.
    write_json(Path(metrics.path), figures)
