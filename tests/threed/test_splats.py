"""Splat files: read back exactly, read by others, and refused when damaged."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import trimesh

from degauss.core.errors import InputError
from degauss.core.noise import Noise
from degauss.threed.projection import Cloud
from degauss.threed.splats import read_splats, write_splats

from ._dense import cast, cloud_of


def unit(cloud: Cloud) -> Cloud:
    quaternions = cloud.quaternions / cloud.quaternions.norm(dim=-1, keepdim=True)
    return Cloud(*(part.detach() for part in cloud._replace(quaternions=quaternions)))


@pytest.mark.parametrize("degree", [0, 1, 2, 3])
def test_what_is_written_is_read(tmp_path: Path, degree: int) -> None:
    cloud = unit(cast(cloud_of(17, degree), torch.float32))
    write_splats(tmp_path / "a.ply", cloud)
    for found, expected in zip(read_splats(tmp_path / "a.ply"), cloud, strict=True):
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-7)


def test_another_reader_sees_the_layout(tmp_path: Path) -> None:
    cloud = unit(cast(cloud_of(5, 1), torch.float32))
    write_splats(tmp_path / "a.ply", cloud)
    other = trimesh.load(tmp_path / "a.ply")
    assert isinstance(other, trimesh.PointCloud)
    np.testing.assert_array_equal(other.vertices, cloud.means.numpy())
    data = other.metadata["_ply_raw"]["vertex"]["data"]
    order = "x y z nx ny nz f_dc_0 f_dc_1 f_dc_2 " + " ".join(f"f_rest_{k}" for k in range(9))
    assert list(data.dtype.names) == [
        *order.split(),
        *["opacity", "scale_0", "scale_1", "scale_2", "rot_0", "rot_1", "rot_2", "rot_3"],
    ]
    np.testing.assert_array_equal(data["rot_0"], cloud.quaternions[:, 0])
    np.testing.assert_array_equal(data["scale_2"], cloud.log_scales[:, 2])
    # All of red comes first.
    np.testing.assert_array_equal(data["f_rest_1"], cloud.sh[:, 2, 0])
    np.testing.assert_array_equal(data["f_rest_3"], cloud.sh[:, 1, 1])


def written(path: Path, kind: str, count: int = 3, **strange: str) -> Path:
    """A file as another program may write it: more properties, another order, another format."""
    names = ["red", "rot_3", "rot_2", "rot_1", "rot_0", "x", "y", "z", "f_dc_0", "f_dc_1", "f_dc_2"]
    names += ["opacity", "scale_0", "scale_1", "scale_2"]
    names = [strange.get(name, name) for name in names]
    kinds = ["uchar" if name == "red" else "double" for name in names]
    header = ["ply", f"format {kind} 1.0", "comment made elsewhere", f"element vertex {count}"]
    header += [f"property {what} {name}" for what, name in zip(kinds, names, strict=True)]
    header += ["element face 0", "property list uchar int vertex_indices", "end_header", ""]
    values = np.arange(count * len(names)).reshape(count, -1) % 100 + 1
    if kind == "ascii":
        body = "\n".join(" ".join(str(v) for v in row) for row in values).encode() + b"\n"
    else:
        order = ">" if "big" in kind else "<"
        layout = np.dtype([(n, order + ("u1" if k == "uchar" else "f8")) for n, k in zip(names, kinds, strict=True)])
        body = np.array([tuple(row) for row in values], layout).tobytes()
    path.write_bytes("\n".join(header).encode() + body)
    return path


@pytest.mark.parametrize("kind", ["ascii", "binary_little_endian", "binary_big_endian"])
def test_files_of_others(tmp_path: Path, kind: str) -> None:
    cloud = read_splats(written(tmp_path / "a.ply", kind))
    assert cloud.degree == 0
    assert cloud.means.tolist() == [[6, 7, 8], [21, 22, 23], [36, 37, 38]]
    first = torch.tensor([5.0, 4.0, 3.0, 2.0])
    torch.testing.assert_close(cloud.quaternions[0], first / first.norm())
    assert cloud.opacity_logits.tolist() == [12, 27, 42]


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        (lambda b: b"", "no PLY file"),
        (lambda b: b"solid" + b, "no PLY file"),
        (lambda b: b[:-150], "is cut short: it holds 15 of 17 vertices"),
        (lambda b: b.replace(b"f_dc_1", b"g_dc_1"), "no property 'f_dc_1'"),
        (lambda b: b.replace(b"f_rest_8\n", b"g_rest_8\n"), "8 f_rest properties, but expected 0, 9, 24 or 45"),
        (lambda b: b.replace(b"element vertex", b"element edge"), "whose first element is its vertices"),
        (lambda b: b.replace(b"property float x\n", b"property list uchar float x\n"), "a list or unknown type"),
        (lambda b: b.replace(b"property float nx", b"property float x"), "have the same name"),
        (lambda b: b.replace(b"binary_little_endian", b"middle"), "the format is 'middle'"),
        (lambda b: b[:-4] + np.float32(np.nan).tobytes(), "1 of 68 numbers in quaternions are not finite"),
        (lambda b: b[:-16] + bytes(16), "a quaternion .* is 0"),
    ],
)
def test_damaged_files(tmp_path: Path, change: Callable[[bytes], bytes], complaint: str) -> None:
    path = tmp_path / "a.ply"
    write_splats(path, cast(cloud_of(17, 1), torch.float32))
    path.write_bytes(change(path.read_bytes()))
    with pytest.raises(InputError, match=complaint):
        read_splats(path)


def test_text_that_is_no_numbers(tmp_path: Path) -> None:
    path = written(tmp_path / "a.ply", "ascii")
    path.write_bytes(path.read_bytes().replace(b"36 37", b"36 thirty"))
    with pytest.raises(InputError, match="a vertex is not 15 numbers"):
        read_splats(path)


def test_missing_files_and_numbers(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot be read"):
        read_splats(tmp_path / "none.ply")
    cloud = cast(cloud_of(3), torch.float32)
    with torch.no_grad():
        cloud.means[1] = Noise(0, range(3)).normal(cloud.means)[1] / 0
    with pytest.raises(InputError, match="refused to write"):
        write_splats(tmp_path / "a.ply", cloud)
    assert not list(tmp_path.iterdir())
