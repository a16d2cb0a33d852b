"""Kernels that a run may ask for: what they compute is the same, and where they are missing the run says so before it
starts."""

import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch._dynamo import lookup_backend
from torch.fx import GraphModule

from ebft.cli.compose import compose
from ebft.config.schema import TrainerConfig, UserError
from ebft.models.kernels import check_kernels, use_liger
from ebft.train.optimization import Optimization
from ebft.train.setup import prepare
from tests.debug_run import miniature
from tests.helpers import architecture, plain_model


def trainer(**changes: object) -> TrainerConfig:
    return replace(compose(["model=debug"]).trainer, **changes)


def refusal(device: str, **changes: object) -> str:
    with pytest.raises(UserError) as caught:
        check_kernels(trainer(**changes), architecture(), "model.path=there", device)
    return str(caught.value)


def steps(tmp_path: Path, *options: str) -> tuple[list[dict[str, float]], list[Tensor]]:
    """Three steps on different rows, with rollouts of other lengths in each."""
    setup = prepare(miniature(tmp_path, *options))
    optimization = Optimization(setup.material.config.optimizer, setup.policy, 10)
    figures = [optimization.step(setup.method, setup.batch([step, step + 3]), step, 2, None) for step in range(3)]
    return figures, [parameter.detach() for parameter in setup.policy.model.parameters()]


def differentiated(graph: GraphModule, inputs: list[Tensor]) -> Callable[..., Any]:
    """As `aot_eager` does, which takes a second for a graph, where there is a gradient; elsewhere as it was traced."""
    return lookup_backend("aot_eager" if torch.is_grad_enabled() else "eager")(graph, inputs)


@pytest.mark.slow
@pytest.mark.filterwarnings(
    "ignore:The .grad attribute of a Tensor that is not a leaf"
)  # torch's own look at it while it traces
@pytest.mark.parametrize(
    "options",
    [["method=ebft", "sampler.reuse=true"], ["method=sft", "trainer.gradient_checkpointing=true"]],
    ids=["branches", "checkpointed rows"],
)
def test_compiled_layers_take_the_same_steps(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: list[str]
) -> None:
    """Traced and differentiated as compiled layers are, but without a C++ compiler; phi's taps included."""
    options = [*options, "features.feature_layers=[1,2]"]
    expected, weights = steps(tmp_path, *options)
    compiled, compile_layer = list[nn.Module](), nn.Module.compile

    def traced(layer: nn.Module, **settings: object) -> None:
        compiled.append(layer)
        compile_layer(layer, backend=differentiated, **settings)

    monkeypatch.setattr(nn.Module, "compile", traced)
    found, others = steps(tmp_path, *options, "trainer.compile=true")
    assert len(compiled) == 4  # two of the policy, two of phi
    for one, other in zip(found, expected, strict=True):
        assert one == pytest.approx(other, rel=1e-4, abs=1e-6)
    torch.testing.assert_close(others, weights, rtol=1e-4, atol=1e-6)
    torch.compiler.reset()


@pytest.mark.slow
def test_compiling_on_a_cpu_needs_a_compiler(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    check_kernels(trainer(compile=True), architecture(), "model.path=there", "cuda")
    monkeypatch.delenv("CXX", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert refusal("cpu", compile=True) == (
        "trainer.compile=true needs a C++ compiler on the CPU, and the path has none; install g++ or use "
        "trainer.compile=false."
    )


@pytest.mark.slow
def test_liger_needs_cuda_and_the_package(monkeypatch: pytest.MonkeyPatch) -> None:
    assert (
        refusal("cpu", liger=True)
        == "trainer.liger=true needs a CUDA device, and this run is on the cpu; use trainer.liger=false."
    )
    monkeypatch.setitem(sys.modules, "liger_kernel", None)
    assert (
        refusal("cuda", liger=True)
        == "trainer.liger=true needs liger-kernel, which is not installed; pip install 'ebft[liger]'."
    )


@pytest.fixture
def applied(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, object]]:
    """What a package with the public names of liger-kernel's, which cannot be imported without triton, is asked to
    do."""
    asked: list[dict[str, object]] = []

    def llama(
        rope: bool, cross_entropy: bool, fused_linear_cross_entropy: bool, model: object, swiglu: bool = True
    ) -> None:
        asked.append({"model": model, "parts": (rope, cross_entropy, fused_linear_cross_entropy, swiglu)})

    def without_rotary_positions(cross_entropy: bool, fused_linear_cross_entropy: bool, model: object) -> None:
        asked.append({"model": model, "parts": (cross_entropy, fused_linear_cross_entropy)})

    package = ModuleType("liger_kernel.transformers.monkey_patch")
    monkeypatch.setattr(
        package,
        "MODEL_TYPE_TO_APPLY_LIGER_FN",
        {"llama": llama, "gemma": without_rotary_positions},
        raising=False,
    )
    for name in ("liger_kernel", "liger_kernel.transformers", package.__name__):
        monkeypatch.setitem(sys.modules, name, package)
    return asked


@pytest.mark.slow
def test_liger_is_refused_for_families_that_it_does_not_know(applied: list[dict[str, object]]) -> None:
    check_kernels(trainer(liger=True), architecture(), "model.path=there", "cuda")
    with pytest.raises(
        UserError, match=r"model\.path=there \(gpt_neox\) has no kernels in liger-kernel; use trainer\.liger=false\."
    ):
        check_kernels(trainer(liger=True), architecture("gpt_neox"), "model.path=there", "cuda")


@pytest.mark.parametrize(("family", "parts"), [("llama", (False, False, False, True)), ("gemma", (False, False))])
def test_liger_leaves_rotary_positions_and_the_head_alone(
    applied: list[dict[str, object]], family: str, parts: tuple[bool, ...]
) -> None:
    """A family whose function has no switch for one of them is not asked about it."""
    model = plain_model(family)
    use_liger(model)
    assert applied == [{"model": model, "parts": parts}]
