"""Trajectories: what each user chose, oldest first, ending with the item to predict."""

from dataclasses import dataclass, replace

import numpy as np
import pandas as pd

from eager_llm.index.item_index import ItemIndex

UserItem = tuple[str, str]
# Intention and preference.
Wish = tuple[str, str]


@dataclass(frozen=True)
class Trajectory:
    """What a user chose.

    Attributes:
        items: item rows, oldest first; the last one is the target.
        intention: what the user looked for in the target; empty where no table has it.
        preference: what the target says of the user's taste; empty where no table has it.
    """

    items: list[int]
    intention: str = ""
    preference: str = ""


def build_trajectories(
    examples: pd.DataFrame,
    index: ItemIndex,
    intentions: pd.DataFrame | None,
) -> list[Trajectory]:
    """Build the training trajectories from the point-in-time examples.

    Args:
        examples: `user_id`, `item_id`, `history`, `split`; only rows of the split "train" are used.
        intentions: `user_id`, `item_id`, `intention`, `preference`; used where they belong to the
            target of a trajectory.
    """
    train = examples[examples["split"] == "train"]
    wishes = {} if intentions is None else _wishes(intentions)
    trajectories = []
    columns = zip(train["user_id"], train["item_id"], train["history"], strict=True)
    for user, target, history in columns:
        intention, preference = wishes.get((user, target), ("", ""))
        items = [index.rows[item] for item in history]
        items.append(index.rows[target])
        trajectories.append(Trajectory(items, intention, preference))
    return trajectories


def drop_items(
    trajectory: Trajectory,
    share: float,
    rng: np.random.Generator,
) -> Trajectory:
    """Leave that share of the items before the target out, at random; at least one stays of any.

    A step then leads from an item to what came soon after it, not only next.
    """
    history = trajectory.items[:-1]
    draws = rng.random(len(history))
    remaining = [item for item, draw in zip(history, draws, strict=True) if draw >= share]
    if not remaining:
        remaining = history[-1:]
    return replace(trajectory, items=[*remaining, trajectory.items[-1]])


def _wishes(intentions: pd.DataFrame) -> dict[UserItem, Wish]:
    table = intentions[["user_id", "item_id", "intention", "preference"]]
    wishes = {}
    for user, item, intention, preference in table.itertuples(index=False):
        wish = (intention or "", preference or "")
        wishes[user, item] = wish
    return wishes
