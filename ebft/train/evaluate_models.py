"""Several models on the same held-out documents, questions and draws, in one table with paired differences to the
first.

Everything but the weights comes from one config: the feature network, the tokenizer and the rows are those of its base,
so figures of different models can be subtracted row by row. A run's final model gets the figures of the run's own final
evaluation.
"""

import json
import re
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import yaml

from ebft.config.identity import flat, resolved
from ebft.config.schema import AdapterConfig, EvaluateConfig, LoRAConfig, ModelConfig, UserError
from ebft.config.stored import read_config
from ebft.data.tokenization import adds_bos
from ebft.evaluation import Evaluation
from ebft.models.adapters import attach, check_packages, is_of_adapters, same_base
from ebft.models.loading import (
    check_architecture,
    end_tokens,
    load_architecture,
    load_feature_network,
    load_policy,
    load_tokenizer,
    unknown_tokens,
    without_dropout,
)
from ebft.models.paths import ADAPTER_FILE
from ebft.models.policy import LanguageModel
from ebft.output import files, row_scores, tracking
from ebft.output.console import Console
from ebft.output.environment import environment
from ebft.output.masking import without_credentials, without_secrets
from ebft.output.metric_names import lower_is_better, short
from ebft.output.visible import markdown as cell
from ebft.parallel.fsdp import named_tensors
from ebft.report import plots
from ebft.report.html_parts import quantity
from ebft.report.last_table import ARROWS
from ebft.run import checkpoint
from ebft.run import tensors as stored
from ebft.run.admission import CONFIG, EVALUATION_LOG, check_evaluation
from ebft.train.continuing import ROWS
from ebft.train.optimization import AVERAGE, MODEL
from ebft.train.plan import tokens_line
from ebft.train.setup import Material, gather

BASE = "base"
LEGEND = "± one standard error over held-out documents; ↓ lower is better, ↑ higher; pp: percentage points"
DIGEST = 64  # characters of that of rows; behind it stands that of questions, which not every command asks


def evaluate(config: EvaluateConfig, directory: Path) -> dict[str, str]:
    """Evaluates every model of the config and writes `directory`. Returns why some could not be evaluated, by name.
    Raises UserError as `gather`."""
    check_evaluation(directory, config)
    with ExitStack() as held:
        if directory.is_dir():
            held.enter_context(files.alone(directory))
            check_evaluation(directory, config)  # again: whoever held it may have left another's
        return _evaluate(config, directory, held)


def _evaluate(config: EvaluateConfig, directory: Path, held: ExitStack) -> dict[str, str]:
    """As `evaluate`; `held` keeps the folder until its end."""
    material = gather(config, also_ends=_ends(config))
    phi = material.own_phi or load_feature_network(config, material.architecture, material.device)
    evaluator = material.evaluator(phi)
    if not directory.is_dir():
        directory.mkdir(parents=True, exist_ok=True)
        held.enter_context(files.alone(directory))
        check_evaluation(directory, config)
    console = Console(directory / EVALUATION_LOG)
    console.say(f"tokens: {tokens_line(material)}")
    for source in config.models:
        if changed := _changed_rows(Path(source), config, material):
            console.say(
                f"The {' and the '.join(changed)} rows are not those of {source}: data.source={config.data.source} has "
                "changed since."
            )
    tracker = tracking.start(config.tracker, directory, without_secrets(resolved(config)), {})
    results: dict[str, Evaluation] = {}
    failures: dict[str, str] = {}
    for name, source in labels(config.models or [BASE]).items():
        try:
            policy = load(source, config, material)
            if (Path(source) / CONFIG).is_file():
                step = _step(newest(source))
                console.say(
                    f"{name} is {newest(source)}, {'of an unknown step' if step is None else f'at step {step}'}"
                )
        except UserError as error:
            failures[name] = without_credentials(str(error))
            console.say(f"{name} was left out: {error}")
            continue
        with console.bar(f"evaluation of {name}", evaluator.num_ticks, 0, every_tenth=False) as bar:
            results[name] = evaluator(policy, bar.update)
        tracker.log(0, {f"{name}/{metric}": value for metric, value in results[name].metrics().items()})
    if results:
        write(directory, config, material, results, failures)
        console.table("Evaluation", *table(results))
        console.say(LEGEND)
        console.say(f"Written to {directory}")
    tracker.finish(failed=bool(failures))
    return failures


def _changed_rows(source: Path, config: EvaluateConfig, material: Material) -> list[str]:
    """Which sides of a run's data are no more what its last checkpoint holds digests of, where the config names the
    same data and model as the run's."""
    folder = source.parent.parent if (source / checkpoint.STATE).is_file() else source
    saved = checkpoint.latest(folder) if (folder / CONFIG).is_file() else None
    if saved is None:
        return []
    with suppress(UserError):  # of a folder that holds nothing to compare with; `load` says what it lacks
        there, here = (flat(each) for each in (read_config(folder / CONFIG, "name another run"), resolved(config)))
        same = {key for key in here if key.startswith("data.") or key in ("model.path", "model.revision")}
        if all(key in there and there[key] == here[key] for key in same):
            kept, found = checkpoint.load(saved).get(ROWS, {}), material.data.digests()
            return [side for side in kept if side in found and kept[side][:DIGEST] != found[side][:DIGEST]]
    return []


def labels(sources: Sequence[str]) -> dict[str, str]:
    """A short name for every source: the last part of its path where that is unique."""
    last = [Path(source).name or source for source in sources]
    return {name if last.count(name) == 1 else source: source for name, source in zip(last, sources, strict=True)}


def _ends(config: EvaluateConfig) -> list[int]:
    """What ends an answer of any of the models, as each of them names it: one that stops at an end of its own would
    otherwise be heard on behind it. A base and the model tuned from it often differ there."""
    found: list[int] = []
    for source in config.models:
        folder = Path(source)
        if source == BASE or (folder / ADAPTER_FILE).is_file():
            continue
        with suppress(UserError):  # which `load` raises again
            other = _model(str(newest(source)) if (folder / CONFIG).is_file() else source, config)
            if (Path(other.path) / checkpoint.STATE).is_file():
                continue
            architecture = load_architecture(other)
            if load_tokenizer(other).get_vocab() == load_tokenizer(config.model).get_vocab():
                found += end_tokens(other, architecture)
    return found


def _model(path: str, config: EvaluateConfig) -> ModelConfig:
    """Another model by its folder or hub id."""
    return replace(
        config.model, path=path, revision=None, init="pretrained", config_overrides={}, adapter=AdapterConfig("none")
    )


def load(source: str, config: EvaluateConfig, material: Material) -> LanguageModel:
    """The model that `source` names: `base`, a run folder, a checkpoint, a folder in Hugging Face format or a hub id.
    Raises UserError."""
    if source == BASE:
        return load_policy(_without_adapters(config), material.architecture, material.device, material.unknown)
    folder, path = Path(source), source  # the path as it was written: ./a is a folder, a may be a hub id
    saved = folder if (folder / checkpoint.STATE).is_file() else None
    if (folder / CONFIG).is_file():
        found = newest(source)
        path, saved = str(found), found if (found / checkpoint.STATE).is_file() else None
    if saved is not None:
        return _from_checkpoint(saved, config, material)
    if (folder / ADAPTER_FILE).is_file():
        policy = load(BASE, config, material)
        attach(policy.model, folder, config.model.path)
        return policy
    with _called(source, path):
        return _other(source, _model(path, config), config, material)


def newest(source: str) -> Path:
    """What a run has come to: its model, or a checkpoint of a later step, which a run has that went on. A model that
    does not say its step is of the run's end only where nothing else is there. Raises UserError where there is
    neither."""
    exported, saved = Path(source) / "model", checkpoint.latest(Path(source))
    if exported.is_dir() and (saved is None or (_step(exported) or -1) >= (_step(saved) or 0)):
        return exported
    if saved is None:
        raise UserError(
            f"{source} is a run folder without a model or a checkpoint; let its run reach one, or leave it out."
        )
    return saved


def _step(path: Path) -> int | None:
    """Of an export or a checkpoint."""
    is_checkpoint = (path / checkpoint.STATE).is_file()
    return int(path.name.removeprefix("step_")) if is_checkpoint else checkpoint.exported_step(path)


@contextmanager
def _called(source: str, path: str) -> Iterator[None]:
    """A UserError about a model by its place in the list of models, where it was named."""
    try:
        yield
    except UserError as error:
        raise UserError(str(error).replace(f"model.path={path} ", f"models=[{source}] ")) from error


def _other(source: str, other: ModelConfig, config: EvaluateConfig, material: Material) -> LanguageModel:
    """A model in Hugging Face format."""
    described = load_architecture(other)
    tokenizer = load_tokenizer(other)
    if tokenizer.get_vocab() != material.tokenizer.get_vocab():
        raise UserError(f"{source} has another tokenizer than model.path={config.model.path}; evaluate it on its own.")
    if config.data.bos == "auto" and adds_bos(tokenizer) != adds_bos(material.tokenizer):
        one, another = (source, config.model.path) if adds_bos(tokenizer) else (config.model.path, source)
        raise UserError(
            f"{one} begins texts with a BOS and {another} does not, but all are asked about the same rows; evaluate "
            "each on its own, or set data.bos=true or false."
        )
    theirs, (architecture, _) = replace(config, model=other), without_dropout(described)
    check_architecture(architecture, theirs, material.device)
    return load_policy(theirs, architecture, material.device, unknown_tokens(architecture, material.tokenizer))


def _without_adapters(config: EvaluateConfig) -> EvaluateConfig:
    return replace(config, model=replace(config.model, adapter=AdapterConfig("none")))


def _from_checkpoint(path: Path, config: EvaluateConfig, material: Material) -> LanguageModel:
    """The averaged weights where the run keeps an average, as in its own evaluations."""
    state = checkpoint.load(path)
    weights = stored.read(state["tensors"], MODEL)
    if not is_of_adapters(weights):
        config = _without_adapters(config)
    elif isinstance(config.model.adapter, LoRAConfig):
        check_packages(config.model.adapter, material.device)
    policy = load_policy(config, material.architecture, material.device, material.unknown)
    weights |= stored.read(state["tensors"], AVERAGE)
    shapes = {name: value.shape for name, value in weights.items()}
    own = named_tensors(policy.trained)
    if shapes != {name: value.shape for name, value in own.items()} or not same_base(weights, own):
        raise UserError(f"{path} is a checkpoint of another model than model.path={config.model.path}; name that one.")
    with torch.no_grad():
        for name, value in own.items():
            value.copy_(weights[name])
    return policy


def differences(results: dict[str, Evaluation]) -> dict[str, dict[str, float]]:
    """Every model minus the first, on the same documents and draws, with the standard error of the paired
    difference."""
    (_, first), *others = results.items()
    return {name: result.change(first) for name, result in others}


def table(results: dict[str, Evaluation]) -> tuple[list[str], list[list[str]]]:
    """Header and rows: a column a model with its standard errors, then its difference to the first."""
    first, changes = next(iter(results)), differences(results)
    header = ["metric", *results, *(f"{name} - {first}" for name in changes)]
    metrics = {name: result.metrics() for name, result in results.items()}
    columns = [*metrics.values(), *changes.values()]
    names = list(dict.fromkeys(name for column in metrics.values() for name in column if not name.endswith("_stderr")))
    signs = [""] * len(metrics) + ["+"] * len(changes)
    rows = [
        [
            f"{short(name)}{ARROWS[lower_is_better(name)]}",
            *(
                quantity(name, column.get(name), column.get(f"{name}_stderr"), sign)
                for column, sign in zip(columns, signs, strict=True)
            ),
        ]
        for name in names
    ]
    return header, rows


def write_rows(directory: Path, results: dict[str, Evaluation]) -> dict[str, str]:
    """Every model's scores of every held-out row, as a run keeps them, for whatever is to be compared afterwards.
    Returns their files by model, whose name may be no name of a file."""
    files_of = {
        name: f"{row_scores.FOLDER}/{number}_{re.sub(r'[^A-Za-z0-9.-]+', '_', name)[-80:]}.parquet"
        for number, name in enumerate(results)
    }
    folder = files.make_folder(directory / row_scores.FOLDER)
    for name, result in results.items():
        row_scores.write(folder / Path(files_of[name]).name, result.rows())
    return files_of


def markdown(results: dict[str, Evaluation], failures: dict[str, str]) -> str:
    header, rows = table(results)
    lines = [header, ["---"] * len(header), *rows]
    text = "".join(f"| {' | '.join(map(cell, cells))} |\n" for cells in lines)
    return f"{text}\n{LEGEND}\n" + "".join(
        f"\n{cell(name)} was left out: {cell(why)}\n" for name, why in failures.items()
    )


def write(
    directory: Path,
    config: EvaluateConfig,
    material: Material,
    results: dict[str, Evaluation],
    failures: dict[str, str],
) -> None:
    """config.yaml, environment.json, samples.jsonl, answers.jsonl, eval.md, plots/, rows/, and last of all
    eval.json."""
    files.atomic_write_text(directory / CONFIG, yaml.safe_dump(without_secrets(resolved(config)), sort_keys=False))
    files.atomic_write_text(
        directory / "environment.json", json.dumps(environment(config.trainer.device), indent=2) + "\n"
    )
    samples = [
        {"model": name, **sample.as_row(material.tokenization)}
        for name, result in results.items()
        for sample in result.samples
    ]
    answers = [{"model": name, **answer.as_row()} for name, result in results.items() for answer in result.answers]
    for name, rows in (("samples.jsonl", samples), ("answers.jsonl", answers)):
        files.atomic_write_text(directory / name, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
    files.atomic_write_text(directory / "eval.md", markdown(results, failures))
    metrics = {name: result.metrics() for name, result in results.items()}
    plots.compare(files.make_folder(directory / "plots"), metrics)
    content: dict[str, Any] = {
        "models": metrics,
        "rows": write_rows(directory, results),
        "reference": next(iter(results)),
        "differences": differences(results),
        "failures": failures,
    }
    files.atomic_write_text(directory / "eval.json", json.dumps(content, indent=2, allow_nan=False) + "\n")
