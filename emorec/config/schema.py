"""The configs of emorec's commands as frozen dataclasses: each annotation is a check. `conf/` explains the keys."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Annotated, Any, Literal

from annotated_types import Ge, Gt, Le, Lt

from emorec.annotations import Count, NonNegative, Pattern, Positive, PositiveCount, Share
from emorec.config.cards import CardConfig
from emorec.config.instantiation import Component
from emorec.config.launchers import LauncherConfig
from emorec.config.validation import build
from emorec.storage.claims import STALE_SECONDS

MODALITIES = ("text", "audio", "video")
Seed = Annotated[int, Ge(0), Le(2**32 - 1)]
SweepName = Annotated[
    str,
    Pattern(
        r"(?!.*\.\.)\w[\w.+-]{0,99}",
        "letters, digits, '_', '.', '-' or '+', at most 100, beginning with none of the marks and without '..'",
    ),
]
Tag = Annotated[
    str,
    Pattern(
        r"(?!.*\.\.)[^/\\\x00-\x1f\x7f]{1,64}",
        "a text of at most 64 characters without '/', '\\', '..' and line breaks",
    ),
]
StudyName = Annotated[
    str, Pattern(r"(?!(?i:null|none|true|false)$)[A-Za-z][\w-]*", "a name of letters, digits, '_' and '-'")
]
LabelMap = dict[str, list[str]]


@dataclass(frozen=True, kw_only=True)
class EncoderRates:
    """Learning rates of encoders that train.

    Attributes:
        encoder_lr: of what follows the layers; `None` for the optimizer's own, and for a fiftieth of it where a
            pretrained encoder trains in full.
        layer_decay: of each layer, as a factor of that of the layer above it; of the uppermost one, of `encoder_lr`.
    """

    encoder_lr: Positive | None = None
    layer_decay: Annotated[float, Gt(0), Le(1)] = 1.0


@dataclass(frozen=True)
class OptimizerComponent(Component):
    """An optimizer, and the rates of encoders, which are no arguments of its own."""

    rates: EncoderRates = field(default_factory=EncoderRates)

    @classmethod
    def from_node(cls, node: Mapping[str, Any], path: str, problems: list[str]) -> "OptimizerComponent | None":
        own = {item.name: node[item.name] for item in fields(EncoderRates) if item.name in node}
        component = super().from_node({key: value for key, value in node.items() if key not in own}, path, problems)
        rates = build(EncoderRates, own, path, problems)
        if component is None or rates is None:
            return None
        assert isinstance(component, cls)
        return replace(component, rates=rates, node=node)


@dataclass(frozen=True, kw_only=True)
class PathsConfig:
    """Folders."""

    root: Path
    data: Path
    cache: Path
    checkpoints: Path


@dataclass(frozen=True, kw_only=True)
class ExtractionConfig:
    """How features are computed; nothing here changes them."""

    batch_size: PositiveCount = 16  # utterances in one forward pass
    workers: PositiveCount = 2  # threads that decode media
    clip_seconds: Positive = 600.0  # to decode one clip; a clip that takes longer counts as bad media
    clip_bytes: PositiveCount = 4_000_000_000  # of memory to decode one clip; as `clip_seconds`
    on_bad_media: Literal["skip", "fail"] = "skip"  # leave an utterance's modality out, or end with a list of them
    every_seconds: NonNegative = 15.0  # between two writes of features
    device: str | None = None  # where encoders run; `None` for the GPU if there is one
    stale_after: Positive = STALE_SECONDS  # seconds without a heartbeat after which a host's work is taken over
    verify: bool = False  # hash every file again, instead of trusting its size, times and inode
    progress: bool = True  # whether bars are drawn


@dataclass(frozen=True, kw_only=True)
class FeaturesConfig:
    """How stored features are read; nothing here changes them.

    Attributes:
        preload: "ram" loads them once, "device" loads them onto the GPU if there is one and gathers there, "none"
            leaves them on disk, "auto" is "ram" up to `resident_bytes` and "none" above.
        mmap: false reads with ordinary calls instead of mapping the files, for network disks that map badly.
        resident_bytes: see `preload`.
    """

    preload: Literal["auto", "none", "ram", "device"] = "auto"
    mmap: bool = True
    resident_bytes: Count = 1_000_000_000

    def holds(self, size: int) -> bool:
        """Whether features of this size in bytes are loaded."""
        return self.preload in ("ram", "device") or (self.preload == "auto" and size <= self.resident_bytes)


@dataclass(frozen=True, kw_only=True)
class InputsConfig:
    """How decoded inputs of encoders that train are read; nothing here changes them."""

    keep: bool = True  # whether they are stored; else media are decoded during training
    workers: PositiveCount = 2  # threads that then decode ahead


@dataclass(frozen=True, kw_only=True)
class EncodersConfig:
    """One encoder for each modality that is used."""

    text: Component | None = None
    audio: Component | None = None
    video: Component | None = None

    def used(self) -> dict[str, Component]:
        """{modality: its encoder}."""
        return {name: getattr(self, name) for name in MODALITIES if getattr(self, name) is not None}


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """What joins features, fusion and head, and which epoch's weights are kept.

    Attributes:
        selection: "best" epoch on validation; "last"; "smoothed", the best by the mean of the scores around it; or
            "average_last_k", the mean weights of the last epochs. Only epochs with finite results count.
        smoothed_over: number of scores in a mean, for "smoothed".
        average_last: number of epochs, for "average_last_k".
        modality_dropout: probability that an utterance lacks a modality in training.
        fused_normalisation: "speaker" standardises the fused vectors among those of each speaker.
        encoded_normalisation: "train" standardises the features of encoders that train by those of the training split
            at the start, as `normalisation` does with stored ones: so a head that was trained on these fits.
    """

    hidden: PositiveCount
    dropout: Share
    normalisation: Literal["none", "train", "speaker"]
    mixup: Annotated[float, Ge(0), Le(100)] = 0.0
    selection: Literal["best", "last", "smoothed", "average_last_k"] = "best"
    smoothed_over: Literal[3, 5] = 3
    average_last: PositiveCount = 10
    modality_dropout: Share = 0.0
    fused_normalisation: Literal["none", "speaker"] = "none"
    encoded_normalisation: Literal["none", "train"] = "none"

    @property
    def is_by_speaker(self) -> bool:
        """Whether results rest on the speakers' own unlabelled utterances."""
        return "speaker" in (self.normalisation, self.fused_normalisation)


@dataclass(frozen=True, kw_only=True)
class TrainerConfig:
    """How Lightning trains."""

    max_epochs: PositiveCount
    patience: PositiveCount | None
    precision: Literal[32, "32", "bf16-mixed", "16-mixed"]
    gradient_clip: Positive | None
    accelerator: Literal["auto", "cpu", "gpu"]
    devices: PositiveCount
    num_nodes: PositiveCount
    strategy: Literal["auto", "ddp", "fsdp"]
    accumulate: PositiveCount = 1
    ema: Annotated[float, Gt(0), Lt(1)] | None = None  # decay a step of the moving average of weights that is kept
    threads: PositiveCount | Literal["auto"] = "auto"

    @property
    def world_size(self) -> int:
        """How many ranks there are."""
        return self.devices * self.num_nodes

    def problems(self) -> Iterator[str]:
        if self.strategy == "fsdp" and self.precision == "16-mixed":
            yield "precision: expected 32 or bf16-mixed with trainer.strategy=fsdp, got '16-mixed'"
        if self.strategy == "fsdp" and self.ema is not None:
            yield f"ema: expected null with trainer.strategy=fsdp, got {self.ema}"
        if self.strategy == "fsdp" and self.world_size == 1:
            yield "devices: expected several ranks (devices × num_nodes) for trainer.strategy=fsdp, got 1"


@dataclass(frozen=True, kw_only=True)
class CheckpointConfig:
    """What is written.

    Attributes:
        every_seconds: between two states to resume from.
        backbone: "reference" names the checkpoints of pretrained encoders; "link" stores them with the run, once for
            all runs.
    """

    every_seconds: NonNegative
    backbone: Literal["reference", "link"] = "reference"


@dataclass(frozen=True, kw_only=True)
class DistillationConfig:
    """What a model learns from beside the labels."""

    teacher: str | None = None  # a finished run, whose predictions for the training split it learns from


@dataclass(frozen=True, kw_only=True)
class SweepConfig:
    """The multirun that a run belongs to.

    Attributes:
        jobs: the overrides of its jobs, separated by spaces, in lines each of which may hold several values of a key;
            `None` for a single run.
    """

    name: SweepName
    jobs: list[str] | None = None


@dataclass(frozen=True, kw_only=True)
class CommandConfig:
    """What the configs of all commands hold."""

    paths: PathsConfig
    extraction: ExtractionConfig
    features: FeaturesConfig
    inputs: InputsConfig = field(default_factory=InputsConfig)
    progress: bool


@dataclass(frozen=True, kw_only=True)
class CorpusConfig(CommandConfig):
    """The config of a command that reads a corpus."""

    dataset: Component
    labels: LabelMap | None


@dataclass(frozen=True, kw_only=True)
class ExtractConfig(CorpusConfig):
    """`emorec extract`."""

    encoder: EncodersConfig
    launcher: LauncherConfig

    def problems(self) -> Iterator[str]:
        if not self.encoder.used():
            yield "encoder: expected an encoder for at least one modality, got none"


@dataclass(frozen=True, kw_only=True)
class TrainConfig(ExtractConfig):
    """`emorec train`."""

    fusion: Component
    context: Component | None  # `None`: each utterance by itself
    head: Component | None = None  # a classical one instead of projections, fusion and head; `None`: neural
    loss: Component
    optimizer: OptimizerComponent
    scheduler: Component | None
    model: ModelConfig
    trainer: TrainerConfig
    batch_size: PositiveCount
    batch_size_per: Literal["step", "device"]
    group_by_length: bool = False  # whether training batches hold utterances of near equal length
    group_by_speaker: PositiveCount | None = None  # utterances of each speaker of a training batch; `None`: at random
    seed: Seed
    metric: dict[str, Component | None] = field(default_factory=dict)
    logger: dict[str, Component | None] = field(default_factory=dict)
    checkpoint: CheckpointConfig
    tasks: list[str] | None = None  # learned together, `dataset.task` among them; `None` for it alone
    task_weights: dict[str, NonNegative] = field(default_factory=dict)  # of the losses of other tasks, 1 by default
    distillation: DistillationConfig = field(default_factory=DistillationConfig)
    calibrate: bool = False  # whether the probabilities of classes are scaled by a temperature, fitted to validation
    init_from: str | None = None  # a finished run, whose weights training starts from
    init_components: list[str] | None = None  # those that are taken; `None` for all that fit
    sweep: SweepConfig
    test: bool
    tags: list[Tag]
    notes: str | None
    on_running: Literal["wait", "skip"]
    rerun: bool

    def problems(self) -> Iterator[str]:
        yield from super().problems()
        if self.sweep.jobs:
            yield f"sweep.jobs: expected null for a single run (emorec train -m runs them), got {len(self.sweep.jobs)}"
        yield from self._problems_of_tasks()
        ranks, precision = self.trainer.world_size, str(self.trainer.precision)
        if self.batch_size_per == "step" and self.batch_size % ranks:
            yield f"batch_size: expected a multiple of the {ranks} ranks (batch_size_per=step), got {self.batch_size}"
        yield from self._problems_of_speakers()
        if self.optimizer.arguments.get("fused") and precision != "32" and self.trainer.gradient_clip is not None:
            yield (
                "optimizer.fused: expected false, or trainer.gradient_clip=null, with a mixed precision "
                f"(trainer.precision={precision}), got true"
            )

    def _problems_of_speakers(self) -> Iterator[str]:
        count = self.group_by_speaker
        if count is not None and self.group_by_length:
            yield f"group_by_speaker: expected null with group_by_length=true, got {count}"
        if count is not None and self.context is not None:
            yield f"group_by_speaker: expected null with a context, whose batches hold whole dialogues, got {count}"
        if count is not None and self.batch_size % count:
            yield f"batch_size: expected a multiple of group_by_speaker={count}, got {self.batch_size}"
        if count is not None and self.trainer.world_size > 1:
            yield f"group_by_speaker: expected null with several ranks, got {count}"

    def _problems_of_tasks(self) -> Iterator[str]:
        names = self.tasks or []
        if len(set(names)) < len(names):
            yield f"tasks: expected each once, got {names}"
        for name in sorted(self.task_weights.keys() - set(names)):
            yield f"task_weights.{name}: expected a name of tasks={names}"
        if self.tasks and self.model.mixup:
            yield f"model.mixup: expected 0 with several tasks, got {self.model.mixup}"


@dataclass(frozen=True, kw_only=True)
class StudyConfig:
    """A search for the best config."""

    name: StudyName  # of the study, and of the experiment that it writes
    trials: PositiveCount  # over all workers
    workers: PositiveCount = 1  # processes that this start of the command adds to the study
    seed: Seed  # of the sampler
    startup: Count  # trials that are drawn at random before the sampler learns from them
    pruner: Literal["none", "median", "asha"]  # what ends a trial early
    warmup: Count  # epochs that each trial gets
    timeout: Positive | None  # seconds after which a worker starts no further trial


@dataclass(frozen=True, kw_only=True)
class TuneConfig(TrainConfig):
    """`emorec tune`."""

    study: StudyConfig
    search: dict[str, Any]

    def problems(self) -> Iterator[str]:
        yield from super().problems()
        if self.test:
            yield "test: expected false, since tuning leaves the test split alone, got true"
        if self.trainer.devices != 1:
            yield f"trainer.devices: expected 1, since pruning looks at one process, got {self.trainer.devices}"
        if self.launcher.name not in ("auto", "basic"):
            yield f"launcher: expected basic (study.workers starts several processes), got {self.launcher.name!r}"


@dataclass(frozen=True, kw_only=True)
class MissingConfig:
    """Modalities that utterances are taken to lack."""

    grid: bool = False  # every subset of the run's modalities as well
    rate: Share = 0.0
    seed: Seed = 0


@dataclass(frozen=True, kw_only=True)
class EvaluateConfig(CommandConfig):
    """`emorec evaluate`."""

    missing: MissingConfig = field(default_factory=MissingConfig)
    card: CardConfig = field(default_factory=CardConfig)
    dataset: Component | None = None
    labels: LabelMap | None
    metric: dict[str, Component | None] = field(default_factory=dict)
    run: str | None = None
    runs: list[str] = field(default_factory=list)  # whose probabilities are averaged
    split: Literal["train", "val", "test", "all"]

    def problems(self) -> Iterator[str]:
        if self.run is None and not self.runs:
            yield "run: expected a value, got nothing"
        if self.run is not None and self.runs:
            yield f"runs: expected none beside run={self.run}, got {self.runs}"
        if self.runs and self.missing.grid:
            yield "missing.grid: expected false for several runs, got true"
        if self.runs and self.card.chosen:
            yield "card: expected none for several runs, got some"
        if self.card.chosen and self.missing.rate:
            yield f"missing.rate: expected 0 with a card, which reads what the utterances have, got {self.missing.rate}"


@dataclass(frozen=True, kw_only=True)
class WhisperConfig:
    """The model that transcribes clips without a text."""

    model: str | None = None
    revision: str = "main"
    language: str | None = None  # `None` for what it hears


@dataclass(frozen=True, kw_only=True)
class SmoothingConfig:
    """How the predictions of a recording's segments are smoothed."""

    method: Literal["none", "ema", "hmm"] = "none"
    seconds: Positive = 2.0


@dataclass(frozen=True, kw_only=True)
class PredictConfig(CommandConfig):
    """`emorec predict`."""

    run: str | list[str]
    input: str
    output: str
    format: Literal["csv", "json", "jsonl", "parquet"] | None
    text: Literal["given", "whisper"] = "given"
    whisper: WhisperConfig = field(default_factory=WhisperConfig)
    window: Positive | Literal["speech"] | None = None  # `None` for whole clips
    hop: Positive | None = None  # `None` for the window
    smoothing: SmoothingConfig = field(default_factory=SmoothingConfig)
    subtitles: str | None = None
    plot: str | None = None

    def problems(self) -> Iterator[str]:
        if not self.run:
            yield "run: expected at least one, got none"
        if self.hop is not None and not (isinstance(self.window, float | int) and self.hop <= self.window):
            yield f"hop: expected up to the seconds of a window, got {self.hop} with window={self.window}"
        if self.window is None:
            of_timelines = {
                "smoothing.method": self.smoothing.method != "none",
                "subtitles": self.subtitles is not None,
                "plot": self.plot is not None,
            }
            for key in (key for key, is_set in of_timelines.items() if is_set):
                yield f"{key}: expected a window, such as window=3, to have a timeline, got none"
        if self.text == "whisper" and self.whisper.model is None:
            yield "whisper.model: expected a folder, or a name on the hub, for text=whisper, got null"


@dataclass(frozen=True, kw_only=True)
class ExportConfig(CommandConfig):
    """`emorec export`."""

    run: str
    to: Path
    format: Literal["onnx", "torch", "torchscript", "huggingface", "tensorrt"]
    reads: Literal["features", "raw"] | None
    quantize: Literal["int8"] | None
    prune: Annotated[float, Gt(0), Lt(1)] | None
    prune_epochs: PositiveCount

    def problems(self) -> Iterator[str]:
        if self.quantize is not None and self.format != "onnx":
            yield f"quantize: expected null with format={self.format}, which has no int8 here, got {self.quantize!r}"


@dataclass(frozen=True, kw_only=True)
class PublishedFigure:
    """A result of others.

    Attributes:
        method: what gave it.
        metric: of test, such as "uar".
        value: as a share of 1, as emorec's own metrics are.
        deviation: over what `protocol` says.
        protocol: how it was split and chosen.
        source: a paper, or a file of a public repository.
    """

    method: str
    metric: str
    value: float
    deviation: NonNegative | None = None
    protocol: str
    source: str


@dataclass(frozen=True, kw_only=True)
class BenchmarkConfig:
    """A table that one command makes again.

    Attributes:
        sweep: the name of the sweep that trains its runs.
        published: what stands beside them.
    """

    sweep: SweepName
    published: list[PublishedFigure] = field(default_factory=list)


@dataclass(frozen=True, kw_only=True)
class ReportConfig(CommandConfig):
    """`emorec report`, and the commands that look after stores.

    Attributes:
        rank: the metric of validation that groups are ranked by, such as "val/uar"; `None` for each task's monitor.
        compare: ids of groups, or first digits of them, the baseline first; "best" for the best group by validation
            against all others of its contest, "all" for the same.
        benchmark: the runs of its sweep are reported, beside published figures.
        ensemble: whether each group is scored as an ensemble too.
        cluster: what is resampled for intervals; `None` for dialogues where there are any, else speakers, else
            utterances.
        resamples: their number.
        figures: "auto" draws them where there are at most 20 groups.
        projection: of the fused vectors of the best group's first run in each contest, where its corpus is in reach.
    """

    output: Path
    rank: str | None = None
    compare: str | list[str] | None = None
    benchmark: BenchmarkConfig | None = None
    ensemble: bool = False
    cluster: Literal["speaker", "dialogue", "utterance"] | None = None
    resamples: Annotated[int, Ge(100), Le(1_000_000)] = 10_000
    figures: Literal["auto", "all", "none"] = "auto"
    projection: Literal["pca", "tsne", "none"] = "pca"

    @property
    def compared(self) -> list[str]:
        """`compare` as a list."""
        return [self.compare] if isinstance(self.compare, str) else list(self.compare or ())


@dataclass(frozen=True, kw_only=True)
class DownloadConfig:
    """Bounds of a download, against servers and archives that never end."""

    timeout: Positive = 60.0  # seconds without data, and over which the rate is measured
    slowest: NonNegative = 1000.0  # bytes in a second
    largest: PositiveCount = 1 << 36  # bytes of a file whose size is not known, and of all that an archive unpacks to
    ratio: PositiveCount = 100  # of what an archive unpacks to, to the archive: media hardly compress


@dataclass(frozen=True, kw_only=True)
class DataConfig(CorpusConfig):
    """`emorec data`."""

    parts: Literal["all"] | list[str]
    to: Path | None
    sources: Mapping[str, str]
    download: DownloadConfig


SCHEMAS: dict[str, type[CommandConfig]] = {
    "train": TrainConfig,
    "tune": TuneConfig,
    "extract": ExtractConfig,
    "evaluate": EvaluateConfig,
    "predict": PredictConfig,
    "export": ExportConfig,
    "report": ReportConfig,
    "data": DataConfig,
}
