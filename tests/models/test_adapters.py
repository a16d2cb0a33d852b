"""Low-rank adapters: the base below them stays what it was, and serves as feature network and reference policy without
a copy."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from transformers import AutoModelForCausalLM

from ebft.config.methods import EBFTConfig
from ebft.config.schema import LoRAConfig, UserError
from ebft.geometry.blocks import make_branches
from ebft.methods.ebft import EBFT
from ebft.models import adapters as module
from ebft.models.adapters import BASE, Adapters, attach, check_packages, fingerprint, target_modules
from ebft.models.feature_network import FeatureNetwork
from ebft.models.policy import LanguageModel
from ebft.models.quantization import round_to_bfloat16
from ebft.types import Batch
from tests.helpers import (
    FAMILIES,
    LAYOUTS,
    features,
    geometry,
    optimiser_step,
    phi_of,
    plain_model,
    policy_of,
    random_batch,
    random_rollout,
)

peft = pytest.importorskip("peft")

LORA = LoRAConfig("lora", targets=None, rank=5, alpha=7.0, rslora=False, dropout=0.0, quantize="none")
METHOD = EBFTConfig(
    "ebft", rl_coef=1.0, ce_coef=0.3, alignment_coef=1.0, diversity_coef=1.0, advantage="rloo", reward=None
)
NAMES = "down_proj, gate_proj, k_proj, o_proj, q_proj, up_proj, v_proj"


def adapted(family: str = "llama", dtype: str = "fp32", seed: int = 0, **changes: object) -> LanguageModel:
    """A policy with adapters that have left 0."""
    model = plain_model(family, seed)
    base = fingerprint(model)
    if dtype == "bf16":
        round_to_bfloat16(model)
    policy = LanguageModel(model, dtype, Adapters(model, base, replace(LORA, **changes), "model.path=x", seed=3))
    move(policy)
    return policy


def move(policy: LanguageModel, seed: int = 11) -> None:
    """As far as training might."""
    draw = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for weight in policy.trained.parameters():
            weight.add_(0.2 * torch.randn(weight.shape, generator=draw))


def shared_phi(policy: LanguageModel, dtype: str = "fp32", **changes: object) -> FeatureNetwork:
    return FeatureNetwork(policy.model, features(**changes), dtype, policy.adapters)


def hidden_of(policy: LanguageModel, batch: Batch) -> Tensor:
    with torch.no_grad():
        return policy.row_hidden(batch)


# The base below the adapters


@pytest.mark.slow
@pytest.mark.parametrize("taps", [[1, 2], [0], [3], [2, 3]])
@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
def test_features_are_a_frozen_copy_s_bit_for_bit(dtype: str, taps: list[int]) -> None:
    """Before and after the adapters moved, with other layers above the taps."""
    batch, config = random_batch(LAYOUTS["documents"]), geometry()
    policy, copy = adapted(dtype=dtype), phi_of(dtype=dtype, feature_layers=taps)
    rollout, phi = random_rollout(batch, config), shared_phi(policy, dtype, feature_layers=taps)
    expected = copy.continuations(batch, rollout, reuse=True)
    for _ in range(2):
        found = phi.continuations(batch, rollout, reuse=True)
        assert all(torch.equal(mine, theirs) for mine, theirs in zip(found, expected, strict=True))
        move(policy)
    assert phi.decoder.tokens_forwarded == 2 * copy.decoder.tokens_forwarded > 0
    assert not torch.equal(hidden_of(policy, batch), hidden_of(policy_of(dtype=dtype), batch))


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
def test_in_every_family(family: str) -> None:
    batch = random_batch(LAYOUTS["plain"])
    rollout, policy = random_rollout(batch, geometry()), adapted(family)
    found, expected = (
        shared_phi(policy).embeddings(batch, rollout, reuse=False),
        phi_of(family).embeddings(batch, rollout, reuse=False),
    )
    assert torch.equal(found.rollout, expected.rollout)
    assert torch.equal(found.reference, expected.reference)


def test_cutting_the_shared_network_leaves_the_policy_whole() -> None:
    policy, batch = adapted(), random_batch(LAYOUTS["plain"])
    before = hidden_of(policy, batch)
    phi = shared_phi(policy, feature_layers=[1])
    assert (
        len(phi.decoder.module.layers),
        len(policy.decoder.module.layers),
        policy.model.config.num_hidden_layers,
    ) == (1, 3, 3)
    assert phi.decoder.module.layers[0] is policy.decoder.module.layers[0]
    assert torch.equal(hidden_of(policy, batch), before)


@pytest.mark.slow
def test_the_reference_is_the_base_and_counts_its_own_tokens() -> None:
    policy, plain, batch = adapted(), policy_of(), random_batch(LAYOUTS["padded"])
    reference, rollout = policy.base(), random_rollout(batch, geometry())
    branches = make_branches(rollout.blocks, rollout.tokens[..., :-1])
    with torch.no_grad():
        assert torch.equal(reference.flat_hidden(batch, branches), plain.flat_hidden(batch, branches))
    assert (reference.decoder.tokens_forwarded, policy.decoder.tokens_forwarded) == (plain.decoder.tokens_forwarded, 0)


def test_adapters_and_mode_come_back_whatever_happens() -> None:
    policy, batch = adapted(), random_batch(LAYOUTS["plain"])
    assert policy.adapters is not None
    before = hidden_of(policy, batch)
    policy.model.train()
    with pytest.raises(IndexError), torch.inference_mode(), policy.adapters.disabled():
        [policy.model.training].pop(1)
    assert policy.model.training
    assert all(weight.requires_grad for weight in policy.trained.parameters())
    assert torch.equal(hidden_of(policy, batch), before)


def test_a_switch_that_peft_no_longer_reads_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    """It would leave the adapters on in silence, and the feature network would move with the policy."""
    policy = adapted()
    assert policy.adapters is not None
    with policy.adapters.disabled():
        assert all(layer.disable_adapters for layer in policy.adapters.layers.values())
    assert not any(layer.disable_adapters for layer in policy.adapters.layers.values())
    monkeypatch.setattr(peft.tuners.tuners_utils.BaseTunerLayer, "disable_adapters", False)
    with pytest.raises(AssertionError, match="peft has moved _disable_adapters"), policy.adapters.disabled():
        pass


def storages(*modules: nn.Module) -> int:
    """Bytes of the different tensors that modules hold."""
    held = {
        weight.untyped_storage().data_ptr(): weight.untyped_storage().nbytes()
        for module in modules
        for weight in module.parameters()
    }
    return sum(held.values())


def test_policy_features_and_reference_hold_one_copy_of_the_base() -> None:
    policy = adapted()
    phi, reference = shared_phi(policy), policy.base()
    base, trained = storages(plain_model()), storages(policy.trained)
    assert storages(policy.model, phi.decoder.module, reference.model) == base + trained
    assert trained < base / 2


# Training


@pytest.mark.slow
def test_adapters_alone_are_trained() -> None:
    policy = adapted()
    named = {name for name, weight in policy.model.named_parameters() if weight.requires_grad}
    assert len(named) == 2 * 7 * 3 == len(list(policy.trained.parameters()))
    assert all(".lora_" in name for name in named)


def method_of(policy: LanguageModel) -> EBFT:
    return EBFT(METHOD, geometry(), policy, shared_phi(policy), seed=6, stop_tokens=())


def gradients(policy: LanguageModel, **options: int) -> dict[str, Tensor]:
    policy.model.train()
    _, _, found = optimiser_step(method_of(policy), random_batch(LAYOUTS["plain"]), **{"size": 2, **options})
    return {name: gradient for name, gradient in found.items() if gradient is not None}


@pytest.mark.slow
@pytest.mark.parametrize("targets", [None, ["q_proj"], ["2.mlp.up_proj"]], ids=["all", "queries", "one"])
def test_the_gradient_is_the_same_however_a_step_is_cut(targets: list[str] | None) -> None:
    """Group by group over the row's keys and values too, which with adapters of queries alone need no gradient in the
    first layer."""
    whole, cut = gradients(adapted(targets=targets)), gradients(adapted(targets=targets), size=1, max_tokens=31)
    assert whole.keys() == cut.keys()
    assert all(".lora_" in name for name in whole)
    for name, gradient in whole.items():
        assert gradient.abs().sum() > 0
        torch.testing.assert_close(cut[name], gradient, rtol=1e-4, atol=1e-6)


@pytest.mark.slow
@pytest.mark.filterwarnings(
    "ignore:`gradient_checkpointing_enable` is deprecated"
)  # its new name is younger than the oldest transformers
def test_recomputed_activations_give_the_same_gradient() -> None:
    """The reentrant kind would give none: what goes into the layers needs no gradient."""
    policy = adapted()
    policy.model.gradient_checkpointing_enable({"use_reentrant": False})
    whole, recomputed = gradients(adapted()), gradients(policy)
    assert whole.keys() == recomputed.keys() != set()
    for name, gradient in whole.items():
        torch.testing.assert_close(recomputed[name], gradient, rtol=1e-5, atol=1e-7)


@pytest.mark.slow
def test_adapters_are_drawn_from_the_seed_alone_and_begin_at_the_base() -> None:
    def drawn(seed: int) -> Adapters:
        model = plain_model()
        return Adapters(model, fingerprint(model), LORA, "model.path=x", seed)

    state = torch.get_rng_state()
    one, again, other = (drawn(seed) for seed in (3, 3, 4))
    assert torch.equal(torch.get_rng_state(), state)
    pairs = list(zip(one.trained.parameters(), again.trained.parameters(), other.trained.parameters(), strict=True))
    assert all(torch.equal(a, b) for a, b, _ in pairs)
    assert any(not torch.equal(a, c) for a, _, c in pairs)
    batch = random_batch(LAYOUTS["plain"])
    assert torch.equal(hidden_of(LanguageModel(one.model, "fp32", one), batch), hidden_of(policy_of(), batch))


@pytest.mark.parametrize(("rslora", "scale"), [(False, 7 / 5), (True, 7 / 5**0.5)])
def test_the_scale(rslora: bool, scale: float) -> None:
    policy = adapted(rslora=rslora, targets=["o_proj"])
    assert policy.adapters is not None
    trained, layer = dict(policy.model.named_parameters()), "model.layers.1.self_attn.o_proj"
    down, up = (trained[f"{layer}.lora_{side}.default.weight"] for side in "AB")
    weight = policy.adapters.merged().get_parameter(f"{layer}.weight")
    torch.testing.assert_close(weight, trained[f"{layer}.base_layer.weight"] + scale * up @ down)


# Targets


def test_targets_are_ends_of_names() -> None:
    model = plain_model()
    assert len(target_modules(model, LORA, "x")) == 7 * 3
    found = target_modules(model, replace(LORA, targets=["q_proj", "0.mlp.up_proj", "model.layers.2.mlp.up_proj"]), "x")
    assert list(found) == [
        "model.layers.0.self_attn.q_proj",
        "model.layers.0.mlp.up_proj",
        "model.layers.1.self_attn.q_proj",
        "model.layers.2.self_attn.q_proj",
        "model.layers.2.mlp.up_proj",
    ]


@pytest.mark.parametrize("target", ["proj", "lm_head", "embed_tokens", "input_layernorm", "query_key_value"])
def test_a_target_that_is_no_linear_module_is_refused_with_those_that_are(target: str) -> None:
    with pytest.raises(UserError) as caught:
        target_modules(plain_model(), replace(LORA, targets=["q_proj", target]), "model.path=x")
    assert str(caught.value) == (
        f"model.adapter.targets names {target}, which no linear module in the layers of model.path=x is; "
        f"there are {NAMES}."
    )


# Export


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
def test_merged_weights_give_the_logits_of_the_adapters(family: str) -> None:
    policy, batch = adapted(family), random_batch(LAYOUTS["plain"])
    assert policy.adapters is not None
    merged = LanguageModel(policy.adapters.merged(), "fp32")
    assert merged.model.state_dict().keys() == plain_model(family).state_dict().keys()
    with torch.no_grad():
        expected, found = (model.logits(model.row_hidden(batch)) for model in (policy, merged))
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
    assert not torch.allclose(found, policy_of(family).logits(hidden_of(policy_of(family), batch)), atol=1e-2)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated")  # peft asks by an old name
@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
def test_both_exports_load_with_plain_transformers_and_peft(tmp_path: Path, dtype: str, tied: bool) -> None:
    model, tokens = plain_model(tie_word_embeddings=tied), torch.arange(17)[None]
    if dtype == "bf16":
        round_to_bfloat16(model)
    model.save_pretrained(tmp_path / "base")
    own = Adapters(model, fingerprint(model), LORA, "model.path=x", seed=3)
    move(LanguageModel(model, dtype, own))
    own.merged().save_pretrained(tmp_path / "model")
    own.save(tmp_path / "adapter", own.weights())
    merged = AutoModelForCausalLM.from_pretrained(tmp_path / "model")
    base = AutoModelForCausalLM.from_pretrained(tmp_path / "base", dtype=torch.float32)
    with torch.no_grad():
        logits = merged(input_ids=tokens).logits
        before = base(input_ids=tokens).logits
        loaded = peft.PeftModel.from_pretrained(base, tmp_path / "adapter")(input_ids=tokens).logits
    assert merged.dtype == torch.float32
    torch.testing.assert_close(logits, loaded, rtol=1e-4, atol=1e-4)
    assert (logits - before).abs().max() > 0.1
    assert ("lm_head.weight" in load_file(tmp_path / "model" / "model.safetensors")) != tied


# Another base


def test_a_fingerprint_tells_models_apart() -> None:
    one = plain_model()
    swapped, nudged = plain_model(), plain_model()
    with torch.no_grad():
        first, second = swapped.model.layers[0].mlp.up_proj.weight, swapped.model.layers[0].mlp.gate_proj.weight
        first.data, second.data = second.data, first.data
        nudged.lm_head.weight[3, 5] = nudged.lm_head.weight[3, 5].nextafter(torch.tensor(9.0))
    prints = [int(fingerprint(model)) for model in (one, plain_model(), swapped, nudged, plain_model(seed=1))]
    assert prints[0] == prints[1]
    assert len({*prints}) == 4


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Adapters as peft writes them."""
    policy = adapted()
    assert policy.adapters is not None
    policy.adapters.save(tmp_path / "adapter", policy.adapters.weights())
    return tmp_path / "adapter"


@pytest.mark.slow
def test_adapters_are_attached_to_their_base_alone(folder: Path) -> None:
    policy, batch = adapted(), random_batch(LAYOUTS["plain"])
    number = int(policy.trained.get_buffer(BASE))
    (folder / "base.json").write_text(f'{{"path": "mine", "fingerprint": {number}}}')
    fresh = policy_of()
    attach(fresh.model, folder, "another name of it")
    assert torch.equal(hidden_of(fresh, batch), hidden_of(policy, batch))
    with pytest.raises(
        UserError,
        match=r"adapter holds adapters of mine, and model\.path=other is another base; "
        r"set model\.path as it was there\.$",
    ):
        attach(plain_model(seed=1), folder, "other")


def test_without_a_fingerprint_the_base_s_name_counts(folder: Path) -> None:
    config = folder / "adapter_config.json"
    config.write_text(
        config.read_text().replace('"base_model_name_or_path": null', '"base_model_name_or_path": "org/small"')
    )
    attach(plain_model(), folder, "org/small")
    with pytest.raises(UserError, match=r"holds adapters of org/small, and model\.path=org/large is another base"):
        attach(plain_model(), folder, "org/large")


# Packages and devices


def test_what_is_not_installed_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    missing = {"peft"}
    monkeypatch.setattr(module, "find_spec", lambda name: None if name in missing else name)
    with pytest.raises(
        UserError, match=r"^model/adapter=lora needs peft, which is not installed; pip install 'ebft\[lora\]'\.$"
    ):
        check_packages(LORA, "cpu")
    missing.clear()
    check_packages(LORA, "cpu")
    missing.add("bitsandbytes")
    with pytest.raises(
        UserError,
        match=r"^model\.adapter\.quantize=nf4 needs bitsandbytes, which is not installed; "
        r"pip install 'ebft\[qlora\]'\.$",
    ):
        check_packages(replace(LORA, quantize="nf4"), "cuda")


def test_quantization_on_a_cpu_is_refused() -> None:
    with pytest.raises(UserError) as caught:
        check_packages(replace(LORA, quantize="nf4"), "cpu")
    assert str(caught.value) == (
        "model.adapter.quantize=nf4 needs a CUDA device, and this run is on the cpu; use model.adapter.quantize=none."
    )
