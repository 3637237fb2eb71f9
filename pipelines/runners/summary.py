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
TITLE_WIDTH = 80


def finish(folder: Path, outputs: dict[str, Path], settings: Settings) -> None:
    """Copy the pipeline's outputs to their fixed paths under `folder`, and print the summary.

    Args:
        folder: of the run.
        outputs: where the pipeline's outputs `bundle`, `report`, `table` and `tables` lie.
        settings: all sections of the run.
    """
    bundle_folder = folder / "bundle"
    report = folder / "report.html"
    with whole_folder(bundle_folder) as draft_folder:
        copy_into(outputs["bundle"], draft_folder)
    # The log that a refresh adds to.
    RunFolder(folder).accept(outputs["tables"])
    with whole_file(report) as draft:
        shutil.copyfile(outputs["report"], draft)
    bundle = Bundle.load(bundle_folder)
    table = read_json(outputs["table"])["test"]
    metadata = bundle.manifest["data"]
    summary = {
        "methods": table,
        "seconds": read_times(folder / TIMES_FILE),
        "report": _shortest(report),
        "bundle": _shortest(bundle_folder),
        "seed": settings.seed,
        "data": metadata,
        "settings": settings.to_dict(),
    }
    summary_file = folder / "summary.json"
    write_json(summary_file, summary)
    source = metadata["source"]
    counts = f"{metadata['users']} users, {metadata['items']} items"
    print(f"\n{source}: {counts}, item-level over the whole catalogue")
    print(table_text(table))
    features = Features(project_home() / "feature_repo", folder / "features")
    _print_recommendations(bundle, features, folder)
    print(f"report   {summary['report']}")
    print(f"bundle   {summary['bundle']}")
    print(f"summary  {_shortest(summary_file)}")
    print(f"serve it: make serve RUN={folder.name}")


def _print_recommendations(bundle: Bundle, features: Features, folder: Path) -> None:
    """Recommend for the first user of the log, with the history that serving reads online."""
    import pandas as pd

    histories = folder / "features" / "user_history.parquet"
    user_ids = pd.read_parquet(histories, columns=["user_id"])["user_id"]
    user = str(user_ids.iat[0])
    history = features.online_history(user) or []
    last_titles = "; ".join(bundle.title(item) for item in history[-3:])
    print(f"\nuser {user} last chose: {last_titles}")
    (recommendations,) = bundle.recommender.recommend([history], 5)
    for rank, (item, score) in enumerate(recommendations, start=1):
        title = bundle.title(item)[:TITLE_WIDTH]
        print(f"  {rank}. {title}  ({item}, score {score:.2f})")
    print()


def _shortest(path: Path) -> str:
    """Return a path relative to the current folder if it lies below it, else the whole path."""
    relative = os.path.relpath(path)
    return str(path) if relative.startswith("..") else relative
