"""A step as plain values, so that another machine can do it: its name, where its data lies, its settings."""

import base64
import hashlib
import json
import shutil
import zlib
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from eager_llm.core.errors import UserError
from eager_llm.core.files import fetch_folder, read_json, reading, send, write_json

# Folders under which Kubeflow Pipelines keeps what lies in an object store; a step sees paths, another pod the URIs.
MOUNTS = {"/s3/": "s3://", "/minio/": "s3://", "/gcs/": "gs://"}
LONGEST_CALL = 100_000  # characters: a command line holds at least 128 KiB


@dataclass(frozen=True)
class Call:
    """A step with its arguments.

    Attributes:
        step: its name among the steps that may run elsewhere.
        inputs: argument -> path or URI of what is read.
        outputs: argument -> path or URI of what is written; the first is waited for, the last also kept on failure.
        places: argument -> folder that both sides reach under the same path.
        settings: all settings, as plain values.
    """

    step: str
    inputs: dict[str, str]
    outputs: dict[str, str]
    places: dict[str, str]
    settings: dict[str, Any]

    @property
    def name(self) -> str:
        """What the call is called everywhere: from its content, so that the same call is found again."""
        metadata = {**asdict(self), "settings": {**self.settings, "ray": None}}
        digest = hashlib.sha256(json.dumps(metadata, sort_keys=True).encode()).hexdigest()
        return f"eager-{self.step.replace('_', '-')}-{digest[:12]}"

    @property
    def answer(self) -> str:
        """Where the step's figures or its error are written: beside its first output."""
        return next(iter(self.outputs.values())).rstrip("/") + ".answer.json"

    def encode(self) -> str:
        """Return the call in letters and digits that no shell reads anything into.

        Raises:
            UserError: it is too long for a command line.
        """
        text = base64.urlsafe_b64encode(
            zlib.compress(json.dumps(asdict(self)).encode(), 9)
        ).decode()
        if len(text) > LONGEST_CALL:
            raise UserError(
                f"step {self.step}: its settings come to {len(text)} characters; at most {LONGEST_CALL} travel"
            )
        return text

    @classmethod
    def decode(cls, text: str) -> "Call":
        """Return what `encode` wrote.

        Raises:
            UserError: it is something else.
        """
        try:
            return cls(**json.loads(zlib.decompress(base64.urlsafe_b64decode(text))))
        except (ValueError, TypeError, zlib.error) as error:
            raise UserError(f"not a call of a step: {error}") from None

    def read_answer(self) -> dict[str, Any] | None:
        """Return what the step left for whoever waits for it, and remove it; None: nothing is there."""
        with reading(self.answer, "the step's answer"):
            system, path = _file_system(self.answer)
            if not system.exists(path):
                return None
            found = dict(json.loads(system.cat_file(path)))
            system.rm_file(path)
            return found


def uri_of(path: Path | str) -> str:
    """Return the URI of a path that stands for an object, or the whole path of a folder that is one."""
    text = str(path)
    for mount, scheme in MOUNTS.items():
        if text.startswith(mount):
            return scheme + text[len(mount) :]
    return text if "://" in text else str(Path(text).resolve())


def fetch(place: str, folder: Path) -> Path:
    """Return a local path of what lies at a path or URI; what is elsewhere is copied to `folder`.

    Raises:
        UserError: nothing is there, or the store cannot be reached; the URI is named.
    """
    if "://" not in place:
        if not Path(place).exists():
            raise UserError(
                f"{place}: not there on the Ray cluster; mount the claim that holds it at the same path"
            )
        return Path(place)
    with reading(place, "what the step reads"):
        system, path = _file_system(place)
        if system.isfile(path):
            folder.parent.mkdir(parents=True, exist_ok=True)
            system.get_file(path, str(folder))
            return folder
    return fetch_folder(place, folder, "what the step reads")


def deliver(local: Path, place: str) -> None:
    """Copy a file or folder to where it belongs, unless it was written there.

    Raises:
        UserError: the store cannot be reached; the URI is named.
    """
    if "://" not in place:
        if Path(place) != local:
            shutil.copytree(local, place) if local.is_dir() else shutil.copyfile(local, place)
        return
    whole = [local] if local.is_file() else sorted(p for p in local.rglob("*") if p.is_file())
    send(
        [("" if file == local else file.relative_to(local).as_posix(), file) for file in whole],
        place,
    )


def write_answer(call: Call, answer: dict[str, Any], folder: Path) -> None:
    """Leave the step's figures or its error for whoever waits for it."""
    draft = folder / "answer.json"
    write_json(draft, answer)
    if "://" not in call.answer:
        write_json(Path(call.answer), read_json(draft))  # whole or not at all
    else:
        deliver(draft, call.answer)


def _file_system(place: str) -> tuple[Any, str]:
    import fsspec

    system, path = fsspec.core.url_to_fs(place)
    return system, path.rstrip("/")
