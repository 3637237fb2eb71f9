"""Settings of the section `tuning`."""

from typing import Literal

from pydantic import Field

from eager_llm.core.settings_model import Section


class TaskSettings(Section):
    """How often each task appears: examples an epoch, as a share of the trajectories."""

    seqrec: float = Field(
        default=1.0,
        ge=0.0,
        description="history to next item, one packed trajectory a user",
    )
    item2index: float = Field(
        default=0.15,
        ge=0.0,
        description="text to item",
    )
    index2item: float = Field(
        default=0.15,
        ge=0.0,
        description="item to text",
    )
    fusionseqrec: float = Field(
        default=0.15,
        ge=0.0,
        description="history in tokens or titles to the next item's text or tokens",
    )
    itemsearch: float = Field(
        default=0.15,
        ge=0.0,
        description="intention with history to item (needs an intentions table)",
    )
    preferenceobtain: float = Field(
        default=0.15,
        ge=0.0,
        description="history to stated preference (needs an intentions table)",
    )


class TuningSettings(Section):
    """Stage 1: the whole backbone on all tasks, with global contrast decompression."""

    epochs: int = Field(
        default=40,
        ge=1,
        description="passes over the trajectories",
    )
    batch_tokens: int = Field(
        default=4096,
        ge=64,
        description="padded tokens a batch",
    )
    accumulate: int = Field(
        default=1,
        ge=1,
        description="batches a step, on each worker",
    )
    loss: Literal["vocabulary", "level"] = Field(
        default="vocabulary",
        description=(
            "what the probability of an item's token is taken over in training:"
            " vocabulary (all tokens), or level (the tokens that stand at that "
            "level of the index); level does not go with "
            "decoding.normalise=vocabulary"
        ),
    )
    loss_tokens: int = Field(
        default=1024,
        ge=1,
        description="tokens whose logits are in memory at a time",
    )
    precision: Literal["auto", "float32", "bfloat16"] = Field(
        default="auto",
        description=(
            "what the model computes in: float32, bfloat16 (autocast), or auto "
            "(bfloat16 on a GPU that has it)"
        ),
    )
    workers: int = Field(
        default=0,
        ge=0,
        description=("Ray Train workers, each with batches of its own; 0 tunes in this process"),
    )
    sharded: bool = Field(
        default=False,
        description=(
            "spread the weights over the workers (FSDP), for a backbone that "
            "does not fit one; without validation between the epochs, so that "
            "the last one is kept"
        ),
    )
    restarts: int = Field(
        default=3,
        ge=0,
        description="how often lost Ray Train workers are started again",
    )
    learning_rate: float = Field(
        default=2e-3,
        ge=0.0,
        description="AdamW's peak learning rate",
    )
    weight_decay: float = Field(
        default=0.01,
        ge=0.0,
        description="AdamW's weight decay",
    )
    warmup_share: float = Field(
        default=0.05,
        ge=0.0,
        le=1.0,
        description="share of the steps with a rising rate",
    )
    item_dropout: float = Field(
        default=0.0,
        ge=0.0,
        le=0.9,
        description=(
            "share of a trajectory's items, but its target, left out of it, drawn anew each epoch"
        ),
    )
    text_tokens: int = Field(
        default=48,
        ge=4,
        description="longest text part of a prompt or answer, in tokens",
    )
    contrast_weight: float = Field(
        default=0.1,
        ge=0.0,
        description="weight of each source's contrast loss; 0 switches it off",
    )
    contrast_negatives: int = Field(
        default=2048,
        ge=1,
        description="sampled negative items of the contrast loss",
    )
    contrast_temperature: float = Field(
        default=0.07,
        ge=0.0001,
        description="temperature of the contrast loss",
    )
    validate_every: int = Field(
        default=5,
        ge=1,
        description="epochs between validations; the best epoch is kept",
    )
    validation_users: int = Field(
        default=1000,
        ge=1,
        description="users drawn for those validations",
    )
    text_tasks: bool = Field(
        default=True,
        description=(
            "whether there are other tasks than seqrec: off, all shares but its own are zero"
        ),
    )
    template_file: str = Field(
        default="",
        description=(
            "file of templates, JSON or YAML, such as "
            "src/eager_llm/prompts/templates.json; none: those"
        ),
    )
    held_out_share: float = Field(
        default=0.05,
        ge=0.0,
        le=0.5,
        description=("share of the items whose texts no task uses, to measure language on"),
    )
    language_items: int = Field(
        default=100,
        ge=0,
        description="items that the language measure asks about; 0 leaves it out",
    )
    tensorboard: str = Field(
        default="",
        description=(
            "folder for TensorBoard's event files; none: none (needs the tensorboard package)"
        ),
    )
    tasks: TaskSettings = Field(default_factory=TaskSettings)
