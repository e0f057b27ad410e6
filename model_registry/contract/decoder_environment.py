"""How a process is started that decodes artifacts and ends: the vehicle's, and those that measure what it takes there."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from model_registry.contract.limits import MIB

DECODER_ENVIRONMENT: Mapping[str, str] = MappingProxyType(
    {
        # One thread, so that thread stacks do not eat the address space.
        "OMP_NUM_THREADS": "1",
        "OPENBLAS_NUM_THREADS": "1",
        # The C library (glibc's mallopt; others ignore it) would hand freed arrays back to the kernel and ask for fresh pages
        # for the next ones, which is up to an eighth of the time that a delta takes.
        "MALLOC_MMAP_THRESHOLD_": str(4 * MIB),
        "MALLOC_TRIM_THRESHOLD_": str(64 * MIB),
        # Where the kernel has huge pages for those who ask, a decoding touches a hundred pages instead of two thousand, each of
        # which goes through the kernel at first: a tenth to a third of the time (glibc 2.35 and later; others ignore it).
        "GLIBC_TUNABLES": "glibc.malloc.hugetlb=1",
    }
)
