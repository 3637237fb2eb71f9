"""A tuned model's folder: backbone, adapter, tokenizer, templates, and what it was tuned on."""

import warnings
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from eager_llm.core.errors import UserError
from eager_llm.core.files import read_json, write_json
from eager_llm.index.item_index import ItemIndex
from eager_llm.prompts.templates import DEFAULT_FILE, read_templates

TUNED_ON = "tuned_on.json"
TEMPLATES = "templates.json"
ADAPTER = "adapter"


def save_tuned(
    model: Any,
    tokenizer: Any,
    index: ItemIndex,
    folder: Path,
    template_file: Path = DEFAULT_FILE,
    held_out: Iterable[int] = (),
) -> None:
    """Write the backbone, its tokenizer and templates, and what it was tuned on.

    Args:
        held_out: rows of the items whose texts no task has used.
    """
    tasks = {}
    for task, templates in read_templates(template_file).items():
        tasks[task] = [asdict(template) for template in templates]
    write_json(folder / TEMPLATES, tasks)
    tokenizer.save_pretrained(folder / "tokenizer")
    model.eval().save_pretrained(folder / "backbone")
    mark_tuned(
        folder,
        index,
        [index.item_ids[row] for row in sorted(held_out)],
    )


def mark_tuned(
    folder: Path,
    index: ItemIndex,
    held_out: list[str],
) -> None:
    """Write which item index a model was tuned on.

    Args:
        held_out: ids of the items whose texts no task has used.
    """
    write_json(folder / TUNED_ON, {"item_index": index.checksum, "held_out": held_out})


def held_out_items(folder: Path) -> list[str]:
    """Return the ids of the items whose texts no task of a tuned model has used."""
    record = read_json(folder / TUNED_ON)
    # Earlier versions call them "unread".
    return list(record.get("held_out", record.get("unread", [])))


def load_tuned(
    folder: Path,
    index: ItemIndex,
    device: str = "cpu",
    adapter: bool = True,
    trainable: bool = False,
) -> tuple[Any, Any]:
    """Load model and tokenizer of a tuned model or a bundle.

    Args:
        index: the one that it was tuned on, or a later version that has moved none of its items:
            new items have paths of the same tokens.
        adapter: whether the adapter, where there is one, is on: with it the model recommends,
            without it it reads and writes text.
        trainable: whether the adapter is to be tuned further.

    Raises:
        UserError: it was tuned on another item index, or on a version whose items have moved since.
    """
    if not index.continues(read_json(folder / TUNED_ON).get("item_index", "")):
        raise UserError(
            f"{folder}: the model was tuned on another item index: they do not belong together "
            f"({index.version_name} neither is the one nor comes after it with every path kept)"
        )
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from transformers.utils import logging

    logging.disable_progress_bar()
    tokenizer = AutoTokenizer.from_pretrained(folder / "tokenizer")
    model = AutoModelForCausalLM.from_pretrained(
        folder / "backbone", dtype=torch.float32, use_safetensors=True
    )
    if adapter and (folder / ADAPTER).is_dir():
        model = _add_adapter(model, folder / ADAPTER, trainable)
    return model.to(device).eval(), tokenizer


def _add_adapter(model: Any, folder: Path, trainable: bool) -> Any:
    from peft import PeftModel

    with warnings.catch_warnings():
        # peft asks transformers by an old name.
        warnings.simplefilter("ignore", FutureWarning)
        return PeftModel.from_pretrained(
            model, str(folder), is_trainable=trainable, use_safetensors=True
        )
