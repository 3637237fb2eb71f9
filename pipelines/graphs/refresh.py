"""The incremental refresh: new events join the log, and the running model learns from them.

A bundle that is no worse than the running one is promoted.
"""

from typing import NamedTuple

from kfp import dsl

from components.evaluate_model.component import evaluate_model
from components.ingest_increment.component import ingest_increment
from components.pack_bundle.component import pack_bundle
from components.promote_bundle.component import promote_bundle
from components.publish_features.component import publish_features
from components.update_index.component import update_index
from components.update_model.component import update_model
from components.validate_data.component import validate_data
from eager_llm.settings import Settings
from pipelines.graphs.placement import CHECKPOINTS, FEATURE_REPO, FEATURE_STORE, RUN, place


def with_refresh_split(settings: Settings) -> Settings:
    """Return the settings with the log split in time through its new events, as `refresh` says."""
    data = settings.data.replace(
        split="refresh",
        validation_share=settings.refresh.validation_share,
        test_share=settings.refresh.test_share,
    )
    return settings.replace(data=data)


class RefreshOutputs(NamedTuple):
    """What a refresh ends with."""

    bundle: dsl.Model
    evaluation: dsl.HTML
    gates: dsl.HTML
    report: dsl.HTML
    verdict: dsl.Artifact
    plan: dsl.Artifact


def _place_uncached(task: dsl.PipelineTask) -> dsl.PipelineTask:
    return place(task).set_caching_options(False)


@dsl.pipeline(
    name="eager-llm-refresh",
    description=(
        "Join new events, validate, publish features, give new items indices, anneal, evaluate, "
        "promote."
    ),
)
def refresh(
    arrivals: str,
    settings: dict,
    run: str = RUN,
    feature_repo: str = FEATURE_REPO,
    feature_store: str = FEATURE_STORE,
    checkpoints: str = CHECKPOINTS,
) -> RefreshOutputs:
    """Bring the running bundle up to date with new events and items.

    No step takes the outputs of an earlier refresh: each reads the run's folder, which the last
    step changes.

    Args:
        arrivals: a folder that holds the new events and items.
        settings: all sections.
        run: folder with the accepted log and the running bundle. Where it is empty, everything is
            built from the arrivals.
        feature_repo: folder of the Feast definitions.
        feature_store: folder of the published features.
        checkpoints: folder of the tuning checkpoints; it outlives a step.
    """
    ingested = _place_uncached(ingest_increment(arrivals=arrivals, run=run, settings=settings))
    gated = _place_uncached(
        validate_data(tables=ingested.outputs["tables"], settings=settings, run=run)
    )
    tables = gated.outputs["validated"]
    published = _place_uncached(
        publish_features(
            tables=tables, settings=settings, feature_repo=feature_repo, feature_store=feature_store
        )
    )
    examples = published.outputs["examples"]
    indexed = _place_uncached(
        update_index(
            tables=tables,
            examples=examples,
            run=run,
            settings=settings,
            feature_repo=feature_repo,
            feature_store=feature_store,
        )
    )
    item_index, plan = indexed.outputs["item_index"], indexed.outputs["plan"]
    updated = _place_uncached(
        update_model(
            tables=tables,
            examples=examples,
            item_index=item_index,
            embeddings=indexed.outputs["embeddings"],
            plan=plan,
            run=run,
            settings=settings,
            checkpoints=checkpoints,
        )
    )
    model = updated.outputs["model"]
    evaluated = _place_uncached(
        evaluate_model(
            tables=tables, examples=examples, item_index=item_index, model=model, settings=settings
        )
    )
    packed = _place_uncached(
        pack_bundle(
            tables=tables,
            examples=examples,
            item_index=item_index,
            model=model,
            table=evaluated.outputs["table"],
            settings=settings,
        )
    )
    bundle = packed.outputs["bundle"]
    promoted = _place_uncached(
        promote_bundle(
            bundle=bundle, tables=tables, examples=examples, plan=plan, run=run, settings=settings
        )
    )
    return RefreshOutputs(
        bundle=bundle,
        evaluation=evaluated.outputs["report"],
        gates=gated.outputs["report"],
        report=promoted.outputs["report"],
        verdict=promoted.outputs["verdict"],
        plan=plan,
    )
