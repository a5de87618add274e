"""Unit peerpods-scratch: encrypted room for container images, on a second disk or in memory."""

import sys

sys.path[:0] = ["/usr/lib/python3/dist-packages"]

from peerpods.vmstart.scratch import main  # noqa: E402

sys.exit(main())
