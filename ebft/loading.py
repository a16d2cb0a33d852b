"""From a model config to tokenizer, policy and feature network, with every check that needs no weights made before any are loaded."""

from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

from ebft.blocks import make_branches
from ebft.config import FeaturesConfig, ModelConfig, TrainConfig, UserError
from ebft.features import tap_indices
from ebft.models import FeatureNetwork, LanguageModel
from ebft.types import Batch, Blocks

TINY = Path(__file__).parent / "assets" / "tiny"
DROPOUTS = ("attention_dropout", "hidden_dropout", "resid_pdrop", "embd_pdrop", "attn_pdrop", "resid_dropout", "embedding_dropout")
LAYER_TYPES = {"full_attention", "sliding_attention"}


def model_path(path: str) -> str:
    """`tiny` is the model shipped with the package; everything else is a folder or a hub id."""
    return str(TINY) if path == "tiny" else path


def load_tokenizer(config: ModelConfig) -> PreTrainedTokenizerBase:
    """The model's tokenizer. Raises UserError where there is none."""
    try:
        return AutoTokenizer.from_pretrained(
            model_path(config.path), revision=config.revision, trust_remote_code=config.trust_remote_code
        )
    except (OSError, ValueError) as error:
        raise UserError(f"model.path={config.path} has no tokenizer that can be loaded: {_first_line(error)}") from error


def load_architecture(config: ModelConfig, key: str = "model.path") -> PreTrainedConfig:
    """The model's configuration with `config_overrides` applied. Raises UserError where there is none, or for an override it does not have."""
    try:
        architecture = AutoConfig.from_pretrained(
            model_path(config.path), revision=config.revision, trust_remote_code=config.trust_remote_code
        )
    except (OSError, ValueError) as error:
        raise UserError(f"{key}={config.path} holds no model that can be loaded: {_first_line(error)}") from error
    known = architecture.to_dict()
    for name, value in config.config_overrides.items():
        if name not in known:
            raise UserError(f"model.config_overrides.{name} is not a setting of {architecture.model_type}; its settings are {', '.join(known)}.")
        setattr(architecture, name, value)
    return architecture


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0]


def check_architecture(architecture: PreTrainedConfig, config: TrainConfig) -> None:
    """Refuse, by name, what the geometry cannot run: too short positions, taps beyond the depth, dropout, unknown attention."""
    settings = architecture.to_dict()
    longest = max(config.sampler.generate_length, *config.eval.horizons)
    _check_positions(settings, config)
    _check_taps(config, architecture)
    for name in DROPOUTS:
        if settings.get(name):
            raise UserError(f"model.path={config.model.path} has {name}={settings[name]}; rollouts and update must agree, so set it to 0.")
    if settings.get("attn_logit_softcapping"):
        raise UserError(f"model.path={config.model.path} caps its attention logits, which ebft does not support.")
    types = set(settings.get("layer_types") or ())
    if types - LAYER_TYPES:
        raise UserError(f"model.path={config.model.path} has {', '.join(sorted(types - LAYER_TYPES))} layers, which ebft does not support.")
    window = settings.get("sliding_window")
    slides = "sliding_attention" in types if types else settings.get("use_sliding_window", True)
    if window and slides and config.data.sequence_length + longest > window:
        raise UserError(
            f"model.path={config.model.path} has a sliding window of {window} tokens, shorter than data.sequence_length="
            f"{config.data.sequence_length} plus {longest} generated ones; shorten the rows."
        )


def _check_positions(settings: dict[str, Any], config: TrainConfig) -> None:
    length, limit = config.data.sequence_length, settings.get("max_position_embeddings")
    if limit is not None and length > limit:
        raise UserError(f"data.sequence_length={length} is over the {limit} positions of model.path={config.model.path}; shorten the rows.")


def _check_taps(config: TrainConfig, policy: PreTrainedConfig) -> None:
    architecture = policy
    if config.features.network == "checkpoint":
        architecture = load_architecture(_feature_model(config.features, config.model), key="features.path")
        if architecture.vocab_size != policy.vocab_size:
            raise UserError(
                f"features.path={config.features.path} has {architecture.vocab_size} tokens and model.path={config.model.path} {policy.vocab_size}; "
                "the feature network needs the policy's tokenizer."
            )
    try:
        tap_indices(list(config.features.feature_layers), architecture.num_hidden_layers)
    except ValueError as error:
        raise UserError(str(error)) from error


def _feature_model(features: FeaturesConfig, model: ModelConfig) -> ModelConfig:
    assert features.path is not None
    return ModelConfig(features.path, None, "pretrained", {}, model.trust_remote_code)


def _load_model(config: ModelConfig, architecture: PreTrainedConfig, seed: int) -> PreTrainedModel:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        if config.init == "random":
            return AutoModelForCausalLM.from_config(architecture, dtype=torch.float32, trust_remote_code=config.trust_remote_code)
        try:
            return AutoModelForCausalLM.from_pretrained(
                model_path(config.path), revision=config.revision, dtype=torch.float32, trust_remote_code=config.trust_remote_code
            )
        except (OSError, ValueError) as error:
            raise UserError(f"model.path={config.path} holds no weights that can be loaded: {_first_line(error)}") from error


def load_policy(config: TrainConfig, architecture: PreTrainedConfig, device: str) -> LanguageModel:
    """The policy in float32 on `device`, after a check that rows and branches give the logits of the model's own forward."""
    model = _load_model(config.model, architecture, config.seed).to(device)
    _verify(model, config.model.path)
    return LanguageModel(model, config.trainer.dtype)


def load_feature_network(config: TrainConfig, architecture: PreTrainedConfig, device: str) -> FeatureNetwork:
    """phi: the policy's initial weights (whatever the policy has become since), another checkpoint, or the policy's architecture at random."""
    source = config.model
    if config.features.network == "checkpoint":
        source = _feature_model(config.features, config.model)
        architecture = load_architecture(source, key="features.path")
    elif config.features.network == "random":
        source = ModelConfig(source.path, source.revision, "random", source.config_overrides, source.trust_remote_code)
    seed = config.seed if config.features.network == "policy" else config.seed + 1
    model = _load_model(source, architecture, seed)
    return FeatureNetwork(model.to(device), config.features, config.trainer.dtype)


def _verify(model: PreTrainedModel, path: str) -> None:
    """Compare a row and a branch with the model's own forward of the same tokens; raise UserError if the family needs more than ebft does."""
    device = model.device
    tokens = (torch.arange(11, device=device) * 7 + 3)[None] % model.config.vocab_size
    model.eval()
    with torch.no_grad():
        expected = model(input_ids=tokens).logits.float()
        row = tokens[:, :7]
        mask = torch.ones_like(row, dtype=torch.bool)
        batch = Batch(row, torch.zeros_like(row), mask, mask, torch.zeros_like(row[:, 0]), masked=False)
        blocks = Blocks(torch.tensor([[7]], device=device), torch.ones(1, 1, dtype=torch.bool, device=device), (7,))
        policy = LanguageModel(model, "fp32")
        logits = policy.logits(policy.flat_hidden(batch, make_branches(blocks, tokens[:, None, None, 7:])))
    if not torch.allclose(logits, expected, rtol=1e-3, atol=1e-3 * float(expected.abs().max())):
        raise UserError(f"model.path={path} ({model.config.model_type}) gives other logits through branch attention than on its own; not supported.")
