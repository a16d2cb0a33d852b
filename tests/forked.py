"""`python -m MODULE` forked from a process that has imported torch and all else that is not ours.

An interpreter takes eight seconds of CPU until it can train, a fork a twentieth of one. After `install`, what a test or
the code under test starts through `subprocess` is forked wherever `module_of` allows it, and is the caller's child as
any other: its standard streams, signals, process group and exit are as after exec, and so is what it starts itself.

    a test's process (Popen)  <-- request, pid -->  server, which has imported PRELOADED and does nothing else
          |                                            | fork
          |                                         intermediate, which ends at once
          |                                            | fork
          +--- takes over the orphan as its subreaper --- child: MODULE as __main__, with a server of its own
"""

import atexit
import ctypes
import fcntl
import gc
import os
import pickle
import random
import runpy
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any, NoReturn

ROOT = Path(__file__).parents[1]
FORKED = ("ebft.", "tests.", "torch.distributed.", "submitit.")  # modules that may be forked
PRELOADED = [  # nothing of ebft: its modules have a state from their import on
    "torch",
    "torch.distributed.fsdp",
    "transformers.modeling_utils",
    "transformers.models.auto.modeling_auto",
    "transformers.models.auto.tokenization_auto",
    "transformers.models.llama.modeling_llama",
    "transformers.models.gpt_neox.modeling_gpt_neox",
    "hydra.main",
    "hydra._internal.hydra",
    "datasets",
    "pandas",
    "pyarrow.parquet",
    "matplotlib.pyplot",
    "safetensors.torch",
    "jaxtyping",
    "jinja2",
    "tokenizers",
    "rich.progress",
    "rich.table",
    "pytest",
]
READ_AT_START = ("PYTHON", "HF_", "TRANSFORMERS_", "MPL")  # beginnings of variables that imports read
LEFT_TO_CHILD = ("PYTHONPATH",)
TITLE_BYTES = 16384  # room for a child's command line, as /proc shows it
NAME = b"test-forks"  # of a server, at most 15 bytes
THREADS_THAT_MAY_RUN = {"jemalloc_bg_thd"}  # Arrow's allocator, which knows how to fork
PR_SET_PDEATHSIG, PR_SET_NAME, PR_SET_CHILD_SUBREAPER, PR_GET_CHILD_SUBREAPER = 1, 15, 36, 37  # linux/prctl.h


@dataclass(frozen=True)
class Call:
    """What a child does and how it differs from its server."""

    command: list[str]
    module: str
    cwd: str
    environment: dict[str, str]
    descriptors: list[int]  # of the child: 0, 1, 2 and what it was passed
    has_own_session: bool
    process_group: int
    umask: int
    ignores_interrupt: bool


def module_of(command: Sequence[str]) -> str | None:
    """The module of `python [-P] [-u] -m MODULE ...`, where it may be forked."""
    options = [option for option in command[1:5] if option not in ("-P", "-u")]
    runs_module = command[0] == sys.executable and options[:1] == ["-m"] and len(options) > 1
    return options[1] if runs_module and options[1].startswith(FORKED) else None


def read_at_start(environment: Mapping[str, str]) -> dict[str, str]:
    """The variables that say how an interpreter and its imports start."""
    return {
        name: value
        for name, value in environment.items()
        if name.startswith(READ_AT_START) and name not in LEFT_TO_CHILD
    }


class Server:
    """The caller's end of the socket; one for each process."""

    def __init__(
        self, socket: socket.socket, environment: Mapping[str, str], process: "subprocess.Popen[bytes] | None" = None
    ) -> None:
        self._socket, self._process, self._lock = socket, process, threading.Lock()
        self.read_at_start = read_at_start(environment)

    @classmethod
    def start(cls, environment: Mapping[str, str]) -> "Server":
        mine, theirs = socket.socketpair()
        code = f"from tests.forked import serve; serve({theirs.fileno()})"
        with theirs:
            process = ORIGINAL(
                [sys.executable, "-c", code, " " * TITLE_BYTES],
                cwd=ROOT,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                pass_fds=[theirs.fileno()],
                env={name: value for name, value in environment.items() if name not in LEFT_TO_CHILD},
            )
        return cls(mine, environment, process)

    def close(self) -> None:
        self._socket.close()
        if self._process is not None:
            self._process.wait()

    def fork(self, call: Call, descriptors: list[int]) -> int:
        """The process id of a child of this process that does what `call` says. `descriptors` are this process's, in
        the order of the call's."""
        message = pickle.dumps(call)
        with self._lock, subreaper():
            socket.send_fds(self._socket, [len(message).to_bytes(4, "big")], descriptors)
            self._socket.sendall(message)
            answer = self._socket.recv(4)
        assert len(answer) == 4, "the server of forks has died"
        return int.from_bytes(answer, "big")


ORIGINAL = subprocess.Popen
_server: Server | None = None
_environment: dict[str, str] = {}  # of the first server: no test's


def server() -> Server:
    global _server
    if _server is None:
        _server = Server.start(_environment)
    return _server


class Popen(subprocess.Popen):  # type: ignore[type-arg]
    """subprocess.Popen whose child is forked where that is the same."""

    def _execute_child(  # type: ignore[no-untyped-def]
        self, args, executable, preexec_fn, close_fds, pass_fds, cwd, env, startupinfo, creationflags, shell,
        p2cread, p2cwrite, c2pread, c2pwrite, errread, errwrite,
        restore_signals, gid, gids, uid, umask, start_new_session, process_group,
    ) -> None:  # fmt: skip
        pipes = (p2cread, p2cwrite, c2pread, c2pwrite, errread, errwrite)
        environment = dict(os.environ if env is None else env)
        module = None if isinstance(args, str) else module_of(args)
        unlike = (executable, preexec_fn, gid, gids, uid)
        if module is None or shell or any(unlike) or read_at_start(environment) != server().read_at_start:
            super()._execute_child(  # type: ignore[misc]
                args, executable, preexec_fn, close_fds, pass_fds, cwd, env, startupinfo, creationflags, shell,
                *pipes, restore_signals, gid, gids, uid, umask, start_new_session, process_group,
            )  # fmt: skip
            return
        call = Call(
            command=[*args],
            module=module,
            cwd=os.fspath(cwd or os.getcwd()),
            environment=environment,
            descriptors=[0, 1, 2, *pass_fds],
            has_own_session=start_new_session,
            process_group=-1 if process_group is None else process_group,
            umask=umask,
            ignores_interrupt=signal.getsignal(signal.SIGINT) == signal.SIG_IGN,
        )
        streams = [pipe if pipe >= 0 else own for own, pipe in enumerate((p2cread, c2pwrite, errwrite))]
        try:
            self.pid = server().fork(call, [*streams, *pass_fds])
            self._child_created = True
        finally:
            self._close_pipe_fds(*pipes)  # type: ignore[attr-defined]


def install() -> None:
    """`subprocess.Popen` forks, and so do run, check_output and the others, which call it."""
    if sys.platform == "linux":
        subprocess.Popen = Popen  # type: ignore[misc]
        _environment.update(os.environ)


def uninstall() -> None:
    global _server
    subprocess.Popen = ORIGINAL  # type: ignore[misc]
    if _server is not None:
        _server.close()
        _server = None


def children(pid: int) -> list[int]:
    """The processes that a process has started, without its server of forks."""
    found = [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    return [child for child in found if Path(f"/proc/{child}/comm").read_bytes().strip() != NAME]


def prctl(option: int, *arguments: Any) -> None:
    if ctypes.CDLL(None, use_errno=True).prctl(option, *arguments):
        raise OSError(ctypes.get_errno(), f"prctl {option}")


@contextmanager
def subreaper() -> Iterator[None]:
    """Orphans among this process's descendants become its children."""
    before = ctypes.c_int()
    prctl(PR_GET_CHILD_SUBREAPER, ctypes.byref(before))
    prctl(PR_SET_CHILD_SUBREAPER, 1)
    try:
        yield
    finally:
        prctl(PR_SET_CHILD_SUBREAPER, before.value)


# In the server


def serve(descriptor: int) -> NoReturn:
    """Fork whenever a caller asks. Ends when it does."""
    install()  # before torchrun's modules look up Popen
    for name in PRELOADED:
        import_module(name)
    spare_what_tests_spare()
    assert not any(name.startswith("ebft") for name in sys.modules)
    gc.collect()
    gc.freeze()  # what a child would otherwise copy when it collects
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a terminal's Ctrl-C is for those who work
    answer(socket.socket(fileno=descriptor))


def spare_what_tests_spare() -> None:
    """Charts are one pixel for children too, and our YAML is read once for all of them, and transformers' thousand
    regular expressions are."""
    from transformers.conversion_mapping import get_checkpoint_conversion_mapping

    from tests import files_once, pictures

    get_checkpoint_conversion_mapping("llama")
    pictures.install()
    files_once.install()
    for path in (ROOT / "conf").rglob("*.yaml"):
        files_once.pickled(path.read_text(encoding="utf-8"))


def answer(caller: socket.socket) -> NoReturn:
    """Returns from `fork_apart` only in children, which never come back here."""
    prctl(PR_SET_NAME, NAME)
    while True:
        head, descriptors, _, _ = socket.recv_fds(caller, 4, 250)
        if not head:
            os._exit(0)
        running = {Path(f"/proc/self/task/{task}/comm").read_text().strip() for task in os.listdir("/proc/self/task")}
        assert running <= {NAME.decode()} | THREADS_THAT_MAY_RUN, (
            running
        )  # a fork would lose them, and keep their locks
        call: Call = pickle.loads(receive(caller, int.from_bytes(head, "big")))
        pid = fork_apart()
        if not pid:
            caller.close()
            become(call, descriptors)
        for number in descriptors:
            os.close(number)
        caller.sendall(pid.to_bytes(4, "big"))


def receive(caller: socket.socket, size: int) -> bytes:
    message = b""
    while len(message) < size:
        message += caller.recv(size - len(message))
    return message


def fork_apart() -> int:
    """os.fork whose child is an orphan, which the nearest subreaper has taken over before it goes on."""
    told, tell = os.pipe()
    held, hold = os.pipe()
    intermediate = os.fork()
    if not intermediate:
        if os.fork():
            os._exit(0)
        prctl(PR_SET_NAME, b"python")
        os.write(tell, os.getpid().to_bytes(4, "big"))
        for number in (told, tell, hold):
            os.close(number)
        os.read(held, 1)  # until the server lets go
        os.close(held)
        return 0
    os.waitpid(intermediate, 0)
    pid = int.from_bytes(os.read(told, 4), "big")
    for number in (told, tell, held, hold):
        os.close(number)
    return pid


def become(call: Call, descriptors: list[int]) -> NoReturn:
    """What exec and the start of an interpreter do, then the module as __main__."""
    with_own_server(call.environment, descriptors)
    title(call.command)
    adopt(descriptors, call.descriptors)
    if call.has_own_session:
        os.setsid()
    if call.process_group >= 0:
        os.setpgid(0, call.process_group)
    if call.umask >= 0:
        os.umask(call.umask)
    if not call.ignores_interrupt:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    os.environ.clear()
    os.environ.update(call.environment)
    os.chdir(call.cwd)
    start_anew(call)
    code: object = None
    try:
        runpy.run_module(call.module, run_name="__main__", alter_sys=True)
    except SystemExit as leaving:
        code = leaving.code
    except Exception:
        sys.excepthook(*sys.exc_info())
        code = 1
    leave(code)


def leave(code: object) -> NoReturn:
    """sys.exit that does not take the modules apart: it would write on all memory that the child shares with its
    server, which was four fifths of what a child cost."""
    if code is not None and not isinstance(code, int):
        print(code, file=sys.stderr)
        code = 1
    try:
        threading._shutdown()  # type: ignore[attr-defined]
        atexit._run_exitfuncs()
        sys.stdout.flush()
        sys.stderr.flush()
    except (OSError, ValueError):  # of a stream that is closed, whose code is the interpreter's own
        sys.exit(code)
    os._exit((code or 0) & 0xFF)


def with_own_server(environment: Mapping[str, str], descriptors: list[int]) -> None:
    """The child's children are forked as it was, from a process without its later state."""
    global _server
    mine, theirs = socket.socketpair()
    if not os.fork():
        mine.close()
        for number in descriptors:
            os.close(number)
        prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        answer(theirs)
    theirs.close()
    with mine:
        _server = Server(socket.socket(fileno=out_of_the_way(mine.fileno())), environment)


def out_of_the_way(descriptor: int) -> int:
    """A second descriptor with a number that no child asks for."""
    return fcntl.fcntl(descriptor, fcntl.F_DUPFD_CLOEXEC, 1000)


def adopt(descriptors: list[int], targets: list[int]) -> None:
    """The received descriptors under the numbers that they have for the caller."""
    high = [out_of_the_way(number) for number in descriptors]
    for number in descriptors:
        os.close(number)
    for number, target in zip(high, targets, strict=True):
        os.dup2(number, target, inheritable=target <= 2)
        os.close(number)


def title(command: list[str]) -> None:
    """What /proc/PID/cmdline says."""
    start, end = (int(field) for field in Path("/proc/self/stat").read_text().rpartition(")")[2].split()[45:47])
    text = b"\0".join(os.fsencode(part) for part in command)
    ctypes.memset(start, 0, end - start)
    ctypes.memmove(start, text, min(len(text), end - start - 1))


def start_anew(call: Call) -> None:
    """Python's own state: arguments, module path and random numbers."""
    import numpy
    import torch

    place = call.command.index("-m")
    sys.argv = call.command[place + 1 :]  # the first becomes the module's file
    sys.orig_argv = call.command
    own = [] if "-P" in call.command[1:place] else [call.cwd]
    inherited = [part for part in call.environment.get("PYTHONPATH", "").split(os.pathsep) if part]
    sys.path[:] = [*own, *inherited, *sys.path[1:]]
    random.seed()
    numpy.random.seed()
    torch.seed()
    torch.set_num_threads(int(call.environment.get("OMP_NUM_THREADS", len(os.sched_getaffinity(0)))))
