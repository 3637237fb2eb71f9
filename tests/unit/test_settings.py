import pytest

from eager_llm.core.errors import UserError
from eager_llm.settings import Settings, describe


def test_all_mistakes_are_reported_at_once_with_value_and_fix():
    with pytest.raises(UserError) as error:
        Settings.from_dict(
            {"seed": -1, "tuning": {"epochs": "many", "speed": 3}, "data": {"split": "random"}}
        )
    text = str(error.value)
    assert "seed = -1: must be at least 0" in text
    assert "tuning.epochs = 'many': expected int" in text
    assert "tuning.speed: no such setting; known here: epochs" in text
    assert "data.split = 'random': choose from leave_one_out, temporal" in text


def test_values_that_travelled_as_json_are_whole_again():
    assert Settings.from_dict({"tuning": {"epochs": 3.0}}).tuning.epochs == 3
    assert Settings.from_dict(Settings().to_dict()) == Settings()


def test_overrides_reach_nested_sections_and_lists():
    made = Settings.read(
        None, ["tuning.tasks.seqrec=0.5", "index.sources=behaviour", "tuning.learning_rate=1e-3"]
    )
    assert (made.tuning.tasks.seqrec, made.index.sources, made.tuning.learning_rate) == (
        0.5,
        ["behaviour"],
        1e-3,
    )


@pytest.mark.parametrize(
    "override", ["tuning.epochs", "seed.x=1", "index.sources=semantic,semantic", "index.sources="]
)
def test_broken_overrides_are_refused(override):
    with pytest.raises(UserError):
        Settings.read(None, ["seed=1", override])


def test_every_setting_is_described():
    assert "tuning.contrast_weight = 0.1" in describe()
