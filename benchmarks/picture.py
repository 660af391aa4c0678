"""Make the README's pictures: `docs/kd-distill.svg` and `docs/kd-demo.svg`, what these commands show.

Run: python benchmarks/picture.py   (in an empty folder; two minutes on two cores)
"""

import re
import subprocess
import sys
from pathlib import Path

from rich.console import Console
from rich.text import Text

FOLDER = Path(__file__).parent.parent / "docs"
TEACHER = ["train-teacher", "--recipe", "digits", "--out", "runs/teacher", "--resume", "--quiet"]
COMMANDS = {
    "kd-distill": ["distill", "--recipe", "digits", "--teacher", "runs/teacher", "--out", "runs/student"],
    "kd-demo": ["demo", "--out", "runs/demo"],
}
# Of the demonstration only the commands that it stands for and the table at its end.
SHOWN = {
    "kd-distill": r".*",
    "kd-demo": r"\$|next|1,797|model |teacher +0|student (alone|distilled)|student\S*, seed|distilled|all of it",
}
WIDTH = 124


def main():
    run(TEACHER)
    for name, command in COMMANDS.items():
        lines = [line for line in run(command).splitlines() if re.match(SHOWN[name], line)]
        console = Console(record=True, width=WIDTH, file=open("/dev/null", "w", encoding="utf-8"))
        console.print(Text(f"$ kd {' '.join(command)}", style="bold green"))
        for line in lines:
            show(console, line.rstrip())
        # Without rich's web fonts: a picture that loads nothing from elsewhere.
        drawn = console.export_svg(title=f"kd {command[0]}")
        picture = re.sub(r"@font-face \{.*?\}\s*", "", drawn, flags=re.DOTALL)
        FOLDER.mkdir(exist_ok=True)
        (FOLDER / f"{name}.svg").write_text(picture, "utf-8")
        print(FOLDER / f"{name}.svg")


def run(command):
    words = [sys.executable, "-m", "kdcli", *command]
    return subprocess.run(words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=True).stdout


def show(console, line):
    style = "bold" if line.startswith(("figure", "model ")) else "dim" if line.startswith(("epoch", "$")) else ""
    if len(line) > WIDTH:
        line = line[: WIDTH - 1] + "…"
    # Spaces that a picture keeps.
    console.print(Text(line.replace(" ", "\u00a0"), style=style))


if __name__ == "__main__":
    main()
