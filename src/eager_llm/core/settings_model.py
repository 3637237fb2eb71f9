"""The base of all settings: typed, frozen, and checked with every mistake reported at once."""

import difflib
from collections.abc import Iterator
from datetime import date
from types import NoneType
from typing import Any, Self, get_args, get_origin

from pydantic import BaseModel, ConfigDict, ValidationError, field_validator
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails

from eager_llm.core.errors import UserError

TYPE_NAMES = {
    bool: "true or false",
    int: "a whole number",
    float: "a number",
    str: "text",
    list: "a list",
    dict: "a section",
}


class Section(BaseModel):
    """A group of settings.

    Values may come from YAML, from JSON or from the command line, so a value is taken in every
    form that these have for it: a list as text with commas, 5.0 for a whole number, text for 2e-3.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=False)

    @field_validator("*", mode="before")
    @classmethod
    def _from_text(cls, value: Any, info: Any) -> Any:
        """Bring a value of YAML, JSON or the command line into the field's form."""
        annotation = cls.model_fields[info.field_name].annotation
        return coerce(annotation, value)

    def replace(self, **changes: Any) -> Self:
        """Return a copy with other values.

        Raises:
            UserError: a value is refused.
        """
        values = {name: getattr(self, name) for name in type(self).model_fields}
        try:
            return type(self).model_validate({**values, **changes})
        except ValidationError as error:
            raise settings_error(faults(type(self), error)) from None


def coerce(annotation: Any, value: Any) -> Any:
    """Return a plain value in the form that a field of some type takes, unchanged where none fits.

    Raises:
        ValueError: a truth value stands where a number is expected.
    """
    if get_origin(annotation) is list:
        if value is None:
            return []
        if isinstance(value, str):
            parts = [part.strip() for part in value.split(",")]
            return [part for part in parts if part]
        return value
    if annotation is str:
        if value is None:
            return ""
        is_plain = isinstance(value, int | float | date) and not isinstance(value, bool)
        return str(value) if is_plain else value
    if value is None and isinstance(annotation, type) and issubclass(annotation, Section):
        # A section whose lines are all commented out.
        return {}
    if annotation is bool:
        if not isinstance(value, bool):
            raise ValueError("expected true or false")
        return value
    if annotation in (int, float) and isinstance(value, bool):
        raise ValueError(f"expected {TYPE_NAMES[annotation]}")
    return value


def with_text_keys(values: Any) -> Any:
    """Return nested values whose keys are all text; YAML reads the key 1 as a number."""
    if not isinstance(values, dict):
        return values
    return {str(key): with_text_keys(value) for key, value in values.items()}


def settings_error(mistakes: list[str]) -> UserError:
    """Return the error that lists the mistakes of some settings."""
    return UserError("the settings have mistakes:\n  " + "\n  ".join(mistakes))


def faults(model: type[BaseModel], error: ValidationError) -> list[str]:
    """Return a line for each mistake: the setting, its value, and what it may be."""
    return [_fault(model, details) for details in error.errors()]


def _fault(model: type[BaseModel], details: ErrorDetails) -> str:
    path = [part for part in details["loc"] if isinstance(part, str)]
    name = ".".join(path)
    kind = details["type"]
    if kind == "extra_forbidden":
        return f"{name}: no such setting; {_neighbouring_names(model, path)}"
    value = details["input"]
    context = details.get("ctx", {})
    match kind:
        case "greater_than_equal":
            requirement = f"must be at least {context['ge']:g}"
        case "less_than_equal":
            requirement = f"must be at most {context['le']:g}"
        case "literal_error":
            choices = _choices(model, path)
            requirement = f"choose from {', '.join(choices)}"
        case "value_error":
            requirement = str(context["error"])
        case _:
            requirement = f"expected {_type_name(model, path)}"
    return f"{name} = {value!r}: {requirement}"


def _neighbouring_names(model: type[BaseModel], path: list[str]) -> str:
    """Return what stands in the section of an unknown setting, the likeliest name first."""
    section: Any = model
    for part in path[:-1]:
        section = section.model_fields[part].annotation
    names = list(section.model_fields)
    close = difflib.get_close_matches(path[-1], names, n=1)
    suggestion = f"did you mean {close[0]}? " if close else ""
    return f"{suggestion}known here: {', '.join(names)}"


def _field(model: type[BaseModel], path: list[str]) -> FieldInfo | None:
    section: Any = model
    field = None
    for part in path:
        field = section.model_fields.get(part)
        if field is None:
            return None
        section = field.annotation
    return field


def _type_name(model: type[BaseModel], path: list[str]) -> str:
    field = _field(model, path)
    annotation = field.annotation if field else NoneType
    if get_origin(annotation) is list:
        element = get_args(annotation)[0]
        element_name = TYPE_NAMES.get(_plain_type(element), "values")
        return f"a list, each {element_name}"
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return f"a section with {', '.join(annotation.model_fields)}"
    return TYPE_NAMES.get(_plain_type(annotation), "another value")


def _plain_type(annotation: Any) -> Any:
    """Return the type under `Annotated[...]`, or of the choices of `Literal[...]`."""
    arguments = get_args(annotation)
    if not arguments:
        return annotation
    first = arguments[0]
    return first if isinstance(first, type) else type(first)


def _choices(model: type[BaseModel], path: list[str]) -> tuple[str, ...]:
    field = _field(model, path)
    annotation = field.annotation if field else NoneType
    if get_origin(annotation) is list:
        annotation = get_args(annotation)[0]
    return tuple(map(str, get_args(annotation)))


def walk_fields(model: type[BaseModel], prefix: str = "") -> Iterator[tuple[str, FieldInfo]]:
    """Yield every setting of a model and of its sections, with its dotted name."""
    for name, field in model.model_fields.items():
        annotation = field.annotation
        if isinstance(annotation, type) and issubclass(annotation, BaseModel):
            yield from walk_fields(annotation, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", field


def is_text_setting(model: type[BaseModel], path: list[str]) -> bool:
    """Return whether a setting is free text, which no YAML reader should turn into something else."""
    field = _field(model, path)
    return field is not None and field.annotation is str
