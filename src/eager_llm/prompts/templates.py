"""The phrasings of the instruction tasks: a data file that a user may replace."""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from eager_llm.core.errors import UserError
from eager_llm.settings import Settings, TaskSettings

DEFAULT_FILE = Path(__file__).with_name("templates.json")
FIELDS = ("history", "titles", "item", "title", "text", "intention", "preference")


@dataclass(frozen=True)
class Template:
    """One way to put a task; `$name` stands for a field.

    Attributes:
        held_out: never trained on; the language measure asks in these words.
    """

    prompt: str
    answer: str
    held_out: bool = False

    def pieces(self) -> tuple[list[tuple[bool, str]], list[tuple[bool, str]]]:
        """Return prompt and answer as (is it a field, name or literal text) in their order."""

        def split(text: str) -> list[tuple[bool, str]]:
            parts = re.split(r"\$(\w+)\s?", text)
            return [(n % 2 == 1, part.strip()) for n, part in enumerate(parts) if part.strip()]

        return split(self.prompt), split(self.answer)


def template_file(settings: Settings) -> Path:
    """Return the file of phrasings that the settings name."""
    return Path(settings.tuning.template_file) if settings.tuning.template_file else DEFAULT_FILE


def read_templates(file: Path) -> dict[str, list[Template]]:
    """Read and check a file of phrasings, in JSON or YAML.

    Raises:
        UserError: with file and line: a task is missing or unknown, a placeholder is unknown, or `seqrec`
            cannot be packed.
    """
    try:
        tree = yaml.compose(file.read_text(encoding="utf-8"), Loader=yaml.SafeLoader)
    except OSError as error:
        raise UserError(f"{file}: not readable as a file of phrasings: {error.strerror}") from None
    except UnicodeDecodeError:
        raise UserError(f"{file}: not UTF-8") from None
    except yaml.MarkedYAMLError as error:
        line = f", line {error.problem_mark.line + 1}" if error.problem_mark else ""
        raise UserError(f"{file}{line}: neither JSON nor YAML: {error.problem}") from None
    except yaml.YAMLError as error:
        raise UserError(f"{file}: neither JSON nor YAML: {error}") from None
    if not isinstance(tree, yaml.MappingNode):
        raise UserError(f"{file}, line 1: expected the tasks {', '.join(vars(TaskSettings()))}")
    tasks: dict[str, list[Template]] = {}
    for name_node, list_node in tree.value:
        name, where = name_node.value, f"{file}, line {name_node.start_mark.line + 1}"
        if name not in vars(TaskSettings()):
            raise UserError(
                f"{where}: unknown task {name!r}; known: {', '.join(vars(TaskSettings()))}"
            )
        if name in tasks:
            raise UserError(f"{where}: {name} stands there twice")
        if not isinstance(list_node, yaml.SequenceNode):
            raise UserError(f"{where}: {name} needs a list of phrasings")
        tasks[name] = [_phrasing(file, name, node) for node in list_node.value]
    for name in vars(TaskSettings()):
        if all(phrasing.held_out for phrasing in tasks.get(name, [])):
            raise UserError(f"{file}: {name} has no phrasing to train on")
    return tasks


def _phrasing(file: Path, task: str, node: Any) -> Template:
    where = f"{file}, line {node.start_mark.line + 1}: {task}"
    pairs = node.value if isinstance(node, yaml.MappingNode) else []
    parts = {key.value: value for key, value in pairs}
    if not {"prompt", "answer"} <= set(parts) <= {"prompt", "answer", "held_out"}:
        raise UserError(f"{where}: needs a prompt and an answer, and may say held_out")
    for part in ("prompt", "answer"):
        value = parts[part]
        if value.tag != "tag:yaml.org,2002:str" or not value.value.strip():
            raise UserError(f"{where}: the {part} must be text")
        for field in re.findall(r"\$(\w*)", value.value):
            if field not in FIELDS:
                line = f"{file}, line {value.start_mark.line + 1}: {task}"
                raise UserError(f"{line}: unknown placeholder ${field}; known: {', '.join(FIELDS)}")
    held_out = "held_out" in parts and parts["held_out"].value == "true"
    phrasing = Template(parts["prompt"].value, parts["answer"].value, held_out)
    packable = phrasing.prompt.count("$") == 1 and phrasing.prompt.endswith("$history")
    if task == "seqrec" and not (packable and phrasing.answer == "$item"):
        raise UserError(f"{where}: must be text that ends with $history, answered by $item")
    return phrasing
