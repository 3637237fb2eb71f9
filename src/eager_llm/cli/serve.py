"""The command line of the service: eager-llm serve."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from eager_llm.cli.options import BundleOption, FeaturesOption
from eager_llm.cli.project_process import become, project_environment

SERVICE = "serving.service:EagerLLM"
# Of torch's oneDNN: a compiled kernel for each shape of a batch; its own default is 1,024.
PRIMITIVES_VARIABLE = "ONEDNN_PRIMITIVE_CACHE_CAPACITY"
PRIMITIVES = "128"


def serve_command(
    bundle: BundleOption = Path("runs/demo/bundle"),
    features: FeaturesOption = None,
    host: Annotated[str, typer.Option(help="address to listen on")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=1, max=65535, help="port to listen on")] = 3000,
    second: Annotated[
        Path | None,
        typer.Option(help="another bundle, to be seen beside it on the page"),
    ] = None,
) -> None:
    """Serve a bundle with BentoML: the API (docs/serving.md) and a page at /ui.

    Example: curl localhost:3000/recommend -H 'Content-Type: application/json'
    -d '{"user_id": "customer-0007"}'
    """
    from eager_llm.bundle.verify import verify_bundle
    from eager_llm.features.feast_repository import FOLDER_VARIABLE

    environment = project_environment()
    environment["BENTOML_DO_NOT_TRACK"] = "true"
    # Read when torch loads: it keeps compiled code for every shape of a batch, up to this many.
    environment.setdefault(PRIMITIVES_VARIABLE, PRIMITIVES)
    bundles = {"EAGER_LLM_BUNDLE": bundle, "EAGER_LLM_SECOND_BUNDLE": second}
    for variable, folder in bundles.items():
        if folder is not None:
            verify_bundle(folder)
            environment[variable] = str(folder.resolve())
    store = features or bundle.parent / "features"
    if store.is_dir():
        environment[FOLDER_VARIABLE] = str(store.resolve())
    else:
        environment.pop(FOLDER_VARIABLE, None)
        typer.echo(f"{store}: no features there; requests must give item ids", err=True)
    command = [sys.executable, "-m", "bentoml", "serve", SERVICE]
    become([*command, "--host", host, "--port", str(port)], environment)
