"""Write every generated part of the documentation.

python docs/generate.py            tables, then the outputs of all examples and docs/kd-demo.svg (some minutes)
python docs/generate.py --tables   only what is read from the code (seconds)
python docs/generate.py --check    change nothing; exit 1 and name the pages whose tables are out of date
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from writers import catalogue, examples, losses, options, python_api, rooms, settings
from writers.markdown import BLOCK, Writer, fill

ROOT = Path(__file__).parents[1]
WRITERS: dict[str, Writer] = {
    "classes": python_api.classes,
    "commands": options.command_table,
    "foreign-words": options.foreign_table,
    "functions": python_api.functions,
    "loss-sections": losses.loss_sections,
    "loss-table": losses.loss_table,
    "metrics": catalogue.metric_table,
    "options": options.option_tables,
    "recipe-sections": catalogue.recipe_sections,
    "recipe-table": catalogue.recipe_table,
    "rooms": rooms.room_table,
    "settings": settings.setting_tables,
}


def pages() -> list[Path]:
    """Every page of the documentation."""
    return [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]


def outdated() -> dict[Path, str]:
    """What each page whose tables are out of date should be."""
    texts = {path: path.read_text("utf-8") for path in pages()}
    filled = {path: fill(text, WRITERS) for path, text in texts.items() if BLOCK.search(text)}
    return {path: text for path, text in filled.items() if text != texts[path]}


def main() -> int:
    """Parse the arguments and write, or check."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    mode = parser.add_mutually_exclusive_group()
    mode.add_argument("--tables", action="store_true")
    mode.add_argument("--check", action="store_true")
    chosen = parser.parse_args()
    stale = outdated()
    for path, text in stale.items():
        print(path.relative_to(ROOT))
        if not chosen.check:
            path.write_text(text, "utf-8")
    if chosen.check:
        return 1 if stale else 0
    if not chosen.tables:
        examples.write(ROOT)
    return 0


if __name__ == "__main__":
    sys.exit(main())
