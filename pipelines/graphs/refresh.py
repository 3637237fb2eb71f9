"""The night: what arrived joins the log, the running model is brought up to date, and a better bundle is promoted."""

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


def cut_for_a_refresh(settings: Settings) -> Settings:
    """Return the settings with the log cut in time through what arrived, by the shares of `refresh`."""
    shares = {name: getattr(settings.refresh, name) for name in ("validation_share", "test_share")}
    return settings.replace(data=settings.data.replace(split="refresh", **shares))


class RefreshOutputs(NamedTuple):
    """What a night ends with."""

    bundle: dsl.Model
    evaluation: dsl.HTML
    gates: dsl.HTML
    report: dsl.HTML
    verdict: dsl.Artifact
    plan: dsl.Artifact


def _fresh(task: dsl.PipelineTask) -> dsl.PipelineTask:
    return place(task).set_caching_options(False)


@dsl.pipeline(
    name="eager-llm-refresh",
    description="Join what arrived, validate, publish features, give new items indices, anneal, evaluate, promote.",
)
def refresh(
    arrivals: str,
    settings: dict,
    run: str = RUN,
    feature_repo: str = FEATURE_REPO,
    feature_store: str = FEATURE_STORE,
    checkpoints: str = CHECKPOINTS,
) -> RefreshOutputs:
    """Bring the running bundle up to date with a night's events and items.

    No step is taken from an earlier night: each reads what stands in `run`, which the last one changes.

    Args:
        arrivals: a folder that holds the new events and items.
        settings: all sections.
        run: folder that stands from night to night: the accepted log and the running bundle. Empty, the night
            builds everything from its arrivals.
        feature_repo: folder of the Feast definitions.
        feature_store: folder that the features are published to.
        checkpoints: folder that the tuning checkpoints outlive a step in.
    """
    ingested = _fresh(ingest_increment(arrivals=arrivals, run=run, settings=settings))
    gated = _fresh(validate_data(tables=ingested.outputs["tables"], settings=settings, run=run))
    tables = gated.outputs["validated"]
    published = _fresh(
        publish_features(
            tables=tables, settings=settings, feature_repo=feature_repo, feature_store=feature_store
        )
    )
    examples = published.outputs["examples"]
    indexed = _fresh(
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
    updated = _fresh(
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
    evaluated = _fresh(
        evaluate_model(
            tables=tables, examples=examples, item_index=item_index, model=model, settings=settings
        )
    )
    packed = _fresh(
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
    promoted = _fresh(
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
