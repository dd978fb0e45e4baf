"""Progress of a search: rate, remaining time, best so far."""

from __future__ import annotations

from slimdiff.evaluation.progress import Progress


class SearchProgress(Progress):
    """Count judged candidates.

    Args:
        total: of the whole search; None if it isn't known.
        done: judged before this process began; they don't count for the rate.
        enabled: False shows nothing.
    """

    def __init__(self, total: int | None, done: int = 0, enabled: bool = True) -> None:
        super().__init__(None if total is None else max(total - done, 0), 'searching', unit='candidates',
                         enabled=enabled)
        self.before = done
        self._note = ''

    @property
    def note(self) -> str:
        """The best so far, in words."""
        return self._note

    @note.setter
    def note(self, text: str) -> None:
        self._note = text
        if self._bar is not None:
            self._bar.set_description_str(f'searching, {text}')

    def line(self) -> str:
        """As ``searching 12/96 candidates, 1.5 candidates/s, 56 s left, best 0.0123 at 3.4 G MACs (52%)``."""
        before = f' ({self.before} before)' if self.before else ''
        return f'{super().line()}{before}, {self._note}'
