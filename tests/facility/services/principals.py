"""Principals: who may do what, as all services write it. Groups exist as names only: nobody is a member of one."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable

from .http import Caller

PUBLIC = "public"
ALL_USERS = "all_authenticated_users"
_UUID = "[0-9a-fA-F]{8}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{12}"
_URN = re.compile(rf"urn:globus:(auth:identity|groups:id):{_UUID}")
_UUID_ONLY = re.compile(_UUID)


def is_uuid(text: object) -> bool:
    """Whether a value is a UUID as the services write it."""
    return isinstance(text, str) and _UUID_ONLY.fullmatch(text) is not None


def is_principal(text: object, also: Collection[str] = ()) -> bool:
    """Whether a value is the URN of an identity or a group, or one of the words in `also`."""
    return isinstance(text, str) and (text in also or _URN.fullmatch(text) is not None)


def included(caller: Caller | None, principals: Iterable[str]) -> bool:
    """Whether the caller is among principals; an unknown caller only where all the world is."""
    named = set(principals)
    if PUBLIC in named:
        return True
    return caller is not None and (ALL_USERS in named or caller.urn in named)
