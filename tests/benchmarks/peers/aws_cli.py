# /// script
# requires-python = ">=3.11"
# dependencies = ["awscli"]
# ///
"""The AWS CLI of PyPI (version 1), for `saving.py`: its `aws` stands beside the Python of this script's environment.

By hand: `uv run --script aws_cli.py s3 cp - s3://BUCKET/KEY --expected-size BYTES`.
"""

from __future__ import annotations

import sys

from awscli.clidriver import main

if __name__ == "__main__":
    sys.exit(main())
