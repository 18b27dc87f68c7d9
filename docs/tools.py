"""Pictures for docs/explanation/what-the-tools-show.md: python docs/tools.py DIGITS VAE MNIST CATS, four runs.

Runs each command once, in this process, and prints the CPU time that it took. Pictures of cats and MNIST show samples only.
"""

from __future__ import annotations

import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path

from PIL import Image

from ganexp.cli.main import main as command_line

OUT = Path(__file__).parent / "tools"
MOST = 640  # px
COMMANDS = {  # name of the picture: the number of the run, the words of the command, the file that it writes
    "digits-interpolate": (0, "task=interpolate task.num=5 task.labels=[1,7,4,9,3]", "interpolation.png"),
    "digits-truncate": (0, "task=truncate task.num=5 task.psi=[0,0.5,0.75,1,1.25]", "truncation.png"),
    "digits-directions": (0, "task=directions task.num=1 task.seeds=[1,2,3] task.labels=[0,3,5]", "direction-01.png"),
    "digits-neighbours": (0, "task=neighbours task.num=4", "neighbours.png"),
    "digits-attributes": (0, "task=attributes task.attribute=3 task.labels=[5] task.seeds=[1,2,3]", "attribute.png"),
    "digits-project": (0, "task=project task.number=7 task.steps=300", "projection.png"),
    "digits-spectrum": (0, "task=spectrum", "spectrum.png"),
    "digits-reconstruct": (1, "task=reconstruct task.num=16", "reconstruction.png"),
    "mnist-interpolate": (2, "task=interpolate task.seeds=[3] task.labels=[1,7,4,9]", "interpolation.png"),
    "mnist-directions": (2, "task=directions task.num=1 task.seeds=[1,2,3] task.labels=[2,7,8]", "direction-01.png"),
    "cats-interpolate": (3, "task=interpolate task.num=4", "interpolation.png"),
    "cats-truncate": (3, "task=truncate task.num=4 task.psi=[0,0.5,0.75,1]", "truncation.png"),
    "cats-directions": (3, "task=directions task.num=1 task.seeds=[0,3,5] task.reach=5", "direction-01.png"),
    "cats-walk": (3, "task=walk task.num=4 task.frames=10 task.fps=12 task.film=webp", "walk.webp"),
}


def main(runs: list[str]) -> None:
    OUT.mkdir(exist_ok=True)
    for name, (number, words, file) in COMMANDS.items():
        with tempfile.TemporaryDirectory() as folder:
            out = Path(folder) / "out"
            sys.argv = ["ganexp", *words.split(), f"run={runs[number]}", f"hydra.run.dir={out}"]
            before = time.process_time()
            with suppress(SystemExit):
                command_line()
            print(f"{name:<20} {time.process_time() - before:5.1f} s  {words}", flush=True)
            if file.endswith(".webp"):
                (OUT / f"{name}.webp").write_bytes((out / file).read_bytes())
            else:
                picture = Image.open(out / file).convert("RGB")
                picture.thumbnail((MOST, MOST))
                picture.save(OUT / f"{name}.jpg", quality=85)


if __name__ == "__main__":
    main(sys.argv[1:])
