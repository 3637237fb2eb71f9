"""From items to text, as the model without its adapter writes it."""

from typing import Any

import torch

from eager_llm.backbone.hidden_states import hidden_states
from eager_llm.backbone.logits import logits_of
from eager_llm.decoding.prefill import prefill
from eager_llm.prompts.builder import PromptBuilder


class TextGenerator:
    """A tuned model with its adapter off, which writes what an item is.

    Args:
        model: a causal LM.
        prompt_builder: writes the prompts.
    """

    def __init__(
        self,
        model: Any,
        prompt_builder: PromptBuilder,
    ) -> None:
        self.model = model
        self.prompt_builder = prompt_builder
        # An item's tokens are no words.
        index_tokens = torch.from_numpy(prompt_builder.item_tokens).unique()
        self._index_tokens = index_tokens.to(model.device)

    @torch.inference_mode()
    def describe(self, row: int, max_tokens: int) -> str:
        """Return the text of an item, written greedily.

        Args:
            row: the item's row in the index.
            max_tokens: length of the text, at most.
        """
        tokenizer = self.prompt_builder.tokenizer
        prompt = self.prompt_builder.title_prompt(row)
        cache, hidden = prefill(self.model, [prompt], None)
        written: list[int] = []
        for _ in range(max_tokens):
            logits = logits_of(self.model, hidden[0, -1])
            logits[self._index_tokens] = -torch.inf
            token = int(logits.argmax())
            if token == tokenizer.eos_token_id:
                break
            written.append(token)
            ids = torch.tensor([[token]], device=self.model.device)
            output = hidden_states(self.model, ids, past_key_values=cache, use_cache=True)
            hidden = output.last_hidden_state
        return str(tokenizer.decode(written, skip_special_tokens=True)).strip()
