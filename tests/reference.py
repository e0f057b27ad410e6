"""Where the reference data lies: real weights and images that are read in place and are no part of the repository."""

from __future__ import annotations

import os
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
REFERENCE_DATA = Path(os.environ.get("DELTAFLEET_REFERENCE_DATA", ROOT.parent / "shared" / "data"))
DEEP_COMPRESSION = REFERENCE_DATA / "squeezenet-deep-compression" / "compressed_SqueezeNet.net"
IMAGENET_SAMPLE = REFERENCE_DATA / "imagenet-sample"
GTSRB = REFERENCE_DATA / "gtsrb"
