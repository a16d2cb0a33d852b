"""Files and TCP, by Landlock: a process that restricted itself opens what it was granted and nothing else, whoever it
runs as.

Rights and structures are those of linux/landlock.h. Landlock does not see a file's status, times, mode and owner; the
system call filter refuses whatever would change them.
"""

import ctypes
import os
import struct
from collections.abc import Mapping

from ebft.sandbox import kernel

_CREATE_RULESET, _ADD_RULE, _RESTRICT_SELF = 444, 445, 446  # on every architecture
_ASK_VERSION, _PATH_BENEATH = 1, 1

_WRITE_FILE, _READ_FILE, _READ_DIR, _REMOVE_FILE, _MAKE_REG, _TRUNCATE = (1 << bit for bit in (1, 2, 3, 5, 8, 14))
LIST = _READ_DIR
READ = _READ_FILE | _READ_DIR
WRITE_FLAT = READ | _WRITE_FILE | _REMOVE_FILE | _MAKE_REG | _TRUNCATE  # regular files, and no folder inside the folder
USE_FILE = _READ_FILE | _WRITE_FILE

_NUM_FILE_RIGHTS = {
    1: 13,
    2: 14,
    3: 15,
    4: 15,
    5: 16,
}  # by version of the interface; later ones added no right for files
_TCP_RIGHTS = 0b11  # bind, connect; since version 4
_SCOPES = 0b11  # abstract UNIX sockets, signals; since version 6


def restrict(grants: Mapping[str, int]) -> None:
    """Confine this process for good to `grants`, rights by path. Needs no_new_privs."""
    version = kernel.syscall(_CREATE_RULESET, None, 0, _ASK_VERSION)
    handled = (1 << _NUM_FILE_RIGHTS[min(version, 5)]) - 1
    fields = [handled, *[_TCP_RIGHTS] * (version >= 4), *[_SCOPES] * (version >= 6)]
    attributes = struct.pack(f"{len(fields)}Q", *fields)
    ruleset = kernel.syscall(_CREATE_RULESET, ctypes.c_char_p(attributes), len(attributes), 0)
    for path, rights in grants.items():
        _grant(ruleset, path, rights & handled)
    kernel.syscall(_RESTRICT_SELF, ruleset, 0)
    os.close(ruleset)


def _grant(ruleset: int, path: str, rights: int) -> None:
    folder = os.open(path, os.O_PATH | os.O_CLOEXEC)
    rule = struct.pack("=Qi", rights, folder)
    kernel.syscall(_ADD_RULE, ruleset, _PATH_BENEATH, ctypes.c_char_p(rule), 0)
    os.close(folder)
