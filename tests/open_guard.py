"""A guard.toml that lets the tests' advisor do what a test is not about."""

from __future__ import annotations

from pathlib import Path

RULES = """[global]
fee_step_pct = "off"
min_fee_ppm = "off"
max_fee_ppm = "off"
fee_writes_3h = "off"
fee_writes_24h = "off"
"""


def open_guard(config_dir: Path) -> None:
    """No limits on fee changes in this profile; everything else stays as it comes."""
    config_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
    file = config_dir / "guard.toml"
    file.write_text(RULES)
    file.chmod(0o600)
