"""Overrides as whoever types them means them. Hydra reads a value before anybody knows what its key holds: 2024_11 is
202411 to it, 1.10 is 1.1, {question} is a mapping, and a mapping is merged with the one that is there."""

import re
from collections.abc import Iterator, Sequence
from functools import cache
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException

from ebft.cli.keys import template_keys, types_of
from ebft.config.quoting import in_quotes
from ebft.config.schema import TRACKERS, UserError

TEXTS = ({str}, {str | None}, {str, str | None})
LISTS_OF_TEXT = ({list[str]}, {list[str] | None}, {list[str], list[str] | None})
FOLDERS = ("hydra.run.dir", "hydra.sweep.dir", "hydra.sweep.subdir")  # texts of Hydra's own
ESCAPES = {"n": "\n", "t": "\t", "r": "\r"}  # of a template; any other character is itself
CLOSING = {"(": ")", "[": "]", "{": "}"}


def as_typed(overrides: Sequence[str]) -> list[str]:
    """The overrides, of which texts are the text that was typed, templates have the characters that their escapes
    mean, and mappings replace. Apply it once: an escaped backslash is a backslash then."""
    return [new for override in overrides for new in _as_typed(override)]


def as_texts(overrides: Sequence[str]) -> list[str]:
    """The overrides in a form that Hydra's grammar takes for the text that was typed. May be applied again."""
    return [_with(override, _as_text) for override in overrides]


def value_of(override: str) -> Any:
    """What Hydra's grammar makes of an override's value."""
    return _parsed(override).value()


def _as_typed(override: str) -> Iterator[str]:
    key, _, value = override.partition("=")
    if key == "tracker" and value.startswith("["):
        yield from _trackers(override)
    elif value.startswith("{") and dict in {getattr(kind, "__origin__", kind) for kind in types_of(key)}:
        yield from (f"~{key}", f"+{override}")
    else:
        text = _with(override, _as_text)
        yield _in_blanks(_with(text, _decoded), value) if key.lstrip("+") in template_keys() else text


def _trackers(override: str) -> Iterator[str]:
    """tracker=[tensorboard,wandb] as tracker=wandb, whose settings are all that tensorboard needs, and
    tracker.also=[tensorboard]: Hydra would merge the files of both into one."""
    names, order = [str(name) for name in value_of(override)], list(TRACKERS)
    if not names:
        raise UserError("tracker=[] names no tracker; use tracker=none.")
    first, *others = sorted(names, key=lambda name: order.index(name) if name in order else -1)
    yield f"tracker={first}"
    if others:
        yield f"tracker.also=[{','.join(others)}]"


def _with(override: str, change: Any) -> str:
    """The override with every one of its values changed, where its key holds text."""
    key, equals, value = override.partition("=")
    kinds = types_of(key.lstrip("+"))
    if not equals or key.startswith(("-", "~")):
        return override
    is_text = kinds in TEXTS or key.lstrip("+") in FOLDERS
    if not is_text and kinds not in LISTS_OF_TEXT:
        return override
    choices = (_in_list(choice, change) if not is_text else change(choice) for choice in _split(value))
    return f"{key}={','.join(choices)}"


def _in_list(value: str, change: Any) -> str:
    inside = value.strip()
    if not (inside.startswith("[") and inside.endswith("]")) or inside == "[]":
        return value
    items = (item if item.strip().startswith(("[", "{")) else change(item) for item in _split(inside[1:-1]))
    return f"[{','.join(items)}]"


def _as_text(value: str) -> str:
    """One value in quotes, unless the grammar gives the same text without, or null, several values or an
    interpolation."""
    text = value.strip(" \t")
    if text.startswith("choice(") and text.endswith(")"):
        return ",".join(map(_as_text, _split(text[7:-1])))  # a function of the grammar loses the quotes inside it
    try:
        override = _parsed(f"key={value}")
    except HydraException:
        return in_quotes(text.replace("\\,", ","))
    meant = override.value()
    return value if meant is None or isinstance(meant, str) or override.is_sweep_override() else in_quotes(text)


def _decoded(value: str) -> str:
    r"""One value of a template, in which \n is a line break, as in YAML's double quotes."""
    override = _parsed(f"key={value}")
    meant = override.value()
    if not isinstance(meant, str) or override.is_sweep_override():
        return value
    text = value.strip(" \t")
    in_quotes_already = text[:1] in ("'", '"')  # where Hydra has taken no escapes away but those of quotes
    escape = r"\\([ntr\\])" if in_quotes_already else r"\\([ntr\\()\[\]{}:=, ])"
    typed = meant if in_quotes_already else text
    return in_quotes(re.sub(escape, lambda found: ESCAPES.get(found[1], found[1]), typed))


def _in_blanks(override: str, value: str) -> str:
    """The override of one template with the blanks around it that were typed, which the grammar takes away."""
    text, (key, _, written) = value.strip(" \t"), override.partition("=")
    if text == value or not text or text[0] in "'\"" or written[:1] not in ("'", '"') or len(_split(written)) > 1:
        return override
    before, _, behind = value.partition(text)
    return f"{key}={written[0]}{before}{written[1:-1]}{behind}{written[-1]}"


def _split(text: str) -> list[str]:
    """The parts between commas that stand in no quotes and no brackets."""
    parts, start, open_brackets, quote, place = [], 0, [], "", 0
    while place < len(text):
        character = text[place]
        if character == "\\":
            place += 1
        elif quote:
            quote = "" if character == quote else quote
        elif character in "'\"" and text[start:place].rstrip()[-1:] in ("", *"[({:,"):
            quote = character
        elif character in CLOSING:
            open_brackets.append(CLOSING[character])
        elif open_brackets and character == open_brackets[-1]:
            open_brackets.pop()
        elif character == "," and not open_brackets:
            parts.append(text[start:place])
            start = place + 1
        place += 1
    return [*parts, text[start:]]


@cache
def _parser() -> OverridesParser:
    return OverridesParser.create()


def _parsed(override: str) -> Override:
    return _parser().parse_override(override)
