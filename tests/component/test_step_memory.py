"""A step that is short of memory says which it is, what it had, and what to change."""

import subprocess
import sys
import time

import pytest
import torch

from eager_llm.core.errors import UserError
from eager_llm.steps.memory import container_limit, container_usage, watched, within_memory

# A process of its own, since the limit holds for good. Imports come first: they take address space, too.
BOUNDED = """
import resource, sys
import numpy, torch
from eager_llm.core.errors import UserError
from eager_llm.steps.memory import within_memory

@within_memory("tune_model", "tuning.batch_tokens")
def step():
    return {wanted}

used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + 2**30, used + 2**30))
try:
    step()
except UserError as error:
    sys.exit(f"error: {{error}}")
"""


@pytest.mark.parametrize("wanted", ["numpy.ones(2**32)", "torch.ones(2**32)", "bytearray(2**34)"])
def test_a_step_beyond_its_limit_ends_with_its_name_what_it_had_and_the_setting(wanted):
    command = [sys.executable, "-c", BOUNDED.format(wanted=wanted)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 1
    assert done.stderr.startswith("error: tune_model: out of memory: it had ")
    assert "GiB, the limit of its process" in done.stderr
    assert "memory_limit of tune_model in pipelines/graphs/placement.py" in done.stderr
    assert "tuning.batch_tokens" in done.stderr
    assert "Traceback" not in done.stderr


def test_other_errors_pass_as_they_are():
    @within_memory("tune_model")
    def step(error):
        raise error

    for error in (RuntimeError("shapes do not fit"), UserError("no such file"), ValueError("x")):
        with pytest.raises(type(error), match=str(error)):
            step(error)


def test_a_gpu_that_is_full_is_told_from_the_machine(monkeypatch):
    class Device:
        total_memory = 80 * 2**30

    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: Device)

    @within_memory("tune_model", "tuning.batch_tokens")
    def step():
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")

    with pytest.raises(UserError, match=r"it had 80\.0 GiB on its GPU"):
        step()


def write(folder, version, limit, usage, cache):
    names = {
        1: (
            "memory/memory.limit_in_bytes",
            "memory/memory.usage_in_bytes",
            "memory/memory.stat",
            "total_inactive_file",
        ),
        2: ("memory.max", "memory.current", "memory.stat", "inactive_file"),
    }[version]
    (folder / "memory").mkdir(exist_ok=True)
    for name, value in zip(names, (limit, usage, f"anon 1\n{names[3]} {cache}"), strict=False):
        (folder / name).write_text(f"{value}\n")


@pytest.mark.parametrize("version", [1, 2])
def test_the_limit_and_the_usage_of_a_container_are_read(tmp_path, version):
    assert container_limit(tmp_path) is None
    write(tmp_path, version, 2**30, 900 * 2**20, 100 * 2**20)
    assert container_limit(tmp_path) == 2**30
    assert container_usage(tmp_path) == 800 * 2**20
    write(tmp_path, version, "max" if version == 2 else 2**63 - 4096, 0, 0)
    assert container_limit(tmp_path) is None


def test_a_step_near_its_limit_warns_once_before_the_system_ends_it(tmp_path, capsys):
    write(tmp_path, 2, 2**30, 2**29, 0)
    with watched("build_index", ("index.workers",), tmp_path):
        time.sleep(0.6)
        assert not capsys.readouterr().out
        write(tmp_path, 2, 2**30, 2**30 - 2**24, 0)
        time.sleep(1.2)
    said = capsys.readouterr().out
    assert said.count("\n") == 1
    assert said.startswith(
        "warning: build_index: 1008 MiB of the 1.0 GiB of its container are in use"
    )
    assert "memory_limit of build_index" in said
    assert "index.workers" in said
