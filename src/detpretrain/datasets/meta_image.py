"""MetaImage (.mhd) headers against the file that holds the voxels, without reading those."""

from __future__ import annotations

from pathlib import Path

# bytes of a voxel, by the header's ElementType
ELEMENT_BYTES = {
    "MET_CHAR": 1,
    "MET_UCHAR": 1,
    "MET_SHORT": 2,
    "MET_USHORT": 2,
    "MET_INT": 4,
    "MET_UINT": 4,
    "MET_FLOAT": 4,
    "MET_DOUBLE": 8,
}


def header_problem(path: Path) -> str | None:
    """What is wrong with the voxel file that a header names: missing, or of another size; None when all is well.

    ``path``: a header that ITK can read. The size of a compressed voxel file says nothing and is not looked at.
    """
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    fields = {key.strip(): value.strip() for key, _, value in (line.partition("=") for line in lines)}
    voxels = path.parent / fields["ElementDataFile"]
    if not voxels.is_file():
        return f"its voxels {voxels.name} are missing"
    if fields.get("CompressedData", "False").lower() == "true" or fields["ElementType"] not in ELEMENT_BYTES:
        return None
    expected, found = ELEMENT_BYTES[fields["ElementType"]], voxels.stat().st_size
    for length in fields["DimSize"].split():
        expected *= int(length)
    return None if found == expected else f"{voxels.name} has {found} bytes, the header says {expected}"
