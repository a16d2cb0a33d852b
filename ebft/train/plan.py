"""What a run is going to do, before it does it."""

from collections.abc import Sequence

from ebft import data
from ebft.config.schema import OWN_SET, LoRAConfig, TrainConfig, TrainerConfig
from ebft.cost import memory
from ebft.cost import tokens as cost
from ebft.data.bad_rows import counted
from ebft.evaluation import horizons
from ebft.output.environment import multiplies_bf16
from ebft.train import budget
from ebft.train.setup import Groundwork, Material


def plan(config: TrainConfig, setup: Groundwork) -> dict[str, str]:
    """Method, model, data, geometry, cost and memory as lines for people."""
    trainer = config.trainer
    left_out = len(setup.rows) - len(setup.usable)
    epochs = setup.max_steps / data.steps_per_epoch(len(setup.usable), trainer.batch_size)
    return {
        "method": config.method.name,
        "model": f"{config.model.path}, {setup.workload.network.parameters / 1e6:.1f} M parameters, {config.model.init}"
        + _trained(config, setup),
        **_dropout(setup.material),
        "documents": f"{setup.rows.num_documents} in {len(setup.usable)} rows of {config.data.sequence_length} tokens"
        + (f" ({left_out} more are left out: too short for {_block(config)})" if left_out else "")
        + _dropped(setup.material.data),
        "rows": _layout(config),
        "tokens": tokens_line(setup.material),
        "rollouts": cost.rollouts(config, setup.num_blocks),
        "tokens to forward per step": _cost(config, setup),
        "memory" if setup.num_processes == 1 else "memory of each process": _memory(config, setup),
        **_prompts(setup.material),
        **setup.material.verification.plan(),
        "steps": f"{setup.max_steps} of {trainer.batch_size} rows, {epochs:.2f} epochs" + _stopping(trainer),
        "held out": _held_out(config, setup.material),
        **_held_out_sets(setup.material),
        "held out and trained on": "; ".join(
            str(share) if name == OWN_SET else f"{name}: {share}"
            for name, share in setup.material.contamination.items()
        ),
        "device": f"{setup.device}, {trainer.dtype}"
        + (f", {setup.num_processes} processes by {trainer.parallel}" if setup.num_processes > 1 else "")
        + _faster(setup.device, trainer),
    }


def _faster(device: str, trainer: TrainerConfig) -> str:
    if (device, trainer.dtype) != ("cpu", "fp32") or not multiplies_bf16():
        return ""
    return (
        "; this processor multiplies bf16 too: trainer.dtype=bf16 takes less time with models larger than tiny "
        "(docs/speed.md)"
    )


def _stopping(trainer: TrainerConfig) -> str:
    if trainer.keep_best is None:
        return ""
    early = "" if trainer.stop_after is None else f"; fewer after {trainer.stop_after} evaluations without a better one"
    return f"; the best by {trainer.keep_best} is kept{early}"


def _block(config: TrainConfig) -> str:
    sampler = config.sampler
    return (
        f"sampler.context_length={sampler.context_length} plus sampler.generate_length={sampler.generate_length} tokens"
    )


def _dropped(loaded: data.Data) -> str:
    return f" ({loaded.num_dropped} dropped: {counted(loaded.dropped)})" if loaded.num_dropped else ""


def _layout(config: TrainConfig) -> str:
    """How documents lie in rows, and which of their tokens are trained on and rolled out."""
    data, anchors = config.data, config.sampler.anchors
    form = "one document a row" if data.layout == "padded" else "documents joined and cut"
    masked = ", attention inside a document" if data.document_masking else ""
    trained = {"all": "all tokens", "completion": "completions alone"}
    blocks = "" if anchors == data.loss_tokens else f", rollouts from {trained[anchors]}"
    return f"{data.layout}, {form}{masked}; trained on {trained[data.loss_tokens]}{blocks}"


def _memory(config: TrainConfig, setup: Groundwork) -> str:
    return memory.line(setup.workload, budget.holding(config, setup.num_processes))


def _dropout(material: Material) -> dict[str, str]:
    """A line for a model that has dropout."""
    had = ", ".join(f"{setting}={value}" for setting, value in material.dropout.items())
    return {"dropout": f"off, because rollouts and update must agree; the model had {had}"} if had else {}


def _trained(config: TrainConfig, setup: Groundwork) -> str:
    """What is trained, where that is not the model itself."""
    adapter = config.model.adapter
    if not isinstance(adapter, LoRAConfig):
        return ""
    packed = "" if adapter.quantize == "none" else f" in {adapter.quantize}"
    return f"{packed}; adapters of rank {adapter.rank}, {setup.workload.adapters / 1e6:.2f} M"


def _prompts(material: Material) -> dict[str, str]:
    """A warning where prompts end as no text does."""
    share = material.data.prompts_cut_a_word
    if not share:
        return {}
    return {
        "warning": f"{share:.0%} of the prompts end in a space that this tokenizer joins with the next word, which no "
        "text has; let completions begin with it by data.border_space=completion"
    }


def tokens_line(material: Material) -> str:
    """What stands before rows and documents, what ends them, and what is never said."""
    tokens, num_ids = material.tokenization, material.architecture.vocab_size
    named = tokens.tokenizer.convert_ids_to_tokens(
        [token for token in (tokens.bos, *tokens.stop_tokens) if token is not None]
    )
    begin = "no BOS" if tokens.bos is None else f"BOS {named.pop(0)} before every row and document"
    end, *others = named
    further = f", {_join(others)} also end{'' if others[1:] else 's'} an answer" if others else ""
    unknown = (
        f"; {len(material.unknown)} of {num_ids} ids are not the tokenizer's and are never sampled"
        if material.unknown
        else ""
    )
    return f"{begin}, {end} ends what is trained{further}{unknown}"


def _held_out(config: TrainConfig, material: Material) -> str:
    """How much is evaluated, how often, and how long the rollouts are."""
    rows, long_rows = (sum(map(len, batches)) for batches in (material.own.batches, material.own.long_batches))
    short, long = horizons(config.eval, config.sampler, config.data.sequence_length)
    longer = f", {_join(long)} on {long_rows} of them" if long else ""
    return f"{rows} rows every {config.eval.every_steps} steps, horizons {_join(short)}{longer}"


def _held_out_sets(material: Material) -> dict[str, str]:
    """A line for every further set."""
    lines = {}
    for name, each in material.sets.items():
        examiner = each.verification.examiner()
        questions = 0 if examiner is None else sum(map(len, examiner.batches))
        asked = f", {questions} questions" if questions else ""
        lines[f"held out as {name}"] = f"{sum(map(len, each.batches))} rows of {each.config.data.source}{asked}"
    return lines


def _cost(config: TrainConfig, setup: Groundwork) -> str:
    phases = cost.by_phase(
        config, setup.num_blocks, setup.workload.phi_share, cost.keeps_rows(config, setup.workload.documents)
    )
    rows = config.trainer.batch_size
    parts = " + ".join(f"{name} {rows * tokens:,.0f}" for name, tokens in phases.items())
    total, supervised = sum(phases.values()), cost.supervised(config.data.sequence_length)
    bound = "at most " if cost.depends_on_rollouts(config) else ""
    return (
        f"{bound}{rows * total:,.0f} = {parts}; {total / supervised:.1f} times supervised fine-tuning on the same rows"
    )


def _join(items: Sequence[object]) -> str:
    return ", ".join(map(str, items))
