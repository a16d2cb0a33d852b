"""Runs side by side: figures over seeds with their intervals, differences in pairs, tables, plots and a page.

    run folders -> cells (same variant and keys, other seed) -> estimates, paired differences -> Markdown, CSV, LaTeX,
    JSON, HTML

Everything is read from run folders, so any folder of runs can be compared, whoever made them.
"""

from ebft.comparison.cells import check_comparable
from ebft.comparison.output import summary_rows, text, write
from ebft.comparison.runs import Planned
from ebft.comparison.tables import Compared, compare

__all__ = ["Compared", "Planned", "check_comparable", "compare", "summary_rows", "text", "write"]
