"""docs/configuration.md is what the settings' records say."""

from __future__ import annotations

import subprocess
import sys


def test_the_page_is_up_to_date():
    done = subprocess.run(
        [sys.executable, "tools/document_settings.py", "--check"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout
