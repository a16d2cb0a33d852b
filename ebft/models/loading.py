"""From a model config to tokenizer, policy and feature network, with every check that needs no weights made before any
are loaded."""

from collections.abc import Sequence
from copy import deepcopy
from dataclasses import replace
from pathlib import Path

import torch
from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError
from torch import nn
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    GenerationConfig,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from ebft.config.schema import (
    AdapterConfig,
    FeaturesConfig,
    LoRAConfig,
    ModelConfig,
    TrainConfig,
    TrainerConfig,
    UserError,
)
from ebft.geometry.blocks import make_branches
from ebft.models.adapters import ADAPTER_FILE, Adapters, fingerprint, target_modules
from ebft.models.feature_network import FeatureNetwork
from ebft.models.kernels import check_kernels, use_liger
from ebft.models.policy import LanguageModel
from ebft.models.quantization import quantize, round_to_bfloat16
from ebft.objective.features import tap_indices
from ebft.types import Batch, Blocks

TINY = Path(__file__).parents[1] / "assets" / "tiny"
OTHER_HEADS = ("classifier_", "summary_")  # whose dropout a language model never reaches
LAYER_TYPES = {"full_attention", "sliding_attention"}


def model_path(path: str, key: str) -> str:
    """`tiny` is the model shipped with the package; everything else is a folder or a hub id. UserError for a folder
    without a model."""
    if path == "tiny":
        return str(TINY)
    folder = Path(path)
    if (folder / ADAPTER_FILE).is_file():
        raise UserError(
            f"{key}={path} holds adapters, not a model; name one that has them merged, such as model/ in a run folder."
        )
    if folder.exists() and not (folder / "config.json").is_file():
        raise UserError(
            f"{key}={path} has no config.json; name a folder in Hugging Face format, such as model/ in a run folder, "
            "or a hub id."
        )
    if not folder.exists() and (path.startswith((".", "/", "~")) or path.count("/") > 1):
        raise UserError(
            f"{key}={path} does not exist; name a folder with a model or a hub id such as Qwen/Qwen2.5-0.5B."
        )
    return path


def load_tokenizer(config: ModelConfig) -> PreTrainedTokenizerBase:
    """The model's tokenizer. Raises UserError where there is none."""
    path = model_path(config.path, "model.path")
    try:
        return AutoTokenizer.from_pretrained(path, revision=config.revision, trust_remote_code=config.trust_remote_code)
    except (OSError, ValueError) as error:
        raise UserError(
            f"model.path={config.path} has no tokenizer that can be loaded: {_first_line(error)}"
        ) from error


def end_tokens(config: ModelConfig, architecture: PreTrainedConfig) -> list[int]:
    """Tokens that end what the model says: those of its generation_config.json, and of its config.json where there is
    none."""
    path = model_path(config.path, "model.path")
    try:
        ends = GenerationConfig.from_pretrained(path, revision=config.revision).eos_token_id
    except OSError:  # there is none
        ends = architecture.to_dict().get("eos_token_id")
    return ends if isinstance(ends, list) else [] if ends is None else [ends]


def unknown_tokens(architecture: PreTrainedConfig, tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """Ids that the model embeds and the tokenizer does not have."""
    return sorted(set(range(architecture.vocab_size)) - set(tokenizer.get_vocab().values()))


def load_architecture(config: ModelConfig, key: str = "model.path") -> PreTrainedConfig:
    """The model's configuration with `config_overrides` applied. Raises UserError where there is none, or for an
    override it does not have."""
    path = model_path(config.path, key)
    try:
        architecture = AutoConfig.from_pretrained(
            path, revision=config.revision, trust_remote_code=config.trust_remote_code
        )
    except (OSError, ValueError) as error:
        raise UserError(f"{key}={config.path} holds no model that can be loaded: {_first_line(error)}") from error
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
    return architecture


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0]


def check_architecture(architecture: PreTrainedConfig, config: TrainConfig, device: str) -> None:
    """Refuse, by name, what the geometry cannot run: too short positions, taps beyond the depth, dropout, unknown
    attention; and kernels that are not there."""
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
    settings = architecture.to_dict()
    room = config.data.sequence_length - config.eval.first_context(config.sampler.anchors)
    longest = max(length for length in (config.sampler.generate_length, *config.eval.horizons) if length <= room)
    _check_positions(settings, name, config, longest)
    for setting, value in settings.items():
        if "drop" in setting and value and not setting.startswith(OTHER_HEADS):
            raise UserError(
                f"{name} has {setting}={value}; rollouts and update must agree, so set it to 0 in config.json."
            )
    if settings.get("attn_logit_softcapping"):
        raise UserError(f"{name} caps its attention logits, which branch attention does not support.")
    types = set(settings.get("layer_types") or ())
    if types - LAYER_TYPES:
        raise UserError(
            f"{name} has {', '.join(sorted(types - LAYER_TYPES))} layers, which branch attention does not support."
        )
    window = settings.get("sliding_window")
    slides = "sliding_attention" in types if types else settings.get("use_sliding_window", True)
    if window and slides and config.data.sequence_length + longest > window:
        raise UserError(
            f"{name} has a sliding window of {window} tokens, shorter than "
            f"data.sequence_length={config.data.sequence_length} plus {longest} "
            "generated ones; shorten the rows."
        )


def _check_positions(settings: dict, name: str, config: TrainConfig, longest: int) -> None:
    length, limit = config.data.sequence_length, settings.get("max_position_embeddings")
    if limit is not None and length > limit:
        raise UserError(f"data.sequence_length={length} is over the {limit} positions of {name}; shorten the rows.")
    last_anchor = length - min(config.sampler.generate_length, *config.eval.horizons)
    if limit is not None and last_anchor + longest > limit:
        raise UserError(
            f"Rollouts of {longest} tokens at the end of data.sequence_length={length} reach over the {limit} "
            f"positions of {name}; "
            "shorten the rows or eval.horizons."
        )


def without_storage(architecture: PreTrainedConfig, name: str, trust_remote_code: bool) -> PreTrainedModel:
    """The model's modules with their shapes alone. Raises UserError where there is no such model."""
    try:
        with torch.device("meta"):
            return AutoModelForCausalLM.from_config(
                deepcopy(architecture), dtype=torch.float32, trust_remote_code=trust_remote_code
            )
    except ValueError as error:
        raise UserError(
            f"{name} ({architecture.model_type}) is no causal language model; choose one that AutoModelForCausalLM "
            "loads."
        ) from error


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


def _load_model(
    config: ModelConfig, architecture: PreTrainedConfig, seed: int, key: str = "model.path"
) -> PreTrainedModel:
    with torch.random.fork_rng(devices=[]):  # weights are drawn on the CPU
        torch.manual_seed(seed)
        if config.init == "random":
            own = deepcopy(architecture)  # from_config does not copy, and a feature network is cut config and all
            return AutoModelForCausalLM.from_config(
                own, dtype=torch.float32, trust_remote_code=config.trust_remote_code
            )
        try:
            model, report = AutoModelForCausalLM.from_pretrained(
                model_path(config.path, key),
                revision=config.revision,
                dtype=torch.float32,
                trust_remote_code=config.trust_remote_code,
                output_loading_info=True,
            )
        except (OSError, ValueError, RuntimeError, SafetensorError) as error:
            raise UserError(f"{key}={config.path} holds no weights that can be loaded: {_first_line(error)}") from error
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
    _prepare(model, name, config.trainer)
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
    _prepare(model, f"{key}={source.path}", config.trainer)
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


def _prepare(model: PreTrainedModel, name: str, trainer: TrainerConfig) -> None:
    if trainer.liger:
        use_liger(model)
    _verify(model, name)


def _verify(model: PreTrainedModel, name: str) -> None:
    """Compare a row and a branch in its middle with the model's own forward; raise UserError if the family needs more
    than ebft does.

    The branch repeats the row's tokens 4 to 6 behind its end, so that attention which is merely causal gives other
    logits there.
    """
    device = model.device
    row = (torch.arange(11, device=device) * 7 + 3)[None] % model.config.vocab_size
    mask = torch.ones_like(row, dtype=torch.bool)
    batch = Batch(row, torch.zeros_like(row), mask, mask, torch.zeros_like(row[:, 0]), masked=False)
    blocks = Blocks(torch.tensor([[4]], device=device), torch.ones(1, 1, dtype=torch.bool, device=device), (4,))
    model.eval()
    with torch.no_grad():
        try:
            separate = model(input_ids=row).logits.float()
            policy = LanguageModel(model, "fp32")
            logits = policy.logits(policy.flat_hidden(batch, make_branches(blocks, row[:, None, None, 4:7])))
        except (TypeError, RuntimeError) as error:
            raise UserError(
                f"{name} ({model.config.model_type}) does not run under branch attention: {_first_line(error)}"
            ) from error
    expected = torch.cat([separate, separate[:, 4:7]], dim=1)
    if not torch.allclose(logits, expected, rtol=1e-3, atol=1e-3 * float(expected.abs().max())):
        raise UserError(
            f"{name} ({model.config.model_type}) gives other logits through branch attention than on its own; not "
            "supported."
        )
