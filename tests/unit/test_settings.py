import json

import pytest
import yaml
from conftest import ROOT
from hypothesis import given
from hypothesis import strategies as st
from jsonschema import Draft202012Validator

from eager_llm.core.errors import UserError
from eager_llm.core.settings_model import walk_fields
from eager_llm.settings import Settings, describe, settings_schema
from eager_llm.settings.renamed import RENAMED_SETTINGS, RENAMED_VALUES


def test_all_mistakes_are_reported_at_once_with_value_and_fix():
    values = {
        "seed": -1,
        "tuning": {"epochs": "many", "epoch": 3},
        "data": {"split": "random"},
        "index": {"sources": ["semantic", "semantic"]},
    }
    with pytest.raises(UserError) as error:
        Settings.from_dict(values)
    text = str(error.value)
    assert "seed = -1: must be at least 0" in text
    assert "tuning.epochs = 'many': expected a whole number" in text
    assert "tuning.epoch: no such setting; did you mean epochs? known here: epochs" in text
    assert "data.split = 'random': choose from leave_one_out, temporal, refresh" in text
    assert "index.sources = ['semantic', 'semantic']: name one or both" in text


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"tuning": 3}, "tuning = 3: expected a section with epochs"),
        ({"tuning": {"text_tasks": "yes"}}, "tuning.text_tasks = 'yes': expected true or false"),
        ({"seed": True}, "seed = True: expected a whole number"),
        ({"seed": 1.5}, "seed = 1.5: expected a whole number"),
        ({"seed": None}, "seed = None: expected a whole number"),
        ({"annealing": {"dropout": 2}}, "annealing.dropout = 2: must be at most 1"),
        ({"item_prior": {"weights": [1, -1]}}, "item_prior.weights = -1: must be at least 0"),
        ({"index": {"sources": "text"}}, "index.sources = 'text': choose from behaviour, semantic"),
        ({"backbone": {"hidden": 100, "heads": 3}}, "must be a multiple of 2 x backbone.heads = 6"),
        (
            {"ray": {"cluster": "host"}},
            "ray.cluster = 'host': choose local, rayjob, or the address",
        ),
        ({"tuning": {"sharded": True}}, "tuning.sharded = True: needs tuning.workers"),
    ],
)
def test_each_kind_of_mistake_names_setting_value_and_fix(values, message):
    with pytest.raises(UserError) as error:
        Settings.from_dict(values)
    assert message in str(error.value)


def test_values_that_travelled_as_json_are_whole_again():
    assert Settings.from_dict({"tuning": {"epochs": 3.0}}).tuning.epochs == 3
    settings = Settings.from_dict({"seed": 3, "item_prior": {"weights": [0, 2]}})
    travelled = json.loads(json.dumps(settings.to_dict()))
    assert Settings.from_dict(travelled) == settings


def test_overrides_reach_nested_sections_and_lists():
    overrides = [
        "tuning.tasks.seqrec=0.5",
        "index.sources=behaviour",
        "tuning.learning_rate=1e-3",
    ]
    settings = Settings.read(None, overrides)
    assert settings.tuning.tasks.seqrec == 0.5
    assert settings.index.sources == ["behaviour"]
    assert settings.tuning.learning_rate == 1e-3


@pytest.mark.parametrize("text", ["", "2024", "no", "1e3", "2026-01-02", "[a]", "a: b", "007"])
def test_a_text_setting_takes_any_text_of_the_command_line_as_it_is(text):
    assert Settings.read(None, [f"gates.baseline={text}"]).gates.baseline == text


def test_an_empty_override_takes_a_value_of_the_file_away(tmp_path):
    file = tmp_path / "settings.yaml"
    file.write_text("gates:\n  baseline: runs/old/tables\n  waived: [drift]\n")
    settings = Settings.read(file, ["gates.baseline=", "gates.waived="])
    assert settings.gates.baseline == ""
    assert settings.gates.waived == []


@pytest.mark.parametrize(
    "override",
    ["tuning.epochs", "seed.x=1", "index.sources=semantic,semantic", "index.sources=", "seed="],
)
def test_broken_overrides_are_refused(override):
    with pytest.raises(UserError):
        Settings.read(None, ["seed=1", override])


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(
                st.sampled_from(["seed", "tuning", "tasks", "index", "sources", "nightly", "x"])
                | st.text(max_size=4)
                | st.integers()
                | st.none(),
                inner,
                max_size=3,
            )
        ),
        max_leaves=8,
    )
)
def test_whatever_a_file_holds_it_is_settings_or_a_readable_refusal(values):
    try:
        settings = Settings.from_dict(values)
    except UserError as error:
        settings = Settings()
        message = str(error)
    else:
        message = "the settings have mistakes:"
    assert message.startswith("the settings have mistakes:")
    assert Settings.from_dict(settings.to_dict()) == settings


def test_a_section_without_a_line_is_the_defaults(tmp_path):
    file = tmp_path / "settings.yaml"
    file.write_text("tuning:\n  # epochs: 3\n")
    assert Settings.read(file) == Settings()


def test_replace_checks_the_new_value():
    settings = Settings()
    assert settings.replace(seed=4).seed == 4
    assert settings.seed == 0
    with pytest.raises(UserError, match="epochs = 0: must be at least 1"):
        settings.tuning.replace(epochs=0)


def test_every_setting_is_described():
    text = describe()
    for name, field in walk_fields(Settings):
        assert f"{name} = " in text
        assert field.description


def nested(name, value):
    for part in reversed(name.split(".")):
        value = {part: value}
    return value


@pytest.mark.parametrize("earlier", [name for name in RENAMED_SETTINGS if "." in name])
def test_a_name_of_an_earlier_version_is_understood_and_told(earlier, tmp_path, capsys):
    current = RENAMED_SETTINGS[earlier]
    fields = dict(walk_fields(Settings))
    default = fields[current].get_default(call_default_factory=True)
    file = tmp_path / "settings.yaml"
    file.write_text(yaml.safe_dump(nested(earlier, default)))
    assert Settings.read(file) == Settings()
    assert f"the setting {earlier} is called {current} now" in capsys.readouterr().out


def test_sections_and_values_of_an_earlier_version_are_understood():
    values = {
        "nightly": {"epochs": 3},
        "neighbours": {"kept": 7, "behaviour": "regression"},
        "data": {"split": "nightly"},
    }
    settings = Settings.from_dict(values)
    assert settings.refresh.epochs == 3
    assert (settings.item_prior.top_items, settings.item_prior.behaviour) == (7, "ease")
    assert settings.data.split == "refresh"
    assert RENAMED_VALUES["data.split"]["nightly"] == "refresh"


def test_a_setting_under_both_its_names_is_refused():
    with pytest.raises(UserError, match=r"nightly.epochs: is given as refresh.epochs, too"):
        Settings.from_dict({"nightly": {"epochs": 3}, "refresh": {"epochs": 4}})
    with pytest.raises(UserError, match=r"tuning.task_file: is given as tuning.template_file, too"):
        Settings.from_dict({"tuning": {"task_file": "a", "template_file": "b"}})


def test_the_schema_accepts_the_settings_of_the_project_and_refuses_mistakes():
    validator = Draft202012Validator(settings_schema())
    files = sorted((ROOT / "pipelines" / "settings").glob("*.yaml"))
    assert files
    for file in files:
        assert list(validator.iter_errors(yaml.safe_load(file.read_text()))) == []
    for wrong in ({"tuning": {"epochs": 0}}, {"tuning": {"speed": 1}}, {"data": {"split": "no"}}):
        assert list(validator.iter_errors(wrong))
