"""Numbers say nothing: shuffling item and user ids changes no metric beyond the noise of the seed."""

import numpy as np
from conftest import plain_examples

from eager_llm.backbone.loading import load_backbone
from eager_llm.data.demo_shop import demo_shop
from eager_llm.data.prepare import prepare
from eager_llm.data.tables import Tables
from eager_llm.decoding.recommender import Recommender
from eager_llm.encoders.behaviour import behaviour_embedding
from eager_llm.encoders.semantic import semantic_embedding
from eager_llm.evaluation.evaluate import evaluate_baselines, evaluate_model, training_histories
from eager_llm.index.build import build_index
from eager_llm.prompts.builder import PromptBuilder
from eager_llm.settings import Settings
from eager_llm.tuning.stages import stage_one
from eager_llm.tuning.trajectories import build_trajectories

SEEDS = (0, 1, 2)
SETTINGS = [
    "index.branching=32", "index.workers=0", "behaviour.epochs=2", "behaviour.dim=32", "semantic.dim=32",
    "backbone.hidden=64", "backbone.layers=2", "backbone.vocabulary=400", "tuning.epochs=8",
    "tuning.text_tokens=12", "tuning.batch_tokens=2048", "tuning.learning_rate=4e-3",
]  # fmt: skip


def shuffled(tables: Tables, seed: int) -> Tables:
    """The same shop with other names, and its rows in another order."""
    rng = np.random.default_rng(seed)

    def renamed(ids):
        return dict(
            zip(sorted(set(ids)), (f"x{n}" for n in rng.permutation(len(set(ids)))), strict=True)
        )

    items, users = renamed(tables.items["item_id"]), renamed(tables.events["user_id"])
    frames = []
    for frame in (tables.events, tables.items, tables.intentions):
        other = frame.assign(item_id=frame["item_id"].map(items))
        if "user_id" in frame:
            other = other.assign(user_id=frame["user_id"].map(users))
        frames.append(other.sample(frac=1, random_state=seed).reset_index(drop=True))
    return Tables(frames[0], frames[1], frames[2], tables.metadata)


def measure(tables: Tables, seed: int, folder) -> dict[str, dict[str, float]]:
    settings = Settings.read(None, [*SETTINGS, f"seed={seed}"])
    tables = prepare(tables, 5)
    examples = plain_examples(tables, settings)
    item_ids = tables.items["item_id"].tolist()
    rows = {item: n for n, item in enumerate(item_ids)}
    train = [[rows[item] for item in history] for history in training_histories(examples)]
    embeddings = {
        "semantic": semantic_embedding(tables.items, settings.semantic, seed),
        "behaviour": behaviour_embedding(train, len(item_ids), settings.behaviour, seed),
    }
    index = build_index(item_ids, embeddings, settings.index, seed)
    texts = sorted([*tables.items["title"], *tables.items["description"]])
    model, tokenizer = load_backbone(settings.backbone, index, texts, seed)
    prompt_builder = PromptBuilder(tokenizer, index, tables.items, settings.tuning.text_tokens)
    stage_one(
        model,
        prompt_builder,
        build_trajectories(examples, index, tables.intentions),
        embeddings,
        settings,
        folder,
    )
    recommender = Recommender(
        model.eval(), prompt_builder, index, settings.decoding, settings.data.max_history
    )
    table = evaluate_baselines(examples, item_ids, "test", seed)
    return {"model": evaluate_model(recommender, examples, "test", show=False), **table}


def test_shuffled_numbers_give_the_same_metrics(tmp_path):
    shop = demo_shop(seed=0, users=400)
    plain = [measure(shop, seed, tmp_path / f"p{seed}") for seed in SEEDS]
    other = [measure(shuffled(shop, 10 + seed), seed, tmp_path / f"s{seed}") for seed in SEEDS]
    for method in plain[0]:
        for metric in plain[0][method]:
            first, second = (
                np.array([row[method][metric] for row in rows]) for rows in (plain, other)
            )
            # Two means of three runs each differ by chance: three standard errors of it, and two
            # users in a hundred for a spread that three runs cannot see.
            chance = 3 * np.sqrt((first.var(ddof=1) + second.var(ddof=1)) / len(SEEDS)) + 0.02
            assert abs(first.mean() - second.mean()) <= chance, (method, metric, first, second)
    # The model has learned enough for the comparison to mean something.
    assert np.mean([row["model"]["recall@10"] for row in plain]) > 3 * np.mean(
        [row["popularity"]["recall@10"] for row in plain]
    )
