"""Unit peerpods-prepare: user data, initdata, registers shown."""

import sys

sys.path[:0] = ["/usr/lib/python3/dist-packages"]

from peerpods.vmstart.prepare import main  # noqa: E402

sys.exit(main())
