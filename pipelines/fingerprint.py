"""What the first step depends on beside its settings: the library's code and the log's bytes."""

import hashlib
from pathlib import Path

import eager_llm
from eager_llm.core.errors import UserError
from eager_llm.core.files import content_digest
from eager_llm.core.stores import in_store, store_digest
from eager_llm.prompts.templates import read_templates, template_file
from eager_llm.settings import Settings

LIBRARY = Path(eager_llm.__file__).resolve().parent
# Not the code of the library: byte code, and in a wheel the parts outside the library.
SKIPPED = {"__pycache__", "_project"}


def fingerprint(source: str, settings: Settings) -> str:
    """Return a digest of the library's code, of the prompt templates and of the log's files.

    Args:
        source: a folder, a URI of an object store, or `demo`, which has no files.
        settings: name the file of templates.

    Raises:
        UserError: the source or the templates cannot be read.
    """
    digest = hashlib.sha256()
    for file in sorted(LIBRARY.rglob("*")):
        folders = file.relative_to(LIBRARY).parts
        if file.is_file() and SKIPPED.isdisjoint(folders):
            digest.update(file.read_bytes())
    templates = template_file(settings)
    # A mistake in the templates is reported before anything runs.
    read_templates(templates)
    digest.update(templates.read_bytes())
    digest.update(_source_digest(source).encode())
    return digest.hexdigest()[:16]


def _source_digest(source: str) -> str:
    """Return a digest of a log's files; empty where the log is made up."""
    if source == "demo":
        return ""
    if in_store(source):
        return store_digest(source)
    if not Path(source).is_dir():
        raise UserError(f"{source}: no such folder; name the folder that holds the log, or demo")
    return content_digest(Path(source))
