"""The contracts of pyproject.toml hold, and the one written here does fail where it should."""

import subprocess
import sys

import pytest
from conftest import ROOT

sys.path.insert(0, str(ROOT))

from scripts.import_contracts import top_level_imports

ENGINES = ("bentoml", "feast", "great_expectations", "kfp", "kubernetes", "ray")


def test_the_import_contracts_hold():
    program = ROOT / ".venv" / "bin" / "lint-imports"
    command = [str(program)] if program.is_file() else ["lint-imports"]
    environment = {"PYTHONPATH": str(ROOT), "PATH": str(ROOT / ".venv" / "bin")}
    result = subprocess.run(
        [*command, "--no-cache"], cwd=ROOT, env=environment, capture_output=True, text=True
    )
    assert result.returncode == 0, result.stdout + result.stderr


@pytest.mark.parametrize(
    ("source", "names"),
    [
        ("import ray", ["ray"]),
        ("from ray.util import x", ["ray.util"]),
        ("try:\n    import ray\nexcept ImportError:\n    ray = None", ["ray"]),
        ("class A:\n    import ray", ["ray"]),
        ("if True:\n    import ray", ["ray"]),
        ("def f():\n    import ray", []),
        ("async def f():\n    import ray", []),
        ("from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import ray", ["typing"]),
    ],
)
def test_an_import_at_the_top_is_seen_wherever_it_hides(tmp_path, source, names):
    file = tmp_path / "module.py"
    file.write_text(source)
    assert [name for _, name in top_level_imports(file)] == names


def test_importing_the_library_brings_no_engine_along():
    code = (
        "import pkgutil, sys, importlib, eager_llm\n"
        "for module in pkgutil.walk_packages(eager_llm.__path__, 'eager_llm.'):\n"
        "    importlib.import_module(module.name)\n"
        f"print([name for name in {ENGINES!r} if name in sys.modules])"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert result.stdout.strip() == "[]"
