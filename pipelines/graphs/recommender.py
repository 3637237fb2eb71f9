"""The pipeline: from a log to a bundle, in seven steps."""

from typing import Any, NamedTuple

from kfp import dsl

from components.build_index.component import build_index
from components.evaluate_model.component import evaluate_model
from components.ingest_data.component import ingest_data
from components.pack_bundle.component import pack_bundle
from components.publish_features.component import publish_features
from components.tune_model.component import tune_model
from components.validate_data.component import validate_data
from eager_llm.settings import AFTER_TUNING, Settings
from pipelines.graphs.placement import CHECKPOINTS, FEATURE_REPO, FEATURE_STORE, place

MODEL_SECTIONS = tuple(name for name in Settings.model_fields if name not in AFTER_TUNING)
# The sections that each step reads: a changed setting runs only the steps that read it.
SECTIONS = {
    "data_settings": ("seed", "data"),
    "gate_settings": ("gates", "index"),
    "feature_settings": ("data", "gates"),
    "index_settings": ("seed", "threads", "ray", "data", "gates", "behaviour", "semantic", "index"),
    "model_settings": MODEL_SECTIONS,
    "evaluation_settings": (*MODEL_SECTIONS, "report"),
}


def setting_parameters(settings: Settings) -> dict[str, Any]:
    """Return the pipeline's parameters that hold settings: those of each step, and all."""
    values = settings.to_dict()
    parameters: dict[str, Any] = {"settings": values}
    for parameter, sections in SECTIONS.items():
        parameters[parameter] = {section: values[section] for section in sections}
    return parameters


class Outputs(NamedTuple):
    """What the pipeline ends with."""

    bundle: dsl.Model
    report: dsl.HTML
    table: dsl.Artifact
    tables: dsl.Dataset


@dsl.pipeline(
    name="eager-llm-recommender",
    description="Ingest, validate, publish features, build the item index, tune, evaluate, pack.",
)
def recommender(
    source: str,
    fingerprint: str,
    data_settings: dict,
    gate_settings: dict,
    feature_settings: dict,
    index_settings: dict,
    model_settings: dict,
    evaluation_settings: dict,
    settings: dict,
    feature_repo: str = FEATURE_REPO,
    feature_store: str = FEATURE_STORE,
    checkpoints: str = CHECKPOINTS,
) -> Outputs:
    """Turn a log into a bundle.

    Args:
        source: a folder that holds the log, or `demo`.
        fingerprint: digest of the source and the code; another one runs every step again.
        data_settings: the sections that ingestion reads.
        gate_settings: the sections that validation reads.
        feature_settings: the sections that features and their gates read.
        index_settings: the sections that the item index and its gates read.
        model_settings: the sections that tuning reads: all but those of the bundle's gates.
        evaluation_settings: those, and what the report shows.
        settings: all sections.
        feature_repo: folder of the Feast definitions.
        feature_store: folder of the published features.
        checkpoints: folder of the tuning checkpoints; it outlives a step.
    """
    ingested = place(ingest_data(source=source, fingerprint=fingerprint, settings=data_settings))
    gated = place(validate_data(tables=ingested.outputs["tables"], settings=gate_settings))
    tables = gated.outputs["validated"]
    published = place(
        publish_features(
            tables=tables,
            settings=feature_settings,
            feature_repo=feature_repo,
            feature_store=feature_store,
        )
    )
    examples = published.outputs["examples"]
    indexed = place(
        build_index(
            tables=tables,
            examples=examples,
            settings=index_settings,
            feature_repo=feature_repo,
            feature_store=feature_store,
        )
    )
    item_index = indexed.outputs["item_index"]
    tuned = place(
        tune_model(
            tables=tables,
            examples=examples,
            item_index=item_index,
            embeddings=indexed.outputs["embeddings"],
            settings=model_settings,
            checkpoints=checkpoints,
        )
    )
    evaluated = place(
        evaluate_model(
            tables=tables,
            examples=examples,
            item_index=item_index,
            model=tuned.outputs["model"],
            settings=evaluation_settings,
        )
    )
    packed = place(
        pack_bundle(
            tables=tables,
            examples=examples,
            item_index=item_index,
            model=tuned.outputs["model"],
            table=evaluated.outputs["table"],
            settings=settings,
        )
    )
    return Outputs(
        bundle=packed.outputs["bundle"],
        report=evaluated.outputs["report"],
        table=evaluated.outputs["table"],
        tables=tables,
    )
