"""Why an item came, what is like it, what it is called and how it is found: each against the obvious way."""

import numpy as np
import pandas as pd
import pytest
import torch

from eager_llm.bundle.keyword_search import KeywordSearch
from eager_llm.core.errors import UserError
from eager_llm.decoding.explain import path_scores
from eager_llm.decoding.prompt_attention import RereadPrompts, SharedPrompts
from eager_llm.decoding.recommender import Request
from eager_llm.decoding.text_generation import TextGenerator
from eager_llm.index.nearest_items import NearestItemSearch


@pytest.mark.parametrize("reader", [SharedPrompts, RereadPrompts])
@pytest.mark.parametrize("normalise", ["vocabulary", "level"])
def test_the_tokens_of_a_path_cost_what_the_model_says(small, normalise, reader):
    recommender, rows = small.recommender, [3, 0, 77]
    prompt = small.prompt_builder.prompt([5, 9])
    found = path_scores(small.model, recommender.trie, prompt, rows, normalise, reader)
    for row, levels in zip(rows, found, strict=True):
        path = small.prompt_builder.item_tokens[row].tolist()
        with torch.inference_mode():
            logits = small.model(torch.tensor([prompt + path])).logits[0, len(prompt) - 1 : -1]
        for level, (token, score) in enumerate(zip(path, levels, strict=True)):
            among = slice(None) if normalise == "vocabulary" else recommender.trie.tokens[level]
            assert score == pytest.approx(
                float(logits[level, token] - logits[level, among].logsumexp(0)), abs=1e-4
            )


def test_an_explanation_adds_up_to_the_score_and_changes_no_answer(small):
    ids = small.index.item_ids
    requests = [Request(ids[n : n + 1 + n % 6], 7, exclude_history=bool(n % 2)) for n in range(9)]
    explained = [
        Request(r.history, r.k, exclude_history=r.exclude_history, explain=True) for r in requests
    ]
    for plain, answer in zip(
        small.recommender.answer(requests), small.recommender.answer(explained), strict=True
    ):
        assert plain.levels is None
        assert [item for item, _ in plain.items] == [item for item, _ in answer.items]
        assert [sum(levels) for levels in answer.levels] == pytest.approx(
            [s for _, s in answer.items], abs=1e-4
        )


def test_neighbours_are_those_of_the_paths_points(small):
    index, neighbours = small.index, NearestItemSearch(small.index)
    assert list(index.levels_of) == ["semantic", "behaviour"]
    for source, levels in index.levels_of.items():
        numbers = range(index.levels)[levels]
        points = np.sum([index.centroids[n][index.codes[:, n]] for n in numbers], axis=0)
        every = ((points[:, None] - points[None]) ** 2).sum(-1)
        for row in (0, 7, 100):
            obvious = np.delete(
                np.argsort(every[row], kind="stable"), np.argsort(every[row], kind="stable") == row
            )
            found = neighbours.nearest(row, 5, source)
            distances = every[row, [one.row for one in found]]
            assert distances == pytest.approx(np.sort(every[row, obvious])[:5], abs=1e-3)
            assert [one.distance for one in found] == pytest.approx(
                distances / every.mean(), rel=1e-2
            )
            for one in found:
                same = index.codes[row, levels] == index.codes[one.row, levels]
                assert one.shared[source] == (len(same) if same.all() else int(np.argmin(same)))
    passes = np.arange(len(index.item_ids)) % 10 == 0
    assert all(
        one.row % 10 == 0 and one.row != 20 for one in neighbours.nearest(20, 50, None, passes)
    )
    with pytest.raises(UserError, match="the index has semantic, behaviour"):
        neighbours.nearest(0, 3, "colour")


def test_a_description_is_what_generate_writes_without_item_tokens(small):
    writer = TextGenerator(small.model, small.prompt_builder)
    prompt = torch.tensor([small.prompt_builder.title_prompt(4)])
    banned = [[int(token)] for token in np.unique(small.prompt_builder.item_tokens)]
    with torch.inference_mode():
        written = small.model.generate(
            prompt,
            attention_mask=torch.ones_like(prompt),
            max_new_tokens=9,
            do_sample=False,
            bad_words_ids=banned,
        )[0, prompt.shape[1] :]
    assert (
        writer.describe(4, 9)
        == small.prompt_builder.tokenizer.decode(written, skip_special_tokens=True).strip()
    )
    assert len(small.prompt_builder.tokenizer(writer.describe(4, 2))["input_ids"]) <= 3


def test_words_are_matched_with_titles_the_better_first():
    titles = ["Red trail sock", "Blue sock", "Trail lamp", "Trail socks, red", "Äpfel"]
    items = pd.DataFrame(
        {"item_id": list("abcde"), "title": titles, "brand": None, "categories": ["x"] * 5}
    )
    finder = KeywordSearch(items)
    assert finder.find("red SOCK", 5) == ["a", "d", "b"]
    assert finder.find("sock", 2) == ["a", "b"]
    assert finder.find("tra", 5) == ["a", "c", "d"]  # the last word may be begun only
    assert finder.find("äpf", 5) == ["e"]
    assert finder.find("nothing", 5) == []
    assert finder.find(" ,", 2) == ["a", "b"]
