"""The step `index`: the items get their paths."""

from pathlib import Path

from eager_llm.core.compute import prepare_torch
from eager_llm.core.files import whole_file
from eager_llm.core.progress import say
from eager_llm.data.tables import Tables
from eager_llm.features.feature_store import Features
from eager_llm.index.build import build_index
from eager_llm.index.gates import run_index_gates
from eager_llm.index.item_index import ItemIndex, prefix_purity
from eager_llm.settings import Settings
from eager_llm.steps.distributed import distributed
from eager_llm.steps.embedding import embed, save_embeddings
from eager_llm.steps.examples import read_examples
from eager_llm.steps.memory import within_memory
from eager_llm.steps.quarantine import quarantine_of
from eager_llm.steps.timing import timed
from eager_llm.validation.report import require_passed


@timed
@distributed(
    inputs=("tables", "examples"),
    outputs=("out", "embeddings", "report"),
    shared_folders=("repository", "features"),
)
@within_memory("build_index", "semantic.batch", "index.workers")
def index(
    tables: Path,
    examples: Path,
    settings: Settings,
    repository: Path,
    features: Path,
    out: Path,
    embeddings: Path,
    report: Path,
) -> dict[str, float]:
    """Encode the items by both sources, build the item index, and publish it as features.

    Args:
        tables: folder of the validated tables.
        examples: of `publish`.
        repository: folder of the feature definitions.
        features: folder of the published features.
        out: Parquet of the item index.
        embeddings: folder for one .npy of each source.
        report: the page of the index's gates, written either way.

    Returns:
        Items, levels, and the purity of the first tokens of each source.

    Raises:
        GateError: a gate of the index failed that nobody waived.
    """
    loaded = Tables.load(tables)
    item_ids = loaded.items["item_id"].tolist()
    device = prepare_torch(settings.threads)
    vectors = embed(loaded, read_examples(examples), settings, device)
    files = save_embeddings(vectors, embeddings)
    # The next job reads what a lost one has finished.
    jobs = Path(settings.ray.shared) / "index-jobs" if settings.ray.shared else None
    item_index = build_index(item_ids, files, settings.index, settings.seed, jobs)
    is_balanced = settings.index.builder == "balanced"
    save_index(item_index, tables, files, settings, is_balanced, out, report)
    service = publish_index(item_index, repository, features, item_ids)
    say(f"feature service {service}")
    say(f"item index: {len(item_ids)} items, {item_index.levels} tokens an item, no collisions")
    figures: dict[str, float] = {"items": len(item_ids), "levels": item_index.levels}
    for source, purity in prefix_purity(item_index, loaded.items, "categories").items():
        figures[f"purity_{source}"] = purity
    return figures


def save_index(
    item_index: ItemIndex,
    tables: Path,
    embedding_files: dict[str, Path],
    settings: Settings,
    is_balanced: bool,
    out: Path,
    report: Path,
) -> None:
    """Write an item index if its gates hold.

    Args:
        embedding_files: source -> .npy, float32 [items, dimensions] in the order of the index.
        is_balanced: whether no node may hold more than its even share.
        out: Parquet of the item index.
        report: the page of the gates, written either way.

    Raises:
        GateError: a gate failed that nobody waived.
    """
    with whole_file(out) as draft:
        item_index.save(draft)
        results = run_index_gates(
            draft,
            tables / "items.parquet",
            embedding_files,
            is_balanced,
            settings.gates,
            settings.data.memory_gb,
            quarantine_of(report),
        )
        require_passed(results, report, "Index gates")


def publish_index(
    item_index: ItemIndex, repository: Path, features: Path, item_ids: list[str]
) -> str:
    """Publish the items' tokens as features; return the name of their feature service."""
    tokens = [item_index.tokens(item) for item in item_ids]
    store = Features(repository, features)
    return store.publish_index(item_ids, tokens, item_index.version_name)
