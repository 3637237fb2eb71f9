"""Names of settings in earlier versions, so that a user's file goes on working."""

import copy
from typing import Any

# The name of an earlier version, and what it is called now. Sections stand before their settings.
RENAMED_SETTINGS = {
    "neighbours": "item_prior",
    "nightly": "refresh",
    "gates.continue_without": "gates.waived",
    "acceptance.continue_without": "acceptance.waived",
    "item_prior.kept": "item_prior.top_items",
    "tuning.task_file": "tuning.template_file",
    "tuning.unread_share": "tuning.held_out_share",
}
RENAMED_VALUES = {
    "data.split": {"nightly": "refresh"},
    "item_prior.behaviour": {"counts": "cooccurrence", "regression": "ease"},
}


def with_current_names(
    values: dict[str, Any],
) -> tuple[dict[str, Any], list[str], list[str]]:
    """Return nested values under their current names.

    Returns:
        The values; a note for each name that changed; a mistake for each setting that is given
        under both its names.
    """
    notes: list[str] = []
    mistakes: list[str] = []
    current = copy.deepcopy(values)
    for earlier, name in RENAMED_SETTINGS.items():
        section, earlier_key = _section_of(current, earlier)
        if section is None or earlier_key not in section:
            continue
        key = name.rpartition(".")[2]
        notes.append(f"the setting {earlier} is called {name} now")
        value = section.pop(earlier_key)
        if key not in section:
            section[key] = value
        elif isinstance(value, dict) and isinstance(section[key], dict):
            twice = sorted(value.keys() & section[key].keys())
            mistakes += [f"{earlier}.{part}: is given as {name}.{part}, too" for part in twice]
            section[key] = {**value, **section[key]}
        else:
            mistakes.append(f"{earlier}: is given as {name}, too; keep {name}")
    for name, renamed in RENAMED_VALUES.items():
        section, key = _section_of(current, name)
        if section is None:
            continue
        value = section.get(key)
        if isinstance(value, str) and value in renamed:
            notes.append(f"{name} = {value} is written {renamed[value]} now")
            section[key] = renamed[value]
    return current, notes, mistakes


def _section_of(values: dict[str, Any], name: str) -> tuple[dict[str, Any] | None, str]:
    """Return the section that holds a setting, or None where it is missing, and the setting's key."""
    *sections, key = name.split(".")
    section: Any = values
    for part in sections:
        section = section.get(part)
        if not isinstance(section, dict):
            return None, key
    return section, key
