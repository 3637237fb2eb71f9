"""From items to text, as the model without its adapter writes it."""

from typing import Any

import torch

from eager_llm.backbone.loading import hidden_states, logits_of
from eager_llm.decoding.prefill import prefill
from eager_llm.prompts.builder import PromptBuilder


class TextGenerator:
    """A tuned model with its adapter off, writing what it knows of an item.

    Args:
        model: a causal LM.
        book: writes the prompts.
    """

    def __init__(self, model: Any, book: PromptBuilder) -> None:
        self.model, self.book = model, book
        # An item's tokens are no words.
        self._no_words = torch.from_numpy(book.item_tokens).unique().to(model.device)

    @torch.inference_mode()
    def describe(self, row: int, most: int) -> str:
        """Return the text of an item, written greedily.

        Args:
            row: the item's row in the index.
            most: tokens, at most.
        """
        cache, hidden = prefill(self.model, [self.book.title_prompt(row)], None)
        written: list[int] = []
        for _ in range(most):
            logits = logits_of(self.model, hidden[0, -1])
            logits[self._no_words] = -torch.inf
            token = int(logits.argmax())
            if token == self.book.tokenizer.eos_token_id:
                break
            written.append(token)
            ids = torch.tensor([[token]], device=self.model.device)
            hidden = hidden_states(
                self.model, ids, past_key_values=cache, use_cache=True
            ).last_hidden_state
        return str(self.book.tokenizer.decode(written, skip_special_tokens=True)).strip()
