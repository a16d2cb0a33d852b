"""Scripts import their neighbours by name, as they do when a person runs them."""

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).parents[2] / "scripts"))
