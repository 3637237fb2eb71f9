"""The command line: eager-llm import, features, erase, run, night, rollout, recommend, serve, evaluate, index,
bundle verify, settings.
"""

import os
import subprocess
import sys
from pathlib import Path
from typing import Annotated

import typer

from eager_llm.cli.data import erase_command, features_command, import_command
from eager_llm.cli.index import index_app
from eager_llm.cli.inspect import inspect_command
from eager_llm.cli.rollout import rollout_app
from eager_llm.core.errors import UserError
from eager_llm.core.project import project_home

app = typer.Typer(
    help="A generative recommender, from a shop's log to a served bundle.\n\n"
    "Start with: eager-llm run (the made-up demo shop), then: eager-llm serve.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)
bundle_app = typer.Typer(help="Look after bundles.", no_args_is_help=True)
app.command("import")(import_command)
app.command("features")(features_command)
app.command("erase")(erase_command)
app.add_typer(bundle_app, name="bundle")
app.add_typer(index_app, name="index")
app.add_typer(rollout_app, name="rollout")
index_app.command("inspect")(inspect_command)

BundleOption = Annotated[Path, typer.Option(help="the bundle's folder")]
SetOption = Annotated[
    list[str] | None,
    typer.Option("--set", help="override a setting, as section.name=value; repeatable"),
]
SettingsOption = Annotated[Path | None, typer.Option("--settings", help="YAML file of settings")]


@app.command()
def run(
    data: Annotated[
        str, typer.Option(help="folder that holds the log or its URI, or `demo`, the made-up shop")
    ] = "demo",
    name: Annotated[
        str | None, typer.Option(help="name of the run; default: the source's name")
    ] = None,
    runs: Annotated[Path, typer.Option(help="folder of all runs")] = Path("runs"),
    settings: SettingsOption = None,
    overrides: SetOption = None,
    waived: Annotated[
        str,
        typer.Option(
            help="gates that may fail, separated by commas; the decision stands in the report"
        ),
    ] = "",
    runner: Annotated[
        str, typer.Option(help="process, or docker: each step in a container of its own image")
    ] = "process",
) -> None:
    """Run the whole pipeline here: ingest, validate, publish features, index, tune, evaluate, pack.

    Steps whose inputs have not changed are re-used; tuning goes on from its last checkpoint. The run's
    folder ends with summary.json, report.html and the bundle. All settings: eager-llm settings

    Example: eager-llm run --data ../my-shop --set tuning.epochs=20 --set seed=1
    """
    command = [
        sys.executable,
        "-m",
        "pipelines.runners.local",
        "--source",
        data,
        "--runs",
        str(runs.resolve()),
    ]
    command += ["--runner", runner]
    command += ["--name", name] if name else []
    command += ["--settings", str(settings.resolve())] if settings else []
    for override in overrides or []:
        command += ["--set", override]
    for section, names in _waived_by_section(waived).items():
        command += ["--set", f"{section}.waived={','.join(names)}"]
    raise typer.Exit(_in_project(command))


@app.command()
def night(
    data: Annotated[
        Path,
        typer.Option(
            help="folder that holds what arrived: new events, and new items where there are"
        ),
    ],
    run: Annotated[Path, typer.Option(help="folder of the run that is brought up to date")] = Path(
        "runs/demo"
    ),
    settings: Annotated[
        Path | None,
        typer.Option(
            "--settings", help="YAML file of settings; default: those of the running bundle"
        ),
    ] = None,
    overrides: SetOption = None,
    waived: Annotated[
        str,
        typer.Option(
            help="gates that may fail, separated by commas; the decision stands in the report"
        ),
    ] = "",
) -> None:
    """Bring a run up to date with a night's events and items: the running bundle's successor, if it is no worse.

    What arrived is validated and joins the log; new items get indices without moving the old ones; the adapter is
    annealed on what is fresh (or everything is built anew, where the measured drift says so); then both bundles are
    compared on the night's latest events, which neither has seen. A worse one is refused: what was running still
    is. In a run without a bundle the night builds one. Reports: RUN/refreshes/NUMBER.

    Status: 0 promoted, 1 a step failed, 2 a mistake of yours, 3 refused.

    Example: eager-llm night --run runs/demo --data arrivals/2026-02-07 --set refresh.epochs=3
    """
    command = [
        sys.executable,
        "-m",
        "pipelines.runners.local_refresh",
        "--data",
        str(data.resolve()),
        "--run",
        str(run.resolve()),
    ]
    command += ["--settings", str(settings.resolve())] if settings else []
    for override in overrides or []:
        command += ["--set", override]
    for section, names in _waived_by_section(waived).items():
        command += ["--set", f"{section}.waived={','.join(names)}"]
    raise typer.Exit(_in_project(command))


def _waived_by_section(waived: str) -> dict[str, list[str]]:
    """Return the names of the gates by the section of the settings that they belong to."""
    from eager_llm.validation.gate_names import BUNDLE_GATES

    sections: dict[str, list[str]] = {}
    for name in filter(None, map(str.strip, waived.split(","))):
        sections.setdefault("acceptance" if name in BUNDLE_GATES else "gates", []).append(name)
    return sections


@app.command()
def recommend(
    bundle: BundleOption = Path("runs/demo/bundle"),
    items: Annotated[
        str | None, typer.Option(help="item ids, oldest first, separated by commas")
    ] = None,
    user: Annotated[str | None, typer.Option(help="a user of the online store")] = None,
    features: Annotated[
        Path | None, typer.Option(help="published features; default: beside the bundle")
    ] = None,
    k: Annotated[int, typer.Option(min=1, max=100, help="how many")] = 5,
    filters: Annotated[
        list[str] | None,
        typer.Option(
            "--filter", help="COLUMN=VALUE|VALUE, COLUMN!=VALUE, COLUMN<=NUMBER or >=; repeatable"
        ),
    ] = None,
    exclude_history: Annotated[
        bool, typer.Option("--exclude-history", help="nothing the history holds")
    ] = False,
) -> None:
    """Recommend for a history or a user, from a bundle.

    Example: eager-llm recommend --user customer-0007 --filter 'price<=30' --filter 'categories=Cycling|Camping'
    """
    from eager_llm.bundle.bundle import Bundle
    from eager_llm.decoding.filters import parse_condition
    from eager_llm.decoding.recommender import Request
    from eager_llm.features.feature_store import Features

    if (items is None) == (user is None):
        raise UserError("give either --items or --user")
    loaded = Bundle.load(bundle)
    if user is not None:
        store = Features(project_home() / "feature_repo", features or bundle.parent / "features")
        found = store.online_history(user)
        if found is None:
            raise UserError(f"user {user!r} is not in the online store {store.folder}")
        history = found
    else:
        history = [item.strip() for item in str(items).split(",") if item.strip()]
    unknown = [item for item in history if item not in loaded.items.index]
    if unknown:
        raise UserError(f"the bundle does not know the items {', '.join(unknown)}")
    conditions = frozenset(map(parse_condition, filters or []))
    request = Request(history, k, filter=conditions, exclude_history=exclude_history)
    answer = loaded.recommender.answer([request])[0]
    for place, (item, score) in enumerate(answer.items, start=1):
        typer.echo(f"{place:>3}. {loaded.title(item)}  ({item}, score {score:.2f})")
    if answer.reason:
        typer.echo(answer.reason)


@app.command()
def serve(
    bundle: BundleOption = Path("runs/demo/bundle"),
    features: Annotated[
        Path | None, typer.Option(help="published features; default: beside the bundle")
    ] = None,
    host: Annotated[str, typer.Option(help="address to listen on")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=1, max=65535, help="port to listen on")] = 3000,
    second: Annotated[
        Path | None, typer.Option(help="another bundle, to be seen beside it on the page")
    ] = None,
) -> None:
    """Serve a bundle with BentoML: the API (docs/serving.md) and a page at /ui.

    Example: curl localhost:3000/recommend -H 'Content-Type: application/json' -d '{"user_id": "customer-0007"}'
    """
    from eager_llm.bundle.verify import verify_bundle
    from eager_llm.features.feature_store import FOLDER_VARIABLE

    environment = {**os.environ, "BENTOML_DO_NOT_TRACK": "true"}
    for variable, folder in (("EAGER_LLM_BUNDLE", bundle), ("EAGER_LLM_SECOND_BUNDLE", second)):
        if folder is not None:
            verify_bundle(folder)
            environment[variable] = str(folder.resolve())
    store = features or bundle.parent / "features"
    if store.is_dir():
        environment[FOLDER_VARIABLE] = str(store.resolve())
    else:
        environment.pop(FOLDER_VARIABLE, None)
        typer.echo(
            f"{store}: no features there; only histories of item ids can be asked for", err=True
        )
    command = [sys.executable, "-m", "bentoml", "serve", "serving.service:EagerLLM"]
    raise typer.Exit(
        _in_project([*command, "--host", host, "--port", str(port)], environment, replace=True)
    )


@app.command()
def evaluate(
    examples: Annotated[
        Path, typer.Option(help="Parquet of user_id, item_id, history, split, moment")
    ],
    bundle: BundleOption = Path("runs/demo/bundle"),
    split: Annotated[
        str, typer.Option("--split", "--part", help="which split of the examples")
    ] = "validation",
) -> None:
    """Measure a bundle beside co-occurrence and popularity, item-level over the whole catalogue.

    Example: eager-llm evaluate --examples examples.parquet --split test
    """
    import pandas as pd

    from eager_llm.bundle.bundle import Bundle
    from eager_llm.evaluation.evaluate import evaluate_baselines, evaluate_model, table_text
    from eager_llm.evaluation.methods import MODEL_WITH_PRIOR

    if not examples.is_file():
        raise UserError(f"{examples}: no such file; a run keeps its examples with its artifacts")
    asked = pd.read_parquet(examples)
    missing = {"user_id", "item_id", "history", "split", "moment"} - set(asked.columns)
    if missing:
        raise UserError(f"{examples}: column {', '.join(sorted(missing))} is missing")
    if split not in set(asked["split"]):
        raise UserError(
            f"{examples}: no examples of split {split!r}; there are {', '.join(asked['split'].unique())}"
        )
    loaded = Bundle.load(bundle)
    seed = loaded.manifest["settings"]["seed"]
    item_ids = loaded.recommender.index.item_ids
    table = {MODEL_WITH_PRIOR: evaluate_model(loaded.recommender, asked, split)}
    neighbours = loaded.recommender.item_prior
    typer.echo(
        table_text({**table, **evaluate_baselines(asked, item_ids, split, seed, neighbours)}, split)
    )


@app.command()
def settings() -> None:
    """List every setting with its default and meaning."""
    from eager_llm.settings import describe

    typer.echo(describe())


@bundle_app.command()
def verify(bundle: Annotated[Path, typer.Argument(help="the bundle's folder")]) -> None:
    """Check every file of a bundle against its manifest; a changed byte is refused.

    Example: eager-llm bundle verify runs/demo/bundle
    """
    from eager_llm.bundle.verify import verify_bundle

    manifest = verify_bundle(bundle)
    total = sum(entry["bytes"] for entry in manifest["files"].values())
    typer.echo(f"{bundle}: {len(manifest['files'])} files, {total / 1e6:.1f} MB, all as packed")


def _in_project(
    command: list[str], environment: dict[str, str] | None = None, replace: bool = False
) -> int:
    """Run a part outside the library as a process of its own, with the project on its path.

    Args:
        replace: become the process, so that its signals and its end are ours.
    """
    home = project_home()
    environment = dict(environment or os.environ)
    path = [str(home), str(home / "src"), environment.get("PYTHONPATH", "")]
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, path))
    if replace:
        os.chdir(home)
        os.execvpe(command[0], command, environment)  # noqa: S606
    return subprocess.run(command, env=environment).returncode


def main() -> None:
    """Run the command line; mistakes of the user end with status 2 and no traceback."""
    try:
        app()
    except UserError as error:
        typer.echo(f"error: {error}", err=True)
        sys.exit(2)


if __name__ == "__main__":
    main()
