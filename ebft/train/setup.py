"""From a config to everything that a run needs: checks first, in the order of what they cost, then the models."""

import math
import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import torch
import transformers
from transformers import PreTrainedConfig, PreTrainedTokenizerBase

from ebft import data
from ebft.config.defaults import has_pairs, on_set
from ebft.config.doors import is_door
from ebft.config.schema import OWN_SET, LoRAConfig, TrainConfig, UserError
from ebft.cost.memory import micro_batches_together
from ebft.cost.workload import Workload
from ebft.data import Data, Rows, Tokenization
from ebft.evaluation import Evaluator
from ebft.evaluation.sets import SetsEvaluator
from ebft.geometry.blocks import find_blocks
from ebft.methods import Ingredients, Method, build
from ebft.methods import check as check_method
from ebft.models.adapters import check_packages
from ebft.models.feature_network import FeatureNetwork
from ebft.models.loading import (
    check_architecture,
    check_weights,
    end_tokens,
    feature_network_of,
    load_architecture,
    load_policy,
    load_tokenizer,
    shares_base,
    unknown_tokens,
    without_dropout,
)
from ebft.models.own_features import OwnFeatureNetwork, Phi
from ebft.models.policy import LanguageModel
from ebft.models.positions import position_limit
from ebft.parallel.pulse import VERDICT
from ebft.parallel.world import SINGLE_PROCESS, World
from ebft.train import budget, kept_rows
from ebft.train.best import Best
from ebft.train.contamination import Contamination, contamination
from ebft.train.references import References
from ebft.train.verification import Verification
from ebft.types import Batch

ROWS_AT_A_TIME = 1024


@dataclass(frozen=True)
class HeldOutSet:
    """Held-out rows and questions, the run's own or further ones, checked against the model."""

    config: TrainConfig  # of the run as it is evaluated on them
    data: Data
    batches: list[Batch]
    long_batches: list[Batch]
    verification: Verification

    @classmethod
    def of(
        cls,
        config: TrainConfig,
        loaded: Data,
        num_long: int | None,
        architecture: PreTrainedConfig,
        world: World,
        references: References,
    ) -> "HeldOutSet":
        """`num_long` of the rows have long rollouts as well; None: no row. Raises UserError."""
        _check_vocabulary(loaded, architecture.vocab_size, config)
        batches = evaluation_batches(loaded.validation, config, config.eval.num_documents)
        long_batches = [] if num_long is None else evaluation_batches(loaded.validation, config, num_long)
        limit = position_limit(architecture, f"model.path={config.model.path}")
        verification = Verification(config, loaded, loaded.tokenization, limit, world, references)
        return cls(config, loaded, batches, long_batches, verification)

    def evaluator(self, phi: Phi, world: World) -> Evaluator:
        return Evaluator(
            self.config.eval,
            self.config.sampler,
            self.batches,
            self.long_batches,
            phi,
            stop_tokens(self.config, self.data.tokenization),
            self.verification.examiner(),
            world,
            self.data.validation.documents,
        )


@dataclass(frozen=True)
class Material:
    """What training and evaluation need beside weights, gathered and checked."""

    config: TrainConfig
    device: str
    tokenization: Tokenization
    architecture: PreTrainedConfig
    dropout: dict[str, float]  # of the model's own settings, which are 0 in `architecture`
    own: HeldOutSet
    world: World
    own_phi: OwnFeatureNetwork | None  # a user's own feature map
    sets: dict[str, HeldOutSet]

    @property
    def data(self) -> Data:
        return self.own.data

    @property
    def verification(self) -> Verification:
        return self.own.verification

    @property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        return self.tokenization.tokenizer

    @cached_property
    def unknown(self) -> list[int]:
        return unknown_tokens(self.architecture, self.tokenizer)

    @property
    def stop_tokens(self) -> tuple[int, ...]:
        return stop_tokens(self.config, self.tokenization)

    def digests(self) -> dict[str, str]:
        """Of all rows, by what they are called."""
        further = {f"eval.sets.{name}": each.data.digests()["held-out"] for name, each in self.sets.items()}
        return self.data.digests() | further

    @property
    def held_out(self) -> dict[str, HeldOutSet]:
        """Every held-out set by its name; `own` is the run's own."""
        return {OWN_SET: self.own} | self.sets

    @cached_property
    def contamination(self) -> dict[str, Contamination]:
        """What of each held-out set is in the training data."""
        return {
            name: contamination(self.data.train, each.batches, _is_padded_pairs(self.config, each.config))
            for name, each in self.held_out.items()
        }

    def evaluator(self, phi: Phi) -> Evaluator | SetsEvaluator:
        own = self.own.evaluator(phi, self.world)
        further = {name: each.evaluator(phi, self.world) for name, each in self.sets.items()}
        return SetsEvaluator(own, further) if further else own


def _is_padded_pairs(*configs: TrainConfig) -> bool:
    return all(has_pairs(config.data) and config.data.layout == "padded" for config in configs)


def stop_tokens(config: TrainConfig, tokenization: Tokenization) -> tuple[int, ...]:
    """What ends a branch; a packed stream runs on."""
    return tokenization.stop_tokens if config.data.layout == "padded" else ()


def gather(config: TrainConfig, world: World = SINGLE_PROCESS, also_ends: Sequence[int] = ()) -> Material:
    """Raises UserError for anything that config, machine or data do not allow; loads no weights. `also_ends` are tokens
    that end answers besides the model's own."""
    transformers.utils.logging.disable_progress_bar()  # the run has its own
    device = choose_device(config)
    check_method(config.method, device)
    described = load_architecture(config.model)  # first: a tokenizer looks for its kind in the same file
    check_weights(config)
    tokenizer = load_tokenizer(config.model)
    own = is_door(config.features.network)
    own_phi = OwnFeatureNetwork(config.features, tokenizer, device) if own else None
    architecture, dropout = without_dropout(described)
    check_architecture(architecture, config, device)
    trained, examined = config.method.needs(config.sampler).asks_questions, config.eval.num_questions > 0
    references = References(config, world)
    ends = [*end_tokens(config.model, architecture), *also_ends]
    tokenization = Tokenization.of(config.data, tokenizer, ends)
    loaded = kept_rows.load(config.data, tokenization, trained, examined, references.drop_failing)
    num_long = min(config.eval.long_documents, config.eval.num_documents)
    held_out = HeldOutSet.of(config, loaded, num_long, architecture, world, references)
    sets = {name: _gather_set(config, name, tokenizer, ends, architecture, device, world) for name in config.eval.sets}
    return Material(config, device, loaded.tokenization, architecture, dropout, held_out, world, own_phi, sets)


def _gather_set(
    run: TrainConfig,
    name: str,
    tokenizer: PreTrainedTokenizerBase,
    ends: Sequence[int],
    architecture: PreTrainedConfig,
    device: str,
    world: World,
) -> HeldOutSet:
    """Raises UserError as `gather`, naming the set."""
    config = on_set(run, name)
    try:
        check_architecture(architecture, config, device)
        references = References(config, world)
        # of its training side a set needs nothing; one document is the least that a side may have
        held_out_alone = replace(config.data, max_train_documents=1)
        tokenization = Tokenization.of(config.data, tokenizer, ends)
        examined = config.eval.num_questions > 0
        loaded = kept_rows.load(held_out_alone, tokenization, False, examined, references.drop_failing)
        return HeldOutSet.of(config, loaded, None, architecture, world, references)
    except UserError as error:
        raise UserError(f"eval.sets.{name}: {error}") from error


@dataclass(frozen=True)
class Groundwork:
    """What is known of a run before weights are loaded."""

    material: Material
    rows: Rows
    usable: list[int]  # rows with room for a block, the same for every method
    num_blocks: float  # mean over the usable rows
    workload: Workload
    max_steps: int

    @property
    def device(self) -> str:
        return self.material.device

    @property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        return self.material.tokenizer

    @property
    def world(self) -> World:
        return self.material.world

    @property
    def num_processes(self) -> int:
        """The number of processes of the run, which may not have been started yet."""
        return self.material.config.trainer.processes or self.world.size

    def batch(self, indices: Sequence[int]) -> Batch:
        """Usable rows by their place among the usable ones."""
        return self.rows.batch([self.usable[index] for index in indices])


@dataclass(frozen=True)
class Setup(Groundwork):
    """A run with its models."""

    policy: LanguageModel
    method: Method
    evaluator: Evaluator | SetsEvaluator


def survey(config: TrainConfig, world: World = SINGLE_PROCESS) -> Groundwork:
    """Raises UserError for anything that config, machine or data do not allow; loads no weights, and asks for no room
    for them."""
    material = gather(config, world)
    Best.of(config, material.verification.directions)  # which refuses a metric that the run does not measure
    rows = training_rows(material.data, config)
    usable, num_blocks = usable_rows(rows, config)
    if isinstance(config.model.adapter, LoRAConfig):
        check_packages(config.model.adapter, material.device)
    workload = budget.workload(
        config, material.architecture, num_blocks, material.device, config.trainer.processes or world.size
    )
    return Groundwork(material, rows, usable, num_blocks, workload, _max_steps(config, len(usable)))


def prepare(config: TrainConfig, world: World = SINGLE_PROCESS) -> Setup:
    """Raises UserError for anything that config, machine, data or model do not allow; before weights are loaded, if
    they and a step find no room."""
    ground = survey(config, world)
    material = ground.material
    budget.check_room(config, ground.workload, ground.num_processes, material.device)
    policy = load_policy(config, material.architecture, material.device, material.unknown)
    phi = material.own_phi or feature_network_of(policy, config, material.architecture, material.device)
    if isinstance(phi, FeatureNetwork):
        phi.decoder.depth = ground.workload.phi_share  # in the policy's layers, for it may be another network
    if config.trainer.gradient_checkpointing:
        _recompute_activations(policy)
    if world.size > 1:
        _share(policy, phi, config, world)
    needs = config.method.needs(config.sampler)
    reference = _reference_of(policy, config, material) if needs.reference_policy else None
    grader = material.verification.grader() if needs.asks_questions else None
    together = micro_batches_together(ground.workload)
    method = build(Ingredients(config, policy, phi, material.stop_tokens, grader, reference, together))
    return Setup(**vars(ground), policy=policy, method=method, evaluator=material.evaluator(phi))


def _share(policy: LanguageModel, phi: Phi, config: TrainConfig, world: World) -> None:
    """Leave this process its part of what is to be sharded."""
    if config.trainer.parallel == "fsdp2":
        policy.shard(world)
    if not isinstance(phi, FeatureNetwork):
        return
    if shares_base(config):
        phi.decoder.shards = policy.decoder.shards
    elif config.features.placement != "replicated":
        phi.decoder.shard(world, offloaded=config.features.placement == "cpu")


def _reference_of(policy: LanguageModel, config: TrainConfig, material: Material) -> LanguageModel:
    """The policy before training: itself without its adapters, or else a copy."""
    return (
        load_policy(config, material.architecture, material.device, material.unknown)
        if policy.adapters is None
        else policy.base()
    )


def training_rows(loaded: Data, config: TrainConfig) -> Rows:
    """The questions, for a method that asks them; otherwise rows as they are."""
    if not config.method.needs(config.sampler).asks_questions:
        return loaded.train
    assert loaded.train_questions is not None
    return loaded.train_questions.rows


def _recompute_activations(policy: LanguageModel) -> None:
    """transformers gave the switch a new name between 5.17 and 5.23, which warns about the old one. The reentrant kind
    has no gradients for adapters, whose layers' inputs need none."""
    model = policy.model
    enable = (
        model.activation_checkpointing_enable
        if hasattr(model, "activation_checkpointing_enable")
        else model.gradient_checkpointing_enable
    )
    enable({"use_reentrant": False})


def choose_device(config: TrainConfig) -> str:
    wanted = config.trainer.device
    if wanted == "auto":
        wanted = "cuda" if torch.cuda.is_available() else "cpu"
    if wanted == "cuda" and not torch.cuda.is_available():
        raise UserError("trainer.device=cuda, but torch finds no CUDA device here; use trainer.device=cpu or auto.")
    count = torch.cuda.device_count() if wanted == "cuda" else 0
    place = int(os.environ.get("LOCAL_RANK", "0"))
    if place >= count and (count > 1 or (count == 1 and VERDICT in os.environ)):  # one alone may be this process's own
        raise UserError(
            f"Process {place + 1} on this machine finds {count} CUDA devices; start as many processes as there are "
            "devices."
        )
    if config.trainer.dtype == "bf16" and wanted == "cuda" and not torch.cuda.is_bf16_supported():
        raise UserError("trainer.dtype=bf16, but this CUDA device has no bfloat16; use trainer.dtype=fp32.")
    return wanted


def _check_vocabulary(rows: Data, vocab_size: int, config: TrainConfig) -> None:
    largest = max(int(side.tokens.max()) for side in (rows.train, rows.validation))
    if largest >= vocab_size:
        raise UserError(
            f"The tokenizer of model.path={config.model.path} gives token {largest}, but the model embeds "
            f"{vocab_size}; use its own."
        )


def usable_rows(rows: Rows, config: TrainConfig) -> tuple[list[int], float]:
    """Rows that hold at least one block of the sampler, and the mean number of their blocks. Raises UserError if too
    few do for a batch."""
    sampler, counts = config.sampler, []
    for start in range(0, len(rows), ROWS_AT_A_TIME):
        batch = rows.batch(range(start, min(start + ROWS_AT_A_TIME, len(rows))))
        blocks = find_blocks(batch, sampler.anchors, sampler.context_length, sampler.stride, sampler.generate_length)
        counts += blocks.valid.sum(1).tolist()
    usable = [row for row, count in enumerate(counts) if count]
    if len(usable) < config.trainer.batch_size:
        raise UserError(
            f"Only {len(usable)} of {len(rows)} training rows hold a block of "
            f"sampler.context_length={sampler.context_length} plus "
            f"sampler.generate_length={sampler.generate_length} tokens, fewer than "
            f"trainer.batch_size={config.trainer.batch_size}; "
            "shorten the blocks, lower the batch size, or add data."
        )
    return usable, sum(counts) / len(usable)


def evaluation_batches(rows: Rows, config: TrainConfig, num_documents: int) -> list[Batch]:
    """Batches of so many held-out rows, evenly spread. Raises UserError if there are not two, or none has room for a
    rollout."""
    num_rows = min(num_documents, len(rows))
    if num_rows < 2:
        raise UserError(
            f"The validation data has {num_rows} row; standard errors need at least 2, so raise "
            "data.validation_fraction or add data."
        )
    size = config.eval.micro_batch_size
    spread = [place * len(rows) // num_rows for place in range(num_rows)]  # neighbouring rows are often of one document
    batches = [rows.batch(spread[start : start + size]) for start in range(0, num_rows, size)]
    anchors, length = config.sampler.anchors, config.sampler.generate_length
    if not any(
        find_blocks(batch, anchors, config.eval.first_context(anchors), config.eval.stride, length).valid.any()
        for batch in batches
    ):
        raise UserError(
            f"No validation row has room for eval.context_length={config.eval.context_length} plus "
            "sampler.generate_length="
            f"{config.sampler.generate_length} tokens; shorten them or add data."
        )
    return batches


def _max_steps(config: TrainConfig, num_rows: int) -> int:
    if config.trainer.max_steps is not None:
        return config.trainer.max_steps
    assert config.trainer.max_epochs is not None
    return math.ceil(config.trainer.max_epochs * data.steps_per_epoch(num_rows, config.trainer.batch_size))
