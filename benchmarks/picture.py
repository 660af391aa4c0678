"""Make `docs/kd-distill.svg`: what `kd distill` shows, as a picture for the README.

Run: python benchmarks/picture.py   (in a folder where runs/teacher holds `kd train-teacher --recipe digits`)
"""

import re
import subprocess
import sys
from pathlib import Path

from rich.console import Console
from rich.text import Text

TARGET = Path(__file__).parent.parent / "docs" / "kd-distill.svg"
COMMAND = ["distill", "--recipe", "digits", "--teacher", "runs/teacher", "--out", "runs/picture", "--overwrite"]
WIDTH = 124


def main():
    done = subprocess.run(
        [sys.executable, "-m", "kdcli", *COMMAND],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=True,
    )
    console = Console(record=True, width=WIDTH, file=open("/dev/null", "w", encoding="utf-8"))
    console.print(Text(f"$ kd {' '.join(COMMAND[:-1])}", style="bold green"))
    for line in done.stdout.splitlines():
        shown = line.rstrip()
        style = "bold" if shown.startswith("figure") else "dim" if shown.startswith("epoch") else ""
        if len(shown) > WIDTH:
            shown = shown[: WIDTH - 1] + "…"
        # Spaces that a picture keeps.
        console.print(Text(shown.replace(" ", "\u00a0"), style=style))
    TARGET.parent.mkdir(exist_ok=True)
    # Without rich's web fonts: a picture that loads nothing from elsewhere.
    picture = re.sub(r"@font-face \{.*?\}\s*", "", console.export_svg(title="kd distill"), flags=re.DOTALL)
    TARGET.write_text(picture, "utf-8")
    print(TARGET)


if __name__ == "__main__":
    main()
