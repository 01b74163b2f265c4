"""Put data/ and notebooks/ into the wheel. An editable install reads them where they are."""

from pathlib import Path

from hatchling.builders.hooks.plugin.interface import BuildHookInterface


class IncludeCourse(BuildHookInterface):
    """Named in pyproject.toml; hatchling calls it before it builds."""

    def initialize(self, version, build_data):
        """Add the two folders to a standard build only, so that no stale copy lies around."""
        if version == "standard":
            build_data["force_include"]["data"] = "mrl_course/_data"
            for path in Path(self.root, "notebooks").glob("*.ipynb"):  # not what lessons wrote
                build_data["force_include"][str(path)] = f"mrl_course/_notebooks/{path.name}"
