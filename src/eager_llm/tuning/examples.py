"""Comprehensive interaction modelling: one epoch of the six instruction tasks as examples.

EAGER-LLM (Hong et al., WWW 2025), section on comprehensive interaction modelling.
"""

from collections.abc import Sized

import numpy as np

from eager_llm.index.item_index import ItemIndex
from eager_llm.prompts.builder import Example, PromptBuilder
from eager_llm.settings import TaskSettings, TuningSettings
from eager_llm.tuning.trajectories import Trajectory

INTENTION_TASKS = ("itemsearch", "preferenceobtain")
# These speak of any item of a trajectory, the other tasks of its target.
TEXT_TASKS = ("item2index", "index2item")
# `titles` stands for this many items, so that the prompt stays about as long as a text.
LATEST_TITLES = 4


def held_out_rows(
    index: ItemIndex,
    settings: TuningSettings,
    seed: int,
) -> frozenset[int]:
    """Draw the rows of the items whose texts are held out from all tasks."""
    items = len(index.item_ids)
    count = 0
    if settings.language_items:
        count = round(settings.held_out_share * items)
    rng = np.random.default_rng(seed)
    rows = rng.choice(items, count, replace=False)
    return frozenset(rows.tolist())


def draw_epoch(
    prompt_builder: PromptBuilder,
    trajectories: list[Trajectory],
    shares: TaskSettings,
    rng: np.random.Generator,
) -> list[Example]:
    """Draw one epoch: each task as often as its share of the trajectories says."""
    examples: list[Example] = []
    for task, share in vars(shares).items():
        pool = [trajectory for trajectory in trajectories if _is_usable(task, trajectory)]
        if not pool:
            continue
        count = int(share * len(trajectories))
        for number in _draw_numbers(count, len(pool), rng):
            example = draw_example(prompt_builder, task, pool[number], rng)
            if example is not None:
                examples.append(example)
    return examples


def draw_example(
    prompt_builder: PromptBuilder,
    task: str,
    trajectory: Trajectory,
    rng: np.random.Generator,
) -> Example | None:
    """Return an example of a task in a template drawn at random.

    Returns:
        None where an item has no text to read or write, or its text is held out.
    """
    if task == "seqrec":
        return draw_packed(prompt_builder, trajectory.items, rng)
    templates = prompt_builder.templates[task]
    template = templates[_draw_index(templates, rng)]
    item = trajectory.items[-1]
    if task in TEXT_TASKS:
        item = trajectory.items[_draw_index(trajectory.items, rng)]
    ids = [*prompt_builder.begin_tokens]
    loss_mask = [False] * len(ids)
    item_end_positions = []
    for pieces, is_answer in ((template.prompt, False), (template.answer, True)):
        for piece in pieces:
            if isinstance(piece, str):
                tokens = _field_tokens(prompt_builder, piece, item, trajectory, rng)
                if not tokens:
                    return None
            else:
                tokens = piece
            ids += tokens
            loss_mask += [is_answer] * len(tokens)
            if is_answer and piece == "item":
                item_end_positions.append((len(ids) - 1, item))
    if not item_end_positions:
        ids += prompt_builder.end_tokens
        loss_mask += [True] * len(prompt_builder.end_tokens)
    return Example(ids, loss_mask, item_end_positions)


def draw_packed(
    prompt_builder: PromptBuilder,
    items: list[int],
    rng: np.random.Generator,
) -> Example:
    """Return a packed `seqrec` example of item rows in a template drawn at random."""
    template_number = _draw_index(prompt_builder.templates["seqrec"], rng)
    return prompt_builder.packed_example(items, template_number)


def _draw_index(sequence: Sized, rng: np.random.Generator) -> int:
    """Draw the number of an element."""
    return int(rng.integers(len(sequence)))


def _is_usable(task: str, trajectory: Trajectory) -> bool:
    """Return whether a trajectory has what a task needs."""
    has_history = len(trajectory.items) > 1
    if task == "itemsearch":
        return bool(trajectory.intention)
    if task == "preferenceobtain":
        return bool(trajectory.preference) and has_history
    if task == "fusionseqrec":
        return has_history
    return True


def _draw_numbers(
    count: int,
    pool: int,
    rng: np.random.Generator,
) -> list[int]:
    """Draw `count` of the numbers below `pool`: none comes again before all have come."""
    rounds = -(-count // pool)
    if not rounds:
        return []
    permutations = [rng.permutation(pool) for _ in range(rounds)]
    numbers = np.concatenate(permutations)[:count]
    return list(map(int, numbers))


def _field_tokens(
    prompt_builder: PromptBuilder,
    field: str,
    item: int,
    trajectory: Trajectory,
    rng: np.random.Generator,
) -> list[int]:
    """Return what stands for a field of a template; nothing where there is no text."""
    history = trajectory.items[:-1]
    if field == "item":
        return prompt_builder.path_tokens([item])
    if field == "history":
        return prompt_builder.path_tokens(history)
    if field == "titles":
        return _short_titles(prompt_builder, history[-LATEST_TITLES:])
    if field in ("title", "text") and item in prompt_builder.held_out:
        return []
    if field == "title":
        return prompt_builder.titles[item]
    if field == "text":
        return _draw_text(prompt_builder, item, rng)
    return prompt_builder.encode([getattr(trajectory, field)])[0]


def _short_titles(
    prompt_builder: PromptBuilder,
    items: list[int],
) -> list[int]:
    length = prompt_builder.text_tokens // 3
    tokens: list[int] = []
    for item in items:
        if item not in prompt_builder.held_out:
            tokens += prompt_builder.titles[item][:length]
    return tokens


def _draw_text(
    prompt_builder: PromptBuilder,
    item: int,
    rng: np.random.Generator,
) -> list[int]:
    """Return one of the texts that an item has."""
    texts = [column[item] for column in prompt_builder.texts.values() if column[item]]
    if not texts:
        return []
    return texts[_draw_index(texts, rng)]
