"""`python -m mask_frozen_detr.cli`, which `accelerate launch -m` starts."""

import sys

from mask_frozen_detr.cli import main

sys.exit(main())
