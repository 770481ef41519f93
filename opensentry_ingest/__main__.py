"""`python -m opensentry_ingest`, the same as the command `opensentry-ingest`."""

import sys

from opensentry_ingest.commands import main

sys.exit(main())
