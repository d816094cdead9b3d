"""A DLL made of Python methods: each is called by way of ctypes, with the types of the module's own prototypes.

So what a caller passes goes through the same conversions as on Windows: a wrong argument fails here, too.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Mapping
from typing import Any

from lanparty.link.windows.winapi.dll import Prototype


class FakeDll:
    """Has, as attributes, all functions of ``prototypes`` for which ``methods`` has a method of that name."""

    def __init__(self, methods: object, prototypes: Mapping[str, Prototype]) -> None:
        self.raised: list[BaseException] = []
        """What methods raised: ctypes cannot pass it on."""
        for name, (result, arguments) in prototypes.items():
            method = getattr(methods, name, None)
            if method is not None:
                setattr(self, name, ctypes.CFUNCTYPE(result, *arguments)(self._caught(method)))

    def _caught(self, method: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any) -> Any:
            try:
                return method(*arguments)
            except BaseException as error:
                self.raised.append(error)
                raise

        return call
