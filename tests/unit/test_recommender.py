"""Requests in, answers out: mixtures of k, beams, filters and histories, and what is refused."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from conftest import make_small
from decoding_reference import assert_same_ranking, best_of, brute_force, logits_by

from eager_llm.backbone.tuned_model import held_out_items, load_tuned, save_tuned
from eager_llm.core.errors import UserError
from eager_llm.decoding.filters import Between, OneOf
from eager_llm.decoding.recommender import Recommender, Request
from eager_llm.decoding.trie import Trie
from eager_llm.index.item_index import ItemIndex
from eager_llm.index.versions import assign_items
from eager_llm.prompts.builder import item_tokens
from eager_llm.settings import DecodingSettings


@pytest.fixture(scope="module")
def small(shop, settings):
    return make_small(shop, settings)


def expected(small, request):
    """The filtered ranking of every item, by brute force."""
    rows = [small.index.rows[item] for item in request.history]
    prompt = small.prompt_builder.prompt(rows[-20:])
    exact = brute_force(
        logits_by(small.model),
        small.prompt_builder.item_tokens,
        prompt,
        small.recommender.settings.normalise,
    )
    allowed = small.recommender.columns.passing(request.filter)
    if request.exclude_history:
        allowed[rows] = False
    return [(small.index.item_ids[row], score) for row, score in best_of(exact.detach(), allowed)]


def brand(small, deny=False):
    return OneOf("brand", (small.prompt_builder.items["brand"].iat[0],), deny)


def test_a_batch_of_unlike_requests_is_answered_as_by_brute_force(small):
    ids = small.index.item_ids
    everything = len(ids)
    requests = [
        Request([], k=3, beams=everything),
        Request(ids[:7], k=40, beams=everything, exclude_history=True),
        Request(ids[:2], k=5, beams=everything, filter=frozenset([brand(small)])),
        Request(
            ids[5:30],
            k=100,
            beams=everything,
            filter=frozenset([brand(small, deny=True), Between("price", most=30)]),
        ),
        Request(
            ids[3:9],
            k=everything + 50,
            exclude_history=True,
            filter=frozenset([OneOf("item_id", tuple(ids[:20]))]),
        ),
        Request(ids[:1], k=everything),
    ]
    answers = small.recommender.answer(requests)
    for request, answer in zip(requests, answers, strict=True):
        ranking = expected(small, request)
        assert_same_ranking(*map(list, zip(*answer.items, strict=True)), ranking[: request.k])
        assert (answer.reason is None) == (len(ranking) >= request.k)
        for alone, together in zip(
            small.recommender.answer([request])[0].items, answer.items, strict=True
        ):
            assert alone[1] == pytest.approx(together[1], abs=1e-5)


def test_a_filter_changes_no_score(small):
    history = small.index.item_ids[:3]
    everything = len(small.index.item_ids)
    scores = dict(small.recommender.answer([Request(history, k=everything)])[0].items)
    filtered = small.recommender.answer(
        [Request(history, k=everything, filter=frozenset([brand(small)]))]
    )[0].items
    for item, score in filtered:
        assert score == pytest.approx(scores[item], abs=1e-5)


def test_few_beams_still_find_every_item_that_passes(small):
    ids = small.index.item_ids
    for passing in (1, 4, 20):
        chosen = np.random.default_rng(passing).permutation(ids)[:passing].tolist()
        request = Request(
            ids[:5], k=passing, beams=1, filter=frozenset([OneOf("item_id", tuple(chosen))])
        )
        answer = small.recommender.answer([request])[0]
        assert sorted(item for item, _ in answer.items) == sorted(chosen)
        assert answer.reason is None


def test_an_empty_or_short_answer_says_why(small):
    ids = small.index.item_ids

    def ask(*arguments, **options):
        return small.recommender.answer([Request(*arguments, **options)])[0]

    nobody = frozenset([OneOf("brand", ("Nobody",))])
    assert ask(ids[:2], filter=nobody) == type(ask([]))(
        [], "no items are in the index with brand = Nobody"
    )
    one = frozenset([OneOf("item_id", (ids[0],))])
    answer = ask(ids[:2], filter=one, exclude_history=True)
    assert answer.items == []
    assert (
        answer.reason == f"1 item is in the index with item_id = {ids[0]}, 1 of them in the history"
    )
    answer = ask(ids[:2], k=len(ids) + 1)
    assert len(answer.items) == len(ids)
    assert answer.reason == f"{len(ids)} items are in the index"
    answer = ask(ids, k=5, exclude_history=True)
    assert (answer.items, answer.reason) == ([], "no items are in the index outside the history")


def test_what_is_not_known_is_refused(small):
    with pytest.raises(UserError, match="not in the item index: ghost, wraith"):
        small.recommender.recommend([["ghost", small.index.item_ids[0], "wraith", "ghost"]], 5)
    with pytest.raises(UserError, match="not in the index: ghost"):
        small.recommender.answer([Request([], filter=frozenset([OneOf("item_id", ("ghost",))]))])
    with pytest.raises(UserError, match="no such column"):
        small.recommender.answer([Request([], filter=frozenset([OneOf("colour", ("red",))]))])
    with pytest.raises(UserError, match="both must be at least 1"):
        Request([], k=0)


def test_answers_do_not_depend_on_who_shares_the_batch(small):
    histories = [small.index.item_ids[:n] for n in (1, 12, 3, 0, 7)]
    together = small.recommender.recommend(histories, 10)
    for history, answer in zip(histories, together, strict=True):
        assert_same_ranking(
            *map(list, zip(*answer, strict=True)), small.recommender.recommend([history], 10)[0]
        )


def test_requests_from_many_threads_do_not_meet_in_the_caches(small):
    settings = DecodingSettings(batch=1)
    recommender = Recommender(small.model, small.prompt_builder, small.index, settings, 20)
    recommender.mask_cache.capacity = 3  # two filters: others are replaced all the time
    ids = small.index.item_ids
    requests = [
        Request(ids[:2], k=3, filter=frozenset([OneOf("item_id", tuple(ids[n : n + 3]))]))
        for n in range(24)
    ]
    with ThreadPoolExecutor(6) as pool:
        answers = list(pool.map(lambda request: recommender.answer([request])[0], requests))
    for number, answer in enumerate(answers):
        assert sorted(item for item, _ in answer.items) == sorted(ids[number : number + 3])


def test_every_answer_is_an_existing_item_once_best_first(small):
    for row in small.recommender.recommend([[], small.index.item_ids[:5]], 50):
        items, scores = zip(*row, strict=True)
        assert len(items) == len(set(items)) == 50
        assert set(items) <= set(small.index.item_ids)
        assert list(scores) == sorted(scores, reverse=True)


def test_scores_over_the_allowed_tokens_are_a_distribution_over_the_items(small):
    settings = DecodingSettings(normalise="allowed", beams=1000)
    recommender = Recommender(small.model, small.prompt_builder, small.index, settings, 20)
    scores = [score for _, score in recommender.recommend([small.index.item_ids[:4]], 1000)[0]]
    assert np.exp(scores).sum() == pytest.approx(1, abs=1e-4)


def other_index(index):
    """An index of the same items and tokens, with other paths."""
    return ItemIndex(
        index.item_ids, index.codes[::-1].copy(), index.sources, index.branching, index.centroids
    )


def test_an_index_and_a_trie_that_do_not_belong_together_are_refused(small):
    trie = Trie.build(item_tokens(small.prompt_builder.tokenizer, other_index(small.index)))
    with pytest.raises(UserError, match="the trie was built from another item index"):
        Recommender(small.model, small.prompt_builder, small.index, DecodingSettings(), 20, trie)


def test_an_index_and_a_model_that_do_not_belong_together_are_refused(
    small, settings, shop, tmp_path
):
    save_tuned(small.model, small.prompt_builder.tokenizer, small.index, tmp_path)
    load_tuned(tmp_path, small.index)
    with pytest.raises(UserError, match="the model was tuned on another item index"):
        load_tuned(tmp_path, other_index(small.index))
    codes = np.concatenate([small.index.codes, small.index.codes[:, :1]], axis=1)
    longer = ItemIndex(
        small.index.item_ids, codes, (*small.index.sources, "behaviour"), small.index.branching
    )
    with pytest.raises(UserError, match="the tokenizer does not know <"):
        item_tokens(small.prompt_builder.tokenizer, longer)
    shorter = make_small(shop, settings)
    shorter.model.resize_token_embeddings(200)
    with pytest.raises(UserError, match="the model knows 200 tokens, the item index needs"):
        Recommender(shorter.model, shorter.prompt_builder, shorter.index, DecodingSettings(), 20)


def test_a_model_goes_with_later_versions_of_its_index_that_moved_nothing_and_with_no_other(
    small, tmp_path
):
    save_tuned(small.model, small.prompt_builder.tokenizer, small.index, tmp_path, held_out=[3, 1])
    assert held_out_items(tmp_path) == [small.index.item_ids[1], small.index.item_ids[3]]
    rng = np.random.default_rng(1)
    new = {source: rng.normal(size=(2, 8)).astype(np.float32) for source in small.index.sources}
    second = assign_items(small.index, ["new-1", "new-2"], new)
    third = assign_items(
        second, ["new-3"], {source: points[:1] * 2 for source, points in new.items()}
    )
    for index in (small.index, second, third):
        model, tokenizer = load_tuned(tmp_path, index)
        assert item_tokens(tokenizer, index).max() < model.get_input_embeddings().num_embeddings
    assert third.vocabulary == small.index.vocabulary  # a new leaf is a path of known tokens
    codes = small.index.codes.copy()
    codes[[0, 1]] = codes[[1, 0]]
    moved = small.index.successor(moved=True, codes=codes, change={"action": "refresh", "moved": 2})
    for index in (moved, assign_items(moved, ["new-1", "new-2"], new)):
        with pytest.raises(UserError, match="the model was tuned on another item index"):
            load_tuned(tmp_path, index)
    save_tuned(small.model, small.prompt_builder.tokenizer, second, tmp_path)
    with pytest.raises(UserError, match="the model was tuned on another item index"):
        load_tuned(tmp_path, small.index)  # an earlier version lacks items that the model may name


def test_after_a_change_of_a_weight_answers_equal_those_of_a_new_recommender(shop, settings):
    small = make_small(shop, settings)
    assert settings.decoding.prefix_cache_mb  # whoever serves passes a cache; nobody else does
    histories = [small.index.item_ids[:n] for n in (1, 5, 9)]
    first = small.recommender.recommend(histories, 10)
    with torch.no_grad():
        key_weight = small.model.model.layers[0].self_attn.k_proj.weight
        key_weight += torch.randn(key_weight.shape, generator=torch.Generator().manual_seed(0))
    second = small.recommender.recommend(histories, 10)
    new = Recommender(small.model, small.prompt_builder, small.index, settings.decoding, 20)
    assert second == new.recommend(histories, 10)
    assert second != first


def test_broken_weights_are_an_error_not_a_ranking(shop, settings):
    broken = make_small(shop, settings)
    broken.model.get_input_embeddings().weight.data.fill_(float("nan"))
    with pytest.raises(FloatingPointError):
        broken.recommender.recommend([[]], 5)
