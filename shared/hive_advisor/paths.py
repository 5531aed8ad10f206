"""Where a profile keeps its files (docs/protocol/11-advisor-kit.md §13)."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path

_PROFILE = re.compile(r"[A-Za-z0-9._-]{1,64}")


# Completion reads this at every press of a key, and nothing that needs msgspec.
@dataclass(frozen=True)
class ProfilePaths:
    """The files of one profile: configuration and data, each in a directory of mode 0700."""

    profile: str
    config_dir: Path
    data_dir: Path

    @property
    def config(self) -> Path:
        return self.config_dir / "config.toml"

    @property
    def guard(self) -> Path:
        return self.config_dir / "guard.toml"

    @property
    def nodes(self) -> Path:
        return self.config_dir / "nodes.toml"

    @property
    def mcp_allow(self) -> Path:
        return self.config_dir / "mcp-allow.json"

    @property
    def prompts(self) -> Path:
        return self.config_dir / "prompts"

    @property
    def identity(self) -> Path:
        return self.data_dir / "identity.json"

    @property
    def database(self) -> Path:
        return self.data_dir / "advisor.db"

    @property
    def unlock_failures(self) -> Path:
        return self.data_dir / "unlock-failures.json"

    @property
    def pin_misses(self) -> Path:
        return self.data_dir / "pin-misses.json"

    @property
    def halt(self) -> Path:
        return self.data_dir / "HALT"

    @property
    def control(self) -> Path:
        """Where the process that holds the profile takes commands: the socket itself, or a link to it."""
        return self.data_dir / "control.sock"

    @property
    def mcp_socket(self) -> Path:
        """Where it takes tool calls."""
        return self.data_dir / "mcp.sock"

    def make(self) -> None:
        """Create both directories, readable by the owner only."""
        for directory in (self.config_dir, self.data_dir):
            directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            directory.chmod(0o700)


def profile_paths(profile: str, config_dir: Path | None = None) -> ProfilePaths:
    """Paths of ``profile`` under the XDG directories.

    ``config_dir`` overrides the configuration directory only.
    Raises ValueError for a name that could leave the directory.
    """
    if not _PROFILE.fullmatch(profile) or profile in {".", ".."}:
        raise ValueError(
            f"profile name {profile!r}: take 1 to 64 letters, digits, dots, dashes or underscores"
        )
    home = Path.home()
    base_config = Path(os.environ.get("XDG_CONFIG_HOME") or home / ".config")
    base_data = Path(os.environ.get("XDG_DATA_HOME") or home / ".local" / "share")
    return ProfilePaths(
        profile=profile,
        config_dir=config_dir or base_config / "hive-advisor" / profile,
        data_dir=base_data / "hive-advisor" / profile,
    )
