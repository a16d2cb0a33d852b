"""The parts of an update of two rows, one by one."""

import statistics
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from benchmark_contenders import OPTIMIZER, Setting
from gpu_record import Place, Record, instead
from torch import Tensor

import ebft.geometry.attention as attention
import ebft.geometry.flex as flex
import ebft.models.policy as policy_module
from ebft.geometry.attention import BranchContext, LayerAttention
from ebft.geometry.blocks import Branches, OwnTokens, find_blocks, make_branches
from ebft.models.logprobs import Labels
from ebft.models.policy import LanguageModel
from ebft.parallel.fsdp import clip_gradients
from ebft.run.profiling import DTYPES, now_seconds
from ebft.train.optimization import Optimization
from ebft.types import Batch

Run = Callable[[], None]
ROWS = 2
NEVER = 2**31  # a length that no row has
KERNELS: list[dict[str, int | bool]] = [
    {"BLOCKS_ARE_CONTIGUOUS": True},
    {"BLOCK_M1": 32, "BLOCK_N1": 64, "BLOCK_M2": 64, "BLOCK_N2": 32},
    {"BLOCK_M1": 64, "BLOCK_N1": 64, "BLOCK_M2": 64, "BLOCK_N2": 64},
    {"BLOCK_M1": 64, "BLOCK_N1": 128, "BLOCK_M2": 128, "BLOCK_N2": 64},
    {"bwd_num_warps": 8},
    {"bwd_num_stages": 2},
]


def pieces(record: Record, place: Place) -> None:
    """Seconds of the parts of an update of two rows of the 1.5 B shape, forward and backward: attention of branches in
    its kernels' options and in chunks, layers, logits, optimiser."""
    setting = place.setting(place.model, num_documents=ROWS)
    model = setting.build(place.length)
    batch, policy = setting.rows(model, place.length), LanguageModel(model, setting.dtype)
    branches, batch = _branches(batch, setting, policy.device), batch.to(policy.device)
    time_of = partial(seconds_of, place.device)
    attending = partial(_attending, policy, batch, branches, setting)

    record(attention=time_of(attending(ROWS)), attention_of_one_row=time_of(attending(1)))
    with instead(attention, FLEX_FROM=NEVER):
        record(attention_in_chunks=time_of(attending(ROWS)))
    of_branches, of_rows = _layers(policy, batch, branches)
    record(branches=time_of(of_branches), rows=time_of(of_rows), tokens=[branches.tokens.numel(), batch.tokens.numel()])
    of_logits = _logits(policy, branches)
    for power in (25, 27, 28, 29):
        with instead(policy_module, LOGITS_AT_A_TIME={place.device: 2**power}):
            record(**{f"logits_2^{power}": time_of(of_logits)})
    for number, options in enumerate(KERNELS):
        record(**{f"kernel_{number}": _with_options(options, attending(ROWS), time_of)})
    record(optimizer=time_of(_stepping(policy)))
    policy.decoder.compile()
    record(compiled_branches=time_of(of_branches), compiled_rows=time_of(of_rows))


def _branches(batch: Batch, setting: Setting, device: torch.device) -> Branches:
    """Of rollouts that repeat one token, as the update has them."""
    sampler = setting.sampler(False)
    geometry = sampler.anchors, sampler.context_length, sampler.stride, sampler.generate_length
    blocks = find_blocks(batch, *geometry).to(device)
    shape = sampler.n_samples, blocks.anchors.shape[1], sampler.generate_length - 1
    return make_branches(blocks, batch.tokens[:, None, None, :1].to(device).expand(-1, *shape))


def _attending(policy: LanguageModel, batch: Batch, branches: Branches, setting: Setting, num_rows: int) -> Run:
    """Attention of one layer over random queries, keys and values."""
    config, own, length = policy.model.config, branches.tokens.shape[1], batch.tokens.shape[1]
    head_dim, key_heads = config.hidden_size // config.num_attention_heads, config.num_key_value_heads
    draw = partial(torch.randn, device=policy.device, dtype=DTYPES[setting.dtype])

    def heads(number: int, width: int) -> Tensor:
        return draw(num_rows, number, width, head_dim).requires_grad_()

    query, key, value = heads(config.num_attention_heads, own), heads(key_heads, own), heads(key_heads, own)
    row = heads(key_heads, length), heads(key_heads, length)
    tokens, anchors, steps = (x[:num_rows] for x in (branches.tokens, branches.anchors, branches.steps))
    few = OwnTokens(tokens, anchors, steps, branches.reach, branches.depth)
    context, layer = BranchContext.of(batch.rows(0, num_rows), few, {0: row}), LayerAttention(0, head_dim**-0.5)
    weight = draw(num_rows, own, config.num_attention_heads, head_dim)

    def run() -> None:
        (context.attend(layer, query, key, value) * weight).sum().backward()

    return run


def _layers(policy: LanguageModel, batch: Batch, branches: Branches) -> tuple[Run, Run]:
    """All layers over the branches, and over the rows."""
    row = policy.decoder.forward_rows(batch).detached()
    leaves = {layer: (key.requires_grad_(), value.requires_grad_()) for layer, (key, value) in row.cache.items()}

    def of_branches() -> None:
        context = BranchContext.of(batch, branches, leaves)
        policy.decoder.run(branches.tokens, branches.positions, context).sum().backward()

    def of_rows() -> None:
        policy.row_hidden(batch).sum().backward()

    return of_branches, of_rows


def _logits(policy: LanguageModel, branches: Branches) -> Run:
    shape, width = branches.tokens.shape, policy.model.config.hidden_size
    hidden = torch.randn(*shape, width, device=policy.device, requires_grad=True)
    index = torch.arange(shape[1], device=policy.device).expand(shape)
    labels = Labels(index, torch.zeros_like(index), torch.ones_like(index, dtype=torch.bool), 0.6, index.numel())

    def run() -> None:
        policy.log_probs(hidden, labels)[0].sum().backward()

    return run


def _with_options(options: dict[str, int | bool], run: Run, time_of: Callable[[Run], dict[str, Any]]) -> dict[str, Any]:
    """Under options of flex attention's kernels beside those that torch chooses."""
    compiled = flex._kernel
    with instead(flex, _kernel=lambda device: partial(compiled(device), kernel_options=options)):
        try:
            return {"options": options, **time_of(run)}
        except Exception as error:  # an option that this device or version does not take, whatever it raises
            return {"options": options, "error": str(error)[-300:]}


def _stepping(policy: LanguageModel) -> Run:
    optimization = Optimization(OPTIMIZER, policy, 1)

    def run() -> None:
        clip_gradients(optimization.parameters, 1.0)
        optimization.optimizer.step()

    return run


def seconds_of(device: str, run: Run, repetitions: int = 7) -> dict[str, float]:
    """Median of a few runs after two, the first of which compiles."""

    def once() -> float:
        started = now_seconds(device)
        run()
        return now_seconds(device) - started

    first, _, *times = (once() for _ in range(2 + repetitions))
    return {"seconds": statistics.median(times), "first_seconds": first}
