"""Keys of services: from the environment, else from the system's keyring. They go nowhere else."""

from __future__ import annotations

import os
from importlib import import_module

from greenml.errors import FactorError
from greenml.factors._secrets import Mask

SERVICE = "greenml"  # the name under which the keyring has them

_handed_out: set[str] = set()  # so that no message holds one, whatever a service's answer says back


def find(variable: str, who: str) -> str:
    """Return a key.

    Args:
        variable: of the environment; the keyring has the key of service ``greenml`` under the same name.
        who: the service that wants it, for the message.

    Raises:
        FactorError: there is none; says where to put it.
    """
    key, reason = os.environ.get(variable, "").strip(), ""
    if not key:
        key, reason = _from_keyring(variable)
    if key:
        return remember(key)
    raise FactorError(f"{who} needs a key: set {variable}, or 'keyring set {SERVICE} {variable}'{reason}")


def remember(key: str) -> str:
    """Return a key, which no message will hold from now on."""
    _handed_out.add(key)
    return key


def hidden(text: str) -> str:
    """Return a text without any key that was handed out."""
    return Mask(_handed_out)(text)


def _from_keyring(variable: str) -> tuple[str, str]:
    """Return what the keyring has, or "" and why it has nothing."""
    try:
        keyring = import_module("keyring")
    except ImportError:
        return "", " after pip install 'greenml[keys]'"
    try:
        return (keyring.get_password(SERVICE, variable) or "").strip(), ""
    except Exception as error:  # noqa: BLE001  a backend raises what it likes, and may name what it looked up
        return "", f" (the keyring did not answer: {type(error).__name__})"
