"""The language model and its tokenizer: made on the spot, or any causal LM by id or path."""

import warnings
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from eager_llm.core.errors import UserError
from eager_llm.core.files import read_json, write_json
from eager_llm.index.item_index import ItemIndex
from eager_llm.prompts.templates import DEFAULT_FILE, read_templates
from eager_llm.settings import BackboneSettings

SMALL = "small-llama"
TUNED_ON = "tuned_on.json"
TEMPLATES = "templates.json"
ADAPTER = "adapter"


def load_backbone(
    settings: BackboneSettings, index: ItemIndex, texts: list[str], seed: int
) -> tuple[Any, Any]:
    """Return a causal LM and its tokenizer, both knowing the tokens of the index.

    Args:
        texts: what the tokenizer of the small model is trained on.

    Raises:
        UserError: the model cannot be loaded.
    """
    torch.manual_seed(seed)
    if settings.model == SMALL:
        tokenizer = train_tokenizer(texts, settings.vocabulary)
        tokenizer.add_tokens(index.vocabulary)
        model = _small_llama(settings, tokenizer)
        if settings.new_tokens == "centroids":
            start_from_centroids(model, tokenizer, index)
        return model, tokenizer
    from transformers import AutoModelForCausalLM, AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(settings.model)
        model = AutoModelForCausalLM.from_pretrained(settings.model, dtype=torch.float32)
    except (OSError, ValueError) as error:
        raise UserError(f"backbone.model = {settings.model!r} cannot be loaded: {error}") from None
    add_index_tokens(model, tokenizer, index)
    if settings.new_tokens == "centroids":
        start_from_centroids(model, tokenizer, index)
    return model, tokenizer


def add_index_tokens(model: Any, tokenizer: Any, index: ItemIndex) -> None:
    """Teach a foreign model and its tokenizer the tokens of the index, and drop its generation settings."""
    tokenizer.add_tokens(index.vocabulary)
    model.resize_token_embeddings(max(len(tokenizer), model.get_input_embeddings().num_embeddings))
    reset_generation(model)


@torch.no_grad()
def start_from_centroids(model: Any, tokenizer: Any, index: ItemIndex) -> None:
    """Set the embeddings of the index tokens, in and out, to their centroids in the item index.

    A level's centroids are turned by their principal axes into the model's width, and scaled to the mean and
    spread that the other embeddings have, so that tokens that are close in the source start close.
    """
    matrices = {
        id(layer.weight): layer.weight
        for layer in (model.get_input_embeddings(), model.get_output_embeddings())
    }
    ids = torch.tensor([tokenizer.convert_tokens_to_ids(token) for token in index.vocabulary])
    levels = ids.view(index.levels, index.branching)
    for matrix in matrices.values():
        others = torch.ones(len(matrix), dtype=torch.bool)
        others[ids] = False
        known = matrix[others].float()
        mean, spread = known.mean(0), known.std()
        for rows, centroids in zip(levels, index.centroids, strict=True):
            points = torch.from_numpy(np.asarray(centroids, dtype=np.float32))
            points = points - points.mean(0)
            axes = torch.linalg.svd(points, full_matrices=False).Vh[: matrix.shape[1]]
            seen = functional.pad(points @ axes.T, (0, matrix.shape[1] - len(axes)))
            matrix[rows[: len(points)]] = (mean + seen * spread / seen.std().clamp_min(1e-9)).to(
                matrix.dtype
            )


def train_tokenizer(texts: list[str], vocabulary: int) -> Any:
    """Train a byte-level BPE tokenizer; every text can be encoded and read back."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=["<pad>", "<s>", "</s>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", bos_token="<s>", eos_token="</s>"
    )


def _small_llama(settings: BackboneSettings, tokenizer: Any) -> Any:
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=settings.hidden,
        intermediate_size=settings.hidden * 3,
        num_hidden_layers=settings.layers,
        num_attention_heads=settings.heads,
        max_position_embeddings=4096,
        tie_word_embeddings=True,
        initializer_range=settings.hidden**-0.5 / 2,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )
    return LlamaForCausalLM(config)


def reset_generation(model: Any) -> None:
    """Drop a checkpoint's sampling settings: decoding here never reads them, others might."""
    from transformers import GenerationConfig

    model.generation_config = GenerationConfig()


def save_tuned(
    model: Any,
    tokenizer: Any,
    index: ItemIndex,
    folder: Path,
    tasks: Path = DEFAULT_FILE,
    held_out: Iterable[int] = (),
) -> None:
    """Write the backbone, its tokenizer and phrasings, which item index they were tuned on, and what was held out.

    Args:
        held_out: rows of the items whose texts no task has used.
    """
    phrasings = {
        task: [asdict(phrasing) for phrasing in found]
        for task, found in read_templates(tasks).items()
    }
    write_json(folder / TEMPLATES, phrasings)
    tokenizer.save_pretrained(folder / "tokenizer")
    model.eval().save_pretrained(folder / "backbone")
    mark_tuned(folder, index, [index.item_ids[row] for row in sorted(held_out)])


def mark_tuned(folder: Path, index: ItemIndex, held_out: list[str]) -> None:
    """Write which item index the model in a folder was tuned on, and the items whose texts no task has used."""
    write_json(folder / TUNED_ON, {"item_index": index.checksum, "held_out": held_out})


def held_out_items(folder: Path) -> list[str]:
    """Return the items whose texts no task of a tuned model has used."""
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
    """Load `backbone`, `adapter` (where there is one) and `tokenizer` of a tuned model or bundle.

    Args:
        index: the one that it was tuned on, or a later version that has moved none of its items: new items have
            paths of the same tokens.
        adapter: whether the adapter is on: with it the model recommends, without it it reads and writes text.
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
        from peft import PeftModel

        with warnings.catch_warnings():
            # peft asks transformers by an old name.
            warnings.simplefilter("ignore", FutureWarning)
            model = PeftModel.from_pretrained(
                model, str(folder / ADAPTER), is_trainable=trainable, use_safetensors=True
            )
    return model.to(device).eval(), tokenizer


def set_adapter_strength(model: Any, strength: float) -> None:
    """Scale what a PEFT model's LoRA layers add: 1 as trained, 0 nothing; a model without any stays as it is."""
    from peft.tuners.lora import LoraLayer

    for layer in model.modules():
        if isinstance(layer, LoraLayer):
            for adapter in layer.active_adapters:
                layer.set_scale(adapter, strength)


def hidden_states(model: Any, ids: torch.Tensor, **options: Any) -> Any:
    """Run the transformer without its output layer; `last_hidden_state` is [batch, length, width]."""
    return unwrap(model).base_model(input_ids=ids, **options)


def logits_of(
    model: Any, hidden: torch.Tensor, rows: slice | torch.Tensor | None = None
) -> torch.Tensor:
    """Apply the output layer to chosen hidden states.

    Args:
        hidden: [..., width].
        rows: the tokens whose logits are wanted; only these are computed. None: the vocabulary. A
            tensor of more than one dimension [..., n] names tokens of its own for each hidden state.

    Returns:
        float32 [..., vocabulary], or [..., rows].
    """
    plain = unwrap(model)
    layer = plain.get_output_embeddings()
    if rows is None:
        logits = layer(hidden)
    elif type(layer) is not nn.Linear:  # an adapted or quantised layer is more than its weight
        every = layer(hidden)
        own = isinstance(rows, torch.Tensor) and rows.dim() > 1
        logits = every.gather(-1, rows) if own else every[..., rows]
    else:
        # In float32 also where the model is not: rounded to 8 bits, logits of many tokens would tie.
        weight, bias = (
            layer.weight[rows].float(),
            None if layer.bias is None else layer.bias[rows].float(),
        )
        if isinstance(rows, torch.Tensor) and rows.dim() > 1:
            logits = (weight @ hidden.float()[..., None])[..., 0]
            logits = logits if bias is None else logits + bias
        else:
            logits = functional.linear(hidden.float(), weight, bias)
    return _as_configured(logits.float(), plain.config.get_text_config())


def _as_configured(logits: torch.Tensor, config: Any) -> torch.Tensor:
    """Do what some shapes do to their logits after the output layer (Granite, Cohere, Gemma 2)."""
    if divisor := getattr(config, "logits_scaling", None):
        logits = logits / divisor
    if factor := getattr(config, "logit_scale", None):
        logits = logits * factor
    if cap := getattr(config, "final_logit_softcapping", None):
        logits = torch.tanh(logits / cap) * cap
    return logits


def unwrap(model: Any) -> Any:
    """Return the causal LM inside a PEFT model (its adapter stays active), or the model itself."""
    return model.get_base_model() if hasattr(model, "get_base_model") else model
