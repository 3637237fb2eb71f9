"""From items and texts to token sequences: prompts to decode from, and examples to train on.

`seqrec` is packed: one sequence a trajectory, with the loss at every item. It trains the same
predictions as one example a prefix for a fraction of the work. That needs its templates to end
with the history, so that the answer continues it.
"""

from collections.abc import Iterable, Set
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from eager_llm.core.errors import UserError
from eager_llm.index.item_index import ItemIndex
from eager_llm.prompts.templates import DEFAULT_FILE, Template, TextPiece, read_templates

# What a template consists of: the token ids of literal text, or the name of a field.
Piece = str | list[int]


@dataclass(frozen=True)
class Example:
    """One training sequence.

    Attributes:
        ids: token ids.
        loss_mask: whether each token is predicted in the loss.
        item_end_positions: (position, item row) of the last token of every answered item, for the
            contrast.
    """

    ids: list[int]
    loss_mask: list[bool]
    item_end_positions: list[tuple[int, int]]


@dataclass(frozen=True)
class TokenTemplate:
    """A template whose literal text is tokenised.

    Attributes:
        prompt: what the model reads.
        answer: what it is trained to write.
    """

    prompt: list[Piece]
    answer: list[Piece]


def item_tokens(tokenizer: Any, index: ItemIndex) -> np.ndarray:
    """Return the token ids of every item's path, int64 [items, levels].

    Raises:
        UserError: the tokenizer lacks a token of the index.
    """
    ids = [tokenizer.convert_tokens_to_ids(token) for token in index.vocabulary]
    for token, token_id in zip(index.vocabulary, ids, strict=True):
        if token_id is None or token_id == tokenizer.unk_token_id:
            raise UserError(
                f"the tokenizer does not know {token} of the item index: "
                "they do not belong together"
            )
    return np.array(ids)[index.token_numbers]


class PromptBuilder:
    """Fills templates with items and texts.

    Args:
        tokenizer: knows the index tokens.
        items: the catalogue.
        text_tokens: length of a text field, at most, in tokens.
        template_file: the templates.
        held_out: rows of items whose texts no task may use: they are held out for measuring.

    Attributes:
        item_tokens: token ids of each item's path, int64 [items, levels].
        templates: for each task, the templates to train on.
        begin_tokens: what every sequence begins with: the tokenizer's token for it, or nothing.
        end_tokens: what ends a text, in the same way.
    """

    def __init__(
        self,
        tokenizer: Any,
        index: ItemIndex,
        items: pd.DataFrame,
        text_tokens: int,
        template_file: Path = DEFAULT_FILE,
        held_out: Set[int] = frozenset(),
    ) -> None:
        self.tokenizer = tokenizer
        self.text_tokens = text_tokens
        self.item_tokens = item_tokens(tokenizer, index)
        self.items = items
        self.template_file = template_file
        self.held_out = held_out
        self._item_ids = index.item_ids
        self.templates: dict[str, list[TokenTemplate]] = {}
        self._held_out_templates: dict[str, list[TokenTemplate]] = {}
        for task, templates in read_templates(template_file).items():
            self.templates[task] = []
            self._held_out_templates[task] = []
            for template in templates:
                group = self._held_out_templates if template.held_out else self.templates
                group[task].append(self._tokenize(template))
        begin, end = tokenizer.bos_token_id, tokenizer.eos_token_id
        self.begin_tokens = [] if begin is None else [begin]
        self.end_tokens = [] if end is None else [end]

    @cached_property
    def titles(self) -> list[list[int]]:
        """The title of each item as token ids; its categories where it has no title."""
        items = self._indexed_items()
        columns = zip(items["title"], items["categories"], strict=True)
        return self.encode(title or categories for title, categories in columns)

    @cached_property
    def texts(self) -> dict[str, list[list[int]]]:
        """For each text field of the catalogue, the token ids of each item."""
        # Only training reads texts: a service over millions of items must not wait for them.
        items = self._indexed_items()
        fields = ("title", "description", "categories")
        return {field: self.encode(items[field]) for field in fields}

    def prompt(self, history: list[int]) -> list[int]:
        """Return the `seqrec` prompt that recommendations are decoded from.

        Args:
            history: item rows, oldest first; may be empty.
        """
        return self.packed_example(history, 0).ids

    def search_prompt(
        self,
        history: list[int],
        query: str,
    ) -> list[int]:
        """Return the `itemsearch` prompt that items are decoded from for a query in words.

        Args:
            history: item rows, oldest first; may be empty.
        """
        template = self.templates["itemsearch"][0]
        fields = {
            "history": self.path_tokens(history),
            "intention": self.encode([query])[0],
        }
        return [*self.begin_tokens, *_fill(template.prompt, fields)]

    def title_prompt(self, item: int) -> list[int]:
        """Return the `index2item` prompt that an item's text is written from."""
        template = self.templates["index2item"][0]
        fields = {"item": self.path_tokens([item])}
        return [*self.begin_tokens, *_fill(template.prompt, fields)]

    def probe_prompt(
        self,
        task: str,
        item: int,
    ) -> tuple[list[int], list[int]]:
        """Return prompt and answer of a task in a template that was never trained on.

        Where no template is held out, the first one is used. The text is the item's title, or its
        categories where it has none. Held-out items may be used.

        Args:
            task: `item2index` or `index2item`.
        """
        templates = self._held_out_templates[task] or self.templates[task]
        template = templates[0]
        title = self.titles[item]
        fields = {
            "item": self.path_tokens([item]),
            "title": title,
            "text": title,
        }
        prompt = [*self.begin_tokens, *_fill(template.prompt, fields)]
        answer = _fill(template.answer, fields)
        if task != "item2index":
            answer += self.end_tokens
        return prompt, answer

    def packed_example(
        self,
        items: list[int],
        template: int,
    ) -> Example:
        """Return a `seqrec` example with the loss at every item.

        Args:
            items: item rows, oldest first.
            template: number of the template.
        """
        literal = self.templates["seqrec"][template].prompt[0]
        start = [*self.begin_tokens, *literal]
        path_tokens = self.path_tokens(items)
        levels = self.item_tokens.shape[1]
        item_end_positions = []
        for number, item in enumerate(items, start=1):
            position = len(start) + number * levels - 1
            item_end_positions.append((position, item))
        loss_mask = [False] * len(start) + [True] * len(path_tokens)
        return Example(start + path_tokens, loss_mask, item_end_positions)

    def path_tokens(self, items: list[int]) -> list[int]:
        """Return the tokens of some items' paths, one path after another."""
        if not items:
            return []
        tokens: list[int] = self.item_tokens[items].reshape(-1).tolist()
        return tokens

    def encode(self, texts: Iterable[Any]) -> list[list[int]]:
        """Return the token ids of each text, at most `text_tokens` of them."""
        strings = [str(text) for text in texts]
        if not strings:
            return []
        encoded = self.tokenizer(strings, add_special_tokens=False)["input_ids"]
        return [ids[: self.text_tokens] for ids in encoded]

    def _indexed_items(self) -> pd.DataFrame:
        """Return the catalogue in the order of the index."""
        return self.items.set_index("item_id").loc[self._item_ids]

    def _tokenize(self, template: Template) -> TokenTemplate:
        prompt, answer = template.pieces()
        return TokenTemplate(self._tokenize_pieces(prompt), self._tokenize_pieces(answer))

    def _tokenize_pieces(self, pieces: list[TextPiece]) -> list[Piece]:
        tokenized: list[Piece] = []
        for is_field, text in pieces:
            if is_field:
                tokenized.append(text)
            else:
                encoded = self.tokenizer(text, add_special_tokens=False)
                tokenized.append(encoded["input_ids"])
        return tokenized


def _fill(
    pieces: list[Piece],
    fields: dict[str, list[int]],
) -> list[int]:
    """Return the tokens of a template's pieces, with the tokens of each field in its place."""
    tokens: list[int] = []
    for piece in pieces:
        if isinstance(piece, str):
            tokens += fields[piece]
        else:
            tokens += piece
    return tokens
