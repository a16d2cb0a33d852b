"""One of the processes that `ebft-train trainer.processes=N` starts."""

import sys
from pathlib import Path

from ebft.cli.parent import end_with_parent
from ebft.cli.refusals import one_sentence, sigterm_as_interrupt
from ebft.cli.uncollected import uncollected
from ebft.output.streams import outlive_console
from ebft.parallel.pulse import LOST


def main() -> None:
    """Exit codes: as ebft-train's, and LOST where another process has failed."""
    outlive_console()
    end_with_parent()
    with uncollected():
        from ebft.cli.processes import INTERRUPTED, read_task, work
        from ebft.parallel.world import LostContact, in_contact, process_group

    with one_sentence(), sigterm_as_interrupt():
        try:
            with in_contact(), process_group():
                status = work(*read_task(Path(sys.argv[1])))
        except LostContact:  # whoever started this says whose fault it is
            sys.exit(LOST)
        except KeyboardInterrupt:  # before there was anything to save
            sys.exit(INTERRUPTED)
    if status == "interrupted":
        sys.exit(INTERRUPTED)


if __name__ == "__main__":
    main()
