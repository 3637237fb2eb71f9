"""What a run keeps from refresh to refresh: a candidate is promoted or rolled back, and the one before comes back."""

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
    place.add_candidate(bundle(tmp_path / "a", "a"))
    assert place.running is None
    place.promote()
    assert running(place) == "a"
    place.add_candidate(bundle(tmp_path / "b", "b"))
    place.add_candidate(bundle(tmp_path / "c", "c"))  # a later refresh's candidate takes its place
    assert running(place) == "a"
    place.promote()
    assert running(place) == "c"
    assert not place.candidate.exists()
    assert place.roll_back() == "running"
    assert running(place) == "a"
    with pytest.raises(UserError, match="neither a candidate nor a bundle before"):
        place.roll_back()


def test_rolling_back_a_candidate_leaves_what_is_running(tmp_path):
    place = RunFolder(tmp_path / "run")
    place.add_candidate(bundle(tmp_path / "a", "a"))
    place.promote()
    place.add_candidate(bundle(tmp_path / "b", "b"))
    assert place.roll_back() == "candidate"
    assert running(place) == "a"
    with pytest.raises(UserError, match="no candidate there"):
        place.promote()


def test_refreshes_are_numbered_on(tmp_path):
    place = RunFolder(tmp_path)
    assert place.next_refresh().name == "0001"
    place.next_refresh().mkdir(parents=True)
    (tmp_path / "refreshes" / "notes").mkdir()
    assert place.next_refresh().name == "0002"


def test_refreshes_of_an_earlier_version_count(tmp_path):
    (tmp_path / "nights" / "0007").mkdir(parents=True)
    assert RunFolder(tmp_path).next_refresh() == tmp_path / "refreshes" / "0008"
