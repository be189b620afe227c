"""Files by other readers: a plain parse of the GLB's chunks and of the OBJ's lines, and trimesh; and files refused."""

from __future__ import annotations

import io
import json
import struct
from pathlib import Path

import numpy as np
import pytest
import torch
import trimesh
from PIL import Image
from torch import Tensor
from trimesh.visual import ColorVisuals, TextureVisuals
from trimesh.visual.material import PBRMaterial

from degauss.core.errors import InputError
from degauss.threed.cameras import Cameras
from degauss.threed.mesh_files import read_mesh, read_provenance, read_texture, to_display, to_linear, write_mesh
from degauss.threed.meshes import Mesh
from degauss.threed.rendering import render


def textured_box() -> Mesh:
    """A box with a seam at each edge, and a texture of which no two texels are equal."""
    made = trimesh.creation.box()
    corners = torch.tensor(made.faces).flatten()
    generator = torch.Generator().manual_seed(0)
    uv = torch.rand(36, 2, generator=generator)
    texture = torch.randint(256, (6, 5, 3), generator=generator) / 255
    normals = torch.tensor(made.face_normals).float().repeat_interleave(3, 0)
    vertices = torch.tensor(made.vertices).float()[corners] + torch.tensor([0.1, 0.2, 0.3])
    return Mesh(vertices, torch.arange(36).view(12, 3), uv, texture, None, normals)


def coloured_ball() -> Mesh:
    made = trimesh.creation.icosphere(2, 0.5)
    vertices = torch.tensor(made.vertices).float()
    return Mesh(vertices, torch.tensor(made.faces), colours=(vertices + 0.5).clamp(0, 1))


def corners(mesh: Mesh, part: Tensor) -> Tensor:
    """A part of the vertices at each face's corners: files may number vertices as they like."""
    return part[mesh.faces]


# --- GLB ----------------------------------------------------------------------------------------------------


def chunks(path: Path) -> tuple[dict, bytes]:
    """The JSON and the binary chunk of a GLB, by its specification."""
    data = path.read_bytes()
    magic, version, length = struct.unpack_from("<4sII", data)
    assert (magic, version, length) == (b"glTF", 2, len(data))
    size, kind = struct.unpack_from("<I4s", data, 12)
    assert kind == b"JSON"
    binary, kind = struct.unpack_from("<I4s", data, 20 + size)
    assert kind == b"BIN\0"
    assert size % 4 == binary % 4 == 0
    return json.loads(data[20 : 20 + size]), data[28 + size : 28 + size + binary]


def accessor(header: dict, binary: bytes, number: int) -> np.ndarray:
    about = header["accessors"][number]
    view = header["bufferViews"][about["bufferView"]]
    start = view.get("byteOffset", 0) + about.get("byteOffset", 0)
    dtype = {5126: "<f4", 5125: "<u4", 5121: "u1"}[about["componentType"]]
    columns = {"SCALAR": 1, "VEC2": 2, "VEC3": 3, "VEC4": 4}[about["type"]]
    return np.frombuffer(binary, dtype, about["count"] * columns, start).reshape(-1, columns)


def test_a_glb_holds_what_its_specification_says(here: Path):
    mesh = textured_box()
    assert mesh.uv is not None
    assert mesh.texture is not None
    assert mesh.normals is not None
    provenance = {"seed": 3, "prior": "sha256:0a", "licences": ["CC0"], "config": {"method": "asd"}}
    write_mesh(here / "box.glb", mesh, provenance)
    header, binary = chunks(here / "box.glb")
    assert header["asset"]["version"] == "2.0"
    assert header["asset"]["extras"] == provenance == read_provenance(here / "box.glb")
    (primitive,) = header["meshes"][0]["primitives"]
    parts = {name: accessor(header, binary, number) for name, number in primitive["attributes"].items()}
    assert set(parts) == {"POSITION", "NORMAL", "TEXCOORD_0"}
    np.testing.assert_array_equal(parts["POSITION"], mesh.vertices.numpy())
    np.testing.assert_allclose(parts["NORMAL"], mesh.normals.numpy(), atol=1e-6)
    expected = mesh.uv * torch.tensor([1, -1]) + torch.tensor([0, 1])  # glTF counts v from the top
    np.testing.assert_allclose(parts["TEXCOORD_0"], expected.numpy(), atol=1e-6)
    np.testing.assert_array_equal(accessor(header, binary, primitive["indices"]).reshape(-1, 3), mesh.faces.numpy())
    material = header["materials"][primitive["material"]]["pbrMetallicRoughness"]
    image = header["images"][header["textures"][material["baseColorTexture"]["index"]]["source"]]
    view = header["bufferViews"][image["bufferView"]]
    png = Image.open(io.BytesIO(binary[view["byteOffset"] : view["byteOffset"] + view["byteLength"]]))
    assert (png.format, png.mode, image["mimeType"]) == ("PNG", "RGB", "image/png")
    np.testing.assert_array_equal(np.asarray(png), (mesh.texture * 255).round().byte().numpy())


def test_a_glb_keeps_colours_of_vertices_linear(here: Path):
    mesh = coloured_ball()
    assert mesh.colours is not None
    write_mesh(here / "ball.glb", mesh)
    header, binary = chunks(here / "ball.glb")
    (primitive,) = header["meshes"][0]["primitives"]
    colours = accessor(header, binary, primitive["attributes"]["COLOR_0"])
    np.testing.assert_allclose(colours, to_linear(mesh.colours).numpy(), atol=1e-6)
    again = read_mesh(here / "ball.glb")
    assert again.colours is not None
    torch.testing.assert_close(again.colours, mesh.colours)


def test_colours_of_vertices_in_8_bits_are_linear_too(here: Path):
    made = trimesh.creation.box()
    made.visual = ColorVisuals(made, vertex_colors=np.tile((188, 0, 255, 255), (8, 1)).astype(np.uint8))
    made.export(here / "box.glb")
    colours = read_mesh(here / "box.glb").colours
    assert colours is not None
    assert colours[3].tolist() == pytest.approx([0.8744, 0.0, 1.0], abs=1e-3)


def test_light_and_display_are_inverse():
    colours = torch.linspace(0, 1, 101)
    torch.testing.assert_close(to_display(to_linear(colours)), colours)
    assert float(to_linear(torch.tensor(0.5))) == pytest.approx(0.21404, abs=1e-5)


# --- round trips --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", [".glb", ".obj"])
def test_a_textured_mesh_comes_back_and_looks_the_same(here: Path, suffix: str):
    mesh = textured_box()
    write_mesh(here / f"a box{suffix}", mesh)
    again = read_mesh(here / f"a box{suffix}")
    assert mesh.uv is not None
    assert again.uv is not None
    assert mesh.normals is not None
    assert again.normals is not None
    torch.testing.assert_close(corners(again, again.vertices), corners(mesh, mesh.vertices), rtol=0, atol=1e-6)
    torch.testing.assert_close(corners(again, again.uv), corners(mesh, mesh.uv), rtol=0, atol=1e-6)
    torch.testing.assert_close(corners(again, again.normals), corners(mesh, mesh.normals), rtol=0, atol=1e-6)
    torch.testing.assert_close(again.texture, mesh.texture)
    cameras = Cameras.orbit(torch.tensor([30.0, 210.0]), 20.0, size=32)
    for part, same in zip(render(mesh, cameras), render(again, cameras), strict=True):
        torch.testing.assert_close(same, part, rtol=0, atol=1e-3)


def test_other_readers_see_the_texture_where_it_is(here: Path):
    mesh = textured_box()
    assert mesh.uv is not None
    for name in ("box.glb", "box.obj"):
        write_mesh(here / name, mesh)
        theirs = trimesh.load(here / name, force="mesh", process=False)
        material = theirs.visual.material  # pyright: ignore[reportAttributeAccessIssue]
        image = getattr(material, "baseColorTexture", None) or material.image
        assert image.size == (5, 6)
        uv = theirs.visual.uv[theirs.faces]  # pyright: ignore[reportAttributeAccessIssue]
        np.testing.assert_allclose(uv, mesh.uv[mesh.faces].numpy(), atol=1e-6)


def test_an_obj_names_each_place_once_so_that_it_stays_closed(here: Path):
    write_mesh(here / "a box.obj", textured_box(), {"seed": 1})
    lines = (here / "a box.obj").read_text().splitlines()
    assert lines[0] == '# degauss-3d {"seed": 1}'
    assert [sum(line.startswith(word + " ") for line in lines) for word in ("v", "vt", "vn", "f")] == [8, 36, 36, 12]
    assert sorted(path.name for path in here.iterdir()) == ["a box.obj", "a_box.mtl", "a_box.png"]
    assert "map_Kd a_box.png" in (here / "a_box.mtl").read_text().splitlines()
    faces = [[int(word.split("/")[0]) - 1 for word in line.split()[1:]] for line in lines if line.startswith("f ")]
    places = [[float(word) for word in line.split()[1:4]] for line in lines if line.startswith("v ")]
    assert trimesh.Trimesh(places, faces, process=False).is_watertight
    read_mesh(here / "a box.obj").check_watertight("the box")


@pytest.mark.parametrize("suffix", [".obj", ".ply"])
def test_colours_of_vertices_come_back(here: Path, suffix: str):
    mesh = coloured_ball()
    assert mesh.colours is not None
    write_mesh(here / f"ball{suffix}", mesh)
    again = read_mesh(here / f"ball{suffix}")
    assert again.colours is not None
    torch.testing.assert_close(corners(again, again.vertices), corners(mesh, mesh.vertices), rtol=0, atol=1e-6)
    torch.testing.assert_close(corners(again, again.colours), corners(mesh, mesh.colours), rtol=0, atol=0.6 / 255)


def test_a_ply_has_the_textures_colours_at_its_vertices_and_says_where_it_is_from(here: Path):
    square = torch.tensor([[0.0, 0.0, 0.0], [1.0, 0.0, 0.0], [1.0, 1.0, 0.0], [0.0, 1.0, 0.0]])
    texture = torch.zeros(2, 2, 3)
    texture[1, 0, 0] = 1.0  # lower left
    mesh = Mesh(square, torch.tensor([[0, 1, 2], [0, 2, 3]]), square[:, :2] * 0.5 + 0.25, texture)
    write_mesh(here / "wall.ply", mesh, {"seed": 1})
    assert b'comment degauss-3d {"seed": 1}\n' in (here / "wall.ply").read_bytes()
    again = read_mesh(here / "wall.ply")
    assert again.colours is not None
    assert again.colours[:, 0].tolist() == [1.0, 0.0, 0.0, 0.0]


def test_a_mesh_without_colour_comes_back_without(here: Path):
    mesh = Mesh(coloured_ball().vertices, coloured_ball().faces)
    for suffix in (".glb", ".obj", ".ply"):
        write_mesh(here / f"ball{suffix}", mesh)
        again = read_mesh(here / f"ball{suffix}")
        assert (again.uv, again.texture) == (None, None)
        assert again.colours is None or float((again.colours - 1).abs().max()) == 0
        assert float(again.volume) == pytest.approx(float(mesh.volume), rel=1e-6)


def test_the_parts_of_a_scene_become_one_mesh_in_its_places(here: Path):
    scene = trimesh.Scene()
    for colour, place in (((255, 0, 0), -1.0), ((0, 255, 0), 1.0)):
        box = trimesh.creation.box((0.5, 0.5, 0.5))
        material = PBRMaterial(baseColorTexture=Image.new("RGB", (8, 8), colour))
        box.visual = TextureVisuals(uv=np.full((8, 2), 0.5), material=material)
        scene.add_geometry(box, transform=trimesh.transformations.translation_matrix((place, 0, 0)))
    scene.export(here / "two.glb")
    mesh = read_mesh(here / "two.glb")
    assert len(mesh.faces) == 24
    torch.testing.assert_close(mesh.vertices.amax(0), torch.tensor([1.25, 0.25, 0.25]))
    rgb = render(mesh, Cameras.orbit(0.0, 0.0, 4.0, size=64)).rgb[0, 32]
    assert rgb[9].tolist() == pytest.approx([1, 0, 0], abs=0.01)
    assert rgb[54].tolist() == pytest.approx([0, 1, 0], abs=0.01)


def test_a_tinted_material_colours_the_mesh(here: Path):
    box = trimesh.creation.box()
    material = PBRMaterial(baseColorFactor=[255, 0, 0, 255])
    box.visual = TextureVisuals(material=material)
    box.export(here / "red.glb")
    colours = read_mesh(here / "red.glb").colours
    assert colours is not None
    assert colours[0].tolist() == pytest.approx([1.0, 0.0, 0.0], abs=1e-6)


# --- refused ------------------------------------------------------------------------------------------------

TRIANGLE = "v 0 0 0\nv 1 0 0\nv 0 1 0\n"
PLY = """ply
format ascii 1.0
element vertex 3
property float x
property float y
property float z
element face {faces}
property list uchar int vertex_indices
end_header
0 0 0
1 0 0
0 {y} 0
{face}"""


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("empty.obj", "", "the mesh is empty: the file holds no vertices and no faces"),
        ("points.obj", TRIANGLE, "the mesh is empty: the file holds points but no faces"),
        ("points.ply", PLY.format(faces=0, y=1, face=""), "the mesh is empty"),
        ("range.obj", TRIANGLE + "f 1 2 9\n", "a face asks for a vertex that is not there"),
        (
            "range.ply",
            PLY.format(faces=1, y=1, face="3 0 1 7\n"),
            "face 0 asks for vertex 7, but vertices go from 0 to 2",
        ),
        ("nan.obj", TRIANGLE.replace("1", "nan", 1) + "f 1 2 3\n", "numbers of the mesh's vertices are not finite"),
        ("junk.glb", "junk", "cannot be read as glTF"),
        ("junk.ply", "junk", "cannot be read as a mesh"),
        ("a.obj", "mtllib a.mtl\nvt 0 0\n" + TRIANGLE + "f 1/1 2/1 3/1\n", "names the material a.mtl, which is not"),
        ("a.stl", "", "the suffix of a mesh must be one of '.glb', '.gltf', '.obj', '.ply', but is '.stl'"),
    ],
)
def test_a_file_that_cannot_be_used_is_named(here: Path, name: str, text: str, message: str):
    (here / name).write_text(text)
    with pytest.raises(InputError) as refused:
        read_mesh(here / name)
    assert str(here / name) in str(refused.value)
    assert message in str(refused.value)
    assert str(refused.value).count("\n") == 0
    assert str(refused.value).endswith(".")


def test_a_missing_texture_is_named(here: Path):
    write_mesh(here / "box.obj", textured_box())
    (here / "box.png").unlink()
    with pytest.raises(InputError, match=r"box\.obj names the texture box\.png, which is not beside it\.$"):
        read_mesh(here / "box.obj")
    with pytest.raises(InputError, match=r"other\.png does not exist\.$"):
        read_mesh(here / "box.obj", here / "other.png")
    gltf = {"asset": {"version": "2.0"}, "images": [{"uri": "far%20away.png"}]}
    (here / "box.gltf").write_text(json.dumps(gltf))
    with pytest.raises(InputError, match=r"names the texture far away\.png"):
        read_mesh(here / "box.gltf")
    with pytest.raises(InputError, match=r"nothing\.glb does not exist\.$"):
        read_mesh(here / "nothing.glb")


def test_a_texture_can_be_named_beside_the_mesh(here: Path):
    write_mesh(here / "box.obj", textured_box())
    Image.new("RGB", (3, 2), (255, 0, 51)).save(here / "other.png")
    mesh = read_mesh(here / "box.obj", here / "other.png")
    assert mesh.texture is not None
    torch.testing.assert_close(mesh.texture, torch.tensor([1.0, 0.0, 0.2]).expand(2, 3, 3))
    write_mesh(here / "ball.ply", coloured_ball())
    with pytest.raises(InputError, match="has no texture coordinates"):
        read_mesh(here / "ball.ply", here / "other.png")


@pytest.mark.parametrize(("mode", "suffix"), [("I;16", ".png"), ("CMYK", ".jpg"), ("F", ".tiff")])
def test_an_image_of_another_mode_is_refused(here: Path, mode: str, suffix: str):
    Image.new(mode, (4, 4)).save(here / f"image{suffix}")
    with pytest.raises(InputError, match=f"image{suffix}: the image has mode '{mode}'.*RGB, RGBA, L, P"):
        read_texture(here / f"image{suffix}")


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "L", "P"])
def test_images_of_8_bits_a_channel_are_read_as_rgb(here: Path, mode: str):
    Image.new("L", (4, 2), 51).convert(mode).save(here / "image.png")
    torch.testing.assert_close(read_texture(here / "image.png"), torch.full((2, 4, 3), 0.2))


def test_a_damaged_image_is_refused(here: Path):
    Image.new("RGB", (64, 64)).save(here / "image.png")
    data = (here / "image.png").read_bytes()
    (here / "image.png").write_bytes(data[: len(data) // 2])
    with pytest.raises(InputError, match=r"image\.png cannot be read as an image"):
        read_texture(here / "image.png")


def test_nothing_is_written_of_a_mesh_that_cannot_be(here: Path):
    mesh = coloured_ball()
    with pytest.raises(InputError, match="not finite"):
        write_mesh(here / "ball.glb", mesh.moved(mesh.vertices * float("nan")))
    with pytest.raises(InputError, match=r"'\.glb', '\.obj', '\.ply', but is '\.fbx'"):
        write_mesh(here / "ball.fbx", mesh)
    for suffix in (".glb", ".obj", ".ply"):
        with pytest.raises(ValueError, match="JSON compliant"):
            write_mesh(here / f"ball{suffix}", mesh, {"loss": float("nan")})
    assert list(here.iterdir()) == []
