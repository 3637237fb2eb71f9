"""The service most would write first: BentoML around `generate` with `prefix_allowed_tokens_fn`.

`Plain` answers one request at a time, as BentoML does by itself; `Batched` lets BentoML's adaptive
batching put requests together. Both read the bundle of EAGER_LLM_BUNDLE.
"""

import os
from pathlib import Path

import bentoml
from decoding_rivals import prepare_prefix_function
from pydantic import BaseModel

from eager_llm.bundle.bundle import Bundle

LATENCY_MS = 200  # BentoML gives up on a batch that would take longer


class Asked(BaseModel):
    """A history, oldest first."""

    items: list[str]
    k: int = 10


class Decoding:
    """Decodes prompts with transformers, from the same weights."""

    def __init__(self) -> None:
        bundle = Bundle.load(Path(os.environ["EAGER_LLM_BUNDLE"]))
        self.recommender, self.title = bundle.recommender, bundle.title
        book, index = self.recommender.book, self.recommender.index
        self.decode = prepare_prefix_function(
            self.recommender.model, book.item_tokens, self.recommender.trie
        )
        self.answer([Asked(items=index.item_ids[:3])])

    def answer(self, requests: list[Asked]) -> list[dict]:
        """Return the items of each request with their titles and scores."""
        index, read = self.recommender.index, self.recommender.max_history
        prompts = [
            self.recommender.book.prompt([index.rows[i] for i in one.items][-read:])
            for one in requests
        ]
        found = self.decode(prompts)
        answers = []
        for one, rows, scores in zip(requests, found.items, found.scores, strict=True):
            ids = [index.item_ids[row] for row in rows[: one.k]]
            pairs = zip(ids, scores, strict=False)
            answers.append(
                {
                    "items": [
                        {"item_id": i, "title": self.title(i), "score": float(s)} for i, s in pairs
                    ]
                }
            )
        return answers


@bentoml.service(
    name="plain", workers=1, traffic={"timeout": 60}, logging={"access": {"enabled": False}}
)
class Plain:
    """One request at a time."""

    def __init__(self) -> None:
        self.decoding = Decoding()

    @bentoml.api(route="/recommend", input_spec=Asked)
    def recommend(self, **fields: object) -> dict:
        """Recommend for a history."""
        return self.decoding.answer([Asked(**fields)])[0]


@bentoml.service(
    name="batched", workers=1, traffic={"timeout": 60}, logging={"access": {"enabled": False}}
)
class Batched:
    """BentoML's adaptive batching."""

    def __init__(self) -> None:
        self.decoding = Decoding()

    @bentoml.api(route="/recommend", batchable=True, max_batch_size=64, max_latency_ms=LATENCY_MS)
    def recommend(self, requests: list[Asked]) -> list[dict]:
        """Recommend for histories."""
        return self.decoding.answer(requests)
