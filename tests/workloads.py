"""Workloads in small primes."""

from dataclasses import replace

from ebft.cost.workload import Network, Workload

NETWORK = Network(
    layers=3, hidden=5, intermediate=7, heads=2, query=22, key=11, vocabulary=13, parameters=1009, layer_parameters=293
)
SUPERVISED = Workload(
    network=NETWORK,
    adapters=0,
    adapter_inputs=0.0,
    quantized=False,
    phi=NETWORK,
    phi_layers=1,
    phi_is_base=False,
    documents=7,
    rows=2,
    row_tokens=17,
    branches=0.0,
    updated_share=1.0,
    branch_tokens=0,
    reach=0.0,
    chunk_tokens=0,
    may_keep_rows=True,
    own_rows=False,
    bf16=False,
    checkpointing=False,
    averaged=False,
    has_reference=False,
    max_tokens=None,
    max_logits=None,
    steps_at_once=False,
    is_bound=False,
)
BRANCHED = replace(SUPERVISED, branches=6.0, branch_tokens=4, reach=9.0, chunk_tokens=20)
