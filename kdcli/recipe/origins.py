"""Where each setting came from: a line of the recipe, `--set`, an option, or the default."""

from __future__ import annotations

from dataclasses import dataclass, field

from kdcli.recipe.document import Document, SettingPath


@dataclass
class Origins:
    """The origin of each setting.

    Args:
        document: the recipe's text.
        overrides: option or `--set` that set a value, by path.
        implied_defaults: origin of each default that another setting changed, by path.
        notes: sentences about such defaults, for the plan.
    """

    document: Document
    overrides: dict[SettingPath, str] = field(default_factory=dict)
    implied_defaults: dict[SettingPath, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def option_for(self, path: SettingPath) -> str | None:
        """Return the option that set the value at a path or a section around it; None if there is none."""
        for length in range(len(path), 0, -1):
            if path[:length] in self.overrides:
                return self.overrides[path[:length]]
        return None

    def of(self, path: SettingPath) -> str:
        """Return the origin of a setting: `--epochs`, `feature.yaml:14` or `default`."""
        option = self.option_for(path)
        if option:
            return option
        if path in self.implied_defaults:
            return self.implied_defaults[path]
        position = self.document.key_positions.get(path) or self.document.value_positions.get(path)
        if position:
            return f"{self.document.source}:{position[0]}"
        return "default"
