"""The page in the browser: who is shown what and when, a run that is watched, and a real server where viser is."""

from __future__ import annotations

import importlib.util
import socket
import time
import types
import urllib.request
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import pytest

from degauss.threed.mesh_files import write_mesh
from degauss.threed.run import Run, go_on
from degauss.threed.scenes import fingerprint_of
from degauss.threed.viewer import Live, Page, camera_of, live, open_page, serve

from ._little import box, little, oracle

Invoke = Callable[[Sequence[str | Path]], tuple[int, str, str]]
Refused = Callable[[Sequence[str | Path]], str]

FRONT = {"wxyz": (0.5**0.5, -(0.5**0.5), 0.0, 0.0), "position": (0.0, -2.2, 0.0)}
"""Of viser, whose world has z up."""


class Browser:
    """A client as viser gives it."""

    def __init__(self) -> None:
        self.camera = SimpleNamespace(**FRONT, aspect=1.0, fov=0.7)
        self.scene = SimpleNamespace(set_background_image=self.take)
        self.images: list[Any] = []

    def take(self, image: Any) -> None:
        self.images.append(image)


class Server:
    """What we use of viser's server."""

    made: ClassVar[list[Server]] = []

    def __init__(self, host: str, port: int, verbose: bool) -> None:
        self.host, self.port, self.stopped = host, port, False
        self.clients: dict[int, Browser] = {0: Browser()}
        self.gui = SimpleNamespace(add_markdown=self.add_markdown)
        self.readouts: list[Any] = []
        self.made.append(self)

    def add_markdown(self, content: str) -> Any:
        self.readouts.append(SimpleNamespace(content=content))
        return self.readouts[-1]

    def on_client_connect(self, callback: Callable[[Any], None]) -> None:
        for client in self.clients.values():
            callback(client)

    def get_clients(self) -> dict[int, Browser]:
        return dict(self.clients)

    def get_port(self) -> int:
        return self.port

    def stop(self) -> None:
        self.stopped = True


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> list[Server]:
    """A viser of our own, whether or not there is one; the servers that are started."""
    monkeypatch.setattr(Server, "made", [])
    find = importlib.util.find_spec
    monkeypatch.setattr("importlib.util.find_spec", lambda name: True if name == "viser" else find(name))
    module = types.ModuleType("viser")
    module.ViserServer = Server  # type: ignore[attr-defined]
    monkeypatch.setitem(__import__("sys").modules, "viser", module)
    return Server.made


def test_who_moved_is_shown_again_and_who_did_not_is_left_alone(fake: list[Server]) -> None:
    with open_page(0, 16, "cpu") as page:
        server = page.server
        here, other = server.clients[0], Browser()
        server.clients[1] = other
        page.show(box(), 1)
        page.show(box(), 1)
        assert [len(here.images), len(other.images)] == [1, 1]
        assert here.images[0].shape == (16, 16, 3)
        here.camera.position = (0.0, -3.0, 0.0)
        page.show(box(), 1)
        assert [len(here.images), len(other.images)] == [2, 1]
        page.show(box(), 2)
        assert [len(here.images), len(other.images)] == [3, 2]
        del server.clients[1]
        page.show(box(), 2)
        server.clients[1] = other
        page.show(box(), 2)
        assert len(other.images) == 3, "a browser that comes back has nothing to show yet"
        assert not server.stopped
    assert server.stopped
    assert server.host == "localhost", "a page is for this machine, unless someone tunnels to it"


def test_a_browser_begins_in_front_of_the_object(fake: list[Server]) -> None:
    with open_page(0, 16, "cpu") as page:
        camera = page.server.clients[0].camera
        assert camera.look_at == (0.0, 0.0, 0.0)
        azimuth, elevation = (float(angle) for angle in camera_of(camera, 16, "cpu").angles())
    assert azimuth == pytest.approx(0.0, abs=0.1)
    assert 5 < elevation < 25


def test_a_run_that_is_watched_ends_at_the_same_bits(fake: list[Server], tmp_path: Path) -> None:
    alone, watched = (Run(little(steps=4), oracle().prior) for _ in range(2))
    go_on(alone, tmp_path / "alone")
    with live(0, 16, "cpu") as observer:
        go_on(watched, tmp_path / "watched", [Live(observer.page, every=0.0)])
        (server,) = fake
        assert len(server.clients[0].images) >= 2
        assert "step 4 of 4" in server.readouts[0].content
    assert len(server.readouts) == 1
    assert server.stopped
    assert fingerprint_of(alone.scene) == fingerprint_of(watched.scene)


def test_watching_takes_no_more_than_its_share(fake: list[Server], monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [0.0]
    monkeypatch.setattr("degauss.threed.viewer.time.monotonic", lambda: clock[0])
    monkeypatch.setattr(Page, "show", lambda *told: clock.__setitem__(0, clock[0] + 2.0))
    run = Run(little(steps=100), oracle().prior)
    seen = run.advance()
    with live(0, 16, "cpu") as observer:
        for step in range(1, 51):
            observer(run, seen._replace(step=step))
            clock[0] += 0.5  # a step
    assert clock[0] == 50 * 0.5 + 4 * 2.0, "2 s of every 10, at 0, 10, 20 and 30"


def test_a_page_is_closed_whatever_happens(fake: list[Server], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(seconds: float) -> None:
        raise KeyboardInterrupt

    write_mesh(tmp_path / "box.glb", box())
    monkeypatch.setattr("degauss.threed.viewer.time.sleep", interrupted)
    with pytest.raises(KeyboardInterrupt):
        serve(tmp_path / "box.glb", 0, 16, "cpu")
    assert fake[0].stopped
    assert len(fake[0].clients[0].images) == 1


SMALL = [
    "--steps", "3", "--views", "1", "--size", "16", "--resolution", "12",
    "--grid", "16", "--texture", "32", "--frames", "1", "--snapshots", "1",
]  # fmt: skip


GENERATE = ["generate", "box", "--prior", "oracle:box.glb", *SMALL, "--out", "a.glb"]
BATCH = ["batch", "words.txt", "--prior", "oracle:box.glb", *SMALL]
LAB = [
    "lab", "box", "--methods", "sds", "ism", "--prior", "oracle:box.glb", "--evaluations", "8", "--looks", "1",
    "--views", "2", "--size", "16", "--resolution", "12",
]  # fmt: skip


@pytest.fixture
def files(here: Path) -> None:
    write_mesh(here / "box.glb", box())
    (here / "words.txt").write_text("box\n")


@pytest.mark.parametrize(
    ("words", "told"), [(GENERATE, "sds"), (BATCH, "sds"), (LAB, "ism")], ids=lambda words: words[0]
)
def test_what_a_command_runs_can_be_watched(
    words: list[str], told: str, fake: list[Server], files: None, invoke: Invoke
) -> None:
    status, out, error = invoke([*words, "--view", "--port", "8123"])
    assert (status, error) == (0, "")
    assert out.startswith("http://localhost:8123 shows the scene while it learns\n")
    (server,) = fake
    assert server.stopped
    assert server.clients[0].images
    assert server.readouts[0].content.startswith(f"**box**, {told}: step "), "the last run is shown last"


@pytest.mark.parametrize("words", [GENERATE, BATCH, LAB])
def test_the_extra_is_named_before_anything_is_written(
    words: list[str], files: None, refused: Refused, monkeypatch: pytest.MonkeyPatch
) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None if name == "viser" else find(name))
    assert "pip install 'degauss-3d[viser]'" in refused([*words, "--view"])
    assert "port must be between 0 and 65535" in refused([*words, "--port", "-1"])


def test_a_real_server_shows_a_real_browser_a_run_and_is_gone_afterwards(tmp_path: Path) -> None:
    viser = pytest.importorskip("viser", reason="needs viser, of the extra viser")
    msgspec, connect = pytest.importorskip("msgspec"), pytest.importorskip("websockets.sync.client").connect
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    told = {
        "type": "ViewerCameraMessage", **FRONT, "fov": 0.7, "near": 0.01, "far": 100.0, "image_height": 64,
        "image_width": 64, "look_at": (0.0, 0.0, 0.0), "up_direction": (0.0, 0.0, 1.0),
    }  # fmt: skip
    run = Run(little(steps=3), oracle().prior)
    with open_page(port, 16, "cpu") as page:
        assert page.address == f"http://localhost:{port}"
        with urllib.request.urlopen(page.address) as answer:
            assert b"<html" in answer.read(4096).lower()
        with connect(f"ws://localhost:{port}", subprotocols=[f"viser-v{viser.__version__}"], max_size=None) as browser:
            browser.send(msgspec.msgpack.encode(told))
            until = time.monotonic() + 20
            while not page.server.get_clients() and time.monotonic() < until:
                time.sleep(0.01)
            go_on(run, tmp_path, [Live(page, every=0.0)])
            jpeg = False
            while not jpeg and time.monotonic() < until:
                jpeg = b"\xff\xd8\xff" in browser.recv(timeout=10)
            assert jpeg
    with socket.socket() as again:
        assert again.connect_ex(("localhost", port)) != 0, "the port must be free again"
