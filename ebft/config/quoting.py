"""Values written so that Hydra's override grammar and OmegaConf's interpolations give them back as they are."""

import re
from typing import Any


def in_quotes(text: str) -> str:
    """A text as a value of an override, interpolations still at work. In quotes Hydra takes a backslash for itself
    only before a quote."""
    return '"' + re.sub(r'(\\*)("|\Z)', lambda found: found[1] * 2 + found[2].replace('"', r"\""), text) + '"'


def plain(value: Any) -> Any:
    """A value, its containers included, in which OmegaConf sees no interpolation. It takes a backslash for itself only
    before ${."""
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, list):
        return [plain(item) for item in value]
    if isinstance(value, str):
        return re.sub(r"(\\*)\$\{", lambda found: found[1] * 2 + r"\${", value)
    return value


def quoted(text: str) -> str:
    """A text as a value of an override, whatever characters it has."""
    return in_quotes(plain(text))


def literal(value: Any) -> str:
    """A value as Hydra's grammar writes it, whatever characters its texts have."""
    if isinstance(value, dict):
        return "{" + ",".join(f"{_key(key)}:{literal(item)}" for key, item in value.items()) + "}"
    if isinstance(value, list):
        return f"[{','.join(map(literal, value))}]"
    if isinstance(value, str):
        return quoted(value)
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    return repr(value)


def _key(key: Any) -> str:
    return re.sub(r"([\\()\[\]{}:=, \t])", r"\\\1", str(key))
