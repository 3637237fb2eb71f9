"""The images: named in one place, complete by their declarations, built without a network."""

import ast
import re
import sys
import tomllib

import pytest
from conftest import ROOT

import eager_llm
from components.images import IMAGES, PYTHON_DATA, PYTHON_TRAINING, SERVING, TAG, USER

sys.path.insert(0, str(ROOT / "scripts"))
import images as building

CONTAINERFILE = (ROOT / "components" / "Containerfile").read_text(encoding="utf-8")


def test_the_tag_is_the_projects_version():
    project = re.search(
        r'^version = "(.+)"', (ROOT / "pyproject.toml").read_text(encoding="utf-8"), re.MULTILINE
    )
    assert TAG == eager_llm.__version__ == project[1]
    assert len({PYTHON_DATA, PYTHON_TRAINING, SERVING}) == 3
    assert IMAGES["serving"].reference("cuda") == f"{SERVING}-cuda"


@pytest.mark.parametrize("image", IMAGES.values(), ids=lambda image: image.name)
def test_the_containerfile_has_each_images_stage(image):
    assert f" AS {image.target}\n" in CONTAINERFILE
    assert all((ROOT / folder).is_dir() for folder in image.folders)


def test_what_comes_out_is_not_root_and_has_no_installer():
    final = CONTAINERFILE.split(" AS steps\n")[1]
    assert "USER 65532:65532" in final
    assert "RUN" not in final
    assert "COPY wheels" not in final
    assert "--no-index" in CONTAINERFILE


def test_code_is_staged_from_version_control_only(tmp_path):
    building.stage_code(IMAGES["serving"], tmp_path)
    staged = {
        str(p.relative_to(tmp_path / "app")) for p in (tmp_path / "app").rglob("*") if p.is_file()
    }
    assert {
        "serving/service.py",
        "feature_repo/feature_store.yaml",
        "src/eager_llm/bundle/bundle.py",
    } <= staged
    assert not any(
        "__pycache__" in name or name.startswith(("tests", "pipelines")) for name in staged
    )


def test_wheels_are_pinned_as_they_lie(tmp_path):
    for name in (
        "torch-2.13.0+cpu-cp311-cp311-linux_x86_64.whl",
        "pip-26.0-py3-none-any.whl",
        "a_b-1.2-py3-none-any.whl",
    ):
        (tmp_path / name).touch()
    assert building.requirements(tmp_path) == "a_b==1.2\ntorch==2.13.0+cpu\n"


# What a library is called where it is imported, and what comes along with another one.
CALLED = {
    "sklearn": "scikit-learn",
    "yaml": "pyyaml",
    "pydantic_core": "pydantic",
    "great_expectations": "great-expectations",
    "redis": "feast",
    "psycopg": "feast",
    "helm_python": "helm-python-sdk",
}


def library_imports():
    for file in (ROOT / "src" / "eager_llm").rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                yield from (name.name for name in node.names)
            elif isinstance(node, ast.ImportFrom) and node.module:
                yield node.module


def test_the_training_image_declares_all_that_the_library_imports():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = project["optional-dependencies"]
    wanted = [
        *project["dependencies"],
        *(line for extra in IMAGES["training"].extras for line in extras[extra]),
    ]
    declared = {re.match(r"[\w-]+", line)[0] for line in wanted}
    imported = (
        {name.split(".")[0] for name in library_imports()} - sys.stdlib_module_names - {"eager_llm"}
    )
    # Databases are read by ingest_data alone, whose image has what speaks to them.
    assert {CALLED.get(name, name) for name in imported} - declared == {"sqlalchemy"}
    assert any(line.startswith("sqlalchemy") for line in extras["data"])


def test_the_images_user_is_named_once():
    assert f"USER {USER}:{USER}" in CONTAINERFILE
