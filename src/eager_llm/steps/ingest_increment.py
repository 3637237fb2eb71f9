"""The step `ingest_increment`: new events and items join the accepted log."""

from pathlib import Path
from typing import Any

from eager_llm.core.files import copy_into, read_json
from eager_llm.core.progress import say
from eager_llm.data.splits import KNOWN_UNTIL
from eager_llm.data.tables import read_metadata, write_metadata
from eager_llm.release.run_folder import RunFolder
from eager_llm.settings import Settings
from eager_llm.steps.ingest_data import ingest
from eager_llm.steps.refresh_plan import require_clock
from eager_llm.steps.timing import timed


@timed
def ingest_increment(arrivals: str, run: Path, settings: Settings, out: Path) -> dict[str, Any]:
    """Add new events and items to the accepted log, under the rules of every import.

    In a run without an accepted log they are the log. Events that are there already are dropped as
    duplicates, so that a refresh can be repeated.

    Args:
        arrivals: folder of the new events and items, in any format that `eager-llm import` reads.
        run: folder of the run.
        out: folder for the tables of the whole log.

    Returns:
        The metadata of the tables.

    Raises:
        UserError: the arrivals are broken, or the log has no clock.
    """
    run_folder = RunFolder(run)
    accepted = run_folder.accepted
    if accepted is None:
        return ingest(arrivals, settings, out)
    earlier = read_metadata(accepted)
    require_clock(earlier, accepted)
    copy_into(accepted, out)
    metadata = ingest(arrivals, settings, out, append=True)
    for name in ("source", "made_up"):
        if name in earlier:
            metadata[name] = earlier[name]
    for name in ("events", "users", "items"):
        metadata[f"new_{name}"] = metadata[name] - earlier[name]
    metadata[KNOWN_UNTIL] = _known_until(run_folder, earlier)
    write_metadata(out, metadata)
    say(
        f"arrived: {metadata['new_events']} events, {metadata['new_users']} users, "
        f"{metadata['new_items']} items"
    )
    return metadata


def _known_until(run_folder: RunFolder, accepted: dict[str, Any]) -> Any:
    """Return the last event that the running bundle knows.

    The events of refreshes that were refused since then are new to it as well.

    Args:
        accepted: metadata of the accepted log.
    """
    if run_folder.running is None:
        return accepted["last_event"]
    manifest = read_json(run_folder.running / "manifest.json")
    return manifest["data"]["last_event"]
