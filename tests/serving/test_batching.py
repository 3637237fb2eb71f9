"""The queue before the decoder: its own answer for everyone, whatever fails, waits or gives up."""

import asyncio
import threading
import time

import pytest

from serving.batching import Batcher, QueueFull


def run(coroutine):
    return asyncio.run(asyncio.wait_for(coroutine, 20))


def test_what_waits_is_done_together_and_everyone_gets_their_own():
    batches = []

    def work(jobs):
        batches.append(list(jobs))
        time.sleep(0.02)
        return [job * 10 for job in jobs]

    async def scene():
        batcher = Batcher("test", work, batch_size=4, queue_size=100)
        found = await asyncio.gather(*(batcher.submit(n, 10) for n in range(11)))
        batcher.close()
        return [done.value for done in found]

    assert run(scene()) == [n * 10 for n in range(11)]
    assert [job for batch in batches for job in batch] == list(range(11))
    assert max(map(len, batches)) == 4
    assert len(batches) < 11


def test_a_queue_has_a_bound_and_who_gives_up_makes_room():
    gate, begun = threading.Event(), []

    def work(jobs):
        begun.extend(jobs)
        gate.wait(10)
        return jobs

    async def scene():
        batcher = Batcher("test", work, batch_size=1, queue_size=2)
        first = asyncio.create_task(batcher.submit("first", 10))
        await asyncio.sleep(0.05)
        second = asyncio.create_task(batcher.submit("second", 10))
        third = asyncio.create_task(batcher.submit("third", 0.05))
        await asyncio.sleep(0.01)
        with pytest.raises(QueueFull):
            await batcher.submit("fourth", 10)
        with pytest.raises(TimeoutError):
            await third
        fifth = asyncio.create_task(batcher.submit("fifth", 10))
        await asyncio.sleep(0.01)
        gate.set()
        found = [done.value for done in await asyncio.gather(first, second, fifth)]
        batcher.close()
        return found

    assert run(scene()) == ["first", "second", "fifth"]
    assert begun == ["first", "second", "fifth"]  # what nobody waits for is never begun


def test_what_could_not_be_done_in_time_is_refused_at_once():
    def work(jobs):
        time.sleep(0.1 * len(jobs))
        return jobs

    async def scene():
        batcher = Batcher("test", work, batch_size=1, queue_size=1000)
        tasks = [asyncio.create_task(batcher.submit(n, 10)) for n in range(6)]
        await asyncio.sleep(0.25)
        with pytest.raises(QueueFull):
            await batcher.submit("in vain", 0.05)
        await asyncio.gather(*tasks)
        assert (await batcher.submit("nobody waits", 5)).value == "nobody waits"
        batcher.close()

    run(scene())


def test_a_job_that_fails_takes_no_other_down():
    def work(jobs):
        if "bad" in jobs:
            raise RuntimeError("a poisoned request")
        return [ValueError(job) if job == "refused" else job for job in jobs]

    async def scene():
        batcher = Batcher("test", work, batch_size=8, queue_size=100)
        jobs = ["a", "b", "bad", "c", "refused", "d"]
        found = await asyncio.gather(
            *(batcher.submit(job, 10) for job in jobs), return_exceptions=True
        )
        batcher.close()
        return [getattr(one, "value", type(one).__name__) for one in found]

    assert run(scene()) == ["a", "b", "RuntimeError", "c", "ValueError", "d"]


def test_a_wrong_number_of_results_is_no_answer_for_anyone():
    async def scene():
        batcher = Batcher("test", lambda jobs: [1, 2, 3], batch_size=8, queue_size=100)
        found = await asyncio.gather(
            *(batcher.submit(n, 10) for n in range(4)), return_exceptions=True
        )
        batcher.close()
        return found

    assert {type(one) for one in run(scene())} == {RuntimeError}


def test_a_caller_that_leaves_disturbs_nobody():
    def work(jobs):
        time.sleep(0.02)
        return jobs

    async def scene():
        batcher = Batcher("test", work, batch_size=2, queue_size=100)
        tasks = [asyncio.create_task(batcher.submit(n, 10)) for n in range(12)]
        await asyncio.sleep(0.03)
        for task in tasks[1::3]:
            task.cancel()
        found = await asyncio.gather(*tasks, return_exceptions=True)
        batcher.close()
        return found

    for number, one in enumerate(run(scene())):
        left = number % 3 == 1 and isinstance(one, asyncio.CancelledError)
        assert left or one.value == number
