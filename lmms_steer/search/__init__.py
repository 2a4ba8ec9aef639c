"""Search for layer, alpha and token target on held-out questions, with controls and an honest p-value.

The package itself can be called: `lmms_steer.search(…)` is `lmms_steer.search.api.search`. A function of this name
beside the package would be replaced by the package as soon as anything imports a module of it.
"""

import inspect
import sys
from types import ModuleType
from typing import Any


class _CallablePackage(ModuleType):
    def __call__(self, *args: Any, **options: Any) -> Any:
        from lmms_steer.search.api import search

        return search(*args, **options)

    @property
    def __signature__(self) -> inspect.Signature:
        from lmms_steer.search.api import search

        return inspect.signature(search)


sys.modules[__name__].__class__ = _CallablePackage
