"""Whether the hub can be asked, before its client tries again and again for half a minute."""

from __future__ import annotations

from typing import Any


def hub_answers() -> bool:
    """Whether the hub answers at all, asked once; False where `HF_HUB_OFFLINE` is set.

    Proxies and another endpoint are those of the hub's own client, from the environment.
    """
    from huggingface_hub import constants, get_session

    if constants.HF_HUB_OFFLINE:
        return False
    session: Any = get_session()
    try:
        session.head(constants.ENDPOINT, timeout=constants.HF_HUB_ETAG_TIMEOUT)
    except Exception:  # each version of the client raises errors of another library
        return False
    return True


def unreachable(source: str) -> str:
    """What to tell of a model that is neither on this disk nor can be fetched."""
    from huggingface_hub import constants

    why = "HF_HUB_OFFLINE is set" if constants.HF_HUB_OFFLINE else f"{constants.ENDPOINT} cannot be reached"
    return f"{source} is no folder and was not fetched before, and {why}: give a folder, or go online"
