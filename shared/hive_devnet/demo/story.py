"""Steps with progress lines, checks and the closing account."""

from __future__ import annotations

import time
import traceback
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field


class StepFailed(Exception):
    """A check of the story did not hold."""


@dataclass
class Step:
    """One step as the closing table shows it."""

    title: str
    happened: str = ""
    seconds: float = 0.0
    held: bool = False

    def say(self, text: str) -> None:
        """A progress line under the step's title."""
        print(f"     {text}", flush=True)

    def check(self, holds: bool, sentence: str) -> None:
        """State a fact that has to hold. Raises StepFailed with the sentence when it does not."""
        if not holds:
            raise StepFailed(f"did not hold: {sentence}")
        self.say(f"✓ {sentence}")

    def result(self, text: str) -> None:
        """What happened, in a few words, for the table."""
        self.happened = text


@dataclass
class Story:
    """All steps so far. A failed step does not stop the ones that can still be told."""

    steps: list[Step] = field(default_factory=list)
    broken: bool = False

    @asynccontextmanager
    async def step(self, title: str) -> AsyncIterator[Step]:
        """Run one step; once one failed, the later ones are listed as not run."""
        step = Step(title)
        self.steps.append(step)
        print(f"[{len(self.steps):2}] {title}", flush=True)
        started = time.monotonic()
        try:
            yield step
            step.held = True
        except Exception as error:
            self.broken = True
            step.happened = f"{type(error).__name__}: {error}"
            print(f"     ✗ {step.happened}", flush=True)
            if not isinstance(error, StepFailed):
                traceback.print_exc()
            raise
        finally:
            step.seconds = time.monotonic() - started

    def account(self) -> str:
        """The closing table: every step, whether it held, what happened, how long it took."""
        width = max(len(step.title) for step in self.steps)
        lines = ["", "What happened", "=" * 13]
        for number, step in enumerate(self.steps, 1):
            mark = "held" if step.held else "FAILED"
            title = step.title.ljust(width)
            lines.append(f"{number:2}  {title}  {mark:6}  {step.seconds:6.2f} s  {step.happened}")

        total = sum(step.seconds for step in self.steps)
        verdict = "every step held" if not self.broken else "NOT every step held"
        lines.append(f"{len(self.steps)} steps, {total:.1f} s: {verdict}.")
        return "\n".join(lines)
