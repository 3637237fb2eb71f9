"""Comprehensive interaction modelling: the six instruction tasks as token sequences.

`seqrec` is packed: one sequence a trajectory, with the loss at every item, which trains the same
predictions as one example a prefix for a fraction of the work. That needs its phrasings to end with
the history, so that the answer continues it.
"""

from collections.abc import Set
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from eager_llm.core.errors import UserError
from eager_llm.index.item_index import ItemIndex
from eager_llm.prompts.templates import DEFAULT_FILE, Template, read_templates
from eager_llm.settings import TaskSettings, TuningSettings

INTENTION_TASKS = ("itemsearch", "preferenceobtain")
SEPARATOR = "; "


@dataclass(frozen=True)
class Example:
    """One training sequence.

    Attributes:
        ids: token ids.
        learn: whether each token is predicted in the loss.
        item_end_positions: (position, item row) of every answered item's closing token, for the contrast.
    """

    ids: list[int]
    learn: list[bool]
    item_end_positions: list[tuple[int, int]]


@dataclass(frozen=True)
class Trajectory:
    """What a user chose, oldest first, ending with the target.

    `intention` and `preference` belong to the target; empty where nothing is known.
    """

    items: list[int]
    intention: str = ""
    preference: str = ""


def trajectories(
    examples: pd.DataFrame, index: ItemIndex, intentions: pd.DataFrame | None
) -> list[Trajectory]:
    """Build the training trajectories from the training part of the point-in-time examples.

    Args:
        examples: `user_id`, `item_id`, `history`, `part`; only rows of part "train" are used, and
            intentions only where they belong to such a target.
    """
    train = examples[examples["split"] == "train"]
    wishes: dict[tuple[str, str], tuple[str, str]] = {}
    if intentions is not None:
        columns = intentions[["user_id", "item_id", "intention", "preference"]].itertuples(
            index=False
        )
        wishes = {
            (user, item): (intention or "", preference or "")
            for user, item, intention, preference in columns
        }
    result = []
    for user, item, history in zip(
        train["user_id"], train["item_id"], train["history"], strict=True
    ):
        intention, preference = wishes.get((user, item), ("", ""))
        items = [index.rows[i] for i in history] + [index.rows[item]]
        result.append(Trajectory(items, intention, preference))
    return result


def thinned(trajectory: Trajectory, share: float, rng: np.random.Generator) -> Trajectory:
    """Leave that share of the items before the target out, at random; at least one stays of any.

    A step then leads from an item to what came soon after it, not only next.
    """
    past = trajectory.items[:-1]
    kept = [item for item, drawn in zip(past, rng.random(len(past)), strict=True) if drawn >= share]
    return replace(trajectory, items=[*(kept or past[-1:]), trajectory.items[-1]])


def held_out_rows(index: ItemIndex, settings: TuningSettings, seed: int) -> frozenset[int]:
    """Draw the rows of the items whose texts are held out from all tasks."""
    count = round(settings.held_out_share * len(index.item_ids)) if settings.language_items else 0
    return frozenset(
        np.random.default_rng(seed).choice(len(index.item_ids), count, replace=False).tolist()
    )


def item_tokens(tokenizer: Any, index: ItemIndex) -> np.ndarray:
    """Return the token ids of every item's path, int64 [items, levels].

    Raises:
        UserError: the tokenizer lacks a token of the index.
    """
    ids = [tokenizer.convert_tokens_to_ids(token) for token in index.vocabulary]
    for token, number in zip(index.vocabulary, ids, strict=True):
        if number is None or number == tokenizer.unk_token_id:
            raise UserError(
                f"the tokenizer does not know {token} of the item index: they do not belong together"
            )
    return np.array(ids)[index.token_numbers]


class PromptBuilder:
    """Phrasings, and everything that turns a task into tokens.

    Args:
        tokenizer: knows the index tokens.
        items: the catalogue, in the order of the index.
        text_tokens: longest text part, in tokens.
        file: the phrasings.
        held_out: rows of items whose texts no task may use: they are held out for measuring.
    """

    def __init__(
        self,
        tokenizer: Any,
        index: ItemIndex,
        items: pd.DataFrame,
        text_tokens: int,
        file: Path = DEFAULT_FILE,
        held_out: Set[int] = frozenset(),
    ) -> None:
        self.tokenizer = tokenizer
        self.text_tokens = text_tokens
        self.item_tokens = item_tokens(tokenizer, index)
        self.items, self._item_ids = items, index.item_ids
        self.file, self.held_out = file, held_out
        tasks = read_templates(file)
        self._phrasings = {
            name: [self._compile(p) for p in found if not p.held_out]
            for name, found in tasks.items()
        }
        self._held_out = {
            name: [self._compile(p) for p in found if p.held_out] for name, found in tasks.items()
        }
        self._begin = [] if tokenizer.bos_token_id is None else [tokenizer.bos_token_id]
        self._end = [] if tokenizer.eos_token_id is None else [tokenizer.eos_token_id]

    @cached_property
    def _titles(self) -> list[list[int]]:
        items = self._indexed_items()
        return self._encode_all(
            [t or c for t, c in zip(items["title"], items["categories"], strict=True)]
        )

    @cached_property
    def _texts(self) -> list[list[list[int]]]:
        # Only training reads texts: a service over millions of items must not wait for them.
        items = self._indexed_items()
        return [self._encode_all(items[name]) for name in ("title", "description", "categories")]

    def prompt(self, history: list[int]) -> list[int]:
        """Return the `seqrec` prompt that recommendations are decoded from."""
        return self._packed(history, 0).ids

    def search_prompt(self, history: list[int], words: str) -> list[int]:
        """Return the `itemsearch` prompt that items are decoded from for words; the history may be empty."""
        past = self.item_tokens[history].reshape(-1).tolist() if history else []
        return self._question(
            "itemsearch", {"history": past, "intention": self._encode_all([words])[0]}
        )

    def title_prompt(self, item: int) -> list[int]:
        """Return the `index2item` prompt that an item's text is written from."""
        return self._question("index2item", {"item": self.item_tokens[item].tolist()})

    def _question(self, task: str, fields: dict[str, list[int]]) -> list[int]:
        """Fill the prompt of a task's first phrasing."""
        prompt, _ = self._phrasings[task][0]
        filled = [fields[piece] if isinstance(piece, str) else piece for piece in prompt]
        return [*self._begin, *(token for piece in filled for token in piece)]

    def trajectory(self, items: list[int], rng: np.random.Generator) -> Example:
        """Return a packed `seqrec` example."""
        return self._packed(items, int(rng.integers(len(self._phrasings["seqrec"]))))

    def question(self, task: str, item: int) -> tuple[list[int], list[int]]:
        """Return prompt and answer of `item2index` or `index2item`, in words that were never trained on.

        Where no phrasing is held out, the first one is used. The text is the item's title, its
        categories where it has none. Items held out may be asked about.
        """
        prompt, answer = (self._held_out[task] or self._phrasings[task])[0]
        fields = {
            "item": self.item_tokens[item].tolist(),
            "title": self._titles[item],
            "text": self._titles[item],
        }
        asked, said = (
            [
                token
                for piece in pieces
                for token in (fields[piece] if isinstance(piece, str) else piece)
            ]
            for pieces in (prompt, answer)
        )
        return [*self._begin, *asked], said if task == "item2index" else [*said, *self._end]

    def epoch(
        self, trajectories: list[Trajectory], shares: TaskSettings, rng: np.random.Generator
    ) -> list[Example]:
        """Draw one epoch: each task as often as its share of the trajectories says."""
        examples: list[Example] = []
        for task, share in vars(shares).items():
            pool = [t for t in trajectories if self._usable(task, t)]
            if not pool:
                continue
            wanted = share * len(trajectories)
            rounds = [rng.permutation(len(pool)) for _ in range(-(-int(wanted) // len(pool)))]
            drawn: Any = np.concatenate(rounds)[: int(wanted)] if rounds else []
            for number in drawn:
                trajectory = pool[number]
                if task == "seqrec":
                    examples.append(self.trajectory(trajectory.items, rng))
                elif (example := self._instruction(task, trajectory, rng)) is not None:
                    examples.append(example)
        return examples

    @staticmethod
    def _usable(task: str, trajectory: Trajectory) -> bool:
        if task == "itemsearch":
            return bool(trajectory.intention)
        if task == "preferenceobtain":
            return bool(trajectory.preference) and len(trajectory.items) > 1
        return task != "fusionseqrec" or len(trajectory.items) > 1

    def _packed(self, items: list[int], phrasing: int) -> Example:
        (literal, _), _ = self._phrasings["seqrec"][phrasing]
        start = [*self._begin, *literal]
        tokens = self.item_tokens[items].reshape(-1).tolist() if items else []
        levels = self.item_tokens.shape[1]
        item_end_positions = [
            (len(start) + (n + 1) * levels - 1, item) for n, item in enumerate(items)
        ]
        return Example(
            start + tokens, [False] * len(start) + [True] * len(tokens), item_end_positions
        )

    def _instruction(
        self, task: str, trajectory: Trajectory, rng: np.random.Generator
    ) -> Example | None:
        """Fill a phrasing; None where the item has no text to read or write."""
        prompt, answer = self._phrasings[task][int(rng.integers(len(self._phrasings[task])))]
        # The text tasks speak of any item of the trajectory, the others of its target.
        speaks_of_any = task in ("item2index", "index2item")
        item = (
            trajectory.items[int(rng.integers(len(trajectory.items)))]
            if speaks_of_any
            else trajectory.items[-1]
        )
        ids, learn, item_end_positions = [*self._begin], [False] * len(self._begin), []
        for pieces, learned in ((prompt, False), (answer, True)):
            for piece in pieces:
                tokens = (
                    self._fill(piece, item, trajectory, rng) if isinstance(piece, str) else piece
                )
                if isinstance(piece, str) and not tokens:
                    return None
                ids += tokens
                learn += [learned] * len(tokens)
                if learned and piece == "item":
                    item_end_positions.append((len(ids) - 1, item))
        if not item_end_positions:
            ids += self._end
            learn += [True] * len(self._end)
        return Example(ids, learn, item_end_positions)

    def _fill(
        self, field: str, item: int, trajectory: Trajectory, rng: np.random.Generator
    ) -> list[int]:
        if field == "item":
            return self.item_tokens[item].tolist()
        if field == "history":
            return self.item_tokens[trajectory.items[:-1]].reshape(-1).tolist()
        if field in ("title", "text") and item in self.held_out:
            return []
        if field == "title":
            return self._titles[item]
        if field == "titles":
            # Short titles of the last few items: the prompt stays about as long as a text.
            past = trajectory.items[:-1][-4:]
            read = [number for number in past if number not in self.held_out]
            return [
                token for number in read for token in self._titles[number][: self.text_tokens // 3]
            ]
        if field == "text":
            texts = [texts[item] for texts in self._texts if texts[item]]
            return texts[int(rng.integers(len(texts)))] if texts else []
        return self._encode_all([getattr(trajectory, field)])[0]

    def _indexed_items(self) -> pd.DataFrame:
        return self.items.set_index("item_id").loc[self._item_ids]

    def _encode_all(self, texts: Any) -> list[list[int]]:
        texts = [str(text) for text in texts]
        if not texts:
            return []
        encoded = self.tokenizer(texts, add_special_tokens=False)["input_ids"]
        return [ids[: self.text_tokens] for ids in encoded]

    def _compile(self, phrasing: Template) -> tuple[list[Any], list[Any]]:
        """Turn a phrasing into literals (token ids) and fields (names)."""

        def compiled(pieces: list[tuple[bool, str]]) -> list[Any]:
            return [
                text if is_field else self.tokenizer(text, add_special_tokens=False)["input_ids"]
                for is_field, text in pieces
            ]

        prompt, answer = phrasing.pieces()
        return compiled(prompt), compiled(answer)
