"""Pictures for docs/explanation/what-the-tools-show.md: python docs/tools.py FOLDER [NAME …]

FOLDER holds the runs that the page names: digits, mnist, faces, and vae_ and styles_ of each. Runs each command in this process
and prints the CPU time that it took; NAME: only the pictures whose names begin so. Of MNIST and the faces only generated pictures
are shown: where a tool shows real ones, FOLDER/generated_… takes their place, which this program makes.
"""

from __future__ import annotations

import os
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path

from PIL import Image, ImageSequence

from ganexp.cli.main import main as command_line

OUT = Path(__file__).parent.absolute() / "tools"
MOST = 640  # px
FILM = 128  # px
GENERATED = ("mnist", "faces")  # runs whose samples from another seed are shown in place of real pictures
MNIST, FACES = (
    f"data=folder data.root=generated_{name} data.shape={shape}"
    for name, shape in zip(GENERATED, ("[1,28,28]", "[3,64,64]"), strict=True)
)
COMMANDS = {  # name of the picture: the words of the command, the file that it writes
    "interpolate-digits": ("run=digits task.num=5 task.labels=[1,7,4,9,3]", "interpolation.png"),
    "interpolate-mnist": ("run=mnist task.seeds=[3] task.labels=[1,7,4,9,3]", "interpolation.png"),
    "interpolate-faces": ("run=faces task.num=4", "interpolation.png"),
    "walk-digits": ("run=digits task.num=4 task.frames=10 task.fps=12 task.film=webp", "walk.webp"),
    "walk-mnist": ("run=mnist task.num=4 task.frames=10 task.fps=12 task.film=webp", "walk.webp"),
    "walk-faces": ("run=faces task.num=4 task.frames=10 task.fps=12 task.film=webp", "walk.webp"),
    "truncate-digits": ("run=digits task.num=5 task.psi=[0,0.5,0.75,1,1.25]", "truncation.png"),
    "truncate-mnist": ("run=mnist task.num=5 task.psi=[0,0.5,0.75,1,1.25]", "truncation.png"),
    "truncate-faces": ("run=faces task.num=4 task.psi=[0,0.5,0.75,1,1.25]", "truncation.png"),
    "style_mix-digits": ("run=styles_digits task.num=5 task.layers=[0]", "styles.png"),
    "style_mix-mnist": ("run=styles_mnist task.num=5 task.layers=[0,1]", "styles.png"),
    "style_mix-faces": ("run=styles_faces task.num=5 task.layers=[0,1,2,3]", "styles.png"),
    "directions-digits": ("run=digits task.num=1 task.seeds=[1,2,3] task.labels=[0,3,5]", "direction-01.png"),
    "directions-mnist": ("run=mnist task.num=1 task.seeds=[1,2,3] task.labels=[2,7,8]", "direction-01.png"),
    "directions-faces": ("run=faces task.num=1 task.seeds=[0,3,5] task.reach=5", "direction-01.png"),
    "attributes-digits": ("run=digits task.attribute=3 task.labels=[5] task.seeds=[1,2,3]", "attribute.png"),
    "attributes-mnist": ("run=mnist task.attribute=9 task.labels=[4] task.seeds=[1,2,3]", "attribute.png"),
    "attributes-faces": ("run=faces task.attribute=1 data=celeba data.attributes=[Smiling]", "attribute.png"),
    "neighbours-digits": ("run=digits task.num=4", "neighbours.png"),
    "neighbours-mnist": (f"run=mnist task.num=4 {MNIST}", "neighbours.png"),
    "neighbours-faces": (f"run=faces task.num=4 {FACES}", "neighbours.png"),
    "project-digits": ("run=digits task.number=7 task.steps=300", "projection.png"),
    "project-mnist": ("run=mnist task.picture=generated_mnist/00007.png task.label=7 task.steps=300", "projection.png"),
    "project-faces": ("run=faces task.picture=generated_faces/00007.png task.steps=300", "projection.png"),
    "reconstruct-digits": ("run=vae_digits task.num=16", "reconstruction.png"),
    "reconstruct-mnist": (f"run=vae_mnist task.num=16 {MNIST}", "reconstruction.png"),
    "reconstruct-faces": (f"run=vae_faces task.num=16 {FACES}", "reconstruction.png"),
    "spectrum-digits": ("run=digits", "spectrum.png"),
    "spectrum-mnist": ("run=mnist", "spectrum.png"),
    "spectrum-faces": ("run=faces", "spectrum.png"),
}


def run(words: list[str]) -> float:
    """The CPU time of a command, in s."""
    sys.argv = ["ganexp", *words]
    before = time.process_time()
    with suppress(SystemExit):
        command_line()
    return time.process_time() - before


def save(file: Path, name: str) -> None:
    if file.suffix == ".webp":
        with Image.open(file) as film:
            duration = film.info.get("duration", 83)
            frames = [frame.convert("RGB").resize((FILM, FILM)) for frame in ImageSequence.Iterator(film)]
        frames[0].save(OUT / f"{name}.webp", save_all=True, append_images=frames[1:], duration=duration, loop=0, quality=75)
        return
    picture = Image.open(file).convert("RGB")
    picture.thumbnail((MOST, MOST))
    picture.save(OUT / f"{name}.jpg", quality=85)


def main(folder: str, *names: str) -> None:
    OUT.mkdir(exist_ok=True)
    os.chdir(folder)
    for name in GENERATED:
        if not Path(f"generated_{name}").is_dir():
            run(["task=sample", f"run={name}", "seed=100", "task.num=2000", "task.grid=false", f"hydra.run.dir=generated_{name}"])
    run(["task=sample", "run=digits", "task.num=1"])  # whatever comes first takes seconds more
    for name, (words, file) in COMMANDS.items():
        if not name.startswith(names or ("",)):
            continue
        with tempfile.TemporaryDirectory() as out:
            seconds = run([f"task={name.partition('-')[0]}", *words.split(), f"hydra.run.dir={out}/out"])
            print(f"{name:<20} {seconds:5.1f} s  {words}", flush=True)
            save(Path(out) / "out" / file, name)


if __name__ == "__main__":
    main(*sys.argv[1:])
