"""Every setting, one module a section; `Settings` composes them."""

from eager_llm.settings.acceptance import AcceptanceSettings
from eager_llm.settings.annealing import AnnealingSettings
from eager_llm.settings.backbone import BackboneSettings
from eager_llm.settings.behaviour import BehaviourSettings
from eager_llm.settings.data import DataSettings
from eager_llm.settings.decoding import NORMALISATIONS, DecodingSettings, Normalisation
from eager_llm.settings.gates import GateSettings
from eager_llm.settings.index import SOURCES, IndexSettings, Source
from eager_llm.settings.item_prior import ItemPriorSettings
from eager_llm.settings.promotion import PromotionSettings
from eager_llm.settings.ray import RaySettings
from eager_llm.settings.refresh import RefreshSettings
from eager_llm.settings.report import ReportSettings
from eager_llm.settings.rollout import RolloutSettings
from eager_llm.settings.root import AFTER_TUNING, Settings, describe, settings_schema
from eager_llm.settings.semantic import SemanticSettings
from eager_llm.settings.tuning import TaskSettings, TuningSettings

__all__ = [
    "AFTER_TUNING",
    "NORMALISATIONS",
    "SOURCES",
    "AcceptanceSettings",
    "AnnealingSettings",
    "BackboneSettings",
    "BehaviourSettings",
    "DataSettings",
    "DecodingSettings",
    "GateSettings",
    "IndexSettings",
    "ItemPriorSettings",
    "Normalisation",
    "PromotionSettings",
    "RaySettings",
    "RefreshSettings",
    "ReportSettings",
    "RolloutSettings",
    "SemanticSettings",
    "Settings",
    "Source",
    "TaskSettings",
    "TuningSettings",
    "describe",
    "settings_schema",
]
