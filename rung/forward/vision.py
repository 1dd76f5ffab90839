"""Vision encoders beside a language model: each opened once in a process, for all who see with it."""

from __future__ import annotations

import threading
import weakref
from pathlib import Path

from rung import bases
from rung.errors import ArtefactError, ConfigError
from rung.forward.opening import open_bank
from rung.forward.picture_bank import PictureBank

_lock = threading.Lock()
_opened: weakref.WeakValueDictionary[tuple[str, str], PictureBank] = weakref.WeakValueDictionary()


def open_vision(spec: str, device: str = "cpu", digest: str | None = None) -> PictureBank:
    """The bank of a vision encoder, opened once in a process for all who see with it.

    Args:
        digest: what the encoder must be, for an adapter that was made with it.

    Raises:
        BaseNotFound, ArtefactError: as `bases.resolve`, or when it is another one than `digest` says.
        ConfigError: for a base that reads no pictures.
    """
    info = bases.resolve(spec)
    if digest is not None and info.digest != digest:
        raise ArtefactError(f"{spec} holds other weights or preprocessing than the model was made with")
    with _lock:
        known = _opened.get((info.digest, device))
        if known is None:
            if bases.reads(Path(info.path)) != "pictures":
                raise ConfigError(f"--vision {spec} reads no pictures: name an encoder that does")
            bank = open_bank(info, device=device).bank
            assert isinstance(bank, PictureBank)
            _opened[info.digest, device] = known = bank
    return known
