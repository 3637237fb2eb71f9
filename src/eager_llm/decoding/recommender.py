"""From histories of item ids to recommended item ids."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from threading import Lock
from typing import Any

from eager_llm.core.errors import UserError
from eager_llm.core.progress import progress
from eager_llm.core.short_text import some_values
from eager_llm.decoding.beam import beam_search
from eager_llm.decoding.explain import path_scores
from eager_llm.decoding.filters import Columns, Filter, filter_digest
from eager_llm.decoding.item_prior import ItemPrior, ItemPriorFactory
from eager_llm.decoding.mask_cache import MaskCache
from eager_llm.decoding.prefix_cache import PrefixCache
from eager_llm.decoding.prompt_attention import PromptAttention, select_prompt_attention
from eager_llm.decoding.trie import Trie, paths_digest
from eager_llm.index.item_index import ItemIndex
from eager_llm.item_prior.table import ItemPriorTable
from eager_llm.prompts.builder import PromptBuilder
from eager_llm.settings import DecodingSettings

# Item ids and their scores, best first.
Ranking = list[tuple[str, float]]


@dataclass(frozen=True)
class Request:
    """What one user asks for.

    Attributes:
        history: item ids, oldest first.
        k: how many items to return.
        beams: how many prefixes stay at each level, at least k; None: as the settings say.
        filter: conditions that every answered item meets.
        exclude_history: whether items of the history may not come.
        words: what the user looks for; empty: what comes next.
        explain: whether to return each item's tokens with their probabilities.
    """

    history: Sequence[str]
    k: int = 10
    beams: int | None = None
    filter: Filter = frozenset()
    exclude_history: bool = False
    words: str = ""
    explain: bool = False

    def __post_init__(self) -> None:
        beams = 1 if self.beams is None else self.beams
        if min(self.k, beams) < 1:
            raise UserError(f"k = {self.k}, beams = {self.beams}: both must be at least 1")


@dataclass(frozen=True)
class Answer:
    """What comes back.

    Attributes:
        items: item ids and their scores, best first: k of them, or all that may come.
        reason: why fewer than k came, or None.
        levels: where the request has `explain`, the log-probability of each item's tokens.
    """

    items: Ranking
    reason: str | None = None
    levels: list[list[float]] | None = None


@dataclass(frozen=True)
class _Query:
    """A request in the numbers of the index.

    Attributes:
        prompt: token ids.
        prior_items: the item rows that the item prior goes by.
        filter: None: none.
        excluded: item rows that may not come.
    """

    request: Request
    prompt: list[int]
    prior_items: list[int]
    filter: Filter | None
    excluded: list[int]


class Recommender:
    """A tuned model over an item index.

    It remembers nothing of the model's weights, so these may change between two answers; with a
    prefix cache they may not.

    Args:
        model: a causal LM, with its adapter on where it has one.
        prompt_builder: writes the prompts; its catalogue is what filters speak of.
        max_history: items of a history that count, the latest ones.
        trie: built from the same paths, or None to build it here.
        item_prior: weighed beside the model, or None.
        prefix_cache: keys and values of earlier prompts, for who serves weights that never change.
        columns: of the same catalogue and index, shared with another recommender; None: its own.

    Raises:
        UserError: the model's vocabulary or the trie does not belong to the index.
    """

    def __init__(
        self,
        model: Any,
        prompt_builder: PromptBuilder,
        index: ItemIndex,
        settings: DecodingSettings,
        max_history: int,
        trie: Trie | None = None,
        item_prior: ItemPriorTable | None = None,
        prefix_cache: PrefixCache | None = None,
        columns: Columns | None = None,
    ) -> None:
        item_tokens = prompt_builder.item_tokens
        _check_vocabulary(model, int(item_tokens.max()) + 1)
        if trie is None:
            trie = Trie.build(item_tokens)
        elif trie.digest != paths_digest(item_tokens):
            raise UserError(
                "the trie was built from another item index or tokenizer: "
                "they do not belong together"
            )
        self.model = model
        self.prompt_builder = prompt_builder
        self.index = index
        self.settings = settings
        self.max_history = max_history
        self.trie = trie.to(model.device)
        self.prefix_cache = prefix_cache
        if columns is None:
            columns = Columns(prompt_builder.items, index.item_ids)
        self.columns = columns
        self.set_item_prior(item_prior)
        # Masks and cached prompts may be replaced by the next request: one at a time.
        self._lock = Lock()

    def set_item_prior(self, item_prior: ItemPriorTable | None) -> None:
        """Weigh this item prior beside the model from now on; None: none."""
        self.item_prior = item_prior
        self._prior_factory = None
        if item_prior is not None:
            self._prior_factory = ItemPriorFactory(self.trie, item_prior)

    def with_model(self, model: Any) -> "Recommender":
        """Return a recommender that is the same but for its model, and has no prefix cache."""
        return Recommender(
            model,
            self.prompt_builder,
            self.index,
            self.settings,
            self.max_history,
            self.trie,
            self.item_prior,
            columns=self.columns,
        )

    @cached_property
    def mask_cache(self) -> MaskCache:
        """The filters in use, compiled."""
        return MaskCache(
            self.trie,
            self.columns.passing,
            self.settings.batch,
            key=filter_digest,
        )

    @cached_property
    def prompt_attention(self) -> type[PromptAttention]:
        """How this model's prompts are read; found by a trial, once."""
        return select_prompt_attention(self.model)

    def recommend(
        self,
        histories: list[list[str]],
        k: int,
        show: bool = False,
    ) -> list[Ranking]:
        """Return the k best items with their scores for each history; see `answer`."""
        requests = [Request(history, k) for history in histories]
        return [answer.items for answer in self.answer(requests, show)]

    def answer(
        self,
        requests: Sequence[Request],
        show: bool = False,
    ) -> list[Answer]:
        """Answer requests of any mixture, each as if it were alone.

        Args:
            show: whether to show the progress.

        Raises:
            UserError: an item of a history is not in the index, or a filter does not fit the
                catalogue.
            FloatingPointError: the model answers NaN.
        """
        queries = [self._query(request) for request in requests]
        with self._lock:
            counts = [self._count_allowed(query) for query in queries]
            answers = []
            for query, count in zip(queries, counts, strict=True):
                answers.append(Answer([], self._reason(query, count)))
            answerable = [number for number, count in enumerate(counts) if count]
            # Alike lengths decode together: little padding.
            answerable.sort(key=lambda number: len(queries[number].prompt))
            starts = range(0, len(answerable), self.settings.batch)
            for start in progress(starts, desc="recommending", unit="batch", disable=not show):
                numbers = answerable[start : start + self.settings.batch]
                rankings = self._decode([queries[number] for number in numbers])
                for number, ranking in zip(numbers, rankings, strict=True):
                    items = ranking[: counts[number]]
                    levels = self._explain(queries[number], items)
                    answers[number] = Answer(items, answers[number].reason, levels)
        return answers

    def validate(self, request: Request) -> None:
        """Raise what `answer` would raise for a request.

        Raises:
            UserError: an item of its history is not in the index, or its filter does not fit the
                catalogue.
        """
        query = self._query(request)
        with self._lock:
            self._count_allowed(query)

    def _query(self, request: Request) -> _Query:
        """Write the prompt of a request. Raises UserError for items that are not in the index."""
        unknown = [item for item in request.history if item not in self.index.rows]
        if unknown:
            names = ", ".join(dict.fromkeys(map(str, unknown)))
            raise UserError(f"not in the item index: {names}")
        rows = [self.index.rows[item] for item in request.history]
        latest = rows[-self.max_history :]
        excluded = rows if request.exclude_history else []
        conditions = request.filter or None
        if request.words:
            # What is looked for need not follow from the history: no prior counts.
            prompt = self.prompt_builder.search_prompt(latest, request.words)
            return _Query(request, prompt, [], conditions, excluded)
        prompt = self.prompt_builder.prompt(latest)
        return _Query(request, prompt, latest, conditions, excluded)

    def _count_allowed(self, query: _Query) -> int:
        return self.mask_cache.count_allowed(query.filter, query.excluded)

    def _decode(self, queries: list[_Query]) -> list[Ranking]:
        """Return the best k items of each query, and meaningless ones behind those that may come."""
        filters = [query.filter for query in queries]
        excluded = [query.excluded for query in queries]
        items, scores = beam_search(
            self.model,
            self.trie,
            [query.prompt for query in queries],
            [self._beams(query.request) for query in queries],
            self.settings.normalise,
            self.mask_cache.constraint(filters, excluded),
            self.prompt_attention,
            self.prefix_cache,
            self._item_prior(queries),
        )
        rankings = []
        answers = zip(queries, items.tolist(), scores.tolist(), strict=True)
        for query, rows, row_scores in answers:
            k = query.request.k
            item_ids = [self.index.item_ids[row] for row in rows[:k]]
            ranking = zip(item_ids, row_scores[:k], strict=True)
            rankings.append(list(ranking))
        return rankings

    def _beams(self, request: Request) -> int:
        return max(request.beams or self.settings.beams, request.k)

    def _item_prior(self, queries: list[_Query]) -> ItemPrior | None:
        if self._prior_factory is None:
            return None
        return self._prior_factory([query.prior_items for query in queries])

    def _explain(
        self,
        query: _Query,
        items: Ranking,
    ) -> list[list[float]] | None:
        """Return the log-probability of each item's tokens, where the request asks for it."""
        if not query.request.explain:
            return None
        return path_scores(
            self.model,
            self.trie,
            query.prompt,
            [self.index.rows[item] for item, _ in items],
            self.settings.normalise,
            self.prompt_attention,
            self.prefix_cache,
            self._item_prior([query]),
        )

    def _reason(self, query: _Query, allowed: int) -> str | None:
        """Say why fewer than k items come.

        Args:
            allowed: how many may come.
        """
        request = query.request
        if allowed >= request.k:
            return None
        if not request.filter:
            outside = " outside the history" if request.exclude_history else ""
            return f"{_items_are(allowed)} in the index{outside}"
        conditions = some_values(sorted(map(str, request.filter)))
        passing = self.mask_cache.count_allowed(request.filter)
        reason = f"{_items_are(passing)} in the index with {conditions}"
        if passing > allowed:
            reason += f", {passing - allowed} of them in the history"
        return reason


def _check_vocabulary(model: Any, needed: int) -> None:
    """Raise UserError where a model lacks tokens of the index."""
    embeddings = model.get_input_embeddings().num_embeddings
    if embeddings < needed:
        raise UserError(
            f"the model knows {embeddings} tokens, the item index needs {needed}: "
            "they do not belong together"
        )


def _items_are(count: int) -> str:
    if count == 0:
        return "no items are"
    return "1 item is" if count == 1 else f"{count} items are"
