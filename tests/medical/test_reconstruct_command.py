"""`reconstruct`: from a scan to files that its field's tools open, and one sentence for what cannot be."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from degauss.core.errors import Stopped
from degauss.core.inverse import Calibration
from degauss.medical import memory, nifti, reconstruction
from degauss.medical.geometry import Grid, ParallelBeam, evenly
from degauss.medical.methods import method_of
from degauss.medical.mri import even_lines
from degauss.medical.reconstruction import describe, record_path
from degauss.medical.scans import read_scan, write_scan
from degauss.medical.simulation import simulate_ct, simulate_mri
from degauss.medical.volumes import Place, Volume

from ._oracles import SIZE, blobs_hu, save_prior

Answer = tuple[int, str, str]
Invoke = Callable[[list[str | Path]], Answer]
Refusal = Callable[[Callable[[], Any]], str]

AFFINE = np.array([[-2.0, 0, 0.125, 12.5], [0, 2.0, 0, -7.25], [0.125, 0, 3.0, 101.0], [0, 0, 0, 1]])
"""Oblique, with voxels of 2 x 2 x 3 mm."""


@pytest.fixture
def scan(here: Path) -> Path:
    """A scan of a volume that lies obliquely, with its truth."""
    stored = blobs_hu().permute(2, 1, 0)
    volume = Volume.at(stored, "HU", Place.of(AFFINE, (SIZE, SIZE, 4)))
    beam = ParallelBeam.covering(Grid(SIZE, SIZE, volume.spacing[1:]), evenly(6))
    write_scan(here / "scan.h5", simulate_ct(volume, beam, truth=True))
    return here / "scan.h5"


@pytest.fixture
def mri(here: Path) -> Path:
    volume = Volume.upright((blobs_hu() + 1000) / 10, (3.0, 2.0, 2.0))
    write_scan(here / "mri.h5", simulate_mri(volume, even_lines(SIZE, 2.0, 0.25), truth=True))
    return here / "mri.h5"


@pytest.fixture
def prior(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_prior(tmp_path_factory.mktemp("priors") / "ct")


def words(scan: Path, prior: Path, *more: str | Path) -> list[str | Path]:
    return ["reconstruct", scan, "--prior", prior, "--steps", "4", *more]


# --- what it writes -----------------------------------------------------------------------------------------


def test_a_volume_comes_back_in_its_place_and_unit(invoke: Invoke, here: Path, scan: Path) -> None:
    status, out, error = invoke(["reconstruct", scan, "--method", "sirt", "--out", "a.nii.gz"])
    assert (status, error) == (0, "")
    assert out.startswith("wrote a.nii.gz, a_provenance.nii.gz, a_montage.png, a_metrics.json: 4 slices, residual ")
    assert not (here / ".a.nii.gz.partial").exists()
    found = nifti.read(here / "a.nii.gz")
    assert found.unit == "HU"
    assert np.array_equal(found.place.affine, AFFINE)
    assert found.place.shape == (SIZE, SIZE, 4)
    held = read_scan(scan)
    assert held.truth is not None
    assert float((found.data - held.volume(held.truth).data).abs().mean()) < 100
    about = json.loads((here / "a_metrics.json").read_text())
    assert about["method"] == "sirt"
    assert about["settings"] == {"steps": 200}
    assert about["scores"]["sagittal"]["psnr"] > 20
    assert about["residual"] < 0.01
    assert about["evaluations_a_slice"] == 0
    assert about["prior_sha256"] is None
    assert about["norm"] == pytest.approx(read_scan(scan).operator().norm)
    assert about["peak_memory_bytes"] > 1 << 20
    assert {"torch", "degauss-core", "date"} <= set(about["provenance"])


def test_draws_of_a_posterior(invoke: Invoke, here: Path, scan: Path, prior: Path) -> None:
    status, out, error = invoke(words(scan, prior, "--samples", "3", "--seed", "2", "--out", "b.nii.gz"))
    assert status == 0
    assert "b_std.nii.gz" in out
    assert "no calibrated intervals" in error
    assert float(nifti.read(here / "b_std.nii.gz").data.mean()) > 1
    about = json.loads((here / "b_metrics.json").read_text())
    assert (about["method"], about["samples"], about["seed"]) == ("dds-tv", 3, 2)
    assert about["evaluations_a_slice"] == 12
    assert about["evaluations_now"] == 12 * 4
    # The same run again gives the same volume; other slabs and chunks to rounding.
    assert invoke(words(scan, prior, "--samples", "3", "--seed", "2", "--out", "c.nii.gz"))[0] == 0
    first, again = (nifti.read(here / name).data for name in ("b.nii.gz", "c.nii.gz"))
    assert torch.equal(first, again)
    more = ("--samples", "3", "--seed", "2", "--slab", "1", "--chunk", "3", "--out", "d.nii.gz")
    assert invoke(words(scan, prior, *more))[0] == 0
    torch.testing.assert_close(nifti.read(here / "d.nii.gz").data, first, rtol=0, atol=1.0)


def test_calibrated_intervals_are_written_where_a_record_fits(
    invoke: Invoke, here: Path, scan: Path, prior: Path
) -> None:
    from degauss.core.files import fingerprint

    facts = describe(read_scan(scan), method_of("dds-tv", 4), fingerprint(prior / "model.safetensors"))
    record = Calibration(0.9, 1.5, 0.01, 2, 500, facts)
    record.save(record_path(prior, facts, 2))
    status, out, error = invoke(words(scan, prior, "--samples", "2"))
    assert (status, error) == (0, "")
    assert "recon_low.nii.gz, recon_high.nii.gz" in out
    low, high, std = (nifti.read(here / f"recon_{name}.nii.gz").data for name in ("low", "high", "std"))
    mean = nifti.read(here / "recon.nii.gz").data
    torch.testing.assert_close(high - mean, 1.5 * (std + 20), rtol=1e-3, atol=0.5)
    torch.testing.assert_close(low + high, 2 * mean, rtol=1e-3, atol=0.5)
    about = json.loads((here / "recon_metrics.json").read_text())
    assert about["intervals"]["q"] == 1.5
    # A record that is named must fit.
    path = here / "mine.json"
    Calibration(0.9, 1.5, 0.01, 5, 500, facts).save(path)
    status, _, error = invoke(words(scan, prior, "--samples", "2", "--intervals", "mine.json"))
    assert status == 2
    assert "calibrated with draws 5, but are asked for with draws 2" in error


def test_dicom_slices_in_a_folder(invoke: Invoke, here: Path, scan: Path) -> None:
    import pydicom

    status, out, _ = invoke(["reconstruct", scan, "--method", "fbp", "--format", "dicom", "--out", "r.nii.gz"])
    assert status == 0
    assert out.startswith("wrote r, r_provenance.nii.gz, r_montage.png, r_metrics.json")
    files = sorted((here / "r").iterdir())
    assert len(files) == 4
    assert "DERIVED" in pydicom.dcmread(files[0]).ImageType


def test_mri_needs_no_geometry_of_rays(invoke: Invoke, here: Path, mri: Path) -> None:
    status, _, _ = invoke(["reconstruct", mri, "--method", "cg", "--out", "m.nii.gz"])
    assert status == 0
    found = nifti.read(here / "m.nii.gz")
    assert found.unit == "arbitrary"
    assert found.data.shape == (4, SIZE, SIZE)


# --- stopped and gone on with -------------------------------------------------------------------------------


def test_ctrl_c_keeps_what_is_done_and_the_run_goes_on(
    invoke: Invoke, here: Path, scan: Path, prior: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    line = words(scan, prior, "--samples", "2")
    assert invoke(line)[0] == 0
    expected = (here / "recon.nii.gz").read_bytes()
    (here / "recon.nii.gz").unlink()
    draw_all = reconstruction.draw_all

    def interrupted(*args: Any, **kwargs: Any) -> Any:
        def report(done: int, total: int) -> None:
            if done == 6:
                raise KeyboardInterrupt

        return draw_all(*args, **{**kwargs, "report": report})

    with monkeypatch.context() as patched:
        patched.setattr(reconstruction, "draw_all", interrupted)
        status, out, error = invoke(line)
    assert (status, out) == (Stopped.exit_code, "")
    assert (
        error
        == "degauss-medical: stopped after 1 of 2 draws and a part of the next; run it again to go on from there.\n"
    )
    assert not (here / "recon.nii.gz").exists()
    folder = here / ".recon.nii.gz.partial"
    assert {path.name for path in folder.iterdir()} == {"plan.json", "draw-0.safetensors", "state-1"}
    assert "scan.h5" not in (folder / "plan.json").read_text()  # nor any path, which may hold a name
    assert invoke(line)[0] == 0
    assert (here / "recon.nii.gz").read_bytes() == expected
    assert json.loads((here / "recon_metrics.json").read_text())["evaluations_now"] == 2 * 4
    assert not folder.exists()


def test_no_file_tells_where_the_scan_lay(invoke: Invoke, here: Path, scan: Path) -> None:
    secret = here / "doe_jane"
    secret.mkdir()
    scan = scan.rename(secret / "jane.h5")
    assert invoke(["reconstruct", scan, "--method", "fbp", "--out", "r.nii.gz"])[0] == 0
    for path in here.glob("r*"):
        assert b"jane" not in path.read_bytes()


# --- what is refused ----------------------------------------------------------------------------------------


def test_a_prior_of_another_modality_or_resolution(
    invoke: Invoke, refusal: Refusal, scan: Path, mri: Path, prior: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    assert "the scan is of MR, but this prior knows CT" in refusal(lambda: invoke(words(mri, prior)))
    coarse = save_prior(tmp_path_factory.mktemp("coarse") / "ct", spacing=(4.0, 8.0))
    said = refusal(lambda: invoke(words(scan, coarse)))
    assert "pixels are 2" in said
    assert "4 to 8 mm" in said
    assert "there is no prior 'nowhere'" in refusal(lambda: invoke(words(scan, Path("nowhere"))))


@pytest.mark.parametrize(
    ("more", "complaint"),
    [
        (["--method", "fbp", "--samples", "2"], "fbp gives one answer and no draws of the posterior"),
        (["--method", "reddiff", "--samples", "2"], "reddiff gives one answer"),
        (["--method", "fbp", "--steps", "5"], "fbp takes no steps, but 5 are asked for"),
        (["--method", "wavelet"], "wavelet is a method of magnetic resonance"),
        (["--method", "fbp", "--samples", "0"], "samples must be at least 1, but is 0"),
        (["--method", "fbp", "--slab", "0"], "slab must be at least 1, but is 0"),
        (["--method", "fbp", "--seed", "-1"], "seed must be at least 0, but is -1"),
        (["--method", "fbp", "--out", "a.tif"], "a.tif: expected a name that ends in"),
        (["--method", "fbp", "--out", "a.png", "--format", "dicom"], "expected a name without a suffix"),
    ],
)
def test_options_that_cannot_be(
    invoke: Invoke, refusal: Refusal, scan: Path, more: list[str | Path], complaint: str
) -> None:
    assert complaint in refusal(lambda: invoke(["reconstruct", scan, *more]))


def test_methods_of_rays_are_refused_for_mri(invoke: Invoke, refusal: Refusal, mri: Path) -> None:
    said = refusal(lambda: invoke(["reconstruct", mri, "--method", "fbp"]))
    assert said == "fbp is a method of computed tomography, but the scan is of magnetic resonance."


def test_what_is_no_scan(invoke: Invoke, refusal: Refusal, here: Path) -> None:
    assert "a.h5: does not exist" in refusal(lambda: invoke(["reconstruct", "a.h5"]))
    (here / "b.h5").write_text("text")
    assert "b.h5: cannot be read as a scan" in refusal(lambda: invoke(["reconstruct", "b.h5"]))


def test_memory_that_cannot_suffice(
    invoke: Invoke, refusal: Refusal, scan: Path, prior: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(memory, "available_bytes", lambda device: 1 << 10)
    said = refusal(lambda: invoke(words(scan, prior)))
    assert said.startswith("dds-tv on 4 x 16 x 16 voxels needs about ")


def test_what_the_prior_seems_not_to_know_is_told(invoke: Invoke, here: Path, scan: Path, prior: Path) -> None:
    def card(error: float) -> None:
        rows = [{"sigma": sigma, "prior": error} for sigma in (0.1, 0.3, 1.0)]
        about = {"metrics": {"by_size": [{"size": SIZE, "denoising": rows}]}}
        (prior / "card.json").write_text(json.dumps(about))

    card(1e-4)
    status, _, error = invoke(words(scan, prior, "--out", "a.nii.gz"))
    assert status == 0
    assert "times as hard to denoise for this prior" in error
    assert json.loads((here / "a_metrics.json").read_text())["strangeness"] > 1.2
    card(1e4)
    assert invoke(words(scan, prior, "--out", "b.nii.gz"))[2] == ""
    assert json.loads((here / "b_metrics.json").read_text())["strangeness"] < 1.2
