"""Checks before any weights are read, the families that branch attention refuses, and which weights the feature network
gets."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from transformers import (
    BloomConfig,
    CohereConfig,
    GenerationConfig,
    GPTNeoXConfig,
    LlamaConfig,
    MambaConfig,
    MistralConfig,
    MixtralConfig,
    Phi3Config,
    PhimoeConfig,
    PreTrainedConfig,
    RecurrentGemmaConfig,
    Starcoder2Config,
)

from ebft.cli.compose import compose
from ebft.config.schema import TrainConfig, UserError
from ebft.geometry.attention import RowContext
from ebft.models.branch_attention import ContextRef, branch_attention
from ebft.models.loading import (
    check_architecture,
    end_tokens,
    load_architecture,
    load_feature_network,
    load_policy,
    load_tokenizer,
    without_dropout,
)
from ebft.models.paths import model_path
from ebft.models.positions import position_limit
from ebft.models.self_check import self_check
from tests.debug_run import COMPOSER
from tests.helpers import GROUPED, LAYERS, LAYOUTS, SIZES, architecture, model_of, random_batch


@pytest.fixture
def config() -> TrainConfig:
    """Rows of 23 tokens, rollouts of 5: the longest begins at most one token before the end of the row."""
    sizes = [
        "data.sequence_length=23",
        "sampler.generate_length=5",
        "eval.horizons=[1,2,5]",
        "eval.context_length=7",
        "eval.stride=11",
    ]
    return COMPOSER.config(["model=debug", "features.feature_layers=[1,2]", "trainer.device=cpu", *sizes])


@pytest.fixture
def saved(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., str]:
    """Writes a model into a folder of its own and steps beside it, so that messages name a short path."""
    monkeypatch.chdir(tmp_path)

    def save(name: str = "there", changes: dict[str, object] | None = None, weights: bool = True, seed: int = 0) -> str:
        shape = architecture(**(changes or {}))
        if weights:
            model_of(shape, seed).save_pretrained(name)
        else:
            shape.save_pretrained(name)
        return name

    return save


def with_model(config: TrainConfig, path: str, init: str = "pretrained", **overrides: object) -> TrainConfig:
    return replace(config, model=replace(config.model, path=path, init=init, config_overrides=overrides))


def with_features(config: TrainConfig, **changes: object) -> TrainConfig:
    return replace(config, features=replace(config.features, **changes))


def refusal(call: Callable[[], object]) -> str:
    with pytest.raises(UserError) as caught:
        call()
    return str(caught.value)


# experts are multiplied in one kernel, which wants rows of whole 16 bytes
EXPERTS = GROUPED | {"pad_token_id": 0, "intermediate_size": 28, "num_local_experts": 3, "num_experts_per_tok": 2}


# Before any weights


def shape_of(**changes: object) -> PreTrainedConfig:
    return architecture(**changes)


def longrope(original: int) -> PreTrainedConfig:
    """Phi-3, whose head size of 4 has 2 frequencies."""
    factors = {"short_factor": [1.0, 1.1], "long_factor": [3.0, 5.0]}
    rope = {"rope_type": "longrope", "rope_theta": 100.0, **factors}
    shape = GROUPED | {"pad_token_id": 0, "original_max_position_embeddings": original}
    return Phi3Config(**shape, rope_parameters=rope)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("shape", "message"),
    [
        (
            shape_of(max_position_embeddings=22),
            "data.sequence_length=23 is over the 22 positions of model.path=tiny; shorten the rows.",
        ),
        (
            shape_of(max_position_embeddings=26),
            "Rollouts of 5 tokens at the end of data.sequence_length=23 reach over the 26 positions of "
            "model.path=tiny; "
            "shorten the rows or eval.horizons.",
        ),
        (
            shape_of(num_hidden_layers=1),
            "features.feature_layers holds 2, but the feature network has 1 layers; use 0 to 1.",
        ),
        (
            LlamaConfig(**GROUPED, layer_types=["full_attention", "linear_attention", "conv"]),
            "model.path=tiny has conv, linear_attention layers, which branch attention does not support.",
        ),
        (
            longrope(22),
            "data.sequence_length=23 is over the 22 original positions (of rope_type=longrope) of model.path=tiny; "
            "shorten the rows.",
        ),
        (
            longrope(26),
            "Rollouts of 5 tokens at the end of data.sequence_length=23 reach over the 26 original positions (of "
            "rope_type=longrope) of model.path=tiny; shorten the rows or eval.horizons.",
        ),
    ],
    ids=[
        "positions",
        "rollout positions",
        "taps",
        "layer types",
        "longrope",
        "longrope and rollouts",
    ],
)
def test_an_architecture_is_refused_by_name(config: TrainConfig, shape: PreTrainedConfig, message: str) -> None:
    assert refusal(lambda: check_architecture(shape, config, "cpu")) == message


@pytest.mark.parametrize(
    "shape",
    [
        shape_of(max_position_embeddings=27),
        GPTNeoXConfig(**SIZES),  # with the dropout of a classifier that no language model has
        MistralConfig(**GROUPED, sliding_window=3),
        longrope(27),
    ],
    ids=["positions just enough", "classifier dropout", "a window", "original positions just enough"],
)
def test_an_architecture_that_only_looks_alike_is_let_through(config: TrainConfig, shape: PreTrainedConfig) -> None:
    check_architecture(shape, config, "cpu")


def test_rollouts_shorter_than_every_horizon_begin_later(config: TrainConfig) -> None:
    """Anchors reach as far as the shortest rollout that is scored, and that may be the sampler's: 23 - 2 + 11 = 32
    positions."""
    short = replace(
        config, sampler=replace(config.sampler, generate_length=2), eval=replace(config.eval, horizons=[4, 11])
    )
    check_architecture(shape_of(max_position_embeddings=32), short, "cpu")
    assert "reach over the 31 positions" in refusal(
        lambda: check_architecture(shape_of(max_position_embeddings=31), short, "cpu")
    )


def test_a_path_without_a_model_is_refused(config: TrainConfig, tmp_path: Path) -> None:
    nothing = with_model(config, str(tmp_path))
    message = (
        f"model.path={tmp_path} has no config.json; name a folder in Hugging Face format, such as model/ in a run "
        "folder, or a hub id."
    )
    assert refusal(lambda: load_architecture(nothing.model)) == message
    assert refusal(lambda: load_tokenizer(nothing.model)) == message


def test_a_run_folder_stands_for_the_model_that_its_run_exported(
    config: TrainConfig, saved: Callable[..., str], tmp_path: Path
) -> None:
    run = tmp_path / "run"
    run.mkdir()
    (run / "config.yaml").touch()
    assert refusal(lambda: load_architecture(with_model(config, str(run)).model)) == (
        f"model.path={run} is a run folder without a model, which a run exports at its end; let it finish, or name "
        "another."
    )
    Path(saved()).rename(run / "model")
    assert model_path(str(run), "model.path") == str(run / "model")
    assert load_architecture(with_model(config, str(run)).model).model_type == "llama"


def test_a_path_that_does_not_exist_is_refused_without_asking_the_hub(config: TrainConfig) -> None:
    message = "model.path=./nowhere does not exist; name a folder with a model or a hub id such as Qwen/Qwen2.5-0.5B."
    assert refusal(lambda: load_architecture(with_model(config, "./nowhere").model)) == message


def test_a_model_without_a_tokenizer_is_refused(config: TrainConfig, saved: Callable[..., str]) -> None:
    path = saved(weights=False)
    assert load_architecture(with_model(config, path).model).model_type == "llama"
    assert refusal(lambda: load_tokenizer(with_model(config, path).model)).startswith(
        "model.path=there has no tokenizer that can be loaded: "
    )


def test_overrides_change_the_architecture_and_only_what_it_has(config: TrainConfig) -> None:
    assert load_architecture(with_model(config, "tiny", "random", num_hidden_layers=5).model).num_hidden_layers == 5
    message = refusal(lambda: load_architecture(with_model(config, "tiny", "random", num_layer=5).model))
    assert message.startswith("model.config_overrides.num_layer is not a setting of llama; its settings are ")
    assert "num_hidden_layers" in message


def test_an_override_of_the_wrong_type_is_refused(config: TrainConfig) -> None:
    message = refusal(lambda: load_architecture(with_model(config, "tiny", "random", hidden_size=48.5).model))
    assert message.startswith("model.config_overrides.hidden_size=48.5 has the wrong type: ")


def test_overrides_that_could_not_be_saved_are_refused_before_training(config: TrainConfig) -> None:
    message = refusal(lambda: load_architecture(with_model(config, "tiny", "random", hidden_size=7).model))
    assert message.startswith("model.config_overrides make no architecture that can be saved: The hidden size (7) is")
    message = refusal(lambda: load_architecture(with_model(config, "tiny", "random", num_hidden_layers=0).model))
    assert message.endswith("num_hidden_layers=0 in model.config_overrides; correct it, a model has from 1 to 1,000.")


def test_the_tiny_model_is_a_folder_of_the_package_and_every_other_path_is_taken_as_it_is() -> None:
    assert json.loads(Path(model_path("tiny", "model.path"), "config.json").read_text())["model_type"] == "llama"
    assert model_path("Qwen/Qwen2.5-0.5B", "model.path") == "Qwen/Qwen2.5-0.5B"


# Weights


def test_a_folder_without_whole_weights_is_refused(config: TrainConfig, saved: Callable[..., str]) -> None:
    """transformers fills missing weights with random ones and goes on."""
    there = with_model(config, saved(weights=False))
    load = lambda: load_policy(there, load_architecture(there.model), "cpu")  # noqa: E731
    assert refusal(load).startswith("model.path=there has no model.safetensors in its folder, nor other weights; ")
    Path("there/model.safetensors").write_bytes(b"cut off")
    assert (
        refusal(load)
        == "model.path=there is broken: its model.safetensors is no file of safetensors; replace it, or name another "
        "model."
    )
    saved(changes={"num_hidden_layers": 2})
    saved(weights=False)
    assert (
        refusal(load) == "model.path=there lacks 9 weights of its model, such as model.layers.2.input_layernorm.weight."
    )


@pytest.mark.slow
def test_loading_draws_weights_from_the_seed_alone_and_leaves_the_global_generator(config: TrainConfig) -> None:
    shape = load_architecture(config.model)
    torch.manual_seed(1)
    before = torch.get_rng_state()
    one = load_policy(config, shape, "cpu").model.state_dict()
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(2)
    again, other = (load_policy(replace(config, seed=seed), shape, "cpu").model.state_dict() for seed in (0, 1))
    assert all(torch.equal(one[name], again[name]) for name in one)
    assert not torch.equal(one["lm_head.weight"], other["lm_head.weight"])


@pytest.mark.slow
@pytest.mark.parametrize(
    ("shape", "name"),
    [
        (
            CohereConfig(**GROUPED | {"pad_token_id": 0}, logit_scale=0.25),
            "cohere",
        ),  # scales its logits behind the output head
        (
            BloomConfig(vocab_size=31, hidden_size=24, n_layer=3, n_head=6),
            "bloom",
        ),  # positions are in its attention scores
        (
            MambaConfig(vocab_size=31, hidden_size=24, num_hidden_layers=3, pad_token_id=0),
            "mamba",
        ),  # no attention at all
    ],
    ids=["cohere", "bloom", "mamba"],
)
def test_a_family_whose_branches_come_out_wrong_is_refused(
    config: TrainConfig, shape: PreTrainedConfig, name: str
) -> None:
    """A branch at the end of a row is a plain causal sequence, which families without branch attention passed; the one
    in the middle is not."""
    there = with_model(config, "there", "random")
    message = refusal(lambda: load_policy(there, shape, "cpu"))
    assert (
        message
        == f"model.path=there ({name}) gives other logits through branch attention than on its own; not supported."
    )


@pytest.mark.slow
@pytest.mark.parametrize(
    ("shape", "message"),
    [
        (
            MixtralConfig(**EXPERTS, router_jitter_noise=0.01),
            "model.path=there (mixtral) draws at random in training mode, in model.layers.0.mlp "
            "(MixtralSparseMoeBlock), so that rollouts and update cannot agree; router_jitter_noise=0.01 of "
            "its config.json may be the reason: try 0 in a copy.",
        ),
        (
            PhimoeConfig(**EXPERTS),
            "model.path=there (phimoe) draws at random in training mode, in model.layers.0.mlp.router "
            "(PhimoeTopKRouter), so that rollouts and update cannot agree; router_jitter_noise=0.01 of "
            "its config.json may be the reason: try 0 in a copy.",
        ),
        (
            Starcoder2Config(**GROUPED, residual_dropout=0.2),
            "model.path=there (starcoder2) draws at random in training mode, in model.layers.0.self_attn "
            "(Starcoder2Attention), so that rollouts and update cannot agree; residual_dropout=0.2 of its config.json "
            "may be the reason: try 0 in a copy.",
        ),
    ],
    ids=["jitter", "sampled experts", "dropout that nobody switched off"],
)
def test_randomness_in_training_mode_is_refused_and_named(
    config: TrainConfig, shape: PreTrainedConfig, message: str
) -> None:
    """Rollouts are drawn in evaluation mode and trained on in training mode: their log-probs were up to 3.2 nats
    apart."""
    there = with_model(config, "there", "random")
    assert refusal(lambda: load_policy(there, shape, "cpu")) == message
    load_feature_network(with_features(there, network="random"), shape, "cpu")  # which is never in training mode


def test_a_model_that_makes_its_masks_by_itself_is_not_guessed_at() -> None:
    """Its window would be in a mask that nobody reads."""
    heads, module = torch.ones(1, 1, 1, 1), torch.nn.Linear(1, 1)
    module.layer_idx, row = 0, ContextRef(RowContext.of(random_batch(LAYOUTS["plain"])))
    with pytest.raises(TypeError, match=r"^Linear makes its masks by itself$"):
        branch_attention(module, heads, heads, heads, None, scaling=1.0, context_ref=row)


def test_overrides_that_do_not_fit_together_are_refused(config: TrainConfig) -> None:
    there = with_model(config, "there", "random")
    message = refusal(lambda: load_policy(there, architecture(num_key_value_heads=5), "cpu"))
    assert message.startswith("model.path=there (llama) does not run under branch attention: ")


# The feature network


def weights_of(network: object) -> torch.Tensor:
    return network.decoder.module.layers[0].mlp.up_proj.weight  # type: ignore[attr-defined]


@pytest.mark.slow
def test_the_feature_network_is_the_policy_before_training_whatever_became_of_it(config: TrainConfig) -> None:
    shape = load_architecture(config.model)
    policy = load_policy(config, shape, "cpu")
    initial = weights_of(policy).clone()
    with torch.no_grad():
        for parameter in policy.model.parameters():
            parameter.add_(1)
    phi = load_feature_network(config, shape, "cpu")
    assert torch.equal(weights_of(phi), initial)
    assert len(phi.decoder.module.layers) == 2
    with torch.no_grad():
        policy.model.model.layers[0].mlp.up_proj.weight.add_(1)
    assert torch.equal(weights_of(phi), initial)
    assert len(policy.decoder.module.layers) == 4  # the policy is not cut with it


@pytest.mark.slow
@pytest.mark.parametrize("init", ["random", "pretrained"])
def test_cutting_the_feature_network_leaves_the_policy_whole(
    config: TrainConfig, saved: Callable[..., str], init: str
) -> None:
    """Both once shared one config object: cut with the feature network, it told the policy to run and train its lower
    layers only."""
    there = with_model(config, saved(), init)
    shape = load_architecture(there.model)
    policy, batch = load_policy(there, shape, "cpu"), random_batch(LAYOUTS["plain"])
    with torch.no_grad():
        before = policy.row_hidden(batch)
        load_feature_network(there, shape, "cpu")
        assert torch.equal(policy.row_hidden(batch), before)
    assert policy.model.config.num_hidden_layers == LAYERS
    policy.row_hidden(batch).sum().backward()
    assert all(parameter.grad is not None for parameter in policy.decoder.module.parameters())


def test_dropout_of_a_model_is_switched_off_and_told(config: TrainConfig, saved: Callable[..., str]) -> None:
    """A hub model's config.json is not the user's to change."""
    there = with_model(config, saved(changes={"attention_dropout": 0.125}))
    loaded = load_architecture(there.model)
    shape, dropout = without_dropout(loaded)
    assert dropout == {"attention_dropout": 0.125}
    assert loaded.attention_dropout == 0.125
    policy = load_policy(there, shape, "cpu")
    assert policy.model.config.attention_dropout == 0.0
    assert {layer.self_attn.attention_dropout for layer in policy.decoder.module.layers} == {0.0}
    assert without_dropout(GPTNeoXConfig(**SIZES))[1] == {}  # a classifier's, which no language model has


def test_the_check_at_loading_reaches_to_the_last_position() -> None:
    """Positions turn otherwise as soon as any token stands behind the original length: by one that no other token
    sees. Rows and completions stay in front of it, and the check finds out where they do not."""
    message = refusal(lambda: self_check(model_of(longrope(43)), "there", num_positions=44, is_trained=True))
    assert message == (
        "there (phi3) gives the first tokens of a text other logits where it reaches 44 tokens: its positions depend "
        "on the length of the whole, so that rollouts and update cannot agree; shorten rows and completions to the "
        "length that it was trained on first."
    )
    self_check(model_of(longrope(43)), "there", num_positions=43, is_trained=True)
    assert position_limit(longrope(43), "there").positions == 43
    dynamic = {"rope_type": "dynamic", "factor": 4.0, "rope_theta": 100.0}
    assert "reaches 65 tokens" in refusal(
        lambda: self_check(model_of(shape_of(rope_parameters=dynamic)), "there", num_positions=65, is_trained=True)
    )


def test_a_model_whose_layers_keep_another_state_than_keys_is_refused() -> None:
    """As RecurrentGemma's, whose config names no kind of layer."""
    shape = RecurrentGemmaConfig(**SIZES | {"num_hidden_layers": 2}, attention_window_size=8, lru_width=24)
    sentence = r"there \(recurrent_gemma\) does not run under branch attention: .*get_seq_length"
    with pytest.raises(UserError, match=sentence):
        self_check(model_of(shape), "there", num_positions=44, is_trained=True)


@pytest.mark.slow
def test_a_random_feature_network_has_the_architecture_and_weights_of_its_own(config: TrainConfig) -> None:
    shape = load_architecture(config.model)
    policy, phi = (
        load_policy(config, shape, "cpu"),
        load_feature_network(with_features(config, network="random"), shape, "cpu"),
    )
    assert weights_of(phi).shape == weights_of(policy).shape
    assert not torch.equal(weights_of(phi), weights_of(policy))


@pytest.mark.slow
def test_a_checkpoint_as_feature_network(config: TrainConfig, saved: Callable[..., str]) -> None:
    saved("policy", seed=1)
    saved("other", seed=2)
    both = with_features(with_model(config, "policy"), network="checkpoint", path="other")
    shape = load_architecture(both.model)
    check_architecture(shape, both, "cpu")
    phi = load_feature_network(both, shape, "cpu")
    assert torch.equal(weights_of(phi), model_of(architecture(), seed=2).model.layers[0].mlp.up_proj.weight)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"vocab_size": 37},
            "features.path=other has 37 tokens and model.path=policy 31; the feature network needs the policy's "
            "tokenizer.",
        ),
        (
            {"num_hidden_layers": 1},
            "features.feature_layers holds 2, but the feature network has 1 layers; use 0 to 1.",
        ),
        (
            {"max_position_embeddings": 19},
            "data.sequence_length=23 is over the 19 positions of features.path=other; shorten the rows.",
        ),
    ],
    ids=["vocabulary", "depth", "positions"],
)
def test_a_checkpoint_that_does_not_fit_is_refused(
    config: TrainConfig, saved: Callable[..., str], changes: dict[str, object], message: str
) -> None:
    saved("policy", weights=False)
    saved("other", changes, weights=False)
    both = with_features(with_model(config, "policy"), network="checkpoint", path="other")
    assert refusal(lambda: check_architecture(load_architecture(both.model), both, "cpu")) == message


def test_a_missing_checkpoint_names_its_own_key(config: TrainConfig, saved: Callable[..., str]) -> None:
    saved("policy", weights=False)
    both = with_features(with_model(config, "policy"), network="checkpoint", path="other")
    shape = load_architecture(both.model)
    assert refusal(lambda: check_architecture(shape, both, "cpu")).startswith(
        "features.path=other is no file or folder here, "
    )
    saved("other", weights=False)
    assert refusal(lambda: load_feature_network(both, shape, "cpu")).startswith(
        "features.path=other has no model.safetensors in its folder, nor other weights; "
    )


def test_what_ends_an_answer_is_read_from_the_models_own_files(tmp_path: Path) -> None:
    """Without a generation_config.json config.json says it, as for `generate`; one that cannot be read is named."""
    model, shape = replace(compose(["model=debug"]).model, path=str(tmp_path)), architecture(eos_token_id=[2, 5])
    shape.save_pretrained(tmp_path)
    assert end_tokens(model, shape) == [2, 5]
    GenerationConfig(eos_token_id=7).save_pretrained(tmp_path)
    assert end_tokens(model, shape) == [7]
    (tmp_path / "generation_config.json").write_text("{")
    assert refusal(lambda: end_tokens(model, shape)).startswith(f"{tmp_path}/generation_config.json cannot be read: ")
