"""The language model and its tokenizer: made on the spot, or any causal LM by id or path."""

from typing import Any

import torch

from eager_llm.backbone.index_tokens import add_index_tokens, initialize_from_centroids
from eager_llm.core.errors import UserError
from eager_llm.index.item_index import ItemIndex
from eager_llm.settings import BackboneSettings

SMALL = "small-llama"


def load_backbone(
    settings: BackboneSettings,
    index: ItemIndex,
    texts: list[str],
    seed: int,
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
    else:
        model, tokenizer = _load_pretrained(settings.model)
        add_index_tokens(model, tokenizer, index)
        reset_generation(model)
    if settings.new_tokens == "centroids":
        initialize_from_centroids(model, tokenizer, index)
    return model, tokenizer


def train_tokenizer(texts: list[str], vocabulary: int) -> Any:
    """Train a byte-level BPE tokenizer; every text can be encoded and read back.

    Args:
        vocabulary: how many tokens it has, at most.
    """
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
        tokenizer_object=tokenizer,
        pad_token="<pad>",
        bos_token="<s>",
        eos_token="</s>",
    )


def reset_generation(model: Any) -> None:
    """Drop a checkpoint's sampling settings: decoding here never reads them, others might."""
    from transformers import GenerationConfig

    model.generation_config = GenerationConfig()


def _load_pretrained(name: str) -> tuple[Any, Any]:
    """Load a causal LM and its tokenizer by id or path."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(name)
        model = AutoModelForCausalLM.from_pretrained(name, dtype=torch.float32)
    except (OSError, ValueError) as error:
        raise UserError(f"backbone.model = {name!r} cannot be loaded: {error}") from None
    return model, tokenizer


def _small_llama(settings: BackboneSettings, tokenizer: Any) -> Any:
    """Make a Llama-shaped model with random weights."""
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
