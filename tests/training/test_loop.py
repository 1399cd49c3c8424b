import os
import signal
from dataclasses import replace
from functools import partial

import pandas as pd
import pytest
import torch
from torch import nn

from detpretrain.errors import InputError
from detpretrain.training import checkpoints
from detpretrain.training.logging import write_log
from detpretrain.training.loop import Stopped, fit
from detpretrain.training.schedules import Averaging, WarmupPoly

AVERAGING = {"start_epoch": 1, "low": 1e-3, "high": 1e-2}


def weights(run):
    return {name: value.clone() for name, value in run.model.state_dict().items()}


def without_times(rows):
    return [{name: value for name, value in row.items() if name != "seconds"} for row in rows]


def assert_same(run, rows, other, other_rows):
    for name, value in weights(run).items():
        assert torch.equal(value, other.model.state_dict()[name]), name
    assert without_times(rows) == without_times(other_rows)


def signalled(batches, at):
    """The same batches; SIGTERM arrives while pass ``at`` is loaded."""

    def stream(first):
        for number, batch in enumerate(batches(first), first):
            if number == at:
                os.kill(os.getpid(), signal.SIGTERM)
            yield batch

    return stream


def replaced(batches, at, batch):
    def stream(first):
        for number, usual in enumerate(batches(first), first):
            yield batch if number == at else usual

    return stream


@pytest.mark.parametrize("changes", [{}, {"precision": "bf16"}, {"averaging": AVERAGING}, {"accumulate": 2}])
@pytest.mark.parametrize("last_step", [2, 4, 9])  # within the first epoch, at its end, within the last
def test_resumed_is_bit_identical(toy_run, changes, last_step):
    whole = toy_run("whole", **changes)
    rows = fit(whole)
    cut = toy_run("cut", **changes)
    last_pass = last_step * changes.get("accumulate", 1) - 1
    cut = replace(cut, batches=signalled(cut.batches, last_pass))
    with pytest.raises(Stopped) as stopped:
        fit(cut)
    assert stopped.value.code == 143
    assert checkpoints.load(cut.work / "last.pth")["step"] == last_step
    torch.manual_seed(99)  # whatever a new process starts with
    resumed = toy_run("cut", model=type(whole.model)(), **changes)
    assert_same(whole, rows, resumed, fit(resumed))


def test_signal_handler_is_put_back(toy_run):
    before = signal.getsignal(signal.SIGTERM)
    fit(toy_run(epochs=1))
    assert signal.getsignal(signal.SIGTERM) is before


def test_signal_in_the_last_step_does_not_stop_a_finished_run(toy_run):
    run = toy_run("cut")
    run = replace(run, batches=signalled(run.batches, 11))
    assert len(fit(run)) == 3


def test_budget_stops_every_call_until_the_run_is_done(toy_run):
    whole = toy_run("whole")
    rows = fit(whole)
    codes = []
    while True:
        run = toy_run("budget")
        try:
            budget_rows = fit(run, budget_minutes=1e-9)
            break
        except Stopped as stopped:
            codes.append(stopped.code)
    assert codes == [75] * 11  # a step each; the twelfth ends the run
    assert_same(whole, rows, run, budget_rows)


def test_state_of_another_signature_is_discarded(toy_run, capsys):
    with pytest.raises(Stopped):
        fit(toy_run("shared", signature="old", optimizer={"class": "torch.optim.SGD"}), budget_minutes=1e-9)
    run, fresh = toy_run("shared", signature="new"), toy_run("fresh", signature="new")
    assert_same(run, fit(run), fresh, fit(fresh))
    assert "discarded" in capsys.readouterr().out


class Line(nn.Module):
    """Loss = factor * w: the gradient is the factor, whatever w."""

    def __init__(self, factor=1.0):
        super().__init__()
        self.w, self.factor, self.seen = nn.Parameter(torch.zeros(1, dtype=torch.float64)), factor, []

    def forward(self, x, y):
        if self.training:
            self.seen.append(self.w.item())
        return {"line": (self.factor * self.w).sum()}


def test_rates_are_those_of_the_schedule_then_of_the_averaging(toy_run):
    model = Line()
    sgd = {"class": "torch.optim.SGD"}
    run = toy_run(model=model, optimizer=sgd, validate=lambda model: {}, averaging=AVERAGING)
    rows = fit(run)
    steps = [before - after for before, after in zip(model.seen, model.seen[1:], strict=False)]
    schedule, averaging = WarmupPoly(lr=0.05, decay_steps=12, warmup_steps=3), Averaging(**AVERAGING)
    expected = [schedule(step, 4) for step in range(4)] + [averaging.lr(step, 4) for step in range(4, 11)]
    assert steps == pytest.approx(expected, rel=1e-12)
    assert [row["lr"] for row in rows] == pytest.approx([schedule(3, 4), 1e-2, 1e-2])


def test_average_is_the_mean_of_the_weights_at_the_start_of_its_epochs(toy_run):
    ends = []

    def validate(model):
        ends.append({name: value.clone() for name, value in model.state_dict().items()})
        return {}

    run = toy_run(validate=validate, averaging=AVERAGING, epochs=5)
    fit(run)
    starts = ends[:-1]  # epoch e starts where epoch e - 1 ended: epochs 1 to 4 are averaged
    for name, value in run.model.state_dict().items():
        torch.testing.assert_close(value, torch.stack([start[name] for start in starts]).mean(0), rtol=1e-6, atol=1e-7)
        assert not torch.equal(value, ends[-1][name])


def test_accumulated_gradient_is_the_mean_over_the_batch(toy_run):
    sgd = {"class": "torch.optim.SGD"}
    results = []
    for accumulate in (1, 2, 4):
        torch.manual_seed(0)
        model = nn.Linear(3, 1)

        class Square(nn.Module):
            def __init__(self, layer):
                super().__init__()
                self.layer = layer

            def forward(self, x, y):
                return {"square": ((self.layer(x)[:, 0] - y) ** 2).mean()}

        run = toy_run(f"a{accumulate}", model=Square(model), optimizer=sgd, accumulate=accumulate)
        run = replace(run, batches=partial(run.batches, size=4 // accumulate))
        results.append((weights(run), without_times(fit(run)), weights(run)))
    (before, rows, single), *others = results
    assert not torch.equal(before["layer.weight"], single["layer.weight"])
    for _, other_rows, accumulated in others:
        torch.testing.assert_close(accumulated, single, rtol=1e-5, atol=1e-6)
        for row, other in zip(rows, other_rows, strict=True):
            assert other == pytest.approx(row, rel=1e-4)


def test_gradient_is_clipped_to_the_norm(toy_run):
    model = Line(factor=1000.0)
    schedule = {"class": "detpretrain.training.schedules.EpochPoly", "lr": 0.1}
    run = toy_run(
        model=model, optimizer={"class": "torch.optim.SGD"}, schedule=schedule, validate=lambda model: {}, clip_norm=0.5
    )
    fit(run)
    assert model.seen[1] == pytest.approx(-0.1 * 0.5, rel=1e-5)


def test_nan_loss_stops_and_keeps_the_last_good_state(toy_run):
    run = toy_run()
    nan = (torch.full((4, 3), float("nan")), torch.zeros(4))
    run = replace(run, batches=replaced(run.batches, 6, nan))
    with pytest.raises(InputError, match="square, absolute, loss, a weight is not finite before step 8") as error:
        fit(run)
    assert "\n" not in str(error.value)
    state = checkpoints.load(run.work / "last.pth")
    assert state["step"] == 4
    assert all(value.isfinite().all() for value in state["model"].values())


class Cliff(Line):
    """The value is finite, the gradient is not, at a batch of zeros."""

    def forward(self, x, y):
        losses = super().forward(x, y)
        cliff = (x.abs().sum() * self.w).abs().sqrt().sum() if self.training and not x.any() else 0.0
        return {"line": losses["line"] + cliff}


def test_nan_gradient_with_a_finite_loss_is_not_saved_as_a_good_state(toy_run):
    run = toy_run(model=Cliff(), validate=lambda model: {})
    run = replace(run, batches=replaced(run.batches, 7, (torch.zeros(4, 3), torch.zeros(4))))
    with pytest.raises(InputError, match="a weight is not finite before step 8"):
        fit(run)
    state = checkpoints.load(run.work / "last.pth")
    assert (state["step"], bool(state["model"]["w"].isfinite())) == (4, True)


def test_rows_hold_the_means_of_the_epoch_and_the_validation(toy_run, capsys, tmp_path):
    losses = []

    class Recording(Line):
        def forward(self, x, y):
            value = {"one": (self.w * x.sum()).sum(), "two": (self.w**2).sum()}
            if self.training:
                losses.append([loss.item() for loss in value.values()])
            return value

    run = toy_run(model=Recording(), validate=lambda model: {"loss": 7.0, "ap": 0.25})
    rows = fit(run)
    names = ["epoch", "step", "lr", "train_one", "train_two", "train_loss", "val_loss", "val_ap", "seconds"]
    assert [list(row) for row in rows] == [names] * 3
    assert [(row["epoch"], row["step"]) for row in rows] == [(1, 4), (2, 8), (3, 12)]
    table = torch.tensor(losses, dtype=torch.float64).reshape(3, 4, 2).mean(1)
    for row, (one, two) in zip(rows, table.tolist(), strict=True):
        assert (row["train_one"], row["train_two"]) == pytest.approx((one, two))
        assert row["train_loss"] == pytest.approx(one + two)
        assert (row["val_loss"], row["val_ap"]) == (7.0, 0.25)
    lines = capsys.readouterr().out.splitlines()
    assert [line.split("  ")[0] for line in lines] == ["epoch 1/3", "epoch 2/3", "epoch 3/3"]
    assert list((run.work / "tensorboard").glob("events*"))
    write_log(tmp_path / "log.csv", rows)
    assert pd.read_csv(tmp_path / "log.csv")["train_one"].tolist() == pytest.approx(table[:, 0].tolist())


@pytest.mark.parametrize("accumulate", [1, 2])
def test_every_forward_pass_draws_other_numbers_and_every_run_the_same(toy_run, accumulate):
    class Drawing(Line):
        def forward(self, x, y):
            drawn.append(torch.rand(1).item())
            return super().forward(x, y)

    runs = []
    for folder in ("first", "second"):
        drawn: list[float] = []
        fit(toy_run(folder, model=Drawing(), validate=lambda model: {}, accumulate=accumulate))
        runs.append(drawn)
    assert len(set(runs[0])) == len(runs[0]) == 12 * accumulate
    assert runs[0] == runs[1]


def test_validation_neither_trains_nor_moves_the_random_stream(toy_run):
    modes = []

    def noisy(model):
        modes.append((model.training, torch.is_grad_enabled()))
        return {"random": float(torch.rand(7).sum())}

    first, second = toy_run("first"), toy_run("second", validate=noisy)
    fit(first)
    rows = fit(second)
    assert modes == [(False, False)] * 3
    assert len({row["val_random"] for row in rows}) == 1  # the same draws every epoch
    for name, value in weights(first).items():
        assert torch.equal(value, second.model.state_dict()[name])
