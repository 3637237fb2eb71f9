"""All arrows point to the library, and inside it along the data."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
ENGINES = {"kfp", "feast", "great_expectations", "bentoml", "ray", "kubernetes"}
ROOMS = [
    "catalogue",
    "encoders",
    "index",
    "tuning",
    "decoding",
    "evaluation",
    "bundle",
    "promotion",
    "rollout",
    "cluster",
    "steps",
    "cli_data",
    "cli_index",
    "cli_inspect",
    "cli_night",
    "cli",
]
GROUND = {
    "compute",
    "errors",
    "files",
    "progress",
    "settings",
    "project",
    "page",
    "run_folder",
    "workers",
}
LIBRARY = sorted((ROOT / "src" / "eager_llm").rglob("*.py"))


def imports(tree, top_only):
    nodes = tree.body if top_only else ast.walk(tree)
    for node in nodes:
        if isinstance(node, ast.Import):
            yield from (name.name for name in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module


def parsed(file):
    return ast.parse(file.read_text(encoding="utf-8"))


@pytest.mark.parametrize("file", LIBRARY, ids=lambda f: str(f.relative_to(ROOT)))
def test_the_library_needs_no_engine_to_be_imported(file):
    assert not {name.split(".")[0] for name in imports(parsed(file), top_only=True)} & ENGINES


@pytest.mark.parametrize("file", LIBRARY, ids=lambda f: str(f.relative_to(ROOT)))
def test_no_part_imports_against_the_flow(file):
    everywhere = set(imports(parsed(file), top_only=False))
    assert not {name.split(".")[0] for name in everywhere} & {
        "kfp",
        "bentoml",
        "components",
        "pipelines",
        "serving",
    }
    here = file.relative_to(ROOT / "src" / "eager_llm").parts[0].removesuffix(".py")
    for name in everywhere:
        parts = name.split(".")
        if parts[0] != "eager_llm" or len(parts) == 1:
            continue
        if here in GROUND:
            assert parts[1] in GROUND
        elif here in ROOMS and parts[1] in ROOMS:
            assert ROOMS.index(parts[1]) <= ROOMS.index(here)


@pytest.mark.parametrize(
    "file", sorted((ROOT / "components").glob("*/component.py")), ids=lambda f: f.parent.name
)
def test_components_import_only_kfp_at_their_top(file):
    assert {name.split(".")[0] for name in imports(parsed(file), top_only=True)} <= {
        "kfp",
        "components",
    }


def test_importing_the_library_brings_no_engine_along():
    import subprocess
    import sys

    code = (
        "import sys, eager_llm.cli.main, eager_llm.steps.data, eager_llm.steps.model\n"
        f"print([name for name in {sorted(ENGINES)!r} if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
