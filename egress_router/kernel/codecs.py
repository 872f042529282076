"""pyroute2's message classes without the rest of pyroute2.

``import pyroute2`` loads asyncio, ssl, NDB and every netlink family: a quarter of a second that each pod would wait
for. The message classes need none of that. While they are imported an empty package stands in for pyroute2's
``__init__``; afterwards it is gone, so that a later ``import pyroute2`` works as ever.
"""

from __future__ import annotations

import sys
from importlib.machinery import PathFinder
from types import ModuleType

from egress_router.errors import PlatformError

_NAME = "pyroute2"


def _bare_package() -> ModuleType:
    spec = PathFinder.find_spec(_NAME)
    if spec is None or spec.submodule_search_locations is None:
        raise PlatformError("the Python package pyroute2 is not installed")
    package = ModuleType(_NAME)
    package.__path__ = list(spec.submodule_search_locations)
    package.__spec__ = spec
    return package


_loaded = _NAME in sys.modules
if not _loaded:
    sys.modules[_NAME] = _bare_package()
try:
    from pyroute2.netlink import nlmsg
    from pyroute2.netlink.rtnl.fibmsg import fibmsg
    from pyroute2.netlink.rtnl.ifaddrmsg import ifaddrmsg
    from pyroute2.netlink.rtnl.ifinfmsg import ifinfmsg
    from pyroute2.netlink.rtnl.ndmsg import ndmsg
    from pyroute2.netlink.rtnl.rtmsg import rtmsg
finally:
    if not _loaded:
        del sys.modules[_NAME]

__all__ = ["fibmsg", "ifaddrmsg", "ifinfmsg", "ndmsg", "nlmsg", "rtmsg"]
