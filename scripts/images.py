"""Build the images from the lock file: `make images`, with BASE=, ACCELERATOR= and IMAGES= to choose.

Wheels are fetched here, by pip as it is configured on this machine and pinned by requirements.lock; the
build in the container has no network. What pip finds for torch decides between CPU and CUDA, and is
checked against what was asked for.
"""

import argparse
import hashlib
import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from components.images import IMAGES, TAG, Accelerator, Image  # noqa: E402

BUILD = ROOT / "build" / "images"
LOCK = ROOT / "requirements.lock"
CONTAINERFILE = ROOT / "components" / "Containerfile"


def main() -> None:
    """Build what was asked for, and print each image's size, layers and seconds."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("images", nargs="*", choices=[*IMAGES, []], help="default: all")
    parser.add_argument(
        "--base", default="python:3.11-slim", help="image with Python 3.11 to build upon"
    )
    parser.add_argument("--accelerator", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--no-cache", action="store_true", help="build every layer anew")
    options = parser.parse_args()
    lines = []
    for key in options.images or IMAGES:
        image = IMAGES[key]
        context = BUILD / image.name
        start = time.monotonic()
        torch = stage_wheels(image, context, options.accelerator)
        wheels_end = time.monotonic()
        stage_code(image, context)
        build(image, context, torch, options)
        build_end = time.monotonic()
        reference = image.reference(options.accelerator)
        size = int(output("docker", "image", "inspect", "--format", "{{.Size}}", reference))
        lines.append((reference, torch, size / 1e6, wheels_end - start, build_end - wheels_end))
    print(f"{'image':40} {'torch':12} {'MB':>7} {'wheels, s':>10} {'build, s':>9}")
    for reference, torch, size, fetching, building in lines:
        print(f"{reference:40} {torch:12} {size:7.0f} {fetching:10.0f} {building:9.0f}")


def stage_wheels(image: Image, context: Path, accelerator: Accelerator) -> str:
    """Put the wheels of an image's extras into the context, unless they are there; return torch's version."""
    wheels = context / "wheels"
    image_pins = pins(image)
    key = hashlib.sha256(f"{image_pins}{accelerator}".encode()).hexdigest()
    stamp = context / "wheels.sha256"
    if not stamp.is_file() or stamp.read_text(encoding="utf-8") != key:
        shutil.rmtree(wheels, ignore_errors=True)
        wheels.mkdir(parents=True)
        (context / "pins.txt").write_text(image_pins, encoding="utf-8")
        pip = [sys.executable, "-m", "pip", "wheel", "--quiet"]
        pip += ["--wheel-dir", str(wheels), "--constraint", str(LOCK)]
        version = output(sys.executable, "-c", "import pip; print(pip.__version__)")
        run([*pip, "--requirement", str(context / "pins.txt"), f"pip=={version}"])
        (wheels / "requirements.txt").write_text(requirements(wheels), encoding="utf-8")
    torch = re.search(
        r"^torch==(\S+)", (wheels / "requirements.txt").read_text(encoding="utf-8"), re.MULTILINE
    )
    if torch is None:
        sys.exit(f"{image.name}: pip found no wheel of torch")
    if (accelerator == "cpu") != torch[1].endswith("+cpu"):
        sys.exit(
            f"{image.name}: asked for {accelerator}, but pip finds torch {torch[1]} on this "
            "machine. For CPU builds, give pip the index of PyTorch's CPU wheels "
            "(PIP_EXTRA_INDEX_URL); for CUDA, take it away."
        )
    stamp.write_text(key, encoding="utf-8")
    return torch[1]


def pins(image: Image) -> str:
    """Return the lock's pins that an image's extras need under any Python 3.11, whichever runs here.

    What torch's CUDA build needs beside itself is not in the lock; pip adds it where it finds that build.
    """
    extras = [f"--extra={extra}" for extra in image.extras]
    command = [sys.executable, "-m", "uv", "pip", "compile", "pyproject.toml", *extras]
    command += ["--constraint", str(LOCK)]
    command += ["--python-version=3.11", "--quiet", "--no-header", "--no-annotate"]
    required = {line.split("==")[0] for line in output(*command).splitlines() if "==" in line}
    locked = [line for line in LOCK.read_text(encoding="utf-8").splitlines() if "==" in line]
    return "".join(f"{line}\n" for line in locked if line.split("==")[0] in required)


def requirements(wheels: Path) -> str:
    """Return exactly what lies in a folder of wheels as pinned requirements, without pip itself."""
    names = sorted(wheel.name.split("-")[:2] for wheel in wheels.glob("*.whl"))
    return "".join(f"{name}=={version}\n" for name, version in names if name != "pip")


def stage_code(image: Image, context: Path) -> None:
    """Copy the files under version control of the image's folders into the context."""
    app = context / "app"
    shutil.rmtree(app, ignore_errors=True)
    for name in output("git", "ls-files", "--", *image.folders).splitlines():
        target = app / name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(ROOT / name, target)
        target.chmod(0o644)


def build(image: Image, context: Path, torch: str, options: argparse.Namespace) -> None:
    """Run the container build without a network."""
    revision = output("git", "rev-parse", "HEAD")
    if output("git", "status", "--porcelain"):
        revision += "-dirty"
    arguments = {
        "BASE": options.base,
        "TITLE": image.name,
        "VERSION": TAG,
        "REVISION": revision,
        "TORCH": torch,
    }
    # A fixed time, so that a commit which leaves the wheels alone leaves their layer alone.
    arguments["SOURCE_DATE_EPOCH"] = "0"
    command = ["docker", "build", "--network=none"]
    command += ["--file", str(CONTAINERFILE), "--target", image.target]
    command += [f"--build-arg={name}={value}" for name, value in arguments.items()]
    if options.no_cache:
        command.append("--no-cache")
    run([*command, "--tag", image.reference(options.accelerator), str(context)])


def run(command: list[str]) -> None:
    """Run a command from the project's root; end with its status where it fails."""
    done = subprocess.run(command, cwd=ROOT, env={"DOCKER_BUILDKIT": "0", **os.environ})
    if done.returncode:
        sys.exit(f"failed with status {done.returncode}: {' '.join(command[:4])} …")


def output(*command: str) -> str:
    """Return what a command prints."""
    return subprocess.run(
        command, cwd=ROOT, check=True, capture_output=True, text=True
    ).stdout.strip()


if __name__ == "__main__":
    main()
