"""What a run leaves for people: the bundle, the report, `summary.json`, and a few lines to read."""

import os
import shutil
from pathlib import Path

from eager_llm.bundle.bundle import Bundle
from eager_llm.core.files import copy_into, read_json, whole_file, whole_folder, write_json
from eager_llm.core.project import project_home
from eager_llm.evaluation.evaluate import table_text
from eager_llm.features.feature_store import Features
from eager_llm.release.run_folder import RunFolder
from eager_llm.settings import Settings
from eager_llm.steps.timing import read_times

TIMES_FILE = "times.jsonl"
ARTIFACTS = "artifacts"


def finish(folder: Path, outputs: dict[str, Path], settings: Settings) -> None:
    """Bring the pipeline's outputs to their fixed places under `folder`, and print the summary."""
    bundle, report = folder / "bundle", folder / "report.html"
    with whole_folder(bundle) as draft:
        copy_into(outputs["bundle"], draft)
    # What a night adds to.
    RunFolder(folder).accept(outputs["tables"])
    with whole_file(report) as draft_file:
        shutil.copyfile(outputs["report"], draft_file)
    table = read_json(outputs["table"])["test"]
    loaded = Bundle.load(bundle)
    metadata = loaded.manifest["data"]
    summary = {
        "methods": table,
        "seconds": read_times(folder / TIMES_FILE),
        "report": _shown(report),
        "bundle": _shown(bundle),
        "seed": settings.seed,
        "data": metadata,
        "settings": settings.to_dict(),
    }
    write_json(folder / "summary.json", summary)
    print(
        f"\n{metadata['source']}: {metadata['users']} users, {metadata['items']} items, item-level over the whole catalogue"
    )
    print(table_text(table))
    _print_recommendations(
        loaded, Features(project_home() / "feature_repo", folder / "features"), folder
    )
    for name in ("report", "bundle"):
        print(f"{name:<8} {summary[name]}")
    print(f"summary  {_shown(folder / 'summary.json')}")
    print(f"serve it: make serve RUN={folder.name}")


def _print_recommendations(bundle: Bundle, features: Features, folder: Path) -> None:
    """Recommend for the first user of the log, with the history that serving reads online."""
    import pandas as pd

    user = str(
        pd.read_parquet(folder / "features" / "user_history.parquet", columns=["user_id"])[
            "user_id"
        ].iat[0]
    )
    history = features.online_history(user) or []
    print(f"\nuser {user} last chose: " + "; ".join(bundle.title(item) for item in history[-3:]))
    for place, (item, score) in enumerate(bundle.recommender.recommend([history], 5)[0], start=1):
        print(f"  {place}. {bundle.title(item)[:80]}  ({item}, score {score:.2f})")
    print()


def _shown(path: Path) -> str:
    """Return a path relative to here where that is shorter to read."""
    relative = os.path.relpath(path)
    return str(path) if relative.startswith("..") else relative
