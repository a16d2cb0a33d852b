"""Every knob of a run as a typed, frozen dataclass. What ties knobs together is in `rules.py`.

The values live in `conf/`, each default written once; a class here holds names, types and limits only. `cli/` composes
the YAML files, turns them into these classes and calls `rules.check`. Nothing here imports torch or hydra, so `--help`
stays fast.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Union

EMBEDDED_SOURCES = ("stdlib", "code_qa", "translation")
OWN_SET = "own"  # what the run's own held-out rows are called among several sets
TASKS = ("unit_tests", "parses", "chrf", "bleu", "exact_match")


class UserError(ValueError):
    """A mistake of the user's: one sentence that names the key, row or file and the fix. Shown without a traceback."""


class RunFailure(RuntimeError):
    """A run that cannot go on: one sentence with the cause. The run folder stays as it is, marked failed."""


def one_of(*choices: Union[str, bool], door: bool = False, entry_points: str | None = None) -> Any:
    """One of the names; with `door` also a user's own code (`doors.py`), or what installed packages offer in a group of
    entry points."""
    return field(metadata={"choices": choices, "door": door, "entry_points": entry_points})


def door() -> Any:
    """A user's own code, as `file.py:Name` or `package.module:Name`."""
    return field(metadata={"door": True})


def template() -> Any:
    """A text with columns in braces."""
    return field(metadata={"template": True})


def at_least(minimum: float) -> Any:
    return field(metadata={"at_least": minimum})


def above(bound: float) -> Any:
    return field(metadata={"above": bound})


def read_by(*tasks: str) -> Any:
    return field(metadata={"tasks": tasks})


@dataclass(frozen=True)
class Needs:
    """What a method asks of a run. From it follow what a step costs, what memory it takes, and what is set up."""

    rollouts: str = "none"  # none; blocks: at K anchors of every row; completions: one anchor a row, to the end
    rollout_tokens: int = 0  # G, of the longest rollout
    updated_rollouts: int | None = None  # of the N of a context, that the update forwards; None: all
    asks_questions: bool = False  # it trains on questions that a task verifies, not on rows as they are
    reference_policy: bool = False  # a frozen copy of the policy gives log-probs of all rollouts
    feature_network: bool = False  # phi forwards all rollouts and their references
    keeps_rows: bool = False  # a row is forwarded once for sampling and update where a step is one micro-batch

    def __post_init__(self) -> None:
        """Raises UserError for what says nothing, since a user's method may say it."""
        kinds = ("none", "blocks", "completions")
        if self.rollouts not in kinds:
            raise UserError(f"Needs(rollouts={self.rollouts!r}) is not one of {', '.join(kinds)}.")
        if (self.rollout_tokens > 0) != (self.rollouts != "none"):
            raise UserError(
                f"Needs(rollouts={self.rollouts!r}, rollout_tokens={self.rollout_tokens}) does not fit together; "
                "rollout_tokens are those of the longest rollout, 0 with rollouts='none' alone."
            )

    def num_contexts(self, num_blocks: float) -> float:
        """K: what a row with so many blocks has rollouts for."""
        return {"none": 0.0, "blocks": num_blocks, "completions": 1.0}[self.rollouts]

    def num_updated(self, n_samples: int) -> int:
        return n_samples if self.updated_rollouts is None else min(n_samples, self.updated_rollouts)


@dataclass(frozen=True)
class MethodConfig:
    name: str

    def needs(self, sampler: "SamplerConfig") -> Needs:
        """Raises NotImplementedError for a method that does not say: it is never taken for another one."""
        raise NotImplementedError(f"{type(self).__name__} does not say what it needs; give it a method `needs`.")

    def conflicts(self, config: "TrainConfig") -> Iterator[str]:
        """Sentences for settings of a run that cannot work with this method."""
        yield from ()


@dataclass(frozen=True)
class AdapterConfig:
    """Which weights are trained: all of the model's."""

    name: str


@dataclass(frozen=True)
class LoRAConfig(AdapterConfig):
    """Which weights are trained: those of low-rank adapters beside linear modules alone (Hu et al., arXiv
    2106.09685)."""

    targets: list[str] | None  # ends of the names of linear modules in the layers; null: all of them
    rank: int = at_least(1)
    alpha: float = above(0)  # an adapter's output is scaled by alpha / rank
    rslora: bool  # by alpha / sqrt(rank) instead (Kalajdzievski, arXiv 2312.03732)
    dropout: float = at_least(0)  # of the adapters' inputs
    quantize: str = one_of("none", "nf4")  # the linear modules of the frozen base (QLoRA, arXiv 2305.14314)


@dataclass(frozen=True)
class ModelConfig:
    path: str  # `tiny` (shipped with the package), a folder, or a hub id
    revision: str | None
    init: str = one_of("pretrained", "random")  # random: the path's architecture and tokenizer, fresh weights
    config_overrides: dict[str, Any]  # changes to the architecture, with init=random only
    trust_remote_code: bool
    adapter: AdapterConfig


@dataclass(frozen=True)
class DataConfig:
    source: str
    sequence_length: int = at_least(2)  # tokens per row
    # packed: documents joined by one EOS and cut; padded: one document a row; auto: see defaults.py, here and below
    layout: str = one_of("auto", "packed", "padded")
    document_masking: bool  # packed rows: attention stays inside a document
    loss_tokens: str = one_of("auto", "all", "completion")  # which tokens count in the cross-entropy
    # whether a beginning-of-sequence token stands before every row and document; auto: as the tokenizer itself does
    bos: Union[bool, str] = one_of("auto", True, False)
    end_token: str | None  # that every document and answer ends with; null: the tokenizer's EOS
    task: str | None = one_of(
        *TASKS, door=True, entry_points="tasks"
    )  # how completions are verified; null: they are not
    # held out in the order of a stable hash, where there is no validation split of its own
    validation_fraction: float = above(0)
    # of the held-out documents: all, or one of two halves in the order of a stable hash
    validation_part: str = one_of("all", "selection", "report")
    bad_rows: str = one_of("refuse", "drop")  # empty, null, too long, duplicate or malformed; drop: and counted by kind
    max_train_documents: int | None = at_least(1)
    max_validation_documents: int | None = at_least(1)


@dataclass(frozen=True)
class StdlibDataConfig(DataConfig):
    """The running interpreter's own standard library, split by module."""


@dataclass(frozen=True)
class PackagesDataConfig(DataConfig):
    """The Python source of installed packages, split by module."""

    packages: list[str]  # as they are imported


@dataclass(frozen=True)
class GeneratedDataConfig(DataConfig):
    """Questions and answers that a task generates."""


@dataclass(frozen=True)
class MixtureDataConfig(DataConfig):
    """Documents of several sources that need no network, mixed by a hash of their names."""

    parts: dict[str, int]  # source -> copies of each of its documents in the training data


@dataclass(frozen=True)
class ColumnsDataConfig(DataConfig):
    """Rows with a text column, or with a prompt and a completion column and what it takes to judge other
    completions."""

    text_column: str | None
    messages_column: str | None  # conversations: a list of role and content, or of from and value
    # how they are written: auto, as the tokenizer's own template does; a file with one; none: they are refused
    chat_template: str
    prompt_column: str | None
    prompt_template: str | None = template()  # in place of prompt_column
    completion_column: str | None
    border_space: str | None = one_of(
        "completion"
    )  # what spaces at the end of a prompt begin; null: they end the prompt
    tests_column: str | None = read_by("unit_tests")
    stdin_column: str | None = read_by("unit_tests")  # what whole programs read, text or a list
    stdout_column: str | None = read_by("unit_tests")  # what they must write for it
    setup_column: str | None = read_by("unit_tests")  # code before the tests
    entry_point_column: str | None = read_by("unit_tests")  # null: the function that the first assert calls
    completes_prompt: bool = read_by("unit_tests")  # the program is prompt and completion together
    drop_untestable: bool = read_by("unit_tests")  # rows without usable tests: dropped and counted; otherwise refused
    # rows whose reference answer fails their tests: dropped and counted; otherwise refused
    drop_failing_references: bool = read_by("unit_tests")
    references_column: str | None = read_by("chrf", "bleu", "exact_match")  # right completions besides the row's own
    direction_column: str | None = read_by("chrf", "bleu", "exact_match")  # of a translation, such as en-de
    directions: list[str] | None  # rows of these alone; null: of all


@dataclass(frozen=True)
class PathDataConfig(ColumnsDataConfig):
    """Rows that lie somewhere."""

    path: str
    validation_path: str | None


@dataclass(frozen=True)
class FileDataConfig(PathDataConfig):
    """JSONL or Parquet from disk."""


@dataclass(frozen=True)
class RowsDataConfig(ColumnsDataConfig):
    """Rows that a user's own function yields, each a dict with the columns."""

    function: str = door()
    validation_function: str | None = door()


@dataclass(frozen=True)
class HubDataConfig(PathDataConfig):
    """Any data set that `datasets.load_dataset` reads."""

    name: str | None
    revision: str | None
    train_split: str
    validation_split: str | None


@dataclass(frozen=True)
class FeaturesConfig:
    """The feature map phi (method.md sections 3 and 6)."""

    feature_layers: list[Union[int, float]]  # float: fraction of depth, int: index; 0 is the embedding output
    embed_method: str = one_of("last_token", "mean_pooling", "concat")
    normalize: str = one_of("joint", "per_layer", "token", "none")
    whitening: str = one_of("none", "paper", "reference_code")
    # policy: the policy before training, a copy of it or its base without adapters
    network: str = one_of("policy", "checkpoint", "random", door=True)
    path: str | None  # the checkpoint, with network=checkpoint only
    # of its weights: in every process, in shards, or in shards in the hosts' memory
    placement: str = one_of("replicated", "sharded", "cpu")


@dataclass(frozen=True)
class SamplerConfig:
    """Strided block-parallel rollouts (method.md section 2)."""

    anchors: str = one_of("auto", "all", "completion")
    n_samples: int = at_least(1)  # N, rollouts per context
    stride: int = at_least(1)  # s, tokens between anchors
    context_length: int = at_least(1)  # c0, tokens before the first anchor
    generate_length: int = at_least(1)  # G, tokens per rollout
    temperature: float = above(0)
    # of the row's own forward, where rollouts equal it, and of equal rollouts; never changes a rollout, a reward or a
    # gradient
    reuse: bool


@dataclass(frozen=True)
class OptimizerConfig:
    """AdamW and a schedule of transformers' `get_scheduler`."""

    lr: float = above(0)
    betas: list[float]
    eps: float = above(0)
    weight_decay: float = at_least(0)
    max_grad_norm: float = above(0)
    schedule: str = one_of("constant", "constant_with_warmup", "linear", "cosine")
    warmup_fraction: float = at_least(0)  # of all steps
    ema_decay: float | None = above(0)  # null: no average; otherwise the averaged weights are evaluated and exported


@dataclass(frozen=True)
class TrainerConfig:
    max_steps: int | None = at_least(1)  # optimiser steps; null: from max_epochs
    max_epochs: float | None = above(0)
    batch_size: int = at_least(1)  # documents per optimiser step
    micro_batch_size: int = at_least(1)  # documents per forward at most; never changes the gradient
    # that hold activations at a time, rollouts included; null: no limit
    max_tokens_per_microbatch: int | None = at_least(1)
    device: str = one_of("auto", "cpu", "cuda")
    dtype: str = one_of("fp32", "bf16")  # bf16: autocast over fp32 weights
    gradient_checkpointing: bool
    compile: bool  # layers by torch.compile; attention has kernels of its own
    liger: bool  # norms and gates in Liger's kernels
    # on this machine, started by ebft-train; null: this one, or as many as torchrun or srun has started
    processes: int | None = at_least(1)
    hang_seconds: float = above(0)  # after which a process that gets nowhere while others wait for it ends them all
    # how several processes share a step: every one with all weights, or with shards of them
    parallel: str = one_of("none", "ddp", "fsdp2")
    checkpoint_every_steps: int = at_least(1)
    keep_checkpoints: int = at_least(1)
    keep_best: str | None  # metric of an evaluation, whose best one has its weights kept and exported; null: none
    stop_after: int | None = at_least(1)  # evaluations without a better keep_best that end the run; null: never
    profile: bool  # a torch profile of a few steps, written into the run folder


@dataclass(frozen=True)
class TrackerConfig:
    name: str


@dataclass(frozen=True)
class ProjectTrackerConfig(TrackerConfig):
    """A tracker that keeps runs in projects."""

    project: str
    group: str | None
    run_name: str | None
    also: list[str]  # further trackers, which need no settings but these


@dataclass(frozen=True)
class WandbTrackerConfig(ProjectTrackerConfig):
    entity: str | None
    tags: list[str]


@dataclass(frozen=True)
class EvalConfig:
    """Held-out evaluation, the same for every method (method.md section 8)."""

    every_steps: int = at_least(1)
    on_interrupt: bool  # whether a run that is asked to stop evaluates, once it is saved, before it leaves
    num_documents: int = at_least(2)
    long_documents: int = at_least(2)  # with rollouts to the longest horizon, at most num_documents
    n_samples: int = at_least(2)
    stride: int = at_least(1)  # between rollouts of the training length
    long_stride: int = at_least(1)  # between rollouts to the longest horizon
    context_length: int = at_least(1)
    horizons: list[int]
    micro_batch_size: int = at_least(1)
    seed: int
    num_questions: int = at_least(0)  # held-out questions that are answered and verified; 0: none
    max_new_tokens: int = at_least(1)  # of an answer
    num_completions: int = at_least(0)  # per question, for pass@k; 0: greedy alone
    pass_at: list[int]  # the k of pass@k
    temperature: float = above(0)  # of the completions for pass@k
    top_p: float = above(0)
    sets: dict[str, Any]  # name -> DataConfig of a further held-out set, as far as num_documents and num_questions go

    def first_context(self, anchors: str) -> int:
        """Tokens before the first anchor; of a completion, its prompt is context enough."""
        return 1 if anchors == "completion" else self.context_length


@dataclass(frozen=True)
class SandboxConfig:
    """Running what a model wrote: whether at all, how well confined at least, and the limits of one program."""

    allow_code_execution: bool
    # the weakest level to accept (sandbox/levels.py)
    require: str = one_of("none", "rlimits", "landlock", "namespaces")
    strict: bool  # tests never run in a program's own process; rows whose tests must are refused
    seconds: float = above(0)  # of processor time, for a program with all its tests
    clock_factor: float = at_least(1)  # times `seconds` on the clock, without the time that a busy machine lets it wait
    memory_mb: int = at_least(64)  # address space of a process
    output_kb: int = at_least(1)  # of an answer, of a file, and of all files a program leaves
    # threads, the first included; null: 16 where namespaces can count them, otherwise one
    processes: int | None = at_least(1)
    packages: list[str]  # that programs may import beside the standard library
    workers: int | None = at_least(1)  # programs at a time; null: one a core
    batch_seconds: float = above(0)  # programs not started by then are errors of the machine's, not failures
    # reference answers tried before anything else; null: all that come with tests of their own, otherwise 64
    check_references: int | None = at_least(0)


@dataclass(frozen=True)
class TrainConfig:
    seed: int = at_least(0)
    resume: str  # auto | never | a checkpoint folder
    plan_only: bool  # print the plan and its scaling over GPUs, and train nothing
    method: MethodConfig
    model: ModelConfig
    data: DataConfig
    features: FeaturesConfig
    sampler: SamplerConfig
    optimizer: OptimizerConfig
    trainer: TrainerConfig
    tracker: TrackerConfig
    eval: EvalConfig
    sandbox: SandboxConfig


@dataclass(frozen=True)
class EvaluateConfig(TrainConfig):
    """What ebft-eval evaluates, and on what; of the rest of a run's config it reads where and how it computes."""

    models: list[str]


# The class behind each value of a group's selector key.
ADAPTERS = {"none": AdapterConfig, "lora": LoRAConfig}
SOURCES = {
    "stdlib": StdlibDataConfig,
    "packages": PackagesDataConfig,
    "code_qa": GeneratedDataConfig,
    "translation": GeneratedDataConfig,
    "mixture": MixtureDataConfig,
    "jsonl": FileDataConfig,
    "parquet": FileDataConfig,
    "hub": HubDataConfig,
    "rows": RowsDataConfig,
}
# Of several at once the first one here has the settings and names the others.
TRACKERS = {
    "wandb": WandbTrackerConfig,
    "trackio": ProjectTrackerConfig,
    "tensorboard": TrackerConfig,
    "none": TrackerConfig,
}
