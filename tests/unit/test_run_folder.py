"""What stands from night to night: a candidate is promoted or taken back, and the one before comes back."""

import pytest

from eager_llm.core.errors import UserError
from eager_llm.release.run_folder import RunFolder


def bundle(folder, text):
    folder.mkdir(parents=True)
    (folder / "manifest.json").write_text(text)
    return folder


def running(place):
    return (place.bundle / "manifest.json").read_text()


def test_a_candidate_is_promoted_and_the_one_before_comes_back(tmp_path):
    place = RunFolder(tmp_path / "run")
    assert place.running is None
    assert place.accepted is None
    place.offer(bundle(tmp_path / "a", "a"))
    assert place.running is None
    place.promote()
    assert running(place) == "a"
    place.offer(bundle(tmp_path / "b", "b"))
    place.offer(bundle(tmp_path / "c", "c"))  # a later night's candidate takes its place
    assert running(place) == "a"
    place.promote()
    assert running(place) == "c"
    assert not place.candidate.exists()
    assert place.take_back() == "running"
    assert running(place) == "a"
    with pytest.raises(UserError, match="neither a candidate nor a bundle before"):
        place.take_back()


def test_taking_back_a_candidate_leaves_what_is_running(tmp_path):
    place = RunFolder(tmp_path / "run")
    place.offer(bundle(tmp_path / "a", "a"))
    place.promote()
    place.offer(bundle(tmp_path / "b", "b"))
    assert place.take_back() == "candidate"
    assert running(place) == "a"
    with pytest.raises(UserError, match="no candidate there"):
        place.promote()


def test_nights_are_numbered_on(tmp_path):
    place = RunFolder(tmp_path)
    assert place.next_refresh().name == "0001"
    place.next_refresh().mkdir(parents=True)
    (tmp_path / "nights" / "notes").mkdir()
    assert place.next_refresh().name == "0002"
