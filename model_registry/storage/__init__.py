"""Where artifacts lie: one protocol, on files or on any S3-compatible server.

``filesystem`` and ``s3`` hold the two stores; only ``s3`` needs boto3.
"""

from model_registry.storage.base import ArtifactStore, InvalidKey, MissingObject, StorageDenied

__all__ = ["ArtifactStore", "InvalidKey", "MissingObject", "StorageDenied"]
