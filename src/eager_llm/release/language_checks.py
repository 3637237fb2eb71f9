"""What two bundles read and write with the adapter off, asked about the same items."""

from collections.abc import Iterator

import numpy as np

from eager_llm.backbone.tuned_model import held_out_items
from eager_llm.bundle.bundle import Bundle
from eager_llm.evaluation.language import HELD_OUT_PERPLEXITY, LanguageProbe
from eager_llm.release.checks import Check, check_of
from eager_llm.settings import PromotionSettings


def compare_language(
    running: Bundle, new: Bundle, settings: PromotionSettings, seed: int
) -> Iterator[Check]:
    """Yield the checks of language that the catalogue's texts allow.

    Perplexity is by character, not by token: another tokenizer cuts the same text into other
    tokens.
    """
    trained, held_out = _shared_items(running, new, seed)
    running_probe = _probe(running, trained, held_out, seed)
    new_probe = _probe(new, trained, held_out, seed)
    running_answers = running_probe.answers(running.text_recommender)
    new_answers = new_probe.answers(new.text_recommender)
    for name, values in running_answers.items():
        yield check_of(
            name,
            new_answers[name],
            values,
            sizes=np.ones(len(trained)),
            units=np.arange(len(trained)),
            unit_name="items",
            tolerance=settings.language_tolerance,
            settings=settings,
            seed=seed,
            points=True,
        )
    if held_out:
        running_titles = running_probe.held_out_likelihood(running.text_recommender)
        new_titles = new_probe.held_out_likelihood(new.text_recommender)
        yield check_of(
            f"{HELD_OUT_PERPLEXITY}, log by character",
            new_titles.negative_log_likelihood,
            running_titles.negative_log_likelihood,
            sizes=running_titles.characters,
            units=np.arange(len(held_out)),
            unit_name="texts",
            tolerance=settings.language_tolerance,
            settings=settings,
            seed=seed,
            more_is_better=False,
        )


def _shared_items(running: Bundle, new: Bundle, seed: int) -> tuple[list[str], list[str]]:
    """Draw items with a title that both bundles know.

    Returns:
        The items whose texts both were trained on, and those whose texts were held out from both.
    """
    count = running.manifest["settings"]["tuning"]["language_items"]
    new_rows = new.recommender.index.rows
    shared = [item for item in running.recommender.index.item_ids if item in new_rows]
    held_out_of_running = set(held_out_items(running.folder))
    held_out_of_new = set(held_out_items(new.folder))
    trained: list[str] = []
    held_out: list[str] = []
    for row in np.random.default_rng(seed).permutation(len(shared)):
        item = shared[row]
        if not running.items.loc[item, "title"]:
            continue
        memberships = (item in held_out_of_running, item in held_out_of_new)
        if all(memberships):
            held_out.append(item)
        elif not any(memberships):
            trained.append(item)
    return trained[:count], held_out[:count]


def _probe(bundle: Bundle, trained: list[str], held_out: list[str], seed: int) -> LanguageProbe:
    """Return a probe of a bundle about the given items."""
    rows = bundle.recommender.index.rows
    probe = LanguageProbe(bundle.text_recommender.prompt_builder, 0, seed)
    probe.items = [rows[item] for item in trained]
    probe.held_out_items = [rows[item] for item in held_out]
    return probe
