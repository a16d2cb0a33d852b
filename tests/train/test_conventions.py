"""A model with the conventions of real ones, from its training to the verdicts on what it says: a SentencePiece-style
tokenizer that begins texts with a BOS, an end of turn beside the EOS, and a vocabulary that is padded."""

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig, LlamaConfig

from ebft.cli.compose import compose
from ebft.train.loop import train
from ebft.train.plan import plan
from ebft.train.setup import survey
from tests.data.test_tokenization import sentencepiece
from tests.debug_run import summary

WORDS = ["one", "two", "six", "ten", "add"]
STEPS = 60
OWN = f"""
    method=sft data=jsonl data.sequence_length=37 data.text_column=null data.prompt_column=prompt
    data.completion_column=completion data.layout=padded data.loss_tokens=completion data.task=exact_match
    features.feature_layers=[1] sampler.anchors=completion sampler.context_length=1 sampler.generate_length=2
    trainer.max_steps={STEPS} trainer.batch_size=5 trainer.micro_batch_size=5 trainer.checkpoint_every_steps={STEPS}
    trainer.device=cpu optimizer.lr=0.02 optimizer.warmup_fraction=0 eval.every_steps={STEPS} eval.num_documents=2
    eval.long_documents=2 eval.horizons=[1] eval.num_questions=5 eval.max_new_tokens=23 eval.micro_batch_size=5
""".split()


def model(folder: Path, ends: list[int]) -> str:
    tokenizer = sentencepiece("prepend", bos=True)
    tokenizer.save_pretrained(folder)
    config = LlamaConfig(
        vocab_size=len(tokenizer) + 13, hidden_size=32, intermediate_size=41, num_hidden_layers=2,
        num_attention_heads=2, max_position_embeddings=64, bos_token_id=1, eos_token_id=2, pad_token_id=None,
    )  # fmt: skip
    torch.manual_seed(0)
    made = AutoModelForCausalLM.from_config(config)
    made.generation_config.eos_token_id = ends
    made.save_pretrained(folder)
    return f"model.path={folder}"


def rows(folder: Path) -> list[str]:
    """Answers begin with four spaces, as bodies of functions do."""
    path = folder / "rows.jsonl"
    pairs = [{"prompt": f"a {word}:\n", "completion": f"    return {word}\n    b"} for word in WORDS]
    path.write_text("".join(json.dumps(pair) + "\n" for pair in pairs))
    return [f"data.path={path}", f"data.validation_path={path}"]


@pytest.mark.slow
@pytest.mark.usefixtures("no_report")
def test_what_a_model_knows_by_heart_is_right(tmp_path: Path) -> None:
    """Greedy answers are those that `generate` gives, decoded behind their prompts: all right, none truncated."""
    end = ["data.end_token='<end_of_turn>'"]
    config = compose([*OWN, *rows(tmp_path), *end, model(tmp_path / "model", ends=[2, 3])])
    lines = plan(config, survey(config))
    assert lines["tokens"] == (
        "BOS <s> before every row and document, <end_of_turn> ends what is trained, </s> also ends an answer; 13 of "
        f"{config_size(tmp_path)} ids are not the tokenizer's and are never sampled"
    )
    assert train(config, tmp_path / "run") == "completed"
    final = summary(tmp_path / "run")["final"]
    assert (final["eval/greedy"], final["eval/truncated_share"]) == (1.0, 0.0)
    answers = [json.loads(line) for line in (tmp_path / "run" / "answers.jsonl").read_text().splitlines()]
    assert {row["answer"] for row in answers if row["step"] == STEPS} == {f"    return {word}\n    b" for word in WORDS}
    exported = tmp_path / "run" / "model"
    assert GenerationConfig.from_pretrained(exported).eos_token_id == [3, 2]
    tokenizer, trained = AutoTokenizer.from_pretrained(exported), AutoModelForCausalLM.from_pretrained(exported)
    asked = tokenizer("a six:\n", return_tensors="pt", return_token_type_ids=False)
    said = trained.generate(**asked, max_new_tokens=23, do_sample=False, pad_token_id=0)
    assert tokenizer.decode(said[0]) == "<s> a six:\n    return six\n    b<end_of_turn>"


def config_size(folder: Path) -> int:
    return int(json.loads((folder / "model" / "config.json").read_text())["vocab_size"])


@pytest.mark.slow
def test_prompts_that_end_in_a_space_are_told_with_the_cure(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    pairs = [{"prompt": f"a {word}: ", "completion": "b a"} for word in WORDS]
    path.write_text("".join(json.dumps(pair) + "\n" for pair in pairs))
    config = compose([*OWN, f"data.path={path}", f"data.validation_path={path}", model(tmp_path / "model", [2])])
    warning = plan(config, survey(config))["warning"]
    assert warning.startswith("100% of the prompts end in a space that this tokenizer joins with the next word")
    (cure,) = re.findall(r"data\.border_space=\w+", warning)
    config = replace(config, data=replace(config.data, border_space=cure.partition("=")[2]))
    assert "warning" not in plan(config, survey(config))
