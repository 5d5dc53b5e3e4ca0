"""Make the encoder that computes in int8 from the published one: `quantize_encoder.py SOURCE TARGET`.

Prints size and SHA-256, which are the same on every machine; models/minilm-l6-v2-int8.toml records them.
"""

import argparse
import hashlib
from pathlib import Path

from edgeagent.execution.onnx.requantize import requantize


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("source", type=Path, help="model.onnx as published")
    parser.add_argument("target", type=Path, help="where to write the other one")
    arguments = parser.parse_args()
    content = requantize(arguments.source.read_bytes())
    arguments.target.write_bytes(content)
    print(f"bytes = {len(content)}\nsha256 = {hashlib.sha256(content).hexdigest()}")


if __name__ == "__main__":
    main()
