"""Files and their digests."""

from __future__ import annotations

from pathlib import Path

from namm.files import file_sha256


def test_a_checksum_is_what_sha256sum_prints(tmp_path: Path) -> None:
    """FIPS 180-2's example: of the content alone, whatever the file is called."""
    (tmp_path / "a.safetensors").write_bytes(b"abc")
    expected = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    assert file_sha256(tmp_path / "a.safetensors") == expected
