"""Takes AWS's Runtime Interface Emulator out of the wheel that carries it: `take_rie.py WHEELS TO`.

WHEELS is the folder that the wheel was downloaded to; pip has checked its sha256.
"""

from __future__ import annotations

import platform
import sys
import zipfile
from pathlib import Path

_MACHINES = {"x86_64": "x86_64", "aarch64": "arm64", "arm64": "arm64"}


def main(wheels: Path, target: Path) -> None:
    """Write the program for this machine."""
    machine = _MACHINES.get(platform.machine())
    if sys.platform != "linux" or machine is None:
        sys.exit(f"aws-lambda-rie is for Linux on x86_64 or arm64, not for {platform.platform()}")
    (wheel,) = wheels.glob("aws_sam_cli-*.whl")
    with zipfile.ZipFile(wheel) as archive:
        program = archive.read(f"samcli/local/rapid/aws-lambda-rie-{machine}")
    partial = target.with_suffix(".partial")
    partial.write_bytes(program)
    partial.chmod(0o755)
    partial.rename(target)  # in one step, whoever runs the old one


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
