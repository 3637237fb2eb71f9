"""A step as plain values, so that another machine can run it: its name, data and settings."""

import base64
import hashlib
import json
import shutil
import zlib
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from eager_llm.core.errors import UserError
from eager_llm.core.files import write_json
from eager_llm.core.stores import fetch_folder, store_errors, upload_files

# Where Kubeflow Pipelines mounts an object store: a step sees these paths, another pod the URIs.
MOUNTS = {"/s3/": "s3://", "/minio/": "s3://", "/gcs/": "gs://"}
LONGEST_CALL = 100_000  # characters: a command line holds at least 128 KiB


@dataclass(frozen=True)
class StepCall:
    """A step with its arguments.

    Attributes:
        step: its name among the steps that may run elsewhere.
        inputs: argument -> path or URI that the step reads.
        outputs: argument -> path or URI that the step writes. The answer lies beside the first.
        shared_folders: argument -> folder that both sides reach under the same path.
        settings: all settings, as plain values.
    """

    step: str
    inputs: dict[str, str]
    outputs: dict[str, str]
    shared_folders: dict[str, str]
    settings: dict[str, Any]

    @property
    def name(self) -> str:
        """The name of the call's job: from its content, so that the same call finds it again."""
        # Where the step runs is no part of what it does.
        settings = {**self.settings, "ray": None}
        content = json.dumps({**asdict(self), "settings": settings}, sort_keys=True)
        digest = hashlib.sha256(content.encode()).hexdigest()
        return f"eager-{self.step.replace('_', '-')}-{digest[:12]}"

    @property
    def answer(self) -> str:
        """Path or URI of the step's figures or its error: beside its first output."""
        first_output = next(iter(self.outputs.values()))
        return first_output.rstrip("/") + ".answer.json"

    def encode(self) -> str:
        """Return the call as text without a character that is special to a shell.

        Raises:
            UserError: it is too long for a command line.
        """
        content = zlib.compress(json.dumps(asdict(self)).encode(), 9)
        text = base64.urlsafe_b64encode(content).decode()
        if len(text) > LONGEST_CALL:
            raise UserError(
                f"step {self.step}: its settings come to {len(text)} characters; at most "
                f"{LONGEST_CALL} travel"
            )
        return text

    @classmethod
    def decode(cls, text: str) -> "StepCall":
        """Return what `encode` wrote.

        Raises:
            UserError: it is something else.
        """
        try:
            content = zlib.decompress(base64.urlsafe_b64decode(text))
            return cls(**json.loads(content))
        except (ValueError, TypeError, zlib.error) as error:
            raise UserError(f"not a call of a step: {error}") from None

    def read_answer(self) -> dict[str, Any] | None:
        """Return the step's figures or its error, and remove them; None: the step left nothing.

        Raises:
            UserError: the store cannot be reached; the URI is named.
        """
        with store_errors(self.answer, "the step's answer"):
            system, path = _file_system(self.answer)
            if not system.exists(path):
                return None
            answer = dict(json.loads(system.cat_file(path)))
            system.rm_file(path)
            return answer


def uri_of(path: Path | str) -> str:
    """Return the URI of a path below a mounted object store, or the absolute path of any other."""
    text = str(path)
    for mount, scheme in MOUNTS.items():
        if text.startswith(mount):
            return scheme + text.removeprefix(mount)
    return text if "://" in text else str(Path(text).resolve())


def fetch(location: str, folder: Path) -> Path:
    """Return a local path of a file or folder; what lies in an object store is copied.

    Args:
        location: path or URI.
        folder: takes the copy.

    Raises:
        UserError: nothing is there, or the store cannot be reached; the URI is named.
    """
    if "://" not in location:
        if not Path(location).exists():
            raise UserError(
                f"{location}: not there on the Ray cluster; mount the claim that holds it at the "
                "same path"
            )
        return Path(location)
    with store_errors(location, "what the step reads"):
        system, path = _file_system(location)
        if system.isfile(path):
            folder.parent.mkdir(parents=True, exist_ok=True)
            system.get_file(path, str(folder))
            return folder
    return fetch_folder(location, folder, "what the step reads")


def deliver(source: Path, location: str) -> None:
    """Copy a file or folder to a path or URI, unless the step has written it there.

    Raises:
        UserError: the store cannot be reached; the URI is named.
    """
    if "://" in location:
        upload_files(_named_files(source), location)
    elif Path(location) != source:
        copy = shutil.copytree if source.is_dir() else shutil.copyfile
        copy(source, location)


def _named_files(source: Path) -> list[tuple[str, Path]]:
    """Return the files of a folder with their relative names, or one file with an empty name."""
    if source.is_file():
        return [("", source)]
    files = sorted(path for path in source.rglob("*") if path.is_file())
    return [(file.relative_to(source).as_posix(), file) for file in files]


def write_answer(call: StepCall, answer: dict[str, Any], folder: Path) -> None:
    """Write the step's figures or its error where the waiting side reads them.

    Args:
        call: names the path or URI.
        answer: `figures` or `error`.
        folder: for a draft.

    Raises:
        UserError: the store cannot be reached; the URI is named.
    """
    if "://" not in call.answer:
        write_json(Path(call.answer), answer)
        return
    draft = folder / "answer.json"
    write_json(draft, answer)
    deliver(draft, call.answer)


def _file_system(location: str) -> tuple[Any, str]:
    """Return the file system of a path or URI, and the path in it."""
    import fsspec

    system, path = fsspec.core.url_to_fs(location)
    return system, path.rstrip("/")
