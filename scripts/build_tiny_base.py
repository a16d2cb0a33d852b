"""Build the base model that ships with the package, `model=tiny`, into ebft/assets/tiny.

    python scripts/build_tiny_base.py                   # tokenizer, architecture, training, evaluation, model card
    python scripts/build_tiny_base.py --tokenizer-only  # tokenizer and architecture

All of it sees the training side of `data=mixture` alone, the tokenizer included, so the modules and questions that
evaluation reads are new to it. The recipe is conf/experiment/tiny_base.yaml; this file adds the vocabulary and the
architecture.
"""

import argparse
import json
import platform
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import AutoModelForCausalLM, LlamaConfig, PreTrainedTokenizerBase, PreTrainedTokenizerFast

from ebft.cli.compose import compose
from ebft.config.schema import EMBEDDED_SOURCES, DataConfig, EvaluateConfig, TrainConfig
from ebft.data import Data, Tokenization, load, read
from ebft.data.documents import Document
from ebft.train.evaluate_models import evaluate
from ebft.train.loop import train

ASSETS = Path(__file__).resolve().parents[1] / "ebft" / "assets" / "tiny"
RECIPE = "+experiment=tiny_base"
END = "<|endoftext|>"
VOCABULARY = 2048
MAX_POSITIONS = 2048
HELD_OUT = ["data.validation_part=all", "eval.num_questions=256"]
CARD = """---
library_name: transformers
pipeline_tag: text-generation
---
# The tiny base model of ebft

A Llama-architecture causal language model of {parameters:,} parameters in bf16 with a byte-level BPE tokenizer of
{vocabulary:,} tokens, trained from random weights by ebft's own loop. It exists so that post-training can be tried
without a network, and is of no other use.

| | |
| --- | --- |
{table}

On what it has not seen, held-out modules and questions (`ebft-eval data=... {held_out}`):

| `data=` | cross-entropy | greedy answers that pass | mean score |
| --- | --- | --- | --- |
{tasks}

A smaller `data.validation_fraction` holds out a subset of the same modules and questions, so it stays clean; a larger
one reaches into the training data. The text of the modules is under Python's PSF licence.
"""


def main() -> None:
    arguments = parse()
    config = compose([RECIPE, *arguments.overrides])
    training, validation = read(config.data)
    tokenizer = build_tokenizer(training)
    tokenizer.save_pretrained(ASSETS)
    architecture(tokenizer).save_pretrained(ASSETS)
    data = load(config.data, Tokenization.of(config.data, tokenizer))
    corpus = describe_corpus(config.data, data, validation)
    print(corpus)
    if arguments.tokenizer_only:
        return
    train(config, arguments.run_dir)
    num_parameters = export(arguments.run_dir / "model")
    summary = json.loads((arguments.run_dir / "summary.json").read_text())
    tasks = {source: examine(source, arguments.run_dir / f"eval-{source}") for source in EMBEDDED_SOURCES}
    (ASSETS / "README.md").write_text(model_card(config, arguments.overrides, summary, corpus, num_parameters, tasks))


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Build the tiny base model into ebft/assets/tiny.")
    parser.add_argument("--tokenizer-only", action="store_true", help="stop after the tokenizer and the architecture")
    parser.add_argument("--run-dir", type=Path, default=Path("outputs/tiny_base"), help="run folder of the training")
    parser.add_argument("overrides", nargs="*", help="changes to the recipe, such as trainer.device=cuda")
    return parser.parse_args()


def build_tokenizer(documents: Sequence[Document]) -> PreTrainedTokenizerFast:
    """Byte-level BPE without normalisation, each digit a token of its own, one special token that ends documents and
    pads."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=[END],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(
        (text for document in documents for text in (document.prompt, document.completion) if text), trainer
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=END,
        eos_token=END,
        pad_token=END,
        model_max_length=MAX_POSITIONS,
        clean_up_tokenization_spaces=False,
    )


def architecture(tokenizer: PreTrainedTokenizerBase) -> LlamaConfig:
    end = tokenizer.eos_token_id
    return LlamaConfig(
        architectures=["LlamaForCausalLM"],
        vocab_size=len(tokenizer),
        hidden_size=160,
        num_hidden_layers=6,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=40,
        intermediate_size=448,
        max_position_embeddings=MAX_POSITIONS,
        tie_word_embeddings=True,
        bos_token_id=end,
        eos_token_id=end,
        pad_token_id=end,
    )


def export(model_dir: Path) -> int:
    """Copy the trained weights in bf16; returns the number of parameters. Weights that the exported config has no place
    for would go unnoticed."""
    model, report = AutoModelForCausalLM.from_pretrained(model_dir, dtype=torch.bfloat16, output_loading_info=True)
    assert not report["unexpected_keys"] | report["missing_keys"], report
    model.save_pretrained(ASSETS)
    return int(model.num_parameters())


def examine(source: str, directory: Path) -> dict[str, float]:
    """What the exported model does on one task."""
    config = compose([f"data={source}", *HELD_OUT], config_name="eval")
    assert isinstance(config, EvaluateConfig)
    evaluate(config, directory)
    results: dict[str, float] = json.loads((directory / "eval.json").read_text())["models"]["base"]
    return results


def describe_corpus(config: DataConfig, data: Data, validation: Sequence[Document]) -> str:
    held_out_bytes = sum(len((document.prompt + document.completion).encode()) for document in validation)
    bytes_per_token = held_out_bytes / (data.validation.num_tokens - data.validation.num_documents)
    return (
        f"{data.train.num_documents:,} documents ({data.train.num_tokens:,} tokens) for training, "
        f"{data.validation.num_documents:,} documents ({data.validation.num_tokens:,} tokens, {bytes_per_token:.2f} "
        "bytes per token) held out"
    )


def model_card(
    config: TrainConfig,
    overrides: Sequence[str],
    summary: dict[str, Any],
    corpus: str,
    num_parameters: int,
    tasks: dict[str, dict[str, float]],
) -> str:
    command = " ".join(["python scripts/build_tiny_base.py", *overrides])
    tokens = summary["steps"] * config.trainer.batch_size * config.data.sequence_length
    table = {
        "Built by": f"`{command}` with `conf/experiment/tiny_base.yaml`",
        "Data": f"`data=mixture`, the standard library of Python {platform.python_version()} and generated questions: "
        f"{corpus}",
        "Split": "by a hash of a module's name and a question's key, "
        f"`data.validation_fraction={config.data.validation_fraction}`",
        "Seed": config.seed,
        "Steps": f"{summary['steps']:,} of {config.trainer.batch_size} rows of {config.data.sequence_length} tokens, "
        f"{tokens:,} tokens in all",
        "Peak learning rate": f"{config.optimizer.lr:g}",
        "Validation cross-entropy": f"{summary['final']['eval/cross_entropy']:.4f} nats per token",
    }
    rows = (
        f"| `{source}` | {results['eval/cross_entropy']:.4f} | {results['eval/greedy']:.3f} ± "
        f"{results['eval/greedy_stderr']:.3f} "
        f"| {results['eval/score']:.3f} ± {results['eval/score_stderr']:.3f} |"
        for source, results in tasks.items()
    )
    return CARD.format(
        parameters=num_parameters,
        vocabulary=VOCABULARY,
        table="\n".join(f"| {key} | {value} |" for key, value in table.items()),
        held_out=" ".join(HELD_OUT),
        tasks="\n".join(rows),
    )


if __name__ == "__main__":
    main()
