"""Where each setting came from: the recipe's line, `--set`, an option, a measurement, or the default."""

from __future__ import annotations

from dataclasses import dataclass, field

from kdcli.recipe.document import Document, SettingPath


@dataclass
class Origins:
    """What was given outside the recipe's text, and what a run resolved, by path.

    Args:
        document: the recipe's text, for its lines.
        outside: option or `--set` by path.
        follows: defaults that hold because of another setting, by path.
        notes: what the plan says of such defaults.
    """

    document: Document
    overrides: dict[SettingPath, str] = field(default_factory=dict)
    implied_defaults: dict[SettingPath, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def given(self, path: SettingPath) -> str | None:
        """The option that gave the value at a path or around it, if one did."""
        for length in range(len(path), 0, -1):
            if path[:length] in self.overrides:
                return self.overrides[path[:length]]
        return None

    def of(self, path: SettingPath) -> str:
        """In words: `--epochs`, `feature.yaml:14` or `default`."""
        option = self.given(path)
        if option:
            return option
        if path in self.implied_defaults:
            return self.implied_defaults[path]
        place = self.document.places.get(path) or self.document.value_places.get(path)
        if place:
            return f"{self.document.source}:{place[0]}"
        return "default"
