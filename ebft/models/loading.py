"""From a model config to tokenizer, policy and feature network, with every check that needs no weights made before any
are loaded."""

import re
from collections.abc import Sequence
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from huggingface_hub.errors import StrictDataclassError
from torch import nn
from transformers import (
    AutoConfig,
    AutoTokenizer,
    GenerationConfig,
    PreTrainedConfig,
    PreTrainedTokenizerBase,
)

from ebft.config.schema import (
    AdapterConfig,
    EvaluateConfig,
    FeaturesConfig,
    LoRAConfig,
    ModelConfig,
    TrainConfig,
    UserError,
)
from ebft.models.adapters import Adapters, fingerprint, target_modules
from ebft.models.feature_network import FeatureNetwork
from ebft.models.kernels import check_kernels, use_liger
from ebft.models.model_files import check_pickles, reading
from ebft.models.model_folder import check_described, check_folder, check_sizes, check_tokenizer, weights
from ebft.models.paths import model_path
from ebft.models.policy import LanguageModel
from ebft.models.positions import check_positions, num_positions, position_limit
from ebft.models.quantization import quantize, round_to_bfloat16
from ebft.models.self_check import self_check
from ebft.objective.features import tap_indices
from ebft.output.hub import check_on_hub

if TYPE_CHECKING:
    from transformers import PreTrainedModel

OTHER_HEADS = ("classifier_", "summary_")  # whose dropout a language model never reaches
LAYER_TYPES = {"full_attention", "sliding_attention"}


def load_tokenizer(config: ModelConfig) -> PreTrainedTokenizerBase:
    """The model's tokenizer. Raises UserError where there is none."""
    path = model_path(config.path, "model.path")
    check_tokenizer(Path(path), f"model.path={config.path}")
    with reading(f"model.path={config.path} has no tokenizer that can be loaded", "tokenizer_config.json"):
        tokenizer = AutoTokenizer.from_pretrained(
            path, revision=config.revision, trust_remote_code=config.trust_remote_code
        )
        tokenizer.get_vocab()
        tokenizer("a")  # as all texts are to be, with its own settings
    templates = tokenizer.chat_template
    named = templates if isinstance(templates, dict) else {"default": templates}
    for name, template in named.items():
        if not re.fullmatch(r"[\w-]+", str(name)) or not isinstance(template, str | None):
            raise UserError(
                f"model.path={config.path} has a chat template {name!r}, which could not be exported; name a model "
                "whose templates are texts with plain names."
            )
    return tokenizer


def end_tokens(config: ModelConfig, architecture: PreTrainedConfig) -> list[int]:
    """Tokens that end what the model says: those of its generation_config.json, and of its config.json where there is
    none."""
    path = model_path(config.path, "model.path")
    with reading(f"{path}/generation_config.json cannot be read", "generation_config.json"):
        try:
            ends = GenerationConfig.from_pretrained(path, revision=config.revision).eos_token_id
        except OSError:
            if (Path(path) / "generation_config.json").is_file():
                raise
            ends = architecture.to_dict().get("eos_token_id")
    found = ends if isinstance(ends, list) else [] if ends is None else [ends]
    if not all(isinstance(token, int) for token in found):
        raise UserError(f"model.path={config.path} has eos_token_id={ends}, which is no token's number; correct it.")
    return found


def unknown_tokens(architecture: PreTrainedConfig, tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """Ids that the model embeds and the tokenizer does not have."""
    return sorted(set(range(architecture.vocab_size)) - set(tokenizer.get_vocab().values()))


def load_architecture(config: ModelConfig, key: str = "model.path") -> PreTrainedConfig:
    """The model's configuration with `config_overrides` applied. Raises UserError where there is none, for one that
    this program cannot train, and for an override it does not have."""
    path, name = model_path(config.path, key), f"{key}={config.path}"
    check_on_hub(path, config.revision, key, "model")
    check_folder(Path(path), name, has_weights=False)
    with reading(f"{name} holds no model that can be loaded", "config.json"):
        check_described(PreTrainedConfig.get_config_dict(path, revision=config.revision)[0], name)
        architecture = AutoConfig.from_pretrained(
            path, revision=config.revision, trust_remote_code=config.trust_remote_code
        )
        check_sizes(architecture.to_dict(), name)
    known = architecture.to_dict()
    for name, value in config.config_overrides.items():
        if name not in known:
            raise UserError(
                f"model.config_overrides.{name} is not a setting of {architecture.model_type}; its settings are "
                f"{', '.join(known)}."
            )
        try:
            setattr(architecture, name, value)
        except StrictDataclassError as error:
            raise UserError(
                f"model.config_overrides.{name}={value} has the wrong type: {str(error).splitlines()[-1].strip()}."
            ) from error
    if config.config_overrides:
        check_sizes(architecture.to_dict(), f"{key}={config.path}", "model.config_overrides")
        try:
            architecture.validate()  # as saving does, when training was paid for
        except StrictDataclassError as error:
            raise UserError(
                "model.config_overrides make no architecture that can be saved: "
                f"{str(error).splitlines()[-1].strip().removeprefix('ValueError: ')}"
            ) from error
    return architecture


def check_architecture(architecture: PreTrainedConfig, config: TrainConfig, device: str) -> None:
    """Refuse, by name, what the geometry cannot run: too short positions, taps beyond the depth, unknown attention; and
    kernels that are not there."""
    check_kernels(config.trainer, architecture, f"model.path={config.model.path}", device)
    _check_network(architecture, f"model.path={config.model.path}", config)
    phi = architecture
    if config.features.network == "checkpoint":
        phi, name = feature_architecture(config, architecture)
        _check_network(phi, name, config)
        check_kernels(config.trainer, phi, name, device)
        if phi.vocab_size != architecture.vocab_size:
            raise UserError(
                f"features.path={config.features.path} has {phi.vocab_size} tokens and model.path={config.model.path} "
                f"{architecture.vocab_size}; "
                "the feature network needs the policy's tokenizer."
            )
    try:
        tap_indices(list(config.features.feature_layers), phi.num_hidden_layers)
    except ValueError as error:
        raise UserError(str(error)) from error


def _check_network(architecture: PreTrainedConfig, name: str, config: TrainConfig) -> None:
    check_positions(position_limit(architecture, name), config)
    types = set(architecture.to_dict().get("layer_types") or ())
    if types - LAYER_TYPES:
        raise UserError(
            f"{name} has {', '.join(sorted(types - LAYER_TYPES))} layers, which branch attention does not support."
        )


def without_dropout(architecture: PreTrainedConfig) -> tuple[PreTrainedConfig, dict[str, float]]:
    """The architecture with every dropout at 0, because rollouts and update must agree, and what it was where it was
    more."""
    dropout = {
        setting: value
        for setting, value in architecture.to_dict().items()
        if "drop" in setting and isinstance(value, float) and value and not setting.startswith(OTHER_HEADS)
    }
    without = deepcopy(architecture)
    for setting in dropout:
        setattr(without, setting, 0.0)
    return without, dropout


def without_storage(architecture: PreTrainedConfig, name: str, trust_remote_code: bool) -> "PreTrainedModel":
    """The model's modules with their shapes alone. Raises UserError where there is no such model."""
    from transformers import AutoModelForCausalLM

    what = f"{name} ({architecture.model_type}) is no causal language model that AutoModelForCausalLM loads"
    with reading(what, "config.json"), torch.device("meta"):
        return AutoModelForCausalLM.from_config(
            deepcopy(architecture), dtype=torch.float32, trust_remote_code=trust_remote_code
        )


def adapted_modules(config: TrainConfig, architecture: PreTrainedConfig) -> dict[str, nn.Linear]:
    """The linear modules that get adapters, by name and without storage; none where all weights are trained. Raises
    UserError for a target that the model does not have."""
    adapter, name = config.model.adapter, f"model.path={config.model.path}"
    if not isinstance(adapter, LoRAConfig):
        return {}
    return target_modules(without_storage(architecture, name, config.model.trust_remote_code), adapter, name)


def _feature_model(features: FeaturesConfig, model: ModelConfig) -> ModelConfig:
    assert features.path is not None
    return ModelConfig(features.path, None, "pretrained", {}, model.trust_remote_code, AdapterConfig("none"))


def feature_architecture(config: TrainConfig, architecture: PreTrainedConfig) -> tuple[PreTrainedConfig, str]:
    """The architecture of the feature network before it is cut, where `architecture` is the policy's, with the key
    that names its model."""
    if config.features.network != "checkpoint":
        return architecture, f"model.path={config.model.path}"
    return load_architecture(
        _feature_model(config.features, config.model), key="features.path"
    ), f"features.path={config.features.path}"


def check_weights(config: TrainConfig) -> None:
    """Raises UserError for folders without the weights of a model in them, or with more than tensors; loads none."""
    models = {"model.path": config.model}
    if config.features.network == "checkpoint":
        models["features.path"] = _feature_model(config.features, config.model)
    for key, model in models.items():
        if model.init == "pretrained":
            _check_weights(Path(model_path(model.path, key)), f"{key}={model.path}")


def _check_weights(folder: Path, name: str) -> None:
    check_folder(folder, name)
    if folder.is_dir():
        check_pickles(weights(folder, name), name)


def _load_model(
    config: ModelConfig, architecture: PreTrainedConfig, seed: int, key: str = "model.path"
) -> "PreTrainedModel":
    from transformers import AutoModelForCausalLM

    with torch.random.fork_rng(devices=[]):  # weights are drawn on the CPU
        torch.manual_seed(seed)
        own = deepcopy(architecture)  # a feature network is cut config and all
        if config.init == "random":
            with reading(f"{key}={config.path} describes no model that can be made", "config.json"):
                return AutoModelForCausalLM.from_config(
                    own, dtype=torch.float32, trust_remote_code=config.trust_remote_code
                )
        path = model_path(config.path, key)
        _check_weights(Path(path), f"{key}={config.path}")
        with reading(f"{key}={config.path} holds no weights that can be loaded", "config.json and weights"):
            model, report = AutoModelForCausalLM.from_pretrained(
                path,
                config=own,
                revision=config.revision,
                dtype=torch.float32,
                trust_remote_code=config.trust_remote_code,
                output_loading_info=True,
                ignore_mismatched_sizes=True,  # they are refused below, in one sentence
            )
    if report["mismatched_keys"]:
        weight, there, wanted = (str(part).removeprefix("torch.Size") for part in min(report["mismatched_keys"]))
        raise UserError(
            f"{key}={config.path} has weights of another shape than its config.json says: {weight} is {there}, not "
            f"{wanted}; correct its config.json, or name another model."
        )
    if report["missing_keys"]:  # transformers leaves them at random values
        raise UserError(
            f"{key}={config.path} lacks {len(report['missing_keys'])} weights of its model, such as "
            f"{min(report['missing_keys'])}."
        )
    return model


def load_policy(
    config: TrainConfig, architecture: PreTrainedConfig, device: str, unknown: Sequence[int] = ()
) -> LanguageModel:
    """The policy on `device`, without the `unknown` ids in its softmax, after a check that rows and branches give the
    logits of the model's own forward; in float32, but for the frozen base of adapters, which is rounded to
    `trainer.dtype` as a feature network is."""
    name, adapter, dtype = f"model.path={config.model.path}", config.model.adapter, config.trainer.dtype
    model = _load_model(config.model, architecture, config.seed)
    base = fingerprint(model) if isinstance(adapter, LoRAConfig) else None
    if isinstance(adapter, LoRAConfig) and adapter.quantize != "none":
        quantize(model)
    model.to(device)
    _prepare(model, name, config, is_trained=not isinstance(config, EvaluateConfig))
    adapters = None
    if isinstance(adapter, LoRAConfig) and base is not None:
        if dtype == "bf16":
            round_to_bfloat16(model)
        adapters = Adapters(model, base, adapter, name, config.seed + 2)
    policy = LanguageModel(model, dtype, adapters, unknown)
    if config.trainer.compile:
        policy.decoder.compile()
    return policy


def load_feature_network(config: TrainConfig, architecture: PreTrainedConfig, device: str) -> FeatureNetwork:
    """phi: the policy's initial weights (whatever the policy has become since), another checkpoint, or the policy's
    architecture at random."""
    source, key = config.model, "model.path"
    if config.features.network == "checkpoint":
        source, key = _feature_model(config.features, config.model), "features.path"
        architecture = load_architecture(source, key)
    elif config.features.network == "random":
        source = replace(source, init="random")
    seed = config.seed if config.features.network == "policy" else config.seed + 1
    model = _load_model(source, architecture, seed, key).to(device)
    _prepare(model, f"{key}={source.path}", config, is_trained=False)
    phi = FeatureNetwork(model, config.features, config.trainer.dtype)
    if config.trainer.compile:
        phi.decoder.compile()
    return phi


def shares_base(config: TrainConfig) -> bool:
    """Whether the feature network is the policy itself, without its adapters."""
    return isinstance(config.model.adapter, LoRAConfig) and config.features.network == "policy"


def feature_network_of(
    policy: LanguageModel, config: TrainConfig, architecture: PreTrainedConfig, device: str
) -> FeatureNetwork:
    """phi beside a policy: of its own weights where it has adapters to leave out, loaded otherwise."""
    if not shares_base(config):
        return load_feature_network(config, architecture, device)
    return FeatureNetwork(policy.model, config.features, config.trainer.dtype, policy.adapters)


def _prepare(model: "PreTrainedModel", name: str, config: TrainConfig, is_trained: bool) -> None:
    if config.trainer.liger:
        use_liger(model)
    self_check(model, name, num_positions(model.config, config), is_trained)
