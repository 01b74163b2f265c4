"""``python -m mrl_course.miniature``."""

import sys

from mrl_course.miniature.build import main

sys.exit(main())
