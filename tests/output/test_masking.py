"""Secrets in configurations and on command lines."""

import pytest

from ebft.output.masking import masked, without_secrets


def test_secrets_are_hidden_and_other_keys_stay() -> None:
    config = {
        "api_key": "a",
        "HF_TOKEN": "b",
        "hub": {"password": "c", "path": "https://me:secret@example.org/data", "token": None},
        "loss_tokens": "all",
        "num_key_value_heads": 2,
        "data": {"end_token": "<|im_end|>", "sets": {"a": {"end_token": "</s>"}}},  # a text, which a run goes on with
        "BACKEND_TOKEN": "d",
        "urls": ["s3://id:secret@bucket/x", 3],
    }
    assert without_secrets(config) == {
        "api_key": "***",
        "HF_TOKEN": "***",
        "hub": {"password": "***", "path": "https://***@example.org/data", "token": None},
        "loss_tokens": "all",
        "num_key_value_heads": 2,
        "data": {"end_token": "<|im_end|>", "sets": {"a": {"end_token": "</s>"}}},
        "BACKEND_TOKEN": "***",
        "urls": ["s3://***@bucket/x", 3],
    }


@pytest.mark.parametrize(
    ("argument", "shown"),
    [
        ("HF_TOKEN=hush", "HF_TOKEN=***"),
        ("hydra.job.env_set.PAT=hush", "hydra.job.env_set.PAT=***"),
        ("+hydra.job.env_set={A: hush, B: 'hu sh'}", "+hydra.job.env_set=***"),
        ("hydra.job={env_set:{A:hush},name:x}", "hydra.job={env_set:***,name:x}"),
        (
            "x={token: hush, a: 1, api_key: \"hu,}sh\", 'password': 'hush'}",
            "x={token: ***, a: 1, api_key: ***, 'password': ***}",
        ),
        ("x=[{secret: [hush, hush]}]", "x=[{secret: ***}]"),
        ("x={loss_tokens: all, keys: 2}", "x={loss_tokens: all, keys: 2}"),
        ("data.loss_tokens=all", "data.loss_tokens=all"),
        ("data.end_token=<|im_end|>", "data.end_token=<|im_end|>"),
        ("data={end_token: x, backend_token: hush}", "data={end_token: x, backend_token: ***}"),
        ("data.path=https://hush@host/x", "data.path=https://***@host/x"),
        ("data.path=https://me:hu@sh/hu/sh@host/x", "data.path=https://***@host/x"),
        ("data.path=https:/me:hu@sh/hu/sh@host/x", "data.path=https:/***@host/x"),  # as a Path has it
        ("data.path=https://host/x/y@main", "data.path=https://host/x/y@main"),
        ("https://me:hush@host", "https://***@host"),
        ("--multirun", "--multirun"),
    ],
)
def test_a_command_line_is_kept_without_its_secrets(argument: str, shown: str) -> None:
    assert masked(argument) == shown
