"""From a config to everything that a run needs: checks first, in the order of what they cost, then the models."""

import math
from dataclasses import dataclass

import torch
import transformers
from transformers import PreTrainedTokenizerBase

from ebft import data
from ebft.blocks import find_blocks
from ebft.config import EvalConfig, TrainConfig, UserError
from ebft.data import Data, Rows
from ebft.evaluation import Evaluator
from ebft.loading import check_architecture, load_architecture, load_feature_network, load_policy, load_tokenizer
from ebft.methods import Method, build
from ebft.models import LanguageModel
from ebft.types import Batch

ROWS_AT_A_TIME = 1024


@dataclass(frozen=True)
class Setup:
    device: str
    tokenizer: PreTrainedTokenizerBase
    rows: Rows
    usable: list[int]  # rows with room for a block, the same for every method
    num_blocks: float  # mean over the usable rows
    policy: LanguageModel
    method: Method
    evaluator: Evaluator
    max_steps: int

    def batch(self, indices: list[int]) -> Batch:
        """Usable rows by their place among the usable ones."""
        return self.rows.batch([self.usable[index] for index in indices])


def prepare(config: TrainConfig) -> Setup:
    """Raises UserError for anything that config, machine, data or model do not allow."""
    transformers.utils.logging.disable_progress_bar()  # the run has its own
    device = choose_device(config)
    tokenizer = load_tokenizer(config.model)
    architecture = load_architecture(config.model)
    check_architecture(architecture, config)
    rows = data.load(config.data, tokenizer)
    _check_vocabulary(rows, architecture.vocab_size, config)
    usable, num_blocks = usable_rows(rows.train, config)
    held_out, held_out_long = (evaluation_batches(rows.validation, config, size) for size in _evaluated(config.eval))
    policy = load_policy(config, architecture, device)
    phi = load_feature_network(config, architecture, device)
    if config.trainer.gradient_checkpointing:
        _recompute_activations(policy)
    stop_token = tokenizer.eos_token_id if config.data.layout == "padded" else None
    method = build(config, policy, phi, stop_token)
    evaluator = Evaluator(config.eval, config.sampler, held_out, held_out_long, phi, stop_token)
    return Setup(device, tokenizer, rows.train, usable, num_blocks, policy, method, evaluator, _max_steps(config, len(usable)))


def _recompute_activations(policy: LanguageModel) -> None:
    """transformers gave the switch a new name between 5.17 and 5.23, which warns about the old one."""
    model = policy.model
    enable = model.activation_checkpointing_enable if hasattr(model, "activation_checkpointing_enable") else model.gradient_checkpointing_enable
    enable()


def choose_device(config: TrainConfig) -> str:
    wanted = config.trainer.device
    if wanted == "auto":
        wanted = "cuda" if torch.cuda.is_available() else "cpu"
    if wanted == "cuda" and not torch.cuda.is_available():
        raise UserError("trainer.device=cuda, but torch finds no CUDA device here; use trainer.device=cpu or auto.")
    if config.trainer.dtype == "bf16" and wanted == "cuda" and not torch.cuda.is_bf16_supported():
        raise UserError("trainer.dtype=bf16, but this CUDA device has no bfloat16; use trainer.dtype=fp32.")
    return wanted


def _check_vocabulary(rows: Data, vocab_size: int, config: TrainConfig) -> None:
    largest = max(int(side.tokens.max()) for side in (rows.train, rows.validation))
    if largest >= vocab_size:
        raise UserError(f"The tokenizer of model.path={config.model.path} gives token {largest}, but the model embeds {vocab_size}; use its own.")


def usable_rows(rows: Rows, config: TrainConfig) -> tuple[list[int], float]:
    """Rows that hold at least one block of the sampler, and the mean number of their blocks. Raises UserError if too few do for a batch."""
    sampler, counts = config.sampler, []
    for start in range(0, len(rows), ROWS_AT_A_TIME):
        batch = rows.batch(range(start, min(start + ROWS_AT_A_TIME, len(rows))))
        blocks = find_blocks(batch, sampler.anchors, sampler.context_length, sampler.stride, sampler.generate_length)
        counts += blocks.valid.sum(1).tolist()
    usable = [row for row, count in enumerate(counts) if count]
    if len(usable) < config.trainer.batch_size:
        raise UserError(
            f"Only {len(usable)} of {len(rows)} training rows hold a block of sampler.context_length={sampler.context_length} plus "
            f"sampler.generate_length={sampler.generate_length} tokens, fewer than trainer.batch_size={config.trainer.batch_size}; "
            "shorten the blocks, lower the batch size, or add data."
        )
    return usable, sum(counts) / len(usable)


def _evaluated(config: EvalConfig) -> tuple[int, int]:
    """Held-out rows with short and with long rollouts."""
    return config.num_documents, min(config.long_documents, config.num_documents)


def evaluation_batches(rows: Rows, config: TrainConfig, num_documents: int) -> list[Batch]:
    """So many held-out rows, evenly spread. Raises UserError if there are not two, or none has room for a rollout."""
    num_rows = min(num_documents, len(rows))
    if num_rows < 2:
        raise UserError(f"The validation data has {num_rows} row; standard errors need at least 2, so raise data.validation_fraction or add data.")
    size = config.eval.micro_batch_size
    spread = [place * len(rows) // num_rows for place in range(num_rows)]  # neighbouring rows are often of one document
    batches = [rows.batch(spread[start : start + size]) for start in range(0, num_rows, size)]
    anchors, length = config.sampler.anchors, config.sampler.generate_length
    if not any(find_blocks(batch, anchors, config.eval.context_length, config.eval.stride, length).valid.any() for batch in batches):
        raise UserError(
            f"No validation row has room for eval.context_length={config.eval.context_length} plus sampler.generate_length="
            f"{config.sampler.generate_length} tokens; shorten them or add data."
        )
    return batches


def _max_steps(config: TrainConfig, num_rows: int) -> int:
    if config.trainer.max_steps is not None:
        return config.trainer.max_steps
    assert config.trainer.max_epochs is not None
    return math.ceil(config.trainer.max_epochs * data.steps_per_epoch(num_rows, config.trainer.batch_size))
