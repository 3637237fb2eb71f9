"""The service most would write first: BentoML around `generate` with `prefix_allowed_tokens_fn`.

`Plain` answers one request at a time, as BentoML does by itself; `Batched` lets BentoML's adaptive
batching put requests together. Both read the bundle of EAGER_LLM_BUNDLE.
"""

import os
from pathlib import Path

import bentoml
import numpy as np
from decoding_rivals import prepare_prefix_function
from pydantic import BaseModel

from eager_llm.bundle.bundle import Bundle

LATENCY_MS = 200  # BentoML gives up on a batch that would take longer


class HistoryRequest(BaseModel):
    """A history, oldest first."""

    items: list[str]
    k: int = 10


class Decoding:
    """Decodes prompts with transformers, from the same weights."""

    def __init__(self) -> None:
        self.bundle = Bundle.load(Path(os.environ["EAGER_LLM_BUNDLE"]))
        recommender = self.bundle.recommender
        self.recommender = recommender
        self.decode = prepare_prefix_function(
            recommender.model, recommender.prompt_builder.item_tokens, recommender.trie
        )
        warm_up = HistoryRequest(items=recommender.index.item_ids[:3])
        self.answer([warm_up])

    def answer(self, requests: list[HistoryRequest]) -> list[dict]:
        """Return the items of each request with their titles and scores."""
        prompts = [self._prompt(request) for request in requests]
        decoded = self.decode(prompts)
        answers = []
        for request, rows, scores in zip(requests, decoded.items, decoded.scores, strict=True):
            answers.append(self._answer(rows[: request.k], scores))
        return answers

    def _prompt(self, request: HistoryRequest) -> list[int]:
        rows = [self.recommender.index.rows[item] for item in request.items]
        return self.recommender.prompt_builder.prompt(rows[-self.recommender.max_history :])

    def _answer(self, rows: np.ndarray, scores: np.ndarray) -> dict:
        items = []
        for row, score in zip(rows, scores, strict=False):
            item_id = self.recommender.index.item_ids[row]
            title = self.bundle.title(item_id)
            items.append({"item_id": item_id, "title": title, "score": float(score)})
        return {"items": items}


@bentoml.service(
    name="plain", workers=1, traffic={"timeout": 60}, logging={"access": {"enabled": False}}
)
class Plain:
    """One request at a time."""

    def __init__(self) -> None:
        self.decoding = Decoding()

    @bentoml.api(route="/recommend", input_spec=HistoryRequest)
    def recommend(self, **fields: object) -> dict:
        """Recommend for a history."""
        request = HistoryRequest(**fields)
        return self.decoding.answer([request])[0]


@bentoml.service(
    name="batched", workers=1, traffic={"timeout": 60}, logging={"access": {"enabled": False}}
)
class Batched:
    """BentoML's adaptive batching."""

    def __init__(self) -> None:
        self.decoding = Decoding()

    @bentoml.api(route="/recommend", batchable=True, max_batch_size=64, max_latency_ms=LATENCY_MS)
    def recommend(self, requests: list[HistoryRequest]) -> list[dict]:
        """Recommend for histories."""
        return self.decoding.answer(requests)
