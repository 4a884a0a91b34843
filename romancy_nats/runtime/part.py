"""What the parts of an instance have in common: they know whose they are, and do not keep it in memory."""

from __future__ import annotations

from typing import TYPE_CHECKING
from weakref import ref

if TYPE_CHECKING:
    from romancy_nats.runtime.instance import Instance


class Part:
    """A part of one instance."""

    def __init__(self, instance: Instance) -> None:
        self._of = ref(instance)

    @property
    def _instance(self) -> Instance:
        # Weakly: what ends is freed at once, without the collector.
        instance = self._of()
        assert instance is not None
        return instance
