"""Who this vehicle is: a key that is made here and never leaves, and a number that grows with everything it signs."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.serialization import load_pem_private_key
from securesystemslib.signer import CryptoSigner

from client_agent.journal import DurableFile, sync_directory
from model_registry.contract.canonical import canonical_json
from model_registry.contract.errors import MessageRefused, NotEnrolled
from model_registry.contract.fields import Fields
from model_registry.contract.messages import Envelope

KEY_FILE = "vehicle-key.pem"
SEQUENCE_FILE = "sequence.json"


class Identity:
    """The vehicle's key and its sequence, in a state directory."""

    def __init__(self, directory: Path, signer: CryptoSigner) -> None:
        self._signer = signer
        self._sequence: DurableFile[int] = DurableFile(directory / SEQUENCE_FILE, _read_sequence, 0)

    @classmethod
    def load(cls, directory: Path) -> Identity:
        """Raises NotEnrolled when the directory holds no usable key."""
        try:
            private = load_pem_private_key((directory / KEY_FILE).read_bytes(), None)
            return cls(directory, CryptoSigner(private))
        except (OSError, ValueError, TypeError) as exc:
            raise NotEnrolled(f"{directory} holds no vehicle key", remedy="enrol with: deltafleet-agent enroll") from exc

    @classmethod
    def create(cls, directory: Path) -> Identity:
        """Make the key, or load the one that an earlier attempt made. Raises OSError."""
        path = directory / KEY_FILE
        if not path.exists():
            temporary = path.with_suffix(".new")
            temporary.unlink(missing_ok=True)
            descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
            with open(descriptor, "wb") as file:  # noqa: PTH123 - a descriptor, not a path
                file.write(CryptoSigner.generate_ed25519().private_bytes)
                file.flush()
                os.fsync(file.fileno())
            temporary.rename(path)
            sync_directory(directory)
        return cls.load(directory)

    @property
    def public_key(self) -> dict[str, Any]:
        """securesystemslib's dictionary: keytype, scheme, keyval."""
        return dict(self._signer.public_key.to_dict())

    def next_sequence(self) -> int:
        """A number above every one before, on disk before it is used: a crash may waste it, never repeat it. Raises OSError."""
        number = self._sequence.read() + 1
        self._sequence.write({"sequence": number})
        return number

    def sign(self, payload: dict[str, Any]) -> Envelope:
        signature = self._signer.sign(canonical_json(payload))
        return Envelope(payload, signature.keyid, signature.signature)


def _read_sequence(value: Any) -> int:
    return Fields(value, MessageRefused, "sequence").only("sequence").integer("sequence")
