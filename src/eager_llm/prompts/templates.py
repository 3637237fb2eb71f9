"""The templates of the instruction tasks: a data file that a user may replace."""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from eager_llm.core.errors import UserError
from eager_llm.settings import Settings, TaskSettings

DEFAULT_FILE = Path(__file__).with_name("templates.json")
FIELDS = ("history", "titles", "item", "title", "text", "intention", "preference")
TASK_NAMES = tuple(vars(TaskSettings()))
# Whether it is a field, and its name or the literal text.
TextPiece = tuple[bool, str]
_TEXT_TAG = "tag:yaml.org,2002:str"


@dataclass(frozen=True)
class Template:
    """One way to put a task; `$name` stands for a field.

    Attributes:
        prompt: what the model reads.
        answer: what it is trained to write.
        held_out: never trained on; the language measure uses these words.
    """

    prompt: str
    answer: str
    held_out: bool = False

    def pieces(self) -> tuple[list[TextPiece], list[TextPiece]]:
        """Return the pieces of the prompt and those of the answer, in their order."""
        return _pieces(self.prompt), _pieces(self.answer)


def template_file(settings: Settings) -> Path:
    """Return the file of templates that the settings name."""
    if settings.tuning.template_file:
        return Path(settings.tuning.template_file)
    return DEFAULT_FILE


def read_templates(file: Path) -> dict[str, list[Template]]:
    """Read and check a file of templates, in JSON or YAML.

    Raises:
        UserError: with file and line: a task is missing or unknown, a placeholder is unknown, or
            `seqrec` cannot be packed.
    """
    tree = _parse(file)
    if not isinstance(tree, yaml.MappingNode):
        names = ", ".join(TASK_NAMES)
        raise UserError(f"{file}, line 1: expected the tasks {names}")
    templates: dict[str, list[Template]] = {}
    for name_node, list_node in tree.value:
        task = name_node.value
        location = _location(file, name_node)
        if task not in TASK_NAMES:
            names = ", ".join(TASK_NAMES)
            raise UserError(f"{location}: unknown task {task!r}; known: {names}")
        if task in templates:
            raise UserError(f"{location}: {task} stands there twice")
        if not isinstance(list_node, yaml.SequenceNode):
            raise UserError(f"{location}: {task} needs a list of templates")
        templates[task] = [_read_template(file, task, node) for node in list_node.value]
    for task in TASK_NAMES:
        trained = [template for template in templates.get(task, []) if not template.held_out]
        if not trained:
            raise UserError(f"{file}: {task} has no template to train on")
    return templates


def _pieces(text: str) -> list[TextPiece]:
    """Split a text at its fields: every second piece is the name of a field."""
    pieces = []
    for number, piece in enumerate(re.split(r"\$(\w+)\s?", text)):
        stripped = piece.strip()
        if stripped:
            is_field = number % 2 == 1
            pieces.append((is_field, stripped))
    return pieces


def _parse(file: Path) -> Any:
    """Return the tree of a JSON or YAML file, whose nodes know their lines."""
    try:
        return yaml.compose(file.read_text(encoding="utf-8"), Loader=yaml.SafeLoader)
    except OSError as error:
        raise UserError(f"{file}: not readable as a file of templates: {error.strerror}") from None
    except UnicodeDecodeError:
        raise UserError(f"{file}: not UTF-8") from None
    except yaml.MarkedYAMLError as error:
        location = str(file)
        if error.problem_mark:
            location += f", line {error.problem_mark.line + 1}"
        raise UserError(f"{location}: neither JSON nor YAML: {error.problem}") from None
    except yaml.YAMLError as error:
        raise UserError(f"{file}: neither JSON nor YAML: {error}") from None


def _read_template(file: Path, task: str, node: Any) -> Template:
    """Read and check one template of a task."""
    location = f"{_location(file, node)}: {task}"
    entries = {}
    if isinstance(node, yaml.MappingNode):
        entries = {key.value: value for key, value in node.value}
    if not {"prompt", "answer"} <= set(entries) <= {"prompt", "answer", "held_out"}:
        raise UserError(f"{location}: needs a prompt and an answer, and may say held_out")
    for name in ("prompt", "answer"):
        entry = entries[name]
        if entry.tag != _TEXT_TAG or not entry.value.strip():
            raise UserError(f"{location}: the {name} must be text")
        entry_location = f"{_location(file, entry)}: {task}"
        _check_fields(entry.value, entry_location)
    held_out = False
    if "held_out" in entries:
        held_out = entries["held_out"].value == "true"
    template = Template(
        prompt=entries["prompt"].value,
        answer=entries["answer"].value,
        held_out=held_out,
    )
    if task == "seqrec" and not _is_packable(template):
        raise UserError(f"{location}: must be text that ends with $history, answered by $item")
    return template


def _check_fields(text: str, location: str) -> None:
    """Raise UserError where a text has a field that does not exist."""
    for field in re.findall(r"\$(\w*)", text):
        if field not in FIELDS:
            names = ", ".join(FIELDS)
            raise UserError(f"{location}: unknown placeholder ${field}; known: {names}")


def _is_packable(template: Template) -> bool:
    """Return whether an answer continues the history without a word between them."""
    if template.prompt.count("$") != 1:
        return False
    return template.prompt.endswith("$history") and template.answer == "$item"


def _location(file: Path, node: Any) -> str:
    return f"{file}, line {node.start_mark.line + 1}"
