"""A run from its scan to its files: exact when it is cut, one draw after the other, and honest about memory."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from degauss.core.errors import InputError, Stopped
from degauss.core.inverse import Calibration, conformal_quantile, null_std, summarise
from degauss.medical import memory
from degauss.medical.acquisition import CTGeometry
from degauss.medical.geometry import Grid, ParallelBeam, evenly
from degauss.medical.joseph import expected_bytes
from degauss.medical.memory import available_bytes, check_memory, needed_bytes, network_bytes, peak_bytes
from degauss.medical.methods import CG, DDSTV, DPS, FBP, MBIR, REDDiff
from degauss.medical.mri import even_lines
from degauss.medical.prior import SlicePrior
from degauss.medical.problem import Method
from degauss.medical.reconstruction import (
    Journal,
    beside,
    describe,
    draw_all,
    find_record,
    record_path,
    result_of,
    write_result,
)
from degauss.medical.scans import Scan
from degauss.medical.simulation import simulate_ct, simulate_mri
from degauss.medical.volumes import Volume

from ._oracles import SIZE, GaussianPrior, blobs_hu, ct_problem, save_prior

TALL = 4


def ct_scan(photons: float | None = None, views: int = 6, *, truth: bool = True) -> Scan:
    volume = Volume.upright(blobs_hu(TALL), (2.0, 1.0, 1.0), "HU")
    beam = ParallelBeam.covering(Grid(SIZE, SIZE), evenly(views))
    return simulate_ct(volume, beam, photons=photons, truth=truth)


def mr_scan(phase: float = 0.0) -> Scan:
    volume = Volume.upright((blobs_hu(TALL) + 1000) / 1500, (2.0, 1.0, 1.0))
    return simulate_mri(volume, even_lines(SIZE, 2.0, 0.25), phase=phase, truth=True)


def quiet(done: int, total: int) -> None:
    del done, total


class CtrlC:
    """Interrupts when so much, or more, is reported."""

    def __init__(self, at: int) -> None:
        self.at = at

    def __call__(self, done: int, total: int) -> None:
        if done >= self.at:
            raise KeyboardInterrupt


# --- draws that are cut -------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", [DDSTV(6), MBIR(5), DPS(6), REDDiff(6)], ids=lambda method: method.name)
def test_a_run_that_was_cut_goes_on_to_the_same_bits(method: Method, tmp_path: Path) -> None:
    problem = ct_problem(prior=GaussianPrior())
    samples = 3 if method.draws else 1
    whole = draw_all(problem, method, Journal(tmp_path / "a", {}), samples=samples, seed=1, report=quiet).draws
    assert whole.shape == (samples, *problem.event)
    expected = torch.cat([method(problem, 1, (sample,)) for sample in range(samples)])
    assert torch.equal(whole, expected)
    journal = Journal(tmp_path / "b", {"x": 1})
    middle = (samples - 1) * method.evaluations + method.evaluations // 2
    with pytest.raises(Stopped, match=f"stopped after {samples - 1} of {samples} draws") as stop:
        draw_all(problem, method, journal, samples=samples, seed=1, report=CtrlC(middle))
    assert stop.value.exit_code == 130
    assert sorted(file.name for file in journal.folder.iterdir()) == sorted(
        [*(f"draw-{sample}.safetensors" for sample in range(samples - 1)), "plan.json", f"state-{samples - 1}"]
    )
    asked: list[int] = []
    again = draw_all(
        ct_problem(prior=GaussianPrior(asked=asked)), method, journal, samples=samples, seed=1, report=quiet
    )
    assert torch.equal(again.draws, whole)
    assert 0 < sum(asked) < method.evaluations * 3
    assert again.evaluations == pytest.approx(sum(asked), abs=6)  # MBIR asks once less in its last step
    journal.end()
    assert not journal.folder.exists()


def test_more_draws_than_before_keep_those_that_there_are(tmp_path: Path) -> None:
    problem, journal = ct_problem(prior=GaussianPrior()), Journal(tmp_path / "a", {"x": 1})
    two = draw_all(problem, DDSTV(4), journal, samples=2, seed=0, report=quiet)
    three = draw_all(problem, DDSTV(4), journal, samples=3, seed=0, report=quiet)
    assert torch.equal(three.draws[:2], two.draws)
    assert (two.evaluations, three.evaluations) == (2 * 4 * 3, 4 * 3)


def test_what_another_plan_left_is_not_used(tmp_path: Path) -> None:
    problem, out = ct_problem(prior=GaussianPrior()), tmp_path / "a"
    draw_all(problem, DDSTV(4), Journal(out, {"seed": 0}), samples=1, seed=0, report=quiet)
    other = draw_all(problem, DDSTV(4), Journal(out, {"seed": 1}), samples=1, seed=1, report=quiet)
    assert other.evaluations == 4 * 3
    assert torch.equal(other.draws, DDSTV(4)(problem, 1))


def test_progress_counts_evaluations_up_to_all_of_them(tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []
    problem = ct_problem(prior=GaussianPrior())
    draw_all(problem, DDSTV(4), Journal(tmp_path / "a", {}), samples=2, seed=0, report=lambda *pair: seen.append(pair))
    assert seen[0] == (0, 8)
    assert seen[-1] == (8, 8)
    assert [done for done, _ in seen] == sorted(done for done, _ in seen)
    assert {total for _, total in seen} == {8}


# --- results ------------------------------------------------------------------------------------------------


def problem_of(scan: Scan, prior: Any = None) -> Any:
    from degauss.medical.problem import Problem

    return replace(Problem.of(scan), prior=prior)


def test_several_draws_become_a_mean_a_deviation_and_intervals() -> None:
    scan = ct_scan()
    problem = problem_of(scan, GaussianPrior())
    draws = torch.cat([DDSTV(5)(problem, 0, (sample,)) for sample in range(4)])
    facts = describe(scan, DDSTV(5), "abc")
    record = Calibration(0.9, 2.0, 0.01, 4, 100, facts)
    result = result_of(scan, problem, draws, record, facts)
    # HU = 2000 x - 1000, deviations without the offset.
    torch.testing.assert_close(result.image.data, 2000 * draws.mean(0) - 1000, rtol=0, atol=0.01)
    assert result.std is not None
    torch.testing.assert_close(result.std.data, 2000 * draws.std(0), rtol=1e-4, atol=0.01)
    assert result.low is not None
    assert result.high is not None
    torch.testing.assert_close(result.high.data - result.image.data, 2 * (result.std.data + 20), rtol=1e-3, atol=0.1)
    torch.testing.assert_close(result.low.data + result.high.data, 2 * result.image.data, rtol=1e-3, atol=0.1)
    assert set(result.maps) == {"std", "unseen_std", "low", "high", "provenance"}
    assert result.unseen_std is not None
    unseen = null_std(problem.measurement.operator, draws)
    torch.testing.assert_close(result.unseen_std.data, 2000 * unseen, rtol=1e-4, atol=0.01)
    # What exact measurements see of the draws hardly differs.
    assert float((result.unseen_std.data / result.std.data).median()) > 0.7
    assert 0 <= float(result.provenance.data.min()) <= float(result.provenance.data.max()) <= 1
    assert result.image.place is scan.place
    assert result.scores["axial"]["psnr"] > 10
    assert result.scores["residual"] == result.residual


def test_one_answer_has_no_deviation_and_no_intervals() -> None:
    scan = ct_scan(truth=False)
    problem = problem_of(scan)
    result = result_of(scan, problem, CG(20)(problem), None, describe(scan, CG(20), None))
    assert set(result.maps) == {"provenance"}
    assert result.scores == {}
    assert result.residual < 0.05


def test_the_data_decide_what_they_determine() -> None:
    """Many views leave little to the prior, few views much."""
    shares: list[float] = []
    for views in (2, 24):
        scan = ct_scan(views=views)
        problem = problem_of(scan)
        x = scan.truth
        assert x is not None
        shares.append(float(result_of(scan, problem, x[None], None, {}).provenance.data.mean()))
    assert shares[0] < shares[1] - 0.1


def test_complex_draws_are_shown_as_magnitudes() -> None:
    scan = mr_scan(phase=0.5)
    problem = problem_of(scan)
    assert problem.is_complex
    draws = CG(30)(problem).expand(2, *problem.event) * torch.tensor([1.0, 1.1]).reshape(2, 1, 1, 1, 1)
    result = result_of(scan, problem, draws, None, {})
    expected = scan.full * torch.linalg.vector_norm(draws, dim=-3).mean(0)
    torch.testing.assert_close(result.image.data, expected, rtol=1e-4, atol=1e-4)
    assert result.std is not None
    assert float(result.std.data.max()) > 0


def test_files_are_written_beside_each_other(tmp_path: Path) -> None:
    scan = ct_scan()
    problem = problem_of(scan)
    x = FBP()(problem)
    result = result_of(scan, problem, torch.cat([x, x + 0.01]), None, {})
    written = write_result(tmp_path / "recon.nii.gz", result, {"method": "fbp"}, "fbp")
    assert [path.name for path in written] == [
        "recon.nii.gz",
        "recon_std.nii.gz",
        "recon_unseen_std.nii.gz",
        "recon_provenance.nii.gz",
        "recon_montage.png",
        "recon_metrics.json",
    ]
    assert sorted(written) == sorted(path for path in tmp_path.iterdir() if path.is_file())
    about = json.loads((tmp_path / "recon_metrics.json").read_text())
    assert about["method"] == "fbp"
    assert {"axial", "coronal", "sagittal"} <= set(about["scores"])


@pytest.mark.parametrize(
    ("out", "expected"),
    [
        ("a.nii.gz", "a_std.nii.gz"),
        ("a.nii", "a_std.nii.gz"),
        ("x/a.b.npz", "x/a.b_std.nii.gz"),
        ("dcm", "dcm_std.nii.gz"),
    ],
)
def test_what_lies_beside(out: str, expected: str) -> None:
    assert beside(Path(out), "std.nii.gz") == Path(expected)


# --- intervals ----------------------------------------------------------------------------------------------


def test_a_record_is_found_for_what_it_was_made_for_and_nothing_else(tmp_path: Path) -> None:
    scan, prior = ct_scan(), tmp_path / "prior"
    facts = describe(scan, DDSTV(5), "abc")
    record = Calibration(0.9, 2.0, 0.01, 4, 100, facts)
    record.save(record_path(prior, facts, 4))
    assert record_path(prior, facts, 4).parent == tmp_path
    assert find_record(prior, facts, 4) == record
    assert find_record(prior, facts, 5) is None
    for scan_, method, sha256 in (
        (ct_scan(views=7), DDSTV(5), "abc"),
        (ct_scan(photons=1e4), DDSTV(5), "abc"),
        (scan, DDSTV(6), "abc"),
        (scan, DDSTV(5), "abd"),
        (mr_scan(), DDSTV(5), "abc"),
    ):
        assert find_record(prior, describe(scan_, method, sha256), 4) is None


def test_the_noise_of_photons_is_described_by_their_number() -> None:
    """Its root mean square differs from body to body; the scanner's setting does not."""
    facts = describe(ct_scan(photons=1e4), DDSTV(), None)
    assert facts["photons"] == 1e4
    assert "sigma" not in facts


def test_calibrated_intervals_cover_the_tuning_subject(tmp_path: Path) -> None:
    from degauss.medical.calibration import FLOOR, Plan, calibrated
    from degauss.medical.metrics import body

    scan, prior = ct_scan(), SlicePrior.load(save_prior(tmp_path / "prior"))
    facts, seen = describe(scan, DDSTV(4), "abc"), []
    plan = Plan(4, 0.8, 0, 32, 16, "cpu")
    record = calibrated([scan], DDSTV(4), prior, facts, plan, lambda *pair: seen.append(pair))
    assert seen[-1] == (16, 16)
    from degauss.medical.problem import Problem

    problem = Problem.of(scan, prior)
    draws = torch.cat([DDSTV(4)(problem, 0, (sample,)) for sample in range(4)])
    found = record.interval(summarise(draws), facts)
    truth = scan.truth
    assert truth is not None
    inside = body(blobs_hu(TALL), "HU")
    covered = ((found.low <= truth) & (truth <= found.high))[inside].double().mean()
    assert float(covered) == pytest.approx(0.8, abs=0.01)
    score = (truth - draws.mean(0)).abs() / (draws.std(0) + FLOOR)
    assert record.q == pytest.approx(conformal_quantile(score[inside], 0.8), rel=1e-5)


# --- memory -------------------------------------------------------------------------------------------------


def tiny(folder: Path) -> SlicePrior:
    return SlicePrior.load(save_prior(folder / "prior"))


def test_the_peak_is_of_what_is_alive_at_once() -> None:
    def work() -> Tensor:
        a = torch.zeros(1000)  # 4 kB
        b = a + 1  # 8 kB
        del a
        return b.view(10, 100)[0] * 2

    assert peak_bytes(work) == 8000


def test_what_a_run_needs_grows_with_what_it_is(tmp_path: Path) -> None:
    scan, prior = ct_scan(), tiny(tmp_path)
    need: Callable[..., int] = needed_bytes
    base = need(scan, DDSTV(), prior, 1, 1)
    volume = 4 * TALL * SIZE * SIZE
    assert need(scan, DDSTV(), prior, 9, 1) == base + 8 * volume
    assert need(scan, DDSTV(), prior, 1, 2) == base + network_bytes(prior, (SIZE, SIZE), backward=False)
    assert need(scan, DDSTV(), prior, 1, 99) == need(scan, DDSTV(), prior, 1, TALL)
    assert need(scan, DPS(), prior, 1, 4) > need(scan, DDSTV(), prior, 1, 4)
    assert isinstance(scan.geometry, CTGeometry)
    assert base > expected_bytes(scan.geometry.grid, scan.geometry.beam)


def test_memory_that_cannot_suffice_is_refused_and_the_amount_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scan, prior = ct_scan(), tiny(tmp_path)
    check_memory(scan, DDSTV(), prior, 1, 4, "cpu")
    monkeypatch.setattr(memory, "available_bytes", lambda device: 1 << 10)
    with pytest.raises(InputError, match=r"dds-tv on 4 x 16 x 16 voxels needs about .* GiB .*\(--chunk\)"):
        check_memory(scan, DDSTV(), prior, 1, 4, "cpu")
    with pytest.raises(InputError) as refused:
        check_memory(scan, FBP(), None, 1, 4, "cpu")
    assert "--chunk" not in str(refused.value)
    monkeypatch.setattr(memory, "available_bytes", lambda device: None)
    check_memory(scan, DDSTV(), prior, 1, 4, "cpu")


def test_the_machine_says_how_much_is_free() -> None:
    there = available_bytes("cpu")
    if there is not None:
        assert there > 1 << 20
