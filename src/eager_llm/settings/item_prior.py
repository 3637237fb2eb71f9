"""Settings of the section `item_prior`."""

from typing import Annotated, Literal

from pydantic import Field

from eager_llm.core.settings_model import Section


class ItemPriorSettings(Section):
    """Item-to-item evidence of both sources, weighed beside the model as a prior over the items."""

    weights: list[Annotated[float, Field(ge=0.0)]] = Field(
        default=[0.0, 0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 32.0],
        description=(
            "weights of the prior that are tried on validation, the best is "
            "kept; 0: the model alone"
        ),
    )
    validation_users: int = Field(
        default=8000,
        ge=1,
        description="users drawn to choose that weight by: with few, chance chooses",
    )
    behaviour: Literal["cooccurrence", "ease"] = Field(
        default="cooccurrence",
        description=(
            "what the log says of two items: directed co-occurrence counts, "
            "or ease, the regression of each item on all others (for catalogues "
            "of up to 20,000 items whose order says little)"
        ),
    )
    ridge: float = Field(
        default=60.0,
        ge=1.0,
        description="ease: its ridge",
    )
    span: float = Field(
        default=10.0,
        ge=0.1,
        description="ease: a pair counts exp(-gap / span)",
    )
    window: int = Field(
        default=5,
        ge=1,
        description=("cooccurrence: how far apart in a history two items still count as following"),
    )
    gap_power: float = Field(
        default=1.0,
        ge=0.0,
        description="cooccurrence: a pair counts 1 / gap to this power",
    )
    backward: float = Field(
        default=0.3,
        ge=0.0,
        description="cooccurrence: what an item's predecessor counts beside its successor",
    )
    damping: float = Field(
        default=0.3,
        ge=0.0,
        le=1.0,
        description="cooccurrence: power of an item's sum that its evidence is divided by",
    )
    semantic_weight: float = Field(
        default=1.0,
        ge=0.0,
        description="weight of the words in common beside the behaviour; 0: behaviour alone",
    )
    top_items: int = Field(
        default=200,
        ge=1,
        description="items that an item keeps in its row of the prior, of each source",
    )
    decay: float = Field(
        default=0.5,
        ge=0.0,
        le=1.0,
        description="behaviour: what an item of the history counts beside the next one",
    )
    semantic_decay: float = Field(
        default=0.5,
        ge=0.0,
        le=1.0,
        description="the same for the words in common",
    )
    floor: float = Field(
        default=0.1,
        ge=1e-06,
        le=1.0,
        description="share of the prior that all items have in common",
    )
