"""Property tests draw new examples in every run; ``HYPOTHESIS_PROFILE=fixed`` (CI) draws the same ones each time.

So a commit is not blamed for a fault that an unlucky draw finds in what it did not touch.
"""

from __future__ import annotations

import os

from hypothesis import settings

settings.register_profile("fixed", derandomize=True)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "default"))
