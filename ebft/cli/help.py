"""`ebft-train --help`. Hydra's own help template would do, but listing the groups through Hydra takes longer than all
the rest."""

import re
import textwrap
from collections.abc import Iterator
from importlib import resources
from importlib.resources.abc import Traversable

from ebft.cli.keys import NESTED_GROUPS

SHARED = ("base", "columns")  # files of these names are no options: they have what those of their group share
NAME_WIDTH, OPTIONS_WIDTH = 13, 52
HELP = """\
ebft-train [FILE.yaml] [GROUP=OPTION ...] [KEY=VALUE ...]

Post-trains a language model with energy-based fine-tuning (method=ebft), reinforcement learning from verifiable rewards
(method=rlvr) or supervised fine-tuning (method=sft), evaluates it on held-out data before, during and after, and leaves
figures, samples, the model and report.html in a run folder.
Without arguments it trains the tiny model that ships with the package on generated questions about short Python
functions: no network, no GPU.

Groups, chosen as GROUP=OPTION, the default first:
{groups}

Often changed, as KEY=VALUE:
  model.path=FOLDER_OR_HUB_ID     any causal language model, with model=hf
  data.path=FILE                  with data=jsonl, data=parquet or data=hub
  method.ce_coef=0.03             weight of cross-entropy; also method.alignment_coef, method.diversity_coef
  sampler.generate_length=16      also sampler.n_samples, .stride, .context_length, .temperature
  features.feature_layers=[0.5]   fractions of the depth, or layer indices
  optimizer.lr=1e-6               learning rate
  model.adapter.rank=8            with model/adapter=lora optimizer=lora; also model.adapter.targets, .alpha, .rslora
  trainer.max_steps=200           also trainer.batch_size, trainer.device=cuda, trainer.dtype=bf16
  trainer.processes=2             one run by two processes, with trainer.parallel=ddp or fsdp2 (docs/clusters.md)
  trainer.profile=true            where a step's time goes: profile/ in the run folder
  eval.every_steps=50             steps between evaluations
  eval.num_questions=200          held-out questions answered and verified, where data.task says how
  hydra.run.dir=outputs/mine      the run folder; the same command again resumes in it
  plan_only=true                  only what the run would do and cost, here and by formula on 1 to 512 GPUs

Examples:
  ebft-train +experiment=smoke
  ebft-train method=sft trainer.max_steps=100 tracker=wandb
  ebft-train model=hf model.path=Qwen/Qwen2.5-0.5B data=jsonl data.path=rows.jsonl
  ebft-train --multirun method=sft,rlvr,ebft data=code_qa,stdlib,translation seed=0,1,2

Input from a YAML file:    ebft-train mine.yaml seed=1
Every key with its value:  ebft-train --cfg job
Shell completion:          eval "$(ebft-train -sc install=bash)"
Hydra's own flags:         ebft-train --hydra-help"""


def help_text() -> str:
    """The options are the files of conf/, their descriptions the comments of train.yaml and, of a group inside another,
    of a file of that one."""
    rows = [
        *_defaults("train.yaml"),
        *_defaults("model/hf.yaml", "model/"),
        ("+experiment", "", "a named run"),
        ("size", "pilot", "of +experiment=real/..."),
    ]
    return HELP.format(
        groups="\n".join(_group(group, ", ".join(_options(group, first)), what) for group, first, what in rows)
    )


def _defaults(file: str, prefix: str = "") -> list[tuple[str, str, str]]:
    """Group, its first option and what it chooses."""
    found = re.findall(
        r"^  - (\w+): (\S+)  # (.+)$", resources.files("ebft.conf").joinpath(file).read_text(), re.MULTILINE
    )
    return [(prefix + group, first, what) for group, first, what in found]


def _group(name: str, options: str, what: str) -> str:
    """Name, options and meaning; more options than a line holds go on under the first."""
    first, *rest = textwrap.wrap(options, OPTIONS_WIDTH)
    return "\n".join(
        [f"  {name:{NAME_WIDTH}} {first:{OPTIONS_WIDTH}} {what}", *(f"  {'':{NAME_WIDTH}} {line}" for line in rest)]
    )


def _options(group: str, first: str) -> list[str]:
    folder = resources.files("ebft.conf").joinpath(group.lstrip("+"))
    names = [name for name in _names(folder) if f"{group}/{name.partition('/')[0]}" not in NESTED_GROUPS]
    return sorted(names, key=lambda name: (name != first, "/" in name, name))


def _names(folder: Traversable, prefix: str = "") -> Iterator[str]:
    """Yields the names of the options in a folder and in those inside it, as Hydra wants them: paper/qa_code."""
    for path in folder.iterdir():
        if path.is_dir():
            yield from _names(path, f"{prefix}{path.name}/")
        elif path.name.removesuffix(".yaml") not in SHARED:
            yield prefix + path.name.removesuffix(".yaml")
