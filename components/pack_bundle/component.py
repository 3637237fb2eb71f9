"""Pack the one directory that serving loads."""

from kfp import dsl

from components.images import PYTHON_TRAINING


@dsl.component(base_image=PYTHON_TRAINING, install_kfp_package=False)
def pack_bundle(
    tables: dsl.Input[dsl.Dataset],
    examples: dsl.Input[dsl.Dataset],
    item_index: dsl.Input[dsl.Artifact],
    model: dsl.Input[dsl.Model],
    table: dsl.Input[dsl.Artifact],
    settings: dict,
    bundle: dsl.Output[dsl.Model],
    report: dsl.Output[dsl.HTML],
) -> None:
    """Write the bundle with its manifest and checksums.

    Args:
        tables: from validate_data.
        examples: from publish_features; the training split gives the fallback ranking.
        item_index: from build_index.
        model: from tune_model.
        table: from evaluate_model.
        settings: all sections.
        bundle: the directory, once it passed its gates.
        report: every gate with its outcome; written in any case.
    """
    from eager_llm.steps.component_call import run_step
    from eager_llm.steps.pack_bundle import pack

    run_step(pack, tables, examples, item_index, model, table, settings, bundle, report)
