"""Every setting of the system: typed, documented, checked all at once.

`Settings.from_dict` reports every mistake in one error, each with the value and the fix.
"""

import copy
import json
from dataclasses import MISSING, asdict, dataclass, field, fields, is_dataclass
from pathlib import Path
from typing import Any, get_args, get_origin

import yaml

from eager_llm.errors import UserError

SOURCES = ("behaviour", "semantic")
NORMALISATIONS = ("vocabulary", "level", "allowed")
LOSSES = ("vocabulary", "level")


def option(default: Any, help: str, **rules: Any) -> Any:
    """Declare a setting. Rules: `least` and `most` (inclusive bounds), `choices`."""
    metadata = {"help": help, **rules}
    if isinstance(default, (list, dict)):
        return field(default_factory=lambda: type(default)(default), metadata=metadata)
    return field(default=default, metadata=metadata)


@dataclass(frozen=True)
class RaySettings:
    """Where index building and tuning run; no part of what comes out."""

    cluster: str = option(
        "local",
        "local: Ray on this machine, as far as workers ask for it; http://host:8265: a standing cluster, by the address "
        "of its dashboard; rayjob: a cluster of the step's own, made by KubeRay",
    )
    template: str = option("eager-llm-ray", "rayjob: ConfigMap of the namespace with the job that is filled in")
    shared: str = option(
        "", "folder that every pod of the Ray cluster reaches, for what workers read and where a lost one goes on; "
        "none: the cluster has one machine"
    )  # fmt: skip
    start_minutes: float = option(20.0, "time in which the cluster must be there and the job running", least=0.01)
    hours: float = option(48.0, "time after which a job is ended", least=0.01)
    away_minutes: float = option(5.0, "time for which the API that tells of the job may be out of reach", least=0.01)
    poll_seconds: float = option(3.0, "time between two looks at the job", least=0.01)


@dataclass(frozen=True)
class DataSettings:
    """What is kept of the log, and how it is split."""

    min_interactions: int = option(5, "k-core: every user and item keeps at least so many events", least=1)
    bad_rows: float = option(
        0.0, "share of unreadable rows that an import drops into its report; with more it is refused", least=0.0, most=1.0
    )  # fmt: skip
    event_types: list[str] = option([], "event types that are kept, each as type=weight (view=1,purchase=5); none: all")
    merge_items_by: list[str] = option(
        [], "items that are equal in all of these columns become one", choices=("title", "description", "brand", "categories")
    )  # fmt: skip
    clean_markup: bool = option(True, "take HTML out of texts and resolve its entities")
    max_daily_events: int = option(
        0, "users with more events on one day (UTC) are taken for bots; 0: nobody is", least=0
    )
    session_gap_minutes: float = option(0.0, "a pause that starts a new session, kept as a column; 0: none", least=0.0)
    memory_gb: float = option(
        2.0, "memory that importing and validating may take before they spill to disk", least=0.25
    )
    workers: int = option(
        0,
        "Ray workers that import, a processor and data.memory_gb each; 0 imports in this process without Ray",
        least=0,
    )
    shared_folder: str = option("", "folder for the workers' files, which all of them reach; none: beside the tables")
    max_history: int = option(20, "items of history that the model sees", least=1, most=1000)
    split: str = option(
        "leave_one_out",
        "leave_one_out: each user's last event is test, the one before validation; "
        "temporal: one cut in time for all users; "
        "nightly: the same cut, through what came after the log of the running bundle (leave_one_out for a first one)",
        choices=("leave_one_out", "temporal", "nightly"),
    )  # fmt: skip
    validation_share: float = option(
        0.1, "temporal and nightly split: share of (the night's) events in validation", least=0.0, most=0.5
    )
    test_share: float = option(
        0.1, "temporal and nightly split: share of (the night's) events in test", least=0.0, most=0.5
    )


@dataclass(frozen=True)
class GateSettings:
    """Thresholds of the data gates; a run that misses one stops before anything is trained."""

    min_user_events: int = option(3, "events that every user must have after the k-core", least=1)
    min_users: int = option(10, "users that must be left after the k-core", least=1)
    min_text_share: float = option(
        0.9, "share of items with a title, description, brand or categories "
        "(checked where the semantic source is used)", least=0.0, most=1.0)  # fmt: skip
    baseline: str = option(
        "", "validated tables of an accepted run, whose sizes and distributions are held against; none: no drift gate"
    )
    size_tolerance: float = option(
        0.5, "share by which events, users and items may differ from the accepted run", least=0.0
    )
    min_catalogue_kept: float = option(
        0.8, "share of the accepted run's items that must still be there", least=0.0, most=1.0
    )
    max_drift: float = option(0.25, "population stability index that popularity, text and length may reach", least=0.0)
    continue_without: list[str] = option(
        [], "gates that may fail: a person's decision, kept in the report and the settings"
    )


@dataclass(frozen=True)
class AcceptanceSettings:
    """Thresholds of the bundle's gates; they apply when it is packed, so that changing them tunes nothing anew."""

    baseline: str = option("", "bundle of an accepted run, whose metrics are held against; none: no such gate")
    max_metric_drop: float = option(
        0.1, "share of the accepted bundle's test metrics that may be lost", least=0.0, most=1.0
    )
    continue_without: list[str] = option(
        [], "gates of the bundle that may fail: a person's decision, kept in the report and the manifest"
    )


@dataclass(frozen=True)
class BehaviourSettings:
    """The Deep Interest Network whose item table is the behaviour embedding."""

    dim: int = option(64, "width of the item embedding", least=2)
    epochs: int = option(4, "passes over the training part", least=1)
    batch: int = option(512, "examples a step", least=1)
    negatives: int = option(32, "sampled negative items a step, shared by the batch", least=1)
    learning_rate: float = option(2e-3, "Adam's learning rate", least=0.0)
    warm_start: bool = option(True, "start the item table from the training part's co-occurrence counts")


@dataclass(frozen=True)
class SemanticSettings:
    """The text encoder whose output is the semantic embedding."""

    encoder: str = option("tfidf-svd", "tfidf-svd, or the id or path of any Hugging Face encoder")
    dim: int = option(128, "width of the tfidf-svd embedding (an encoder brings its own)", least=2)
    batch: int = option(64, "texts a step of a Hugging Face encoder", least=1)


@dataclass(frozen=True)
class NeighbourSettings:
    """Item-to-item evidence of both sources, weighed beside the model as a prior over the items."""

    weights: list[float] = option(
        [0.0, 0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 32.0], "weights of the prior that are tried on validation, the best is kept; 0: the model alone",
        least=0.0,
    )  # fmt: skip
    validation_users: int = option(8000, "users drawn to choose that weight by: with few, chance chooses", least=1)
    behaviour: str = option(
        "counts",
        "what the log says of two items: counts of what followed what, or regression of each item on all others (EASE; "
        "for catalogues of up to 20,000 items whose order says little)",
        choices=("counts", "regression"),
    )  # fmt: skip
    ridge: float = option(60.0, "regression: its ridge", least=1.0)
    span: float = option(10.0, "regression: a pair counts exp(-gap / span)", least=0.1)
    window: int = option(5, "counts: how far apart in a history two items still count as following", least=1)
    gap_power: float = option(1.0, "counts: a pair counts 1 / gap to this power", least=0.0)
    backward: float = option(0.3, "counts: what an item's predecessor counts beside its successor", least=0.0)
    damping: float = option(0.3, "counts: power of an item's sum that its evidence is divided by", least=0.0, most=1.0)
    semantic_weight: float = option(
        1.0, "weight of words in common beside the behaviour; 0: behaviour alone", least=0.0
    )
    kept: int = option(200, "neighbours that an item keeps of each source", least=1)
    decay: float = option(0.5, "behaviour: what an item of the history counts beside the next one", least=0.0, most=1.0)
    semantic_decay: float = option(0.5, "words: the same", least=0.0, most=1.0)
    floor: float = option(0.1, "share of the prior that all items have in common", least=1e-6, most=1.0)


@dataclass(frozen=True)
class IndexSettings:
    """The item index: balanced hierarchical k-means for each source."""

    sources: list[str] = option(["semantic", "behaviour"], "sources in the order of their tokens", choices=SOURCES)
    branching: int = option(256, "children of a node (k)", least=2, most=65536)
    iterations: int = option(16, "k-means iterations at each level, on a sample of 256 items a label", least=1)
    full_iterations: int = option(4, "further iterations of the first level, over all items", least=0)
    builder: str = option(
        "balanced",
        "balanced: even shares at every level (the paper); residual: residual k-means; product: product quantisation; "
        "none has collisions",
        choices=("balanced", "residual", "product"),
    )  # fmt: skip
    restarts: int = option(3, "starts of the first level, of which the best goes on", least=1)
    precision: str = option(
        "bf16", "factors of the distances: bf16 (faster where the processor has it, trees as good), or float32",
        choices=("float32", "bf16"),
    )  # fmt: skip
    workers: int = option(2, "Ray workers; 0 builds in this process without Ray", least=0)


@dataclass(frozen=True)
class BackboneSettings:
    """The language model that is tuned."""

    model: str = option("small-llama", "small-llama (made on the spot), or the id or path of any causal LM")
    layers: int = option(3, "small-llama: layers", least=1)
    hidden: int = option(128, "small-llama: width", least=8)
    heads: int = option(4, "small-llama: attention heads", least=1)
    vocabulary: int = option(2000, "small-llama: text tokens of the tokenizer trained on the catalogue", least=300)
    new_tokens: str = option(
        "noise", "where the index tokens' embeddings start: noise, or their centroids in the item index",
        choices=("noise", "centroids"),
    )  # fmt: skip


@dataclass(frozen=True)
class TaskSettings:
    """How often each task appears: examples an epoch, as a share of the trajectories."""

    seqrec: float = option(1.0, "history to next item, one packed trajectory a user", least=0.0)
    item2index: float = option(0.15, "text to item", least=0.0)
    index2item: float = option(0.15, "item to text", least=0.0)
    fusionseqrec: float = option(0.15, "history in tokens or titles to the next item's text or tokens", least=0.0)
    itemsearch: float = option(0.15, "intention with history to item (needs an intentions table)", least=0.0)
    preferenceobtain: float = option(0.15, "history to stated preference (needs an intentions table)", least=0.0)


@dataclass(frozen=True)
class TuningSettings:
    """Stage 1: the whole backbone on all tasks, with global contrast decompression."""

    epochs: int = option(40, "passes over the trajectories", least=1)
    batch_tokens: int = option(4096, "padded tokens a batch", least=64)
    accumulate: int = option(1, "batches a step, on each worker", least=1)
    loss: str = option(
        "vocabulary",
        "what the probability of an item's token is taken over in training: vocabulary (all tokens), or level "
        "(the tokens that stand at that level of the index); level does not go with decoding.normalise=vocabulary",
        choices=LOSSES,
    )  # fmt: skip
    loss_tokens: int = option(1024, "tokens whose logits are in memory at a time", least=1)
    precision: str = option(
        "auto", "what the model computes in: float32, bfloat16 (autocast), or auto (bfloat16 on a GPU that has it)",
        choices=("auto", "float32", "bfloat16"),
    )  # fmt: skip
    workers: int = option(0, "Ray Train workers, each with batches of its own; 0 tunes in this process", least=0)
    sharded: bool = option(
        False, "spread the weights over the workers (FSDP), for a backbone that does not fit one; without validation "
        "between the epochs, so that the last one is kept",
    )  # fmt: skip
    restarts: int = option(3, "how often lost Ray Train workers are started again", least=0)
    learning_rate: float = option(2e-3, "AdamW's peak learning rate", least=0.0)
    weight_decay: float = option(0.01, "AdamW's weight decay", least=0.0)
    warmup_share: float = option(0.05, "share of the steps with a rising rate", least=0.0, most=1.0)
    item_dropout: float = option(
        0.0, "share of a trajectory's items, but its target, left out of it, drawn anew each epoch", least=0.0, most=0.9
    )
    text_tokens: int = option(48, "longest text part of a prompt or answer, in tokens", least=4)
    contrast_weight: float = option(0.1, "weight of each source's contrast loss; 0 switches it off", least=0.0)
    contrast_negatives: int = option(2048, "sampled negative items of the contrast loss", least=1)
    contrast_temperature: float = option(0.07, "temperature of the contrast loss", least=1e-4)
    validate_every: int = option(5, "epochs between validations; the best epoch is kept", least=1)
    validation_users: int = option(1000, "users drawn for those validations", least=1)
    text_tasks: bool = option(True, "whether there are other tasks than seqrec: off, all shares but its own are zero")
    task_file: str = option("", "file of phrasings, JSON or YAML, such as src/eager_llm/tuning/tasks.json; none: those")
    unread_share: float = option(
        0.05, "share of the items whose texts no task uses, to measure language on", least=0.0, most=0.5
    )
    language_items: int = option(100, "items that the language measure asks about; 0 leaves it out", least=0)
    tensorboard: str = option("", "folder for TensorBoard's event files; none: none (needs the tensorboard package)")
    tasks: TaskSettings = field(default_factory=TaskSettings)


@dataclass(frozen=True)
class AnnealingSettings:
    """Stage 2: the annealing adapter, LoRA on every linear layer, `seqrec` only."""

    epochs: int = option(1, "passes over the trajectories; 0 leaves the stage out", least=0)
    learning_rate: float = option(2e-4, "AdamW's learning rate, falling to zero", least=0.0)
    rank: int = option(8, "LoRA's r", least=1)
    alpha: int = option(32, "LoRA's alpha", least=1)
    dropout: float = option(0.05, "LoRA's dropout", least=0.0, most=1.0)


@dataclass(frozen=True)
class DecodingSettings:
    """Constrained beam search."""

    beams: int = option(20, "beams; at least as many as items asked for are used", least=1, most=1000)
    batch: int = option(64, "requests decoded at a time", least=1)
    normalise: str = option(
        "allowed",
        "what the probability of an item's token is taken over: vocabulary (all tokens); level (the tokens that "
        "stand at that level of the index); allowed (those that lead on to an existing item; tokens that leave "
        "no choice then cost nothing and count nothing)",
        choices=NORMALISATIONS,
    )  # fmt: skip
    precision: str = option(
        "float32",
        "what a bundle's model computes in; bfloat16 is faster where the machine has it and changes a few answers "
        "(docs/decoding.md says how many)",
        choices=("float32", "bfloat16"),
    )  # fmt: skip
    adapter_strength: float = option(
        1.0, "scale of the annealing adapter: 1 as trained, for recommendations; 0 off, for language",
        least=0.0, most=1.0,
    )  # fmt: skip
    prefix_cache_mb: int = option(64, "memory for the prompts of returning users; 0 remembers none", least=0)


@dataclass(frozen=True)
class NightlySettings:
    """A night: what it trains on, and the drift from which on it builds everything anew."""

    validation_share: float = option(
        0.2, "share of the night's events, the latest but the test part, in validation", least=0.0, most=0.5
    )
    test_share: float = option(
        0.4, "share of the night's events, the latest, that both bundles are tested on", least=0.0, most=0.5
    )
    epochs: int = option(2, "passes of the annealing adapter over the fresh trajectories", least=1)
    learning_rate: float = option(2e-4, "AdamW's learning rate for them, falling to zero", least=0.0)
    replay: float = option(1.0, "older trajectories for each fresh one, so that the adapter does not forget", least=0.0)
    rebuild: str = option(
        "drift", "when everything is built anew: drift (where a measure below is passed), always, or never",
        choices=("drift", "always", "never"),
    )  # fmt: skip
    max_new_items: float = option(
        0.25,
        "drift: items without a place in the tree when it was built, as a share of those that it was built on",
        least=0.0,
    )
    max_shift: float = option(
        0.25,
        "drift: population stability index of the items' popularity and of the pauses between events, since the build",
        least=0.0,
    )
    max_unfit: float = option(
        0.3, "drift: share of the items that a refresh of the index would move", least=0.0, most=1.0
    )  # fmt: skip


@dataclass(frozen=True)
class PromotionSettings:
    """How much worse than the running bundle a new one may be, when chance has had its say.

    A measure's loss is taken at the far end of its confidence interval: what cannot be told from a loss beyond
    the tolerance is refused, too.
    """

    metric: str = option(
        "ndcg@10", "metric of the recommendations that decides",
        choices=("recall@1", "ndcg@1", "recall@5", "ndcg@5", "recall@10", "ndcg@10"),
    )  # fmt: skip
    tolerance: float = option(0.05, "share of the running bundle's metric that may be lost", least=0.0, most=1.0)
    language_tolerance: float = option(
        0.05,
        "language that may be lost: points of right answers and overlap (of 1), share of the log perplexity",
        least=0.0,
        most=1.0,
    )
    latency_tolerance: float = option(0.25, "share by which an answer may take longer", least=0.0)
    confidence: float = option(0.95, "one-sided confidence of the bounds", least=0.5, most=0.999)
    resamples: int = option(2000, "resamples of the paired bootstrap", least=100)
    latency_requests: int = option(40, "histories whose answers are timed, each by both bundles in turn", least=1)


@dataclass(frozen=True)
class RolloutSettings:
    """Where a better bundle goes: a Helm release, as a canary."""

    release: str = option("", "Helm release of the service; none: the bundle only takes its place in the run's folder")
    namespace: str = option("default", "its namespace")
    chart: str = option("charts/eager-llm-serving", "its chart: a folder, an archive or an oci:// address")
    store: str = option("", "folder or fsspec URI below which the release finds a bundle by its version")
    weight: int = option(10, "percent of the requests that the canary takes", least=0, most=100)
    timeout: int = option(1200, "seconds that Helm waits for the pods", least=1)


# Sections that neither the index nor the model depends on.
AFTER_TUNING = ("acceptance", "nightly", "promotion", "rollout")


@dataclass(frozen=True)
class Settings:
    """All settings of a run."""

    seed: int = option(0, "seed of everything that is drawn at random", least=0)
    threads: int = option(0, "torch threads; 0 uses every core", least=0)
    ray: RaySettings = field(default_factory=RaySettings)
    data: DataSettings = field(default_factory=DataSettings)
    gates: GateSettings = field(default_factory=GateSettings)
    acceptance: AcceptanceSettings = field(default_factory=AcceptanceSettings)
    behaviour: BehaviourSettings = field(default_factory=BehaviourSettings)
    semantic: SemanticSettings = field(default_factory=SemanticSettings)
    neighbours: NeighbourSettings = field(default_factory=NeighbourSettings)
    index: IndexSettings = field(default_factory=IndexSettings)
    backbone: BackboneSettings = field(default_factory=BackboneSettings)
    tuning: TuningSettings = field(default_factory=TuningSettings)
    annealing: AnnealingSettings = field(default_factory=AnnealingSettings)
    decoding: DecodingSettings = field(default_factory=DecodingSettings)
    nightly: NightlySettings = field(default_factory=NightlySettings)
    promotion: PromotionSettings = field(default_factory=PromotionSettings)
    rollout: RolloutSettings = field(default_factory=RolloutSettings)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "Settings":
        """Build from nested plain values.

        Raises:
            UserError: lists every unknown name, wrong type and value out of bounds.
        """
        mistakes: list[str] = []
        settings = _build(cls, values, "", mistakes)
        if len(set(settings.index.sources)) != len(settings.index.sources) or not settings.index.sources:
            mistakes.append(
                f"index.sources = {settings.index.sources!r}: name one or both of {', '.join(SOURCES)}, each once"
            )
        if settings.backbone.hidden % (2 * settings.backbone.heads):
            mistakes.append(
                f"backbone.hidden = {settings.backbone.hidden}: must be a multiple of "
                f"2 x backbone.heads = {2 * settings.backbone.heads}"
            )
        if settings.tuning.loss == "level" and settings.decoding.normalise == "vocabulary":
            mistakes.append(
                "decoding.normalise = 'vocabulary': tuning.loss = 'level' trains no probability over the vocabulary; "
                "choose level or allowed"
            )
        if settings.ray.cluster not in ("local", "rayjob") and "://" not in settings.ray.cluster:
            mistakes.append(
                f"ray.cluster = {settings.ray.cluster!r}: choose local, rayjob, or the address of a cluster's dashboard, "
                "such as http://eager-llm-ray-head-svc:8265"
            )
        if settings.tuning.sharded and not settings.tuning.workers:
            mistakes.append("tuning.sharded = True: needs tuning.workers of at least 1")
        if mistakes:
            raise UserError("the settings have mistakes:\n  " + "\n  ".join(mistakes))
        return settings

    @classmethod
    def read(
        cls, file: Path | None = None, overrides: list[str] | None = None, base: dict[str, Any] | None = None
    ) -> "Settings":
        """Read a YAML or JSON file (none: `base`, or the defaults) and apply `section.name=value` overrides.

        Raises:
            UserError: the file or an override cannot be read, or a value is refused.
        """
        values: dict[str, Any] = copy.deepcopy(base) if base else {}
        if file is not None:
            try:
                values = yaml.safe_load(file.read_text(encoding="utf-8")) or {}
            except FileNotFoundError:
                raise UserError(f"{file}: no such settings file") from None
            except (yaml.YAMLError, UnicodeDecodeError) as error:
                raise UserError(f"{file}: not readable as YAML: {error}") from None
            if not isinstance(values, dict):
                raise UserError(f"{file}: expected sections with settings, found {type(values).__name__}")
        for text in overrides or []:
            _override(values, text)
        return cls.from_dict(values)

    def to_dict(self) -> dict[str, Any]:
        """Return nested plain values, ready for JSON."""
        return asdict(self)


def _override(values: dict[str, Any], text: str) -> None:
    name, separator, value = text.partition("=")
    if not separator or not name:
        raise UserError(f"override {text!r}: write it as section.name=value, such as tuning.epochs=3")
    *sections, last = name.split(".")
    for section in sections:
        values = values.setdefault(section, {})
        if not isinstance(values, dict):
            raise UserError(f"override {text!r}: {section!r} is a setting, not a section")
    try:
        values[last] = yaml.safe_load(value)
    except yaml.YAMLError:
        raise UserError(f"override {text!r}: {value!r} is not a plain value") from None


def _build(cls: Any, values: Any, prefix: str, mistakes: list[str]) -> Any:
    """Build dataclass `cls` from `values`, collecting mistakes; wrong values fall to defaults."""
    known = {f.name: f for f in fields(cls)}
    if not isinstance(values, dict):
        mistakes.append(f"{prefix.rstrip('.')} = {values!r}: expected a section with {', '.join(known)}")
        values = {}
    unknown = [name for name in values if name not in known]
    mistakes += [f"{prefix}{name}: no such setting; known here: {', '.join(known)}" for name in unknown]
    built = {}
    for name, spec in known.items():
        if name not in values:
            continue
        if is_dataclass(spec.type):
            built[name] = _build(spec.type, values[name], f"{prefix}{name}.", mistakes)
            continue
        value, mistake = _checked(spec, values[name])
        if mistake:
            mistakes.append(f"{prefix}{name} = {values[name]!r}: {mistake}")
        else:
            built[name] = value
    return cls(**built)


def _checked(spec: Any, value: Any) -> tuple[Any, str]:
    """Return the value in its type and an empty string, or what is wrong with it."""
    value, mistake = _typed(spec.type, value)
    if mistake:
        return value, mistake
    rules = spec.metadata
    for element in value if isinstance(value, list) else [value]:
        if "choices" in rules and element not in rules["choices"]:
            return value, f"choose from {', '.join(rules['choices'])}"
        if "least" in rules and not element >= rules["least"]:
            return value, f"must be at least {rules['least']}"
        if "most" in rules and not element <= rules["most"]:
            return value, f"must be at most {rules['most']}"
    return value, ""


def _typed(kind: Any, value: Any) -> tuple[Any, str]:
    if get_origin(kind) is list:
        if isinstance(value, str):
            value = [part.strip() for part in value.split(",")]
        element = get_args(kind)[0]
        if isinstance(value, (list, tuple)):
            typed = [_typed(element, v) for v in value]
            if not any(mistake for _, mistake in typed):
                return [v for v, _ in typed], ""
        return value, f"expected a list of {element.__name__}"
    if kind is float and isinstance(value, (int, float, str)) and not isinstance(value, bool):
        # YAML reads 2e-3 as text.
        try:
            return float(value), ""
        except ValueError:
            return value, "expected a number"
    # Pipeline parameters travel as JSON numbers, where 5 comes back as 5.0.
    if kind is int and isinstance(value, float) and value.is_integer():
        return int(value), ""
    if isinstance(value, kind) and not (kind is int and isinstance(value, bool)):
        return value, ""
    return value, f"expected {kind.__name__}"


def describe() -> str:
    """Return a table of every setting with its default and meaning, for `--help` and the docs."""
    lines: list[str] = []

    def walk(cls: Any, prefix: str) -> None:
        for spec in fields(cls):
            if is_dataclass(spec.type):
                walk(spec.type, f"{prefix}{spec.name}.")
            else:
                default = spec.default
                if spec.default_factory is not MISSING:
                    default = spec.default_factory()
                lines.append(f"{prefix}{spec.name} = {json.dumps(default)}\n    {spec.metadata['help']}")

    walk(Settings, "")
    return "\n".join(lines)
