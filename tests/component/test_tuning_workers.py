"""Tuning by two Ray Train workers: one is killed, the group starts again and ends as if nothing had been."""

import json
import socket
from pathlib import Path

import pytest
import torch
from conftest import make_small
from safetensors.torch import load_file
from tuning_inputs import write_inputs

from eager_llm.steps import tune_model as steps
from eager_llm.tuning.on_ray import on_workers
from eager_llm.tuning.stages import stage_one, stage_two
from eager_llm.tuning.trajectories import Trajectory


@pytest.fixture
def inputs(shop, examples, settings, tmp_path):
    """The inputs of `tune`, with more steps an epoch than the settings of other tests have."""
    paths = write_inputs(shop, examples, settings, tmp_path)
    # Dropout draws on each worker alone: left out, to compare.
    settings = settings.replace(threads=1, annealing=settings.annealing.replace(dropout=0.0))
    return paths, settings.replace(
        tuning=settings.tuning.replace(batch_tokens=1024, language_items=10)
    )


def config_of(inputs, folder, **tuning):
    paths, settings = inputs
    settings = settings.replace(tuning=settings.tuning.replace(**tuning))
    places = {**paths, "checkpoints": folder / "checkpoints", "out": folder / "model"}
    return {"settings": settings.to_dict(), **{name: str(path) for name, path in places.items()}}


def weights(folder):
    return {**load_file(folder / "model/backbone/model.safetensors"),
            **load_file(folder / "model/adapter/adapter_model.safetensors")}  # fmt: skip


def test_a_killed_worker_goes_on_from_the_last_checkpoint_as_if_nothing_had_been(inputs, tmp_path):
    """Two workers make the steps that one process makes of two batches, whatever happens to one of them."""

    def dying(config):
        """As `tune_on_worker`, but the second worker is killed once, in the middle of the second epoch."""
        import os
        import signal

        from eager_llm.steps import tune_model as steps
        from eager_llm.tuning import trainer

        trainer.CHECKPOINT_STEPS = 2
        died, backward = Path(config["died"]), trainer._backward

        def backward_or_die(job, module, step, number):
            if (
                job.name == "stage-1"
                and number == config["at"]
                and job.context.rank == 1
                and not died.exists()
            ):
                died.write_text("once")
                os.kill(os.getpid(), signal.SIGKILL)
            if (
                died.exists()
                and job.context.is_main_process
                and not died.with_suffix(".step").exists()
            ):
                died.with_suffix(".step").write_text(str(number))
            return backward(job, module, step, number)

        trainer._backward = backward_or_die
        return steps.tune_on_worker(config)

    config = {**config_of(inputs, tmp_path / "killed"), "died": str(tmp_path / "died"), "at": 9}
    figures = on_workers(
        dying, config, workers=2, restarts=1, shared=tmp_path / "killed" / "checkpoints"
    )
    # The checkpoint of every second step; the leader may have died with the other before or after its step.
    assert 6 <= int((tmp_path / "died.step").read_text()) <= 9
    assert list((tmp_path / "killed" / "checkpoints").iterdir()) == []

    assert steps.tune_on_worker(
        config_of(inputs, tmp_path / "alone", accumulate=2)
    ) == pytest.approx(figures, rel=1e-4)
    killed, alone = (
        json.loads((tmp_path / name / "model/curves.json").read_text())
        for name in ("killed", "alone")
    )
    for stage, curve in alone.items():
        for one, two in zip(curve, killed[stage], strict=True):
            for name in ("loss", "cross_entropy"):
                assert two[name] == pytest.approx(one[name], rel=1e-4)
    killed, alone = weights(tmp_path / "killed"), weights(tmp_path / "alone")
    assert killed.keys() == alone.keys()
    for name in alone:
        assert (killed[name] - alone[name]).abs().mean() < 1e-3 * alone[name].abs().mean() + 1e-6, (
            name
        )


def tune_sharded(rank, port, shop, settings, folder):
    """One of two processes whose weights are spread (FSDP); the second call goes on from a finished checkpoint."""
    torch.distributed.init_process_group(
        "gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=2
    )
    made = make_small(shop, settings)
    train = [Trajectory([n, n + 1, n + 9]) for n in range(60)]
    first = stage_one(made.model, made.prompt_builder, train, made.embeddings, settings, folder)
    adapted, second = stage_two(made.model, made.prompt_builder, train, settings, folder)
    again = make_small(shop, settings)
    resumed = stage_one(
        again.model, again.prompt_builder, train, again.embeddings, settings, folder
    )
    assert [row["loss"] for row in resumed] == [row["loss"] for row in first]
    if rank == 0:
        torch.save(
            [{k: v.clone() for k, v in m.state_dict().items()} for m in (adapted, again.model)],
            folder / "w.pt",
        )
        (folder / "curves.json").write_text(json.dumps([first, second]))
    torch.distributed.destroy_process_group()


def test_weights_spread_over_processes_train_as_those_of_one(shop, settings, tmp_path):
    def changed(**tuning):
        annealing = settings.annealing.replace(dropout=0.0)
        return settings.replace(
            annealing=annealing, tuning=settings.tuning.replace(batch_tokens=512, **tuning)
        )

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    (tmp_path / "two").mkdir()
    torch.multiprocessing.spawn(
        tune_sharded,
        (port, shop, changed(workers=2, sharded=True), tmp_path / "two"),
        nprocs=2,
        join=True,
    )
    made, alone = make_small(shop, changed()), changed(accumulate=2)
    train = [Trajectory([n, n + 1, n + 9]) for n in range(60)]
    curves = [
        stage_one(made.model, made.prompt_builder, train, made.embeddings, alone, tmp_path / "one")
    ]
    backbone = {name: value.clone() for name, value in made.model.state_dict().items()}
    adapted, second = stage_two(made.model, made.prompt_builder, train, alone, tmp_path / "one")
    for one, two in zip(
        [*curves, second], json.loads((tmp_path / "two/curves.json").read_text()), strict=True
    ):
        assert [row["loss"] for row in two] == pytest.approx([row["loss"] for row in one], rel=1e-4)
    found = torch.load(tmp_path / "two/w.pt", weights_only=True)
    for expected, spread in zip((adapted.state_dict(), backbone), found, strict=True):
        assert expected.keys() == spread.keys()
        for name in expected:
            assert (expected[name] - spread[name]).abs().mean() < 1e-3 * expected[
                name
            ].abs().mean() + 1e-6, name
