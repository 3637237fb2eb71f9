"""From histories of item ids to recommended item ids."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from threading import Lock
from typing import Any

from eager_llm.core.errors import UserError
from eager_llm.core.progress import progress
from eager_llm.decoding.beam import beam_search
from eager_llm.decoding.constraints import MaskCache
from eager_llm.decoding.explain import path_scores
from eager_llm.decoding.filters import Columns, Filter
from eager_llm.decoding.item_prior import ItemPrior, ItemPriorFactory
from eager_llm.decoding.prefill import PrefixCache
from eager_llm.decoding.prompt_attention import Prompts, reader_of
from eager_llm.decoding.trie import Trie, paths_digest
from eager_llm.index.item_index import ItemIndex
from eager_llm.item_prior.table import ItemPriorTable
from eager_llm.prompts.builder import PromptBuilder
from eager_llm.settings import DecodingSettings


@dataclass(frozen=True)
class Request:
    """What one user is asked for.

    Attributes:
        history: item ids, oldest first.
        k: how many items are wanted.
        beams: how many prefixes are kept at each level, at least k; None: as the settings say.
        filter: conditions that every answered item meets.
        exclude_history: whether items of the history may not come.
        words: what is looked for; empty: what comes next is.
        explain: whether each item's tokens are wanted with their probabilities.
    """

    history: Sequence[str]
    k: int = 10
    beams: int | None = None
    filter: Filter = frozenset()
    exclude_history: bool = False
    words: str = ""
    explain: bool = False

    def __post_init__(self) -> None:
        if self.k < 1 or (self.beams is not None and self.beams < 1):
            raise UserError(f"k = {self.k}, beams = {self.beams}: both must be at least 1")


@dataclass(frozen=True)
class Answer:
    """What comes back.

    Attributes:
        items: item ids and their scores, best first: k of them, or every one that may come.
        reason: why fewer than k came, or None.
        levels: where it was asked for, the log-probability of every token of each item.
    """

    items: list[tuple[str, float]]
    reason: str | None = None
    levels: list[list[float]] | None = None


class Recommender:
    """A tuned model over an item index.

    Args:
        model: a causal LM, with its adapter on where it has one.
        book: writes the prompts; its catalogue is what filters speak of.
        max_history: items of a history that are read, the latest ones.
        trie: built from the same paths, or None to build it here.
        neighbours: evidence that is weighed beside the model, or None.

    Raises:
        UserError: the model's vocabulary or the trie does not belong to the index.
    """

    def __init__(
        self,
        model: Any,
        book: PromptBuilder,
        index: ItemIndex,
        settings: DecodingSettings,
        max_history: int,
        trie: Trie | None = None,
        neighbours: ItemPriorTable | None = None,
    ) -> None:
        self.model, self.book, self.index = model, book, index
        self.settings, self.max_history = settings, max_history
        known, needed = model.get_input_embeddings().num_embeddings, int(book.item_tokens.max()) + 1
        if known < needed:
            raise UserError(
                f"the model knows {known} tokens, the item index needs {needed}: they do not belong together"
            )
        if trie is not None and trie.digest != paths_digest(book.item_tokens):
            raise UserError(
                "the trie was built from another item index or tokenizer: they do not belong together"
            )
        self.trie = (trie or Trie.build(book.item_tokens)).to(model.device)
        self.weigh(neighbours)
        self.columns = Columns(book.items, index.item_ids)
        self._lock = Lock()
        self.prefixes = (
            PrefixCache(settings.prefix_cache_mb << 20) if settings.prefix_cache_mb else None
        )

    def again(self) -> "Recommender":
        """Return the same recommender with nothing remembered, for a model whose weights have changed."""
        return Recommender(
            self.model,
            self.book,
            self.index,
            self.settings,
            self.max_history,
            self.trie,
            self.neighbours,
        )

    def weigh(self, neighbours: ItemPriorTable | None) -> None:
        """Weigh this evidence beside the model from now on; None: none."""
        self.neighbours = neighbours
        self.prior_of = ItemPriorFactory(self.trie, neighbours) if neighbours is not None else None

    @cached_property
    def masks(self) -> MaskCache:
        """The filters in use, compiled."""
        return MaskCache(self.trie, self.columns.passing, self.settings.batch)

    @cached_property
    def reader(self) -> type[Prompts]:
        """How this model's prompts are read; found by trying, once."""
        return reader_of(self.model)

    def recommend(
        self, histories: list[list[str]], k: int, show: bool = False
    ) -> list[list[tuple[str, float]]]:
        """Return the k best items with their scores for each history; see `answer`."""
        return [
            answer.items
            for answer in self.answer([Request(history, k) for history in histories], show)
        ]

    def answer(self, requests: Sequence[Request], show: bool = False) -> list[Answer]:
        """Answer requests of any mixture, each as if it were alone.

        Args:
            show: whether to show the progress.

        Raises:
            UserError: an item of a history is not in the index, or a filter does not fit the catalogue.
            FloatingPointError: the model answers NaN.
        """
        asked = [self._ask(request) for request in requests]
        # Masks and prompts in memory may be replaced by the next request: one at a time.
        with self._lock:
            for one in asked:
                one.allowed = self.masks.allowed(one.filter, one.excluded)
            answers = [Answer([], self._reason(one)) for one in asked]
            # Alike lengths decode together: little padding.
            order = sorted(
                (n for n, one in enumerate(asked) if one.allowed),
                key=lambda n: len(asked[n].prompt),
            )
            starts = range(0, len(order), self.settings.batch)
            for start in progress(starts, desc="recommending", unit="batch", disable=not show):
                batch = order[start : start + self.settings.batch]
                for number, items in zip(
                    batch, self._decode([asked[n] for n in batch]), strict=True
                ):
                    levels = (
                        self._levels(asked[number], items)
                        if asked[number].request.explain
                        else None
                    )
                    answers[number] = replace(answers[number], items=items, levels=levels)
        return answers

    def mistake(self, request: Request) -> UserError | None:
        """Return what `answer` would refuse a request for, or None."""
        try:
            asked = self._ask(request)
            with self._lock:
                self.masks.allowed(asked.filter)
        except UserError as error:
            return error
        return None

    def _decode(self, batch: list["_Asked"]) -> list[list[tuple[str, float]]]:
        items, scores = beam_search(
            self.model,
            self.trie,
            [one.prompt for one in batch],
            [max(one.request.beams or self.settings.beams, one.request.k) for one in batch],
            self.settings.normalise,
            self.masks.constraint([one.filter for one in batch], [one.excluded for one in batch]),
            self.reader,
            self.prefixes,
            self._prior(batch),
        )
        found = []
        for one, rows, row_scores in zip(batch, items.tolist(), scores.tolist(), strict=True):
            count = min(one.request.k, one.allowed)
            pairs = zip(rows[:count], row_scores[:count], strict=True)
            found.append([(self.index.item_ids[row], score) for row, score in pairs])
        return found

    def _prior(self, batch: list["_Asked"]) -> ItemPrior | None:
        return self.prior_of([one.read for one in batch]) if self.prior_of is not None else None

    def _levels(self, asked: "_Asked", items: list[tuple[str, float]]) -> list[list[float]]:
        rows = [self.index.rows[item] for item, _ in items]
        return path_scores(
            self.model,
            self.trie,
            asked.prompt,
            rows,
            self.settings.normalise,
            self.reader,
            self.prefixes,
            self._prior([asked]),
        )

    def _ask(self, request: Request) -> "_Asked":
        unknown = [item for item in request.history if item not in self.index.rows]
        if unknown:
            raise UserError(f"not in the item index: {', '.join(dict.fromkeys(map(str, unknown)))}")
        rows = [self.index.rows[item] for item in request.history]
        read = rows[-self.max_history :]
        excluded = rows if request.exclude_history else []
        if request.words:  # what is looked for need not follow from what was chosen
            return _Asked(
                request,
                [],
                self.book.search_prompt(read, request.words),
                request.filter or None,
                excluded,
            )
        return _Asked(request, read, self.book.prompt(read), request.filter or None, excluded)

    def _reason(self, asked: "_Asked") -> str | None:
        """Say why fewer than k items come."""
        request, allowed = asked.request, asked.allowed
        if allowed >= request.k:
            return None
        if not request.filter:
            return f"{_items(allowed)} in the index{' outside the history' if request.exclude_history else ''}"
        conditions = ", ".join(sorted(map(str, request.filter)))
        passing = self.masks.allowed(request.filter)
        inside = f", {passing - allowed} of them in the history" if passing > allowed else ""
        return f"{_items(passing)} in the index with {conditions}{inside}"


@dataclass
class _Asked:
    """A request on its way: the item rows that are read, its prompt, its filter (None: none), rows that may not come,
    how many may."""

    request: Request
    read: list[int]
    prompt: list[int]
    filter: Filter | None
    excluded: list[int]
    allowed: int = 0


def _items(count: int) -> str:
    return "no items are" if count == 0 else "1 item is" if count == 1 else f"{count} items are"
