"""Secrets out of what is kept and shown: configurations, command lines and texts with URLs.

A value counts as secret by its key (`api_key`, `HF_TOKEN`, everything under `env_set`, which is an environment), and in
a URL by its place.
"""

import re
import sys
from typing import Any

MASK = "***"
_NAMES = r"(?:token|key|secret|password|passwd|credentials?)"
_SPECIAL = r"(?:bos|end|eos|unk|sep|pad|cls|mask)_token"  # texts of a tokenizer, such as data.end_token: no secrets
_SECRET_KEY = re.compile(rf"^(?!{_SPECIAL}$)(?:(?:.*_)?{_NAMES}|env_set)$", re.IGNORECASE | re.DOTALL)
# user:password@, where the password may hold an @ or a slash: up to the last @; or a token alone, up to the first. Of
# the two slashes before, a Path keeps one.
_URL_CREDENTIALS = re.compile(r"(?<=:/)(/?)(?:[^\s/:@'\"]*:[^\s'\"]*(?=@)|[^\s/@'\"]+(?=@))")
_ENTRY = re.compile(  # of a mapping as one types it: {token: VALUE, env_set: {...}}
    rf"""((?<![^\s{{,'"])(?!{_SPECIAL}\b)(?:\w*_)?{_NAMES}['"]?\s*:\s*|(?<![^\s{{,'"])env_set['"]?\s*:\s*)"""
    r"""(\{[^}]*\}|\[[^\]]*\]|"(?:\\.|[^"\\])*"|'(?:\\.|[^'\\])*'|[^\s,}\]]+)""",
    re.IGNORECASE,
)


def without_secrets(config: dict[str, Any]) -> dict[str, Any]:
    """The nested config with the values of secret keys, and credentials inside URLs, replaced by `***`."""
    return {
        key: MASK if value is not None and _SECRET_KEY.search(key) else _without(value) for key, value in config.items()
    }


def _without(value: Any) -> Any:
    if isinstance(value, dict):
        return without_secrets(value)
    if isinstance(value, list | tuple):
        return [_without(item) for item in value]
    return without_credentials(value) if isinstance(value, str) else value


def without_credentials(text: str) -> str:
    """A text with URLs, without what stands there before an @."""
    return _URL_CREDENTIALS.sub(rf"\1{MASK}", text)


def command_line() -> list[str]:
    """The words of this process's command line, secrets masked."""
    return [masked(argument) for argument in sys.argv]


def masked(argument: str) -> str:
    """A word of a command line, mostly an override `a.b=value`, with the value hidden where a part of the key calls for
    it, and what calls for it inside the value."""
    key, equals, value = argument.partition("=")
    if equals and any(_SECRET_KEY.search(part) for part in re.split(r"[./@+~]", key)):
        return f"{key}={MASK}"
    hidden = _ENTRY.sub(rf"\1{MASK}", value) if "{" in value else value
    return f"{key}{equals}{without_credentials(hidden)}" if equals else without_credentials(argument)
