"""Log-probs where they are wanted, and the cut feature network against the full one's hidden states (method.md sections
3 and 9)."""

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn
from transformers import Gemma2Config, GPT2Config, PreTrainedModel

from ebft.config.schema import UserError
from ebft.geometry.blocks import make_branches
from ebft.models import policy as policy_module
from ebft.models.feature_network import FeatureNetwork
from ebft.models.logprobs import TokenLogProbs, branch_labels, row_labels
from ebft.models.policy import LanguageModel
from ebft.rollout.completions import Decoding, complete, prompts_batch
from ebft.rollout.sampler import sample
from ebft.types import Batch
from tests.helpers import (
    GROUPED,
    LAYERS,
    LAYOUTS,
    VOCABULARY,
    T,
    architecture,
    blocks_of,
    context_of,
    existing,
    features,
    geometry,
    log_probs_alone,
    model_of,
    partly_the_row,
    phi_of,
    plain_model,
    policy_of,
    random_batch,
    random_draws,
    random_rollout,
)
from tests.reference import embed_loop


class Rows:
    """Counts the positions that pass the output head."""

    def __init__(self, head: nn.Module) -> None:
        self.counts: list[int] = []
        head.register_forward_pre_hook(lambda _, args: self.counts.append(args[0].flatten(0, -2).shape[0]))


# Log-probs


@pytest.mark.slow
def test_branch_and_row_labels_in_one_pass_each_at_its_own_temperature() -> None:
    batch, config = random_batch(LAYOUTS["plain"]), geometry()
    rollout, policy, plain = random_rollout(batch, config), policy_of(), plain_model()
    branches = make_branches(rollout.blocks, rollout.tokens[..., :-1])
    requests = branch_labels(batch, rollout, branches, 0.7), row_labels(batch)
    with torch.no_grad():
        generated, text = policy.log_probs(policy.flat_hidden(batch, branches), *requests)
    generated = rollout.like_tokens(generated)
    for b, k in existing(rollout.blocks):
        context = context_of(batch, b, int(rollout.blocks.anchors[b, k]))
        for n in range(config.n_samples):
            torch.testing.assert_close(
                generated[b, n, k], log_probs_alone(plain, context, rollout.tokens[b, n, k], 0.7), rtol=1e-5, atol=1e-5
            )
    for b in range(len(batch)):
        torch.testing.assert_close(
            text[b], log_probs_alone(plain, batch.tokens[b, :1], batch.tokens[b, 1:], 1.0), rtol=1e-5, atol=1e-5
        )


def test_logits_are_computed_only_where_a_wanted_token_is_predicted() -> None:
    """Rows of 4 and 2 blocks of 3 branches with 3 own predicting tokens, 4 + 36 and 2 + 18 positions; they have 22 and
    12 targets."""
    batch, config, policy = random_batch(LAYOUTS["padded"]), geometry(), policy_of()
    rollout = random_rollout(batch, config)
    assert rollout.blocks.valid.sum(1).tolist() == [4, 2]
    branches = make_branches(rollout.blocks, rollout.tokens[..., :-1])
    hidden, labels, head = (
        policy.flat_hidden(batch, branches),
        branch_labels(batch, rollout, branches, 0.7),
        Rows(policy.head),
    )
    policy.log_probs(hidden, labels)
    policy.log_probs(hidden, row_labels(batch))
    policy.log_probs(hidden, labels, row_labels(batch))
    assert head.counts == [40 + 20, 22 + 12, 22 + 36 + 12 + 18]


@pytest.mark.slow
@pytest.mark.parametrize("positions", [1, 7, 59])
def test_logits_in_chunks_give_the_same_log_probs_and_gradients(
    positions: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """60 positions predict wanted tokens; a chunk is recomputed on the way back, so that no more logits are ever
    held."""
    batch, config = random_batch(LAYOUTS["padded"]), geometry()
    rollout, draw = random_rollout(batch, config), torch.Generator().manual_seed(4)
    branches, results, gradients, head = make_branches(rollout.blocks, rollout.tokens[..., :-1]), [], [], []
    for elements in (policy_module.LOGITS_AT_A_TIME["cpu"], positions * VOCABULARY):
        monkeypatch.setitem(policy_module.LOGITS_AT_A_TIME, "cpu", elements)
        policy = policy_of()
        head.append(Rows(policy.head))
        labels = [branch_labels(batch, rollout, branches, 0.7), row_labels(batch)]
        log_probs = policy.log_probs(policy.flat_hidden(batch, branches), *labels)
        results.append([torch.where(each.wanted, found, 0) for each, found in zip(labels, log_probs, strict=True)])
        sum((found * torch.rand(found.shape, generator=draw.manual_seed(4))).sum() for found in results[-1]).backward()
        gradients.append([parameter.grad for parameter in policy.model.parameters()])
    torch.testing.assert_close(results[1], results[0], rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(gradients[1], gradients[0], rtol=1e-4, atol=1e-5)
    assert head[0].counts == [22 + 36 + 12 + 18]
    assert max(head[1].counts) == positions
    assert sum(head[1].counts) == 2 * 88


@pytest.mark.parametrize("temperature", [0.6, 1.0])
def test_log_probs_of_tokens_and_their_gradient(temperature: float) -> None:
    """Several tokens at one position, none at another."""
    draw = torch.Generator().manual_seed(8)
    logits, weight = torch.randn(3, 7, generator=draw).requires_grad_(), torch.randn(1, 5, generator=draw)
    place, tokens = torch.tensor([[0, 2, 2, 0, 2]]), torch.tensor([[6, 1, 1, 3, 5]])
    expected = (logits / temperature).log_softmax(-1)[place, tokens]
    found = TokenLogProbs.apply(logits, place, tokens, temperature)
    torch.testing.assert_close(found, expected)
    gradients = [torch.autograd.grad((weight * log_probs).sum(), logits)[0] for log_probs in (found, expected)]
    torch.testing.assert_close(*gradients)
    assert (gradients[0][1] == 0).all()


@pytest.mark.slow
def test_final_softcap_is_applied_before_the_softmax() -> None:
    settings = GROUPED | {
        "head_dim": 10,
        "pad_token_id": 0,
        "attn_logit_softcapping": None,
        "final_logit_softcapping": 3.0,
    }
    batch = random_batch(LAYOUTS["plain"])
    with torch.no_grad():
        expected = model_of(Gemma2Config(**settings))(input_ids=batch.tokens).logits
        policy = LanguageModel(model_of(Gemma2Config(**settings)), "fp32")
        torch.testing.assert_close(policy.logits(policy.row_hidden(batch)), expected, rtol=1e-5, atol=1e-5)
    assert expected.abs().max() > 1.5


def test_ids_that_the_tokenizer_does_not_have_are_in_no_softmax() -> None:
    """Log-probs, gradients, entropies and what is drawn are those of a model whose head has the other rows alone."""
    unknown = [3, 17, 29, 30]
    known = [token for token in range(VOCABULARY) if token not in unknown]
    policy = LanguageModel(plain_model(), "fp32", unknown=unknown)
    batch = replace(
        random_batch(LAYOUTS["plain"]), tokens=torch.tensor(known)[random_batch(LAYOUTS["plain"]).tokens % 27]
    )
    with policy.inference_mode():
        policy.logits(torch.zeros(1, 24))  # as an evaluation before the first step
    hidden = policy.row_hidden(batch)
    labels = row_labels(batch)
    (found,) = policy.log_probs(hidden, labels)
    logits = policy.head(hidden)[:, :-1, known].log_softmax(-1)
    place = torch.tensor([known.index(token) if token in known else 0 for token in range(VOCABULARY)])
    expected = logits.gather(-1, place[batch.tokens[:, 1:]][..., None]).squeeze(-1)
    torch.testing.assert_close(found[labels.wanted], expected[labels.wanted], rtol=1e-5, atol=1e-5)
    (gradient,) = torch.autograd.grad(found[labels.wanted].sum(), policy.head.weight, retain_graph=True)
    (by_hand,) = torch.autograd.grad(expected[labels.wanted].sum(), policy.head.weight)
    torch.testing.assert_close(gradient, by_hand, rtol=1e-4, atol=1e-5)
    assert not gradient[unknown].any()
    hot = geometry(n_samples=7, temperature=5.0)
    blocks = blocks_of(batch, hot)
    tokens = sample(policy, batch, blocks, random_draws(batch, blocks, hot), 5.0, (), reuse=True)[0].tokens
    assert not torch.isin(tokens, torch.tensor(unknown)).any()
    prompts = prompts_batch(batch.tokens[:, :5].tolist(), [0, 1])
    done = complete(policy, *prompts, 7, 11, Decoding(5.0, 1.0), "key", ())
    assert not torch.isin(done.rollout.tokens, torch.tensor(unknown)).any()
    assert done.entropies.isfinite().all()
    assert done.entropies.max() <= math.log(len(known)) + 1e-5


def test_evaluating_turns_dropout_and_gradients_off_and_training_on_again_even_after_an_interruption() -> None:
    """A signal during an evaluation once left the policy without dropout for the rest of the run."""
    policy = policy_of()
    policy.model.train()
    with policy.inference_mode():
        assert not policy.model.training
        assert not torch.is_grad_enabled()
    assert policy.model.training
    with pytest.raises(KeyboardInterrupt), policy.inference_mode():
        raise KeyboardInterrupt
    assert policy.model.training
    assert torch.is_grad_enabled()


@pytest.mark.slow
@pytest.mark.filterwarnings(
    "ignore:`gradient_checkpointing_enable` is deprecated"
)  # its new name is younger than the oldest transformers
def test_gradient_checkpointing_gives_the_same_gradient() -> None:
    batch, config = random_batch(LAYOUTS["documents"]), geometry()
    rollout = random_rollout(batch, config)
    branches = make_branches(rollout.blocks, rollout.tokens)
    whole, recomputed = policy_of(), policy_of()
    recomputed.model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    for policy in (whole, recomputed):
        policy.model.train()
        policy.flat_hidden(batch, branches).square().sum().backward()
    assert recomputed.decoder.module.layers[0].gradient_checkpointing
    for one, other in zip(whole.decoder.module.parameters(), recomputed.decoder.module.parameters(), strict=True):
        assert torch.equal(one.grad, other.grad)


def test_tokens_forwarded_counts_a_backward_as_two_forwards_and_a_cut_network_by_its_depth() -> None:
    batch, policy, phi = random_batch(LAYOUTS["plain"]), policy_of(), phi_of(feature_layers=[1])
    policy.row_hidden(batch)
    assert policy.decoder.tokens_forwarded == 3 * 2 * T
    with torch.no_grad():
        policy.row_hidden(batch)
    assert policy.decoder.tokens_forwarded == 4 * 2 * T
    phi.continuations(batch, random_rollout(batch, geometry()), reuse=False)
    assert phi.decoder.tokens_forwarded == pytest.approx(2 * (T + 4 * 3 * 4) / LAYERS)


# The feature network


def row_states(phi: FeatureNetwork, batch: Batch) -> Tensor:
    nothing = make_branches(
        random_rollout(batch, geometry()).blocks, torch.zeros(len(batch), 0, 0, 0, dtype=torch.long)
    )
    with torch.no_grad():
        return phi.hidden(batch, nothing)


@pytest.mark.slow
@pytest.mark.parametrize("taps", [[0], [1], [0, 2], [2, 1], [3], [0, 1, 2, 3]], ids=str)
@pytest.mark.parametrize("family", ["llama", "gpt_neox", "gemma"])
def test_taps_are_the_hidden_states_of_the_full_model(family: str, taps: list[int]) -> None:
    """0 is the embedding output; index L, and only it, has passed the final norm."""
    batch, phi = random_batch(LAYOUTS["plain"]), phi_of(family, feature_layers=taps)
    with torch.no_grad():
        states = plain_model(family)(input_ids=batch.tokens, output_hidden_states=True).hidden_states
    assert len(states) == LAYERS + 1
    torch.testing.assert_close(
        row_states(phi, batch), torch.stack([states[tap] for tap in taps], dim=2), rtol=1e-5, atol=1e-5
    )


@pytest.mark.parametrize("family", ["llama", "gpt_neox"])
def test_feature_network_keeps_no_layer_above_its_deepest_tap_and_no_head(family: str) -> None:
    model = plain_model(family)
    phi = FeatureNetwork(model, features(feature_layers=[1, 2]), "fp32")
    names = [name for name, _ in phi.decoder.module.named_parameters()]
    assert {name.split(".")[1] for name in names if name.startswith("layers")} == {"0", "1"}
    assert not [
        name for name in names if "head" in name or "embed_out" in name or name.startswith(("norm", "final_layer_norm"))
    ]
    assert phi.decoder.depth == 2 / 3
    assert not any(parameter.requires_grad for parameter in phi.decoder.module.parameters())
    assert not phi.decoder.module.training


def separate_features(
    model: PreTrainedModel, context: Tensor, continuation: Tensor, valid: Tensor, method: str, norm: str
) -> Tensor:
    with torch.no_grad():
        states = model(input_ids=torch.cat([context, continuation])[None], output_hidden_states=True).hidden_states
    hidden = torch.stack([states[1][0], states[2][0]], dim=1)[len(context) :]
    return embed_loop(hidden, valid, method, norm).float()


@pytest.mark.slow
@pytest.mark.parametrize("reuse", [False, True])
@pytest.mark.parametrize(
    ("method", "norm"), [("last_token", "joint"), ("mean_pooling", "per_layer"), ("concat", "none")]
)
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("family", ["llama", "gpt_neox"])
def test_features_equal_those_of_every_continuation_forwarded_alone(
    family: str, layout: str, method: str, norm: str, reuse: bool
) -> None:
    """Continuations that begin with the row's tokens, that are twins, and that end anywhere; one that is not there at
    all has zeros."""
    batch, config, plain = random_batch(LAYOUTS[layout]), geometry(n_samples=2), plain_model(family)
    rollout = partly_the_row(batch, random_rollout(batch, config))
    made = phi_of(family, embed_method=method, normalize=norm).embeddings(batch, rollout, reuse)
    for b, k in existing(rollout.blocks):
        anchor = int(rollout.blocks.anchors[b, k])
        context, reference = context_of(batch, b, anchor), batch.tokens[b, anchor : anchor + 4]
        expected = separate_features(plain, context, reference, torch.ones(4, dtype=torch.bool), method, norm)
        torch.testing.assert_close(made.reference[b, k], expected, rtol=1e-4, atol=1e-5)
        for n in range(2):
            expected = separate_features(plain, context, rollout.tokens[b, n, k], rollout.valid[b, n, k], method, norm)
            torch.testing.assert_close(made.rollout[b, n, k], expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_real_continuation_as_a_rollout_has_the_features_of_the_reference(layout: str) -> None:
    batch = random_batch(LAYOUTS[layout])
    rollout = random_rollout(batch, geometry())
    for b, k in existing(rollout.blocks):
        anchor = int(rollout.blocks.anchors[b, k])
        rollout.tokens[b, :, k] = batch.tokens[b, anchor : anchor + 4]
    made = phi_of().embeddings(batch, rollout, reuse=False)
    gap = (made.rollout - made.reference[:, None]).abs().transpose(1, 2)[rollout.blocks.valid]
    assert gap.max() < 1e-6


def test_bfloat16_features_keep_exact_rotary_frequencies() -> None:
    """Casting the whole module rounded the frequencies too: 0.2 % of the angle at position 1,000 is two radians."""
    phi = phi_of(dtype="bf16")
    torch.testing.assert_close(
        phi.decoder.module.rotary_emb.inv_freq, plain_model().base_model.rotary_emb.inv_freq, rtol=0, atol=0
    )
    assert {parameter.dtype for parameter in phi.decoder.module.parameters()} == {torch.bfloat16}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_bfloat16_features_are_near_those_of_float32(layout: str) -> None:
    batch = random_batch(LAYOUTS[layout])
    rollout = random_rollout(batch, geometry())
    exact, rough = (
        phi_of().embeddings(batch, rollout, reuse=False),
        phi_of(dtype="bf16").embeddings(batch, rollout, reuse=False),
    )
    assert rough.rollout.dtype == torch.float32
    cosine = (exact.rollout * rough.rollout).sum(-1).transpose(1, 2)[rollout.blocks.valid]
    assert cosine.min() > 0.99


def test_a_model_whose_layers_or_final_norm_are_elsewhere_is_refused() -> None:
    gpt2 = model_of(GPT2Config(vocab_size=VOCABULARY, n_embd=24, n_layer=3, n_head=4, bos_token_id=1, eos_token_id=2))
    with pytest.raises(
        UserError, match=r"^GPT2Model keeps its layers where ebft cannot tap them; use a Llama-like model\.$"
    ):
        FeatureNetwork(gpt2, features(), "fp32")
    odd = model_of(architecture())
    odd.model.final_layer_norm = nn.Identity()
    with pytest.raises(
        UserError,
        match=r"^LlamaModel has no final norm that ebft knows, so it cannot be cut at a tap; use a Llama-like model\.$",
    ):
        FeatureNetwork(odd, features(), "fp32")
