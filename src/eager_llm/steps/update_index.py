"""The step `update_index`: new items get paths, or the index is built anew."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Self

import numpy as np

from eager_llm.core.compute import prepare_torch
from eager_llm.core.progress import say
from eager_llm.data.tables import Tables, read_metadata
from eager_llm.index.item_index import ItemIndex
from eager_llm.index.versions import grow_index
from eager_llm.release.run_folder import RunFolder
from eager_llm.settings import Settings
from eager_llm.steps.build_index import index, publish_index, save_index
from eager_llm.steps.embedding import embed, save_embeddings
from eager_llm.steps.examples import read_examples
from eager_llm.steps.refresh_plan import (
    ANNEAL,
    BUILD,
    Plan,
    measure_drift,
    rebuild_reasons,
    running_plan,
)
from eager_llm.steps.timing import timed


@timed
def update_index(
    tables: Path,
    examples: Path,
    run: Path,
    settings: Settings,
    repository: Path,
    features: Path,
    out: Path,
    embeddings: Path,
    plan: Path,
    report: Path,
) -> dict[str, float]:
    """Give new items paths without moving the others, or build anew where the drift says so.

    Args:
        run: folder of the run, with the running bundle.
        plan: JSON to write: what this refresh does.
        tables, examples, repository, features, out, embeddings, report: see `index`.

    Returns:
        Items, new items, and the share whose paths no longer fit; or the figures of `index`.

    Raises:
        GateError: a gate of the index failed that nobody waived.
    """
    running = RunFolder(run).running
    build = _build_plan(tables, examples)
    grown: _GrownIndex | None = None
    new_plan = build
    if running is not None:
        earlier = running_plan(running)
        grown = _GrownIndex.load(running, tables, examples, settings)
        drift = measure_drift(tables, earlier, len(grown.index.item_ids), grown.unfit, settings)
        reasons = rebuild_reasons(drift, settings)
        new_plan = replace(build, reasons=reasons, drift=drift, new_items=grown.new_items)
        if not reasons:
            new_plan = replace(
                new_plan,
                action=ANNEAL,
                built_until=earlier.built_until,
                built_items=earlier.built_items,
            )
    new_plan.save(plan)
    if grown is None or new_plan.action == BUILD:
        say(f"everything is built anew: {'; '.join(new_plan.reasons)}")
        return index(tables, examples, settings, repository, features, out, embeddings, report)
    files = save_embeddings(grown.ordered_embeddings(), embeddings)
    # New items take the nearest free leaves, so that the nodes' shares are not even.
    save_index(grown.index, tables, files, settings, False, out, report)
    item_ids, new_items = grown.index.item_ids, grown.new_items
    service = publish_index(grown.index, repository, features, item_ids)
    say(
        f"item index: {len(new_items)} new items, {len(item_ids)} in all, none moved; "
        f"feature service {service}"
    )
    return {"items": len(item_ids), "new_items": len(new_items), "unfit": grown.unfit}


def _build_plan(tables: Path, examples: Path) -> Plan:
    """Return the plan that builds everything anew; its reason is that no bundle is running."""
    metadata = read_metadata(tables)
    table = read_examples(examples)
    last_target = table.loc[table["split"] == "train", "moment"].max()
    return Plan(
        action=BUILD,
        reasons=["nothing runs yet"],
        drift={},
        built_until=metadata["last_event"],
        built_items=metadata["items"],
        trained_until=str(last_target.isoformat()),
        new_items=[],
    )


@dataclass(frozen=True)
class _GrownIndex:
    """The running bundle's index with the new items in it.

    Attributes:
        new_items: ids of the items that got a path.
        unfit: share of the items whose paths no longer fit.
        catalogue: ids of all items, in the order of the embeddings' rows.
        embeddings: source -> float32 [items, dimensions].
    """

    index: ItemIndex
    new_items: list[str]
    unfit: float
    catalogue: list[str]
    embeddings: dict[str, np.ndarray]

    @classmethod
    def load(cls, bundle: Path, tables: Path, examples: Path, settings: Settings) -> Self:
        """Encode all items, and give those that the bundle's index does not hold a path."""
        running = ItemIndex.load(bundle / "item_index.parquet")
        loaded = Tables.load(tables)
        item_ids = loaded.items["item_id"].tolist()
        device = prepare_torch(settings.threads)
        embeddings = embed(loaded, read_examples(examples), settings, device)
        grown, unfit = grow_index(running, item_ids, embeddings)
        new_items = [item for item in grown.item_ids if item not in running.rows]
        return cls(grown, new_items, unfit, item_ids, embeddings)

    def ordered_embeddings(self) -> dict[str, np.ndarray]:
        """Return the embeddings in the order of the index."""
        rows = {item: row for row, item in enumerate(self.catalogue)}
        order = [rows[item] for item in self.index.item_ids]
        return {source: matrix[order] for source, matrix in self.embeddings.items()}
