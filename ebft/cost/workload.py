"""How large an optimiser step is: the network's widths and the tokens of a micro-batch. Memory and floating-point
operations follow from it."""

from dataclasses import dataclass, replace

FLOAT, HALF = 4, 2  # bytes of a number


@dataclass(frozen=True)
class Network:
    """Widths and exact numbers of parameters of a stack of layers; `query` and `key` are the widths of all their heads
    together."""

    layers: int
    hidden: int
    intermediate: int
    heads: int
    query: int
    key: int
    vocabulary: int
    parameters: int
    layer_parameters: int

    def cut(self, layers: int) -> int:
        """Parameters of the embedding and of the first `layers` layers."""
        return self.vocabulary * self.hidden + layers * self.layer_parameters


@dataclass(frozen=True)
class Workload:
    """A micro-batch as its config announces it, and how it is computed."""

    network: Network
    adapters: int  # parameters of adapters, over a frozen base; 0: all weights are trained
    adapter_inputs: float  # widths, for a token and layer, of what the adapters' two matrices are multiplied with
    quantized: bool  # the base's layers have four bits a weight
    phi: Network  # of the feature network before it is cut
    phi_layers: int  # that are kept of it, up to the deepest tap
    phi_is_base: bool  # the feature network is the policy without its adapters, not kept beside it
    documents: int  # of the step, in one process
    rows: int
    row_tokens: int
    branches: float  # of a row, that are sampled
    updated_share: float  # of those, that the update forwards
    branch_tokens: int  # of a branch, in the update
    reach: float  # row tokens that a branch reads, on average
    chunk_tokens: (
        int  # of branches, that attend together with one copy of the keys and values they read; 0: without copies
    )
    may_keep_rows: bool  # the method forwards rows once for sampling and update where it can
    own_rows: bool  # branches have copies of their row's keys and values in the cache
    bf16: bool
    checkpointing: bool
    averaged: bool  # a running average of the weights is kept
    has_reference: bool  # a second policy is kept, without gradients
    max_tokens: int | None  # that hold activations at a time; None: those of a micro-batch
    max_logits: int | None  # elements at a time; None: those of a micro-batch
    steps_at_once: bool  # AdamW takes all parameters at once, as it does on CUDA
    is_bound: bool  # rollouts may turn out shorter
    group_tokens: int | None = None  # as `group_room` has it; None: all branches of a micro-batch at a time
    seats: int = 1  # branches that share such a copy, at most
    most_together: int = 1  # micro-batches whose rollouts are drawn together where there is room

    @property
    def rows_at_a_time(self) -> int:
        """What a limit of tokens leaves of the micro-batch's rows, which it counts with their rollouts' last tokens."""
        if self.max_tokens is None:
            return self.rows
        return max(
            1, min(self.rows, int(self.max_tokens / (self.row_tokens + self.branches * (self.branch_tokens + 1))))
        )

    @property
    def keeps_rows(self) -> bool:
        """Rows are forwarded once, for sampling and update: where the method can, they are the step's only micro-batch,
        and layers are not recomputed."""
        can = self.may_keep_rows and self.branches > 0 and not self.checkpointing
        return can and self.documents <= self.rows_at_a_time

    @property
    def updated_branches(self) -> float:
        """Branches of a row that the update forwards."""
        return self.branches * self.updated_share

    @property
    def parameters(self) -> int:
        """Parameters of the policy, adapters included."""
        return self.network.parameters + self.adapters

    @property
    def trained(self) -> int:
        """Parameters that have gradients and moments."""
        return self.adapters or self.network.parameters

    @property
    def element_bytes(self) -> int:
        """Bytes of a number while computing."""
        return HALF if self.bf16 else FLOAT

    @property
    def phi_depth(self) -> float:
        """Share of the feature network's layers that is kept."""
        return self.phi_layers / self.phi.layers

    @property
    def phi_share(self) -> float:
        """A token's cost in the feature network over that in the policy: its kept layers over all of the policy's,
        by their parameters: `phi_depth` where both are the same network."""
        return self.phi_layers * self.phi.layer_parameters / (self.network.layers * self.network.layer_parameters)

    @property
    def feature_parameters(self) -> int:
        """Parameters of the feature network, as far as it is kept."""
        return self.phi.cut(self.phi_layers)

    @property
    def tokens(self) -> float:
        """Tokens of an update of the rows at a time."""
        return self.rows_at_a_time * (self.row_tokens + self.updated_branches * self.branch_tokens)

    @property
    def held_row_tokens(self) -> float:
        """Tokens of the rows at a time, which hold activations until their branches are done."""
        return float(self.rows_at_a_time * self.row_tokens)

    @property
    def of_rows(self) -> "Workload":
        """What is left when the branches are done."""
        return replace(self, rows=self.rows_at_a_time, branches=0.0, max_tokens=None)

    @property
    def held_tokens(self) -> float:
        """Tokens that hold activations at a time."""
        if self.max_tokens is not None:
            return min(self.tokens, self.max_tokens)
        if self.group_tokens is None:
            return self.tokens
        room = max(group_room(self.rows_at_a_time, self.row_tokens, self.group_tokens), self.branch_tokens)
        return min(self.tokens, self.rows_at_a_time * (self.row_tokens + room))


def group_room(rows: int, row_tokens: int, group_tokens: int) -> int:
    """Own tokens of a row's branches that an update takes at a time where `trainer.max_tokens_per_microbatch` says
    nothing: `group_tokens` over all rows, or as many as the row itself has, if that is more."""
    return max(row_tokens, group_tokens // rows)


def flops_per_token(work: Workload) -> float:
    """Floating-point operations of one token's forward through all layers: 2 for each parameter of theirs, and 4 Q a
    layer for each token that it sees, the mean over full rows and branches. Left out are the output head, norms and
    activations, so that a share of a peak is from below."""
    network, own = work.network, work.branches * work.branch_tokens
    pairs = work.row_tokens * (work.row_tokens + 1) / 2 + own * (work.reach + (work.branch_tokens + 1) / 2)
    return network.layers * (2 * network.layer_parameters + 4 * network.query * pairs / (work.row_tokens + own))
