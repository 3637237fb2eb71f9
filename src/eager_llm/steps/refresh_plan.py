"""What a refresh does, and why: the plan, and the drift that decides it."""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Self

from eager_llm.bundle.layout import REFRESH_PLAN, bundle_file
from eager_llm.core.errors import UserError
from eager_llm.core.files import read_json, write_json
from eager_llm.settings import Settings
from eager_llm.validation.drift import shift_since

BUILD = "build"
ANNEAL = "anneal"


@dataclass(frozen=True)
class Plan:
    """What a refresh does, and why; its bundle keeps it.

    Attributes:
        action: `anneal` the running model, or `build` everything anew.
        reasons: why everything is built anew; empty where it is not.
        drift: each measure with its limit.
        built_until: end of the log that the tree in use was built on, in ISO form.
        built_items: number of items that it was built on.
        trained_until: last moment that the model was trained on, once the refresh is over.
        new_items: items that got a path in this refresh.
    """

    action: str
    reasons: list[str]
    drift: dict[str, dict[str, float]]
    built_until: str
    built_items: int
    trained_until: str
    new_items: list[str]

    @classmethod
    def load(cls, file: Path) -> Self:
        """Read a plan."""
        return cls(**read_json(file))

    def save(self, file: Path) -> None:
        """Write the plan as JSON."""
        write_json(file, asdict(self))


def running_plan(bundle: Path) -> Plan:
    """Return the plan of a running bundle; one that no refresh has made was built on all its log.

    Raises:
        UserError: its log has no clock.
    """
    file = bundle_file(bundle, REFRESH_PLAN)
    if file.is_file():
        return Plan.load(file)
    data = read_json(bundle / "manifest.json")["data"]
    require_clock(data, bundle)
    last_event = data["last_event"]
    return Plan(
        action=BUILD,
        reasons=[],
        drift={},
        built_until=last_event,
        built_items=data["items"],
        trained_until=last_event,
        new_items=[],
    )


def require_clock(metadata: dict[str, object], folder: Path) -> None:
    """Refuse a log that has an order but no timestamps.

    Args:
        metadata: of the log.
        folder: is named where it is refused.

    Raises:
        UserError: it has none.
    """
    if "last_event" not in metadata:
        raise UserError(
            f"{folder}: the log has an order but no clock, so that nothing can be said to be new"
        )


def measure_drift(
    tables: Path, plan: Plan, items: int, unfit: float, settings: Settings
) -> dict[str, dict[str, float]]:
    """Return each measure of drift since the build, with its limit.

    Args:
        tables: folder of the validated tables.
        plan: of the running bundle.
        items: number of items now.
        unfit: share of the items whose paths no longer fit.
    """
    limits = settings.refresh
    measures: dict[str, tuple[float, float]] = {
        "items new since the build": (items / plan.built_items - 1, limits.max_new_items)
    }
    shift = shift_since(tables, plan.built_until, settings.data.memory_gb)
    for name, value in shift.items():
        measures[f"shift of the {name}"] = (value, limits.max_shift)
    measures["paths that no longer fit"] = (unfit, limits.max_unfit)
    drift: dict[str, dict[str, float]] = {}
    for name, (value, limit) in measures.items():
        drift[name] = {"found": round(value, 6), "most": limit}
    return drift


def rebuild_reasons(drift: dict[str, dict[str, float]], settings: Settings) -> list[str]:
    """Return why everything has to be built anew; empty where nothing has.

    Args:
        drift: from `measure_drift`.
    """
    if settings.refresh.rebuild == "always":
        return ["refresh.rebuild = always"]
    if settings.refresh.rebuild == "never":
        return []
    reasons: list[str] = []
    for name, row in drift.items():
        if row["found"] > row["most"]:
            reasons.append(f"{name}: {row['found']:.3f}, at most {row['most']:g}")
    return reasons
