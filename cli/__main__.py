"""``python -m hwnas.cli``."""

import sys

from . import main

sys.exit(main())
