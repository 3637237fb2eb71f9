"""All settings of a run, composed of the sections; read from files and from the command line."""

import copy
import json
from pathlib import Path
from typing import Any, Self

import yaml
from pydantic import Field, ValidationError

from eager_llm.core.errors import UserError
from eager_llm.core.progress import say
from eager_llm.core.settings_model import (
    Section,
    faults,
    is_text_setting,
    settings_error,
    walk_fields,
    with_text_keys,
)
from eager_llm.settings.acceptance import AcceptanceSettings
from eager_llm.settings.annealing import AnnealingSettings
from eager_llm.settings.backbone import BackboneSettings
from eager_llm.settings.behaviour import BehaviourSettings
from eager_llm.settings.data import DataSettings
from eager_llm.settings.decoding import DecodingSettings
from eager_llm.settings.gates import GateSettings
from eager_llm.settings.index import SOURCES, IndexSettings
from eager_llm.settings.item_prior import ItemPriorSettings
from eager_llm.settings.promotion import PromotionSettings
from eager_llm.settings.ray import RaySettings
from eager_llm.settings.refresh import RefreshSettings
from eager_llm.settings.renamed import with_current_names
from eager_llm.settings.report import ReportSettings
from eager_llm.settings.rollout import RolloutSettings
from eager_llm.settings.semantic import SemanticSettings
from eager_llm.settings.tuning import TuningSettings

# Sections that neither the index nor the model depends on.
AFTER_TUNING = ("report", "acceptance", "refresh", "promotion", "rollout")


class Settings(Section):
    """All settings of a run."""

    seed: int = Field(default=0, ge=0, description="seed of everything that is drawn at random")
    threads: int = Field(default=0, ge=0, description="torch threads; 0 uses every core")
    ray: RaySettings = Field(default_factory=RaySettings)
    data: DataSettings = Field(default_factory=DataSettings)
    gates: GateSettings = Field(default_factory=GateSettings)
    acceptance: AcceptanceSettings = Field(default_factory=AcceptanceSettings)
    behaviour: BehaviourSettings = Field(default_factory=BehaviourSettings)
    semantic: SemanticSettings = Field(default_factory=SemanticSettings)
    item_prior: ItemPriorSettings = Field(default_factory=ItemPriorSettings)
    index: IndexSettings = Field(default_factory=IndexSettings)
    backbone: BackboneSettings = Field(default_factory=BackboneSettings)
    tuning: TuningSettings = Field(default_factory=TuningSettings)
    annealing: AnnealingSettings = Field(default_factory=AnnealingSettings)
    decoding: DecodingSettings = Field(default_factory=DecodingSettings)
    report: ReportSettings = Field(default_factory=ReportSettings)
    refresh: RefreshSettings = Field(default_factory=RefreshSettings)
    promotion: PromotionSettings = Field(default_factory=PromotionSettings)
    rollout: RolloutSettings = Field(default_factory=RolloutSettings)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Self:
        """Build from nested plain values; names of earlier versions are understood.

        Raises:
            UserError: lists every unknown name, wrong type, value out of bounds and conflict.
        """
        if not isinstance(values, dict):
            raise settings_error([f"{values!r}: expected sections with settings"])
        current, _, mistakes = with_current_names(with_text_keys(values))
        try:
            settings = cls.model_validate(current)
        except ValidationError as error:
            mistakes += faults(cls, error)
            settings = cls.model_validate(_without_faulty(current, error))
        mistakes += conflicts(settings)
        if mistakes:
            raise settings_error(mistakes)
        return settings

    @classmethod
    def read(
        cls,
        file: Path | None = None,
        overrides: list[str] | None = None,
        base: dict[str, Any] | None = None,
    ) -> Self:
        """Read a YAML or JSON file and apply `section.name=value` overrides.

        Args:
            file: none takes `base`, or the defaults.

        Raises:
            UserError: the file or an override cannot be read, or a value is refused.
        """
        values: dict[str, Any] = copy.deepcopy(base) if base else {}
        if file is not None:
            values = _read_file(file)
        for override in overrides or []:
            _apply_override(values, override)
        _, notes, _ = with_current_names(values)
        for note in notes:
            say(f"note: {note}")
        return cls.from_dict(values)

    def to_dict(self) -> dict[str, Any]:
        """Return nested plain values, ready for JSON."""
        return self.model_dump(mode="json")


def conflicts(settings: Settings) -> list[str]:
    """Return a line for each pair of values that do not go together."""
    mistakes: list[str] = []
    sources = settings.index.sources
    if len(set(sources)) != len(sources) or not sources:
        mistakes.append(
            f"index.sources = {sources!r}: name one or both of {', '.join(SOURCES)}, each once"
        )
    step = 2 * settings.backbone.heads
    if settings.backbone.hidden % step:
        mistakes.append(
            f"backbone.hidden = {settings.backbone.hidden}: must be a multiple of "
            f"2 x backbone.heads = {step}"
        )
    if settings.tuning.loss == "level" and settings.decoding.normalise == "vocabulary":
        mistakes.append(
            "decoding.normalise = 'vocabulary': tuning.loss = 'level' trains no probability over "
            "the vocabulary; choose level or allowed"
        )
    cluster = settings.ray.cluster
    if cluster not in ("local", "rayjob") and "://" not in cluster:
        mistakes.append(
            f"ray.cluster = {cluster!r}: choose local, rayjob, or the address of a cluster's "
            "dashboard, such as http://eager-llm-ray-head-svc:8265"
        )
    if settings.tuning.sharded and not settings.tuning.workers:
        mistakes.append("tuning.sharded = True: needs tuning.workers of at least 1")
    return mistakes


def describe() -> str:
    """Return a table of every setting with its default and meaning."""
    lines = []
    for name, field in walk_fields(Settings):
        lines.append(f"{name} = {json.dumps(field.get_default())}\n    {field.description}")
    return "\n".join(lines)


def settings_schema() -> dict[str, Any]:
    """Return the JSON Schema of a settings file, with which an editor completes and checks it."""
    schema = Settings.model_json_schema()
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema}


def _without_faulty(values: Any, error: ValidationError) -> dict[str, Any]:
    """Return the values that are right, so that conflicts among them are reported as well."""
    right = copy.deepcopy(values)
    for details in error.errors():
        path = [part for part in details["loc"] if isinstance(part, str)]
        section = right
        for part in path[:-1]:
            section = section.get(part, {})
        section.pop(path[-1], None)
    return dict(right)


def _read_file(file: Path) -> dict[str, Any]:
    try:
        values = yaml.safe_load(file.read_text(encoding="utf-8")) or {}
    except FileNotFoundError:
        raise UserError(f"{file}: no such settings file") from None
    except OSError as error:
        raise UserError(f"{file}: cannot be read: {error.strerror}") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"{file}: not readable as YAML: {error}") from None
    if not isinstance(values, dict):
        found = type(values).__name__
        raise UserError(f"{file}: expected sections with settings, found {found}")
    return values


def _apply_override(values: dict[str, Any], override: str) -> None:
    """Set one value of nested sections.

    Raises:
        UserError: the override has no value, or names a setting as a section.
    """
    name, separator, text = override.partition("=")
    if not separator or not name:
        raise UserError(
            f"override {override!r}: write it as section.name=value, such as tuning.epochs=3"
        )
    path = name.split(".")
    section = values
    for part in path[:-1]:
        section = section.setdefault(part, {})
        if not isinstance(section, dict):
            raise UserError(f"override {override!r}: {part!r} is a setting, not a section")
    if is_text_setting(Settings, path):
        section[path[-1]] = text
        return
    try:
        section[path[-1]] = yaml.safe_load(text)
    except yaml.YAMLError:
        raise UserError(f"override {override!r}: {text!r} is not a plain value") from None
