"""Low-rank adapters (Hu et al., arXiv 2106.09685): W x + s B A x in place of W x, with s = alpha / rank,
rank-stabilised alpha / sqrt(rank).

A and B alone are trained. With them off the model is its base, bit for bit: no copy of it is needed as feature network
or reference policy. B begins at 0, so training starts from the base. Only `peft` knows how; it is imported where a run
has adapters.
"""

import json
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from copy import deepcopy
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Int
from torch import Tensor, nn

from ebft.config.schema import LoRAConfig, UserError
from ebft.config.stored import text_of
from ebft.models.paths import ADAPTER_FILE
from ebft.models.quantization import linear_modules, unpacked
from ebft.parallel.fsdp import full_tensor
from ebft.parallel.world import SINGLE_PROCESS, World

if TYPE_CHECKING:
    from transformers import PreTrainedModel

BASE = "base"  # the fingerprint's name among the trained weights
BASE_FILE = "base.json"  # of a folder with adapters: the model that they were trained over
MEGATRON = "megatron.core"  # the module that peft imports for models of Megatron, unless a file names another
FROZEN, TRAINED = ".base_layer", ".lora_"  # what peft puts into the names of weights


def check_packages(config: LoRAConfig, device: str) -> None:
    """Raises UserError for packages that are not installed, and for quantization without a CUDA device."""
    if config.quantize != "none" and device != "cuda":
        raise UserError(
            f"model.adapter.quantize={config.quantize} needs a CUDA device, and this run is on the {device}; use "
            "model.adapter.quantize=none."
        )
    check_peft("model/adapter=lora")
    if config.quantize != "none" and find_spec("bitsandbytes") is None:
        raise UserError(
            f"model.adapter.quantize={config.quantize} needs bitsandbytes, which is not installed; pip install "
            "'ebft[qlora]'."
        )


def check_peft(what: str) -> None:
    if find_spec("peft") is None:
        raise UserError(f"{what} needs peft, which is not installed; pip install 'ebft[lora]'.")


def target_modules(model: "PreTrainedModel", config: LoRAConfig, name: str) -> dict[str, nn.Linear]:
    """The modules that `config.targets` means, by name. Raises UserError for a target that means none in the model
    `name`."""
    modules = linear_modules(model)
    if config.targets is None:
        return modules
    for target in config.targets:
        if not any(_is_named(module, target) for module in modules):
            there = sorted({module.rpartition(".")[2] for module in modules})
            raise UserError(
                f"model.adapter.targets names {target}, which no linear module in the layers of {name} is; there are "
                f"{', '.join(there)}."
            )
    return {
        module: linear
        for module, linear in modules.items()
        if any(_is_named(module, target) for target in config.targets)
    }


def _is_named(module: str, target: str) -> bool:
    return module == target or module.endswith(f".{target}")


class Adapters:
    """The adapters of a model, which they change in place."""

    def __init__(
        self, model: "PreTrainedModel", base: Int[Tensor, ""], config: LoRAConfig, name: str, seed: int
    ) -> None:
        """`base` is the model's fingerprint, `name` what people call it. Raises UserError as `target_modules`."""
        import peft
        from peft.tuners.lora import LoraLayer

        targets = list(target_modules(model, config, name))
        settings = peft.LoraConfig(
            r=config.rank,
            lora_alpha=config.alpha,
            lora_dropout=config.dropout,
            use_rslora=config.rslora,
            target_modules=config.targets or targets,
            task_type="CAUSAL_LM",
        )
        with torch.random.fork_rng(devices=[]), _quiet():  # weights are drawn on the CPU
            torch.manual_seed(seed)
            self._peft = peft.get_peft_model(model, settings)
        self.model = model
        self.layers: dict[str, Any] = {
            name: module for name, module in model.named_modules() if isinstance(module, LoraLayer)
        }
        self._base = base
        self.find()

    def find(self) -> None:
        """Take the trained weights that the model has now, which are others once it was sharded."""
        self.trained = nn.ParameterDict(
            {_key(name): weight for name, weight in self.model.named_parameters() if weight.requires_grad}
        )
        self.trained.register_buffer(BASE, self._base)

    @contextmanager
    def disabled(self) -> Iterator[None]:
        """The base alone, in evaluation mode; adapters and mode come back whatever happens."""
        was_training = self.model.training
        self.model.eval()
        try:
            self._switch(False)
            yield
        finally:
            self._switch(True)
            self.model.train(was_training)

    def _switch(self, on: bool) -> None:
        """Switches the adapters on or off, as peft's `enable_adapters`, which besides sets `requires_grad` of the
        weights that are there, shards or what was gathered from them."""
        for layer in self.layers.values():
            layer._disable_adapters = not on
            assert layer.disable_adapters != on, "peft has moved _disable_adapters; see tests/test_private_names.py"

    def weights(self) -> dict[str, Tensor]:
        """The adapters' weights, whole and on the CPU, by peft's names."""
        return {
            name: full_tensor(value.detach()).cpu()
            for name, value in self._peft.named_parameters()
            if value.requires_grad
        }

    def save(self, folder: Path, weights: dict[str, Tensor]) -> None:
        """Writes the adapters in peft's format, which `PeftModel.from_pretrained(base, folder)` loads."""
        self._peft.save_pretrained(folder, state_dict=weights, save_embedding_layers=False)

    @torch.no_grad()
    def merged(self, world: World = SINGLE_PROCESS) -> "PreTrainedModel | None":
        """A model of its own on the CPU, in float32, with W + s B A for weights; in the first process alone."""
        weights = {}
        for name, weight in self.model.named_parameters():
            owner = name.rpartition(".")[0].removesuffix(FROZEN)
            if TRAINED not in name:
                plain = unpacked(weight).float()
                is_adapted = owner in self.layers and name.endswith(f"{FROZEN}.weight")
                one_piece = full_tensor(plain + self.layers[owner].get_delta_weight("default") if is_adapted else plain)
                if world.is_rank_zero:
                    weights[name.replace(FROZEN, "")] = one_piece.cpu()
        if not world.is_rank_zero:
            return None
        with torch.device("meta"):
            model = type(self.model)(deepcopy(self.model.config))
        model.load_state_dict(weights, assign=True, strict=False)  # tied weights are there once
        model.tie_weights()
        for name, buffer in self.model.named_buffers():
            owner, _, own = name.rpartition(".")
            setattr(model.get_submodule(owner), own, buffer.cpu())
        model.generation_config = self.model.generation_config
        return model


def attach(model: "PreTrainedModel", folder: Path, source: str) -> None:
    """Adapters from a folder of peft's, which may be anybody's, where they were trained over this model, which is
    `source`. Raises UserError where they were not, and for files that peft cannot read."""
    check_peft(str(folder))
    import peft

    try:
        settings = json.loads(text_of(folder / ADAPTER_FILE))
        stored = json.loads(text_of(folder / BASE_FILE)) if (folder / BASE_FILE).is_file() else None
        path = settings["base_model_name_or_path"] if stored is None else stored["path"]
        named = path in (source, model.name_or_path)
        fits = named if stored is None else stored["fingerprint"] == int(fingerprint(model))
        module, kind = settings.get("megatron_core"), settings.get("peft_type")
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise UserError(f"{folder} holds no adapters that can be read; leave it out.") from error
    if not fits:
        raise UserError(
            f"{folder} holds adapters of {path}, and model.path={source} is another base; set model.path as it was "
            "there."
        )
    if kind not in [known.value for known in peft.PeftType]:
        raise UserError(f"{folder / ADAPTER_FILE} has peft_type={kind}, which peft does not know; leave it out.")
    if module not in (None, MEGATRON):
        raise UserError(f"{folder / ADAPTER_FILE} names a module to import, megatron_core={module}; take that out.")
    try:
        with _quiet():
            peft.PeftModel.from_pretrained(model, str(folder))
    except Exception as error:  # peft trusts these files, and throws what comes
        reason = str(error).strip().partition("\n")[0]
        raise UserError(
            f"{folder} holds no adapters that peft can load ({type(error).__name__}: {reason}); leave it out."
        ) from error


def is_of_adapters(weights: Mapping[str, Tensor]) -> bool:
    """Whether the trained weights in a checkpoint are those of adapters."""
    return BASE in weights


def same_base(there: Mapping[str, Tensor], here: Mapping[str, Tensor]) -> bool:
    """Whether trained weights of equal names, if they are adapters, are so over equal bases."""
    return not is_of_adapters(there) or torch.equal(there[BASE].cpu(), here[BASE].cpu())


@contextmanager
def _quiet() -> Iterator[None]:
    """Keeps silent the warning of transformers 5.23 that peft asks by an old name whether activations are
    recomputed."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="`is_gradient_checkpointing` is deprecated", category=FutureWarning)
        yield


def fingerprint(model: "PreTrainedModel") -> Int[Tensor, ""]:
    """A fingerprint of all weights: sums of their bit patterns, each with another factor. The same on every device,
    and another one wherever one weight differs."""
    sums = [(place + 1) * _bits(weight).sum(dtype=torch.int64) for place, weight in enumerate(model.parameters())]
    return torch.stack([value.cpu() for value in sums]).sum()


def _bits(weight: Tensor) -> Int[Tensor, "..."]:
    return weight.detach().view({1: torch.uint8, 2: torch.int16, 4: torch.int32}[weight.element_size()])


def _key(name: str) -> str:
    """Names in a ParameterDict have no dots."""
    return name.replace(".", "/")
